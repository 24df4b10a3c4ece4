"""Apply an adapter that the site holds to a table or to notes, and write probabilities beside the hospital's own files.

Why it exists: what a hospital helped to train is of use to it only if it can ask it about its own patients.

Rules:
    * Records go through the very door that training records went through (parsing, ages, cleaned notes). They are in
      this process's memory alone: no file has them under a name. Labels are neither needed nor read.
    * Every record of the file has a line in the answer: probabilities, or why there are none. No cell of it is there.
    * A record whose image can't be read, or that names none, says so beside its probabilities.
    * The answer is the owner's alone, and the audit log says who asked for it, with which adapter, and what of.

What it does not do: leave the site, keep a record, or judge whether a probability may be acted on.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedmed.audit import Scalar
from fedmed.data.jsonl import is_converted, table_of
from fedmed.data.parts import ImageStore, NamedImages
from fedmed.data.schema import DataSet, Schema
from fedmed.data.source import Cohort
from fedmed.data.tabular import image_keys, readable_rows, row_names, rows_of_table
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.readers import open_table
from fedmed.deid.tabular import deidentify_in_memory
from fedmed.errors import DataError, UsageError
from fedmed.files import memory_file, write_atomic
from fedmed.learning.local import evaluate
from fedmed.records import Plan, digest
from fedmed_site.adapters import Adapters
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import written
from fedmed_site.datasets import Notes
from fedmed_site.home import SiteHome
from fedmed_site.normaliser import Normaliser
from fedmed_site.plan_model import machine_for, module_with
from fedmed_site.raw_rows import BATCH_ROWS, Door, LinedText, image_numbers, named_images

PREDICTED_KIND = "predicted"
NOTHING_TO_READ = "nothing to read"
INCOMPLETE = "a required value is missing"
NO_IMAGE = "without an image: none is named"
BAD_IMAGE = "without its image: it can't be read"
_LINE = "(line of the file)"
_ALL_MAY_BE_SET_ASIDE = 1 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """How many lines of a file got probabilities, and how many none; of the former, how many without an image.

    The last two are None where the data set has no images.
    """

    predicted: int
    skipped: int
    images_missing: int | None = None
    images_unreadable: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Records:
    """What a file holds: features of the lines that can be read, what some of them lack, and why the others can't."""

    lines: Sequence[int]
    features: NDArray[np.float32]
    reasons: Mapping[int, str]
    without: Mapping[int, str]


def predict(home: SiteHome, plan: Plan, name: str, source: Path, out: Path, *, by: str, now: datetime) -> Predicted:
    """Write the probabilities of every record of a file.

    Args:
        home: The site.
        plan: Of a study whose adapter the site holds.
        name: Which adapter: `shared`, `own`, or a department's.
        source: A raw table or notes, of the data set's schema; columns of targets may be absent.
        out: CSV: the line in `source`, the probability of each class, and why there is none.
        by: Who asks.
        now: The present time.

    Raises:
        UsageError: The site has no such adapter, or the model answers in words.
        DataError: The file is not what the schema says, or not one of its records can be read.
        RefusedError: This site can't compute the plan's model, or not one record fits into the memory that it allows.
    """
    if plan.model.family == "causal-lm" and not plan.model.answers:
        raise UsageError("expected a model that chooses among classes, got one that answers in words")
    if out.resolve() == source.resolve():
        raise UsageError(f"{out}: expected another file for the answer than the one that is asked about")
    agent, adapter = SiteAgent(home), Adapters(home.root / "adapters").read(digest(plan), name)
    agent.datasets.check(plan.data)
    machine = machine_for(home, plan)
    dataset = agent.datasets.description(plan.data.schema)
    records = _read(source, dataset, home.pseudonym_key_path.read_bytes())
    schema, target = dataset.schema, dataset.schema.target(plan.data.target)
    cohort = Cohort(
        features=records.features,
        labels=np.zeros(len(records.lines), np.int64),
        feature_names=row_names(schema),
        classes=target.classes,
    )
    statistics = Normaliser(home.normalisation).stored(plan.data, digest(plan))
    cohort = cohort if statistics is None else statistics.apply(cohort)
    module = module_with(home, plan, adapter)
    scores = evaluate(module, adapter.vector, cohort, spec=plan.model, machine=machine).scores
    answer = _answer(records, scores, target.classes)
    lacking = Counter(records.without.values())
    images = {
        "images_missing": None if schema.image is None else lacking[NO_IMAGE],
        "images_unreadable": None if schema.image is None else lacking[BAD_IMAGE],
    }
    body: dict[str, Scalar] = {
        "plan": digest(plan),
        "study": plan.study,
        "adapter": name,
        "predicted": len(records.lines),
        "skipped": len(records.reasons),
        "output_sha256": hashlib.sha256(answer).hexdigest(),
        "by": by,
        "at": written(now),
    }
    agent.audit.append(PREDICTED_KIND, body | {name: count for name, count in images.items() if count is not None})
    write_atomic(out, answer)
    return Predicted(predicted=len(records.lines), skipped=len(records.reasons), **images)


