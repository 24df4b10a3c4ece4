"""k-anonymity by generalising quasi-identifiers and leaving out the few rows that stay alone.

Why it exists: who knows a patient's age, sex and district must not find one row, but
a class of at least k patients (Sweeney 2002). With `l_diversity`, each class also holds
at least l different values of every sensitive column (Machanavajjhala et al. 2007, distinct form).

Rules:
    * One level per quasi-identifier for the whole table, the one that loses least among all that leave out
      no more than the allowed share of rows. The search is exact and has no chance in it: same rows, same answer.
    * A class counts patients, not rows: ten visits of one person are a class of one.
    * A row whose class stays too small is left out whole, and counted.
    * Loss is the mean share of each column's entropy that its level removes (Gionis and Tassa 2009): 0 keeps
      everything, 1 keeps nothing.

What it does not do: protect against somebody who knows more than the quasi-identifiers, or against
repeated releases. k-anonymity is no differential privacy.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmed.deid.hierarchies import LEVELS, HierarchyName, labels
from fedmed.errors import DataError, UsageError
from fedmed.records import require

Scalar = str | int | float | bool | None
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAX_COMBINATIONS = 500_000
_DENSE_KEYS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class QuasiIdentifier:
    """A column, its ladder, and the lowest level that may be released."""

    column: str
    hierarchy: HierarchyName
    at_least: int = 0

    def __post_init__(self) -> None:
        require(bool(self.column.strip()), "column must be a name")
        top = len(LEVELS[self.hierarchy]) - 1
        require(0 <= self.at_least <= top, f"at_least must be in 0..{top} for {self.hierarchy}, got {self.at_least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymityReport:
    """What a table had to give up. `smallest_class` counts patients; all of it stays at the site."""

    k: int
    l_diversity: int
    rows: int
    rows_suppressed: int
    smallest_class: int
    smallest_diversity: int | None
    levels: Mapping[str, str]
    loss: float

    def audit_body(self, called: Mapping[str, str] | None = None) -> dict[str, Scalar]:
        """Return the flat facts of the audit record; `called` is what it calls some columns instead."""
        names = called or {}
        body: dict[str, Scalar] = {
            "anonymity.k": self.k,
            "anonymity.l_diversity": self.l_diversity,
            "anonymity.rows": self.rows,
            "anonymity.rows_suppressed": self.rows_suppressed,
            "anonymity.smallest_class": self.smallest_class,
            "anonymity.smallest_diversity": self.smallest_diversity,
            "anonymity.loss": round(self.loss, 6),
        }
        return body | {f"anonymity.level.{names.get(column, column)}": level for column, level in self.levels.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recoding:
    """The chosen levels, and which rows stay."""

    quasi_identifiers: tuple[QuasiIdentifier, ...]
    levels: tuple[int, ...]
    kept: pl.Series
    report: AnonymityReport

    def apply(self, rows: pl.DataFrame, *, first: int = 0) -> pl.DataFrame:
        """Return `rows` (the part of the table that starts at row `first`) generalised, without the suppressed."""
        made = []
        for quasi, level in zip(self.quasi_identifiers, self.levels, strict=True):
            codes, known = _encode(rows[quasi.column])
            made.append(labels(known, quasi.hierarchy, level).gather(codes).alias(quasi.column))
        return rows.with_columns(made).filter(self.kept.slice(first, rows.height))


def anonymise(
    table: pl.DataFrame,
    quasi_identifiers: Sequence[QuasiIdentifier],
    *,
    k: int,
    suppression_limit: float,
    patient: str | None = None,
    l_diversity: int = 1,
    sensitive: Sequence[str] = (),
) -> tuple[pl.DataFrame, AnonymityReport]:
    """Return `table` with its quasi-identifiers as labels of classes of k patients, and what that cost.

    >>> table = pl.DataFrame({"age": [41.0, 42.0, 43.0, 44.0, 97.0]})
    >>> out, report = anonymise(table, [QuasiIdentifier(column="age", hierarchy="age")], k=2, suppression_limit=0.2)
    >>> out["age"].to_list(), report.rows_suppressed
    (['40-44', '40-44', '40-44', '40-44'], 1)

    Args:
        table: The rows; quasi-identifiers as `hierarchies.labels` takes them.
        quasi_identifiers: What an outsider may know.
        k: The least number of patients in a class.
        suppression_limit: The largest share of rows that may be left out, 0..1.
        patient: The column that says whose row it is; without one each row is a patient.
        l_diversity: The least number of different known values of each sensitive column in a class.
        sensitive: The columns that `l_diversity` is about.

    Raises:
        DataError: No levels reach k and l within the limit.
        UsageError: The ladders have more combinations than can be searched.
    """
    recoding = find_recoding(
        table,
        quasi_identifiers,
        k=k,
        suppression_limit=suppression_limit,
        patient=patient,
        l_diversity=l_diversity,
        sensitive=sensitive,
    )
    return recoding.apply(table), recoding.report


def find_recoding(
    table: pl.DataFrame,
    quasi_identifiers: Sequence[QuasiIdentifier],
    *,
    k: int,
    suppression_limit: float,
    patient: str | None = None,
    l_diversity: int = 1,
    sensitive: Sequence[str] = (),
) -> Recoding:
    """Return the levels that lose least; arguments and errors as for `anonymise`.

    `table` needs only the quasi-identifiers, the patient and the sensitive columns.
    """
    columns = [_Column.of(table[q.column], q) for q in quasi_identifiers]
    lattice, losses = _lattice(columns)
    classes = _Classes.of(table, columns, patient=patient, sensitive=sensitive if l_diversity > 1 else ())
    allowed = math.floor(suppression_limit * table.height + 1e-9)

    best: int | None = None
    open_nodes = np.arange(len(lattice))  # in the order of loss: whatever follows one that will do is worse
    while len(open_nodes):
        node = int(open_nodes[len(open_nodes) // 2])
        if classes.suppressed(lattice[node], k=k, l_diversity=l_diversity) <= allowed:
            best = node
            open_nodes = open_nodes[open_nodes < node]
        else:  # classes only merge on the way up, so whatever is finer fails too
            open_nodes = open_nodes[(lattice[open_nodes] > lattice[node]).any(axis=1)]
    if best is None or table.is_empty():
        raise DataError(
            f"the table cannot be made {k}-anonymous{f' and {l_diversity}-diverse' if l_diversity > 1 else ''} with "
            f"{suppression_limit:.0%} of its rows left out; expected at least {k} patients and enough different "
            "sensitive values; lower k or release nothing"
        )
    return _recoding(quasi_identifiers, lattice[best], float(losses[best]), classes, k=k, l_diversity=l_diversity)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Column:
    """One quasi-identifier as numbers: the code of each row at the lowest level, and codes of codes further up."""

    codes: Ints
    steps: tuple[Ints, ...]
    """For each level from `at_least` on: the code there of each code at the lowest level."""
    losses: tuple[float, ...]
    at_least: int

    @classmethod
    def of(cls, values: pl.Series, quasi: QuasiIdentifier) -> "_Column":
        raw_codes, raw = _encode(values)
        lowest_of_raw, lowest = _encode(labels(raw, quasi.hierarchy, quasi.at_least))
        codes = lowest_of_raw[raw_codes]
        weights = np.bincount(codes, minlength=len(lowest)).astype(np.float64)
        # One raw value stands for each lowest label, so that a ladder need not read its own labels.
        example = np.zeros(len(lowest), dtype=np.int64)
        example[lowest_of_raw] = np.arange(len(raw))
        shown = raw.gather(example)
        above = range(quasi.at_least, len(LEVELS[quasi.hierarchy]))
        steps = tuple(_encode(labels(shown, quasi.hierarchy, level))[0] for level in above)
        losses = tuple(_entropy_lost(weights, step) for step in steps)
        return cls(codes=codes, steps=steps, losses=losses, at_least=quasi.at_least)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Classes:
    """The rows as classes of equal lowest labels, which each combination of levels merges."""

    columns: tuple[_Column, ...]
    base_of_row: Ints
    parts: tuple[Ints, ...]
    """The code of each column in each base class."""
    rows: Ints
    patients: tuple[Ints, Ints] | None
    """Different pairs of base class and patient, or None where each row is one patient."""
    sensitive: tuple[tuple[Ints, Ints], ...]
    """For each sensitive column: different pairs of base class and known value."""

    @classmethod
    def of(
        cls, table: pl.DataFrame, columns: Sequence[_Column], *, patient: str | None, sensitive: Sequence[str]
    ) -> "_Classes":
        key = _combine([column.codes for column in columns], height=table.height)
        _, first, base, counts = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        repeated = patient is not None and table[patient].n_unique() < table.height
        return cls(
            columns=tuple(columns),
            base_of_row=base,
            parts=tuple(column.codes[first] for column in columns),
            rows=counts,
            patients=_pairs(base, table[patient]) if patient is not None and repeated else None,
            sensitive=tuple(_pairs(base, table[name]) for name in sensitive),
        )

    def merge(self, levels: Ints) -> Ints:
        """Return the class of each base class at `levels`, numbered from 0."""
        steps = zip(self.columns, levels, self.parts, strict=True)
        merged = [column.steps[level - column.at_least][part] for column, level, part in steps]
        return _number(_combine(merged, height=len(self.rows)))

    def suppressed(self, levels: Ints, *, k: int, l_diversity: int) -> int:
        """Return how many rows stand in classes that are too small or too alike."""
        merged = self.merge(levels)
        good = self.good(merged, k=k, l_diversity=l_diversity)
        return int(self.rows[~good[merged]].sum())

    def good(self, merged: Ints, *, k: int, l_diversity: int) -> Bools:
        """Return for each class whether it may be released."""
        good = self.sizes(merged) >= k
        for different in self.diversities(merged):
            good &= different >= l_diversity
        return good

    def sizes(self, merged: Ints) -> Ints:
        """Return the number of patients in each class."""
        if self.patients is not None:
            return _different(merged, *self.patients)
        return np.bincount(merged, weights=self.rows).astype(np.int64)

    def diversities(self, merged: Ints) -> list[Ints]:
        """Return for each sensitive column the number of different known values in each class."""
        return [_different(merged, base, value) for base, value in self.sensitive]


def _recoding(
    quasi_identifiers: Sequence[QuasiIdentifier],
    levels: Ints,
    loss: float,
    classes: _Classes,
    *,
    k: int,
    l_diversity: int,
) -> Recoding:
    merged = classes.merge(levels)
    good = classes.good(merged, k=k, l_diversity=l_diversity)
    kept = good[merged][classes.base_of_row]
    diversities = classes.diversities(merged)
    chosen = tuple(int(level) for level in levels)
    report = AnonymityReport(
        k=k,
        l_diversity=l_diversity,
        rows=len(kept),
        rows_suppressed=int((~kept).sum()),
        smallest_class=int(classes.sizes(merged)[good].min()),
        smallest_diversity=min(int(different[good].min()) for different in diversities) if diversities else None,
        levels={q.column: LEVELS[q.hierarchy][level] for q, level in zip(quasi_identifiers, chosen, strict=True)},
        loss=loss,
    )
    return Recoding(quasi_identifiers=tuple(quasi_identifiers), levels=chosen, kept=pl.Series(kept), report=report)


def _lattice(columns: Sequence[_Column]) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return every combination of levels with its loss, the least first; ties go to the finer first column."""
    count = math.prod(len(column.steps) for column in columns)
    if not columns or count > MAX_COMBINATIONS:
        raise UsageError(
            f"k-anonymity: expected 1 to {MAX_COMBINATIONS} combinations of levels, got {count if columns else 0}; "
            "name the quasi-identifiers, or drop some or raise their at_least"
        )
    ranges = [range(column.at_least, column.at_least + len(column.steps)) for column in columns]
    nodes = np.array(list(itertools.product(*ranges)), dtype=np.int64)
    losses = np.array([math.fsum(loss) / len(columns) for loss in itertools.product(*(c.losses for c in columns))])
    order = np.argsort(losses, kind="stable")
    return nodes[order], losses[order]


