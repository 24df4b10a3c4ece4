"""What a readiness page says of a target: its classes or answers, and the columns that nearly determine it.

Why it exists: a target that can't be learned, or is learned from what follows from it, is the costliest surprise.

Rules:
    * Counts are shown as the page shows them; no label of a record is.
    * Conversations have answers, not classes.

What it does not do: read a table (see `readiness_table`), or judge its rows (see `readiness`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from fedmed.data.labels import labels_of
from fedmed.data.schema import MOST_CHARACTERS, Schema, Target
from fedmed_site.doctor import Finding, bad, ok, warn
from fedmed_site.readiness_measures import determines, shown, shown_parts
from fedmed_site.readiness_table import RawTable, kept_columns

_SUSPECT: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPage:
    """What is said of one target: its classes with counts as shown, and the columns that nearly determine it."""

    name: str
    classes: Mapping[str, str]
    without_label: str
    suspects: tuple[str, ...]


def target_page(target: Target, table: RawTable, usable: pl.Series, schema: Schema, *, k: int) -> TargetPage:
    """Return the page of one target."""
    labels = labels_of(table.values.filter(usable), target, schema)
    counts = {name: int((labels == place).sum()) for place, name in enumerate(target.classes)}
    parts = shown_parts({**counts, "": labels.null_count()}, k=k)
    without = parts.pop("")
    features = [column for column in kept_columns(schema) if column.is_feature]
    kept = table.values.filter(usable)
    suspects = tuple(
        column.name
        for column in features
        if not target.answered and determines(kept[column.name], labels, column, k=k) >= _SUSPECT
    )
    return TargetPage(name=target.name, classes=parts, without_label=without, suspects=suspects)


def target_findings(
    target: Target, page: TargetPage, table: RawTable, usable: pl.Series, schema: Schema, *, k: int
) -> Iterator[Finding]:
    """Yield what is said of one target, and of the columns that nearly determine it."""
    name = f"target {target.name}"
    reasons = table.reasons[target.column]
    outside = len(reasons) - reasons.null_count()
    if outside:
        yield bad(
            name, f"{shown(outside, k=k, of=len(reasons))} labels in {target.column} are not among the schema's",
            "correct them in the export; other spellings stand under synonyms, unknown ones under missing",
        )  # fmt: skip
    labels = labels_of(table.values.filter(usable), target, schema).drop_nulls()
    if labels.is_empty():
        yield bad(name, "no row has a label", "check the column and the target's rule, or leave the study")
    elif labels.n_unique() == 1 and not target.answered:
        yield bad(
            name, "every row has the same class",
            "check the target's rule and whether the export left a class out; else this site can't take part",
        )  # fmt: skip
    elif target.answered:
        yield from _answer_findings(name, target, page, table.values.filter(usable), schema, k=k)
    else:
        small = [one for one, count in page.classes.items() if count in {f"< {k}", "0", "hidden"}]
        found = f"{labels.n_unique()} of {len(target.classes)} classes"
        if small:
            yield warn(
                name, f"{found}; fewer than {k} rows: {len(small)} classes", "a model learns little of them here"
            )
        else:
            yield ok(name, found)
    for suspect in page.suspects:
        yield warn(
            f"leakage {target.name}", f"{suspect} alone nearly determines the class",
            "look whether it is known only afterwards or follows from the target; if so, make its role ignore",
        )  # fmt: skip


def _answer_findings(
    name: str, target: Target, page: TargetPage, values: pl.DataFrame, schema: Schema, *, k: int
) -> Iterator[Finding]:
    """Yield what is said of conversations: they have no classes, but answers, of which some may be too long."""
    answers = page.classes[target.classes[1]]
    if answers in {f"< {k}", "hidden"}:
        yield warn(name, f"fewer than {k} conversations with an answer", "a model learns little of them here")
    else:
        yield ok(name, f"{answers} conversations with an answer")
    assert schema.text is not None  # noqa: S101  a Schema with an answered target has checked it
    whole = replace(schema, text=replace(schema.text, characters=MOST_CHARACTERS))
    long = labels_of(values, target, whole).count() - labels_of(values, target, schema).count()
    if long:
        yield warn(
            name, f"{shown(long, k=k, of=values.height)} answers are longer than text.characters",
            "such records are not used; raise characters in the data set's schema",
        )  # fmt: skip