def _read(source: Path, dataset: DataSet, key: bytes) -> _Records:
    """Take a file through the door, without labels, and return its records by line."""
    schema = dataset.schema
    door = Door.of(schema, line=_LINE, targets=False)
    reasons: dict[int, str] = {}
    named = named_images(schema)
    written, places = _numbered(source, schema, door, reasons, named)
    policy = DeidPolicy(
        free_text="drop" if schema.text is None else "clean", max_quarantine_fraction=_ALL_MAY_BE_SET_ASIDE
    )
    clean = Notes(key) if schema.text is not None else None
    with memory_file(written) as raw:
        table, rejected = deidentify_in_memory(raw, schema=door, policy=policy, key=key, named=source.name, clean=clean)
    images = None
    if schema.image is not None:
        from fedmed.data.imaging import images_of  # noqa: PLC0415  it imports pydicom

        images, _ = images_of(named, source.parent, schema=schema)
    for line, column, reason in sorted(rejected):
        reasons[places[line]] = f"{column}: {reason}"
    good = readable_rows(table, schema, images)
    lines = [int(line) for line in table[_LINE].to_list()]
    without = _without(table, schema, images, lines)
    nothing = {line for line, fine in zip(lines, good, strict=True) if not fine}
    reasons |= {line: f"{NOTHING_TO_READ}; {without[line]}" if line in without else NOTHING_TO_READ for line in nothing}
    kept = [line for line in lines if line not in nothing]
    for line in set(places.values()) - set(kept) - set(reasons):
        reasons[line] = INCOMPLETE
    if not kept:
        raise DataError(f"{source.name}: not one of its {len(reasons)} records can be read; see fedmed site check-data")
    features = rows_of_table(table.filter(pl.Series(good)), schema, images)
    without = {line: why for line, why in without.items() if line not in nothing}
    if is_converted(source):  # a line there is an object or an image; the CSV between has others
        ranks = {line: rank for rank, line in enumerate(sorted({*kept, *reasons}), start=1)}
        kept, reasons = [ranks[line] for line in kept], {ranks[line]: why for line, why in reasons.items()}
        without = {ranks[line]: why for line, why in without.items()}
    return _Records(lines=kept, features=features, reasons=reasons, without=without)


def _without(table: pl.DataFrame, schema: Schema, images: ImageStore | None, lines: Sequence[int]) -> dict[int, str]:
    """Return the lines that have no image, and why."""
    if schema.image is None or images is None:
        return {}
    keys = zip(lines, image_keys(table, schema), strict=True)
    return {line: NO_IMAGE if key is None else BAD_IMAGE for line, key in keys if key is None or key not in images}


def _numbered(
    source: Path, schema: Schema, door: Door, reasons: dict[int, str], named: NamedImages
) -> tuple[bytes, dict[int, int]]:
    """Return a file's columns as CSV, one record a line with the number of its own, and line there to line here.

    Raises:
        DataError: The file can't be read, has no rows, or lacks a column that the schema keeps.
    """
    names = () if schema.header else [column.name for column in schema.columns]
    with table_of(source, schema) as plain:
        reader = open_table(plain, keyed=hashlib.sha256(), delimiter=schema.delimiter, names=names)
        columns = [column.name for column in door.columns[1:] if column.name in reader.header]
        text = LinedText(schema.delimiter)
        text.row(1, [_LINE, *columns])
        places: dict[int, int] = {}
        for batch in reader.batches(columns, BATCH_ROWS):
            for fault in batch.faults:
                reasons |= dict.fromkeys(range(fault.first, fault.last + 1), f"no row: {fault.reason}")
            found = dict(batch.cells)
            if schema.image is not None and schema.image.column in found:
                found[schema.image.column] = image_numbers(found, schema, named)
            for line, *cells in zip(batch.lines, *(found[name] for name in columns), strict=True):
                places[text.row(0, [str(line), *cells])] = line
    return text.encoded(), places


def _answer(records: _Records, scores: NDArray[np.floating], classes: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", *classes, "why_not"])
    rows: dict[int, list[str]] = {line: [*("" for _ in classes), why] for line, why in records.reasons.items()}
    shown = zip(records.lines, scores, strict=True)
    rows |= {line: [*_shown(row), records.without.get(line, "")] for line, row in shown}
    for line in sorted(rows):
        writer.writerow([line, *rows[line]])
    return text.getvalue().encode()


def _shown(row: NDArray[np.floating]) -> Iterator[str]:
    return (f"{float(value):.6f}" for value in row)