def _entropy_lost(weights: npt.NDArray[np.float64], step: Ints) -> float:
    """Return the share of the entropy of codes (with these weights) that is lost by knowing only `step` of them."""
    total = weights.sum()
    merged = np.bincount(step, weights=weights)
    before, after = (-float((w[w > 0] / total * np.log(w[w > 0] / total)).sum()) for w in (weights, merged))
    return round(max(0.0, 1 - after / before), 12) if before > 0 else 0.0


def _encode(values: pl.Series) -> tuple[Ints, pl.Series]:
    """Return a code for each value (null is one too), and the values in the order of their codes."""
    frame = pl.DataFrame({"value": values})
    known = frame.unique(maintain_order=True).with_row_index("code")
    codes = frame.join(known, on="value", how="left", nulls_equal=True, maintain_order="left")["code"]
    return codes.to_numpy().astype(np.int64), known["value"]


def _combine(codes: Sequence[Ints], *, height: int) -> Ints:
    """Return one number for each different combination of codes."""
    key, size = np.zeros(height, dtype=np.int64), 1
    for part in codes:
        width = int(part.max(initial=0)) + 1
        if size * width >= 1 << 62:
            key = _number(key)
            size = height
        key = key * width + part
        size *= width
    return key


def _number(key: Ints) -> Ints:
    """Return the rank of each number among the different ones."""
    if key.max(initial=0) < _DENSE_KEYS:
        present = np.zeros(int(key.max(initial=0)) + 1, dtype=np.bool_)
        present[key] = True
        rank: Ints = (np.cumsum(present) - 1)[key]
        return rank
    return np.unique(key, return_inverse=True)[1]


def _pairs(base: Ints, values: pl.Series) -> tuple[Ints, Ints]:
    """Return the different pairs of base class and known value."""
    known = values.is_not_null().to_numpy()
    codes = _encode(values)[0][known]
    width = int(codes.max(initial=0)) + 1
    pairs = _unique(base[known] * width + codes)
    return pairs // width, pairs % width


def _different(merged: Ints, base: Ints, value: Ints) -> Ints:
    """Return the number of different values in each class."""
    width = int(value.max(initial=0)) + 1
    different = _unique(merged[base] * width + value) // width
    return np.bincount(different, minlength=int(merged.max(initial=-1)) + 1)


def _unique(key: Ints) -> Ints:
    """Return the different numbers in no order; hashing beats the sort of `np.unique` here."""
    return pl.Series(key).unique().to_numpy()
