"""Apply an adapter that the site holds to a table or to notes, and write probabilities beside the hospital's own files.

Why it exists: what a hospital helped to train is of use to it only if it can ask it about its own patients.

Rules:
    * Records go through the very door that training records went through (parsing, ages, cleaned notes). They are in
      this process's memory alone: no file has them under a name. Labels are neither needed nor read.
    * Every record of the file has a line in the answer: probabilities, or why there are none. No cell of it is there.
    * The answer is the owner's alone, and the audit log says who asked for it, with which adapter, and what of.

What it does not do: leave the site, keep a record, or judge whether a probability may be acted on.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedmed.audit import Scalar
from fedmed.data.jsonl import is_jsonl, table_of
from fedmed.data.schema import Column, DataSet, Schema
from fedmed.data.source import Cohort
from fedmed.data.tabular import readable_rows, row_names, rows_of_table
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.pseudonyms import Pseudonyms
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

PREDICTED_KIND = "predicted"
NOTHING_TO_READ = "nothing to read"
INCOMPLETE = "a required value is missing"
_LINE = "(line of the file)"
_BATCH_ROWS = 50_000
_ALL_MAY_BE_SET_ASIDE = 1 - 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """How many lines of a file got probabilities, and how many none."""

    predicted: int
    skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Door:
    """The schema of records without labels, with the number of their line: what the door must know of them."""

    name: str
    digest: str
    columns: tuple[Column, ...]
    delimiter: str
    missing: tuple[str, ...]
    header: bool = True

    @classmethod
    def of(cls, schema: Schema) -> "_Door":
        line = Column(name=_LINE, kind="number", role="target", low=0, high=1e15)
        columns = (line, *(column for column in schema.columns if column.role != "target"))
        return cls(
            name=schema.name,
            digest=schema.digest,
            columns=columns,
            delimiter=schema.delimiter,
            missing=schema.missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Records:
    """What a file holds: features of the lines that can be read, and why the other ones can't."""

    lines: Sequence[int]
    features: NDArray[np.float32]
    reasons: Mapping[int, str]


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
    agent.audit.append(PREDICTED_KIND, body)
    write_atomic(out, answer)
    return Predicted(predicted=len(records.lines), skipped=len(records.reasons))


def _read(source: Path, dataset: DataSet, key: bytes) -> _Records:
    """Take a file through the door, without labels, and return its records by line."""
    schema, door = dataset.schema, _Door.of(dataset.schema)
    reasons: dict[int, str] = {}
    written, places = _numbered(source, schema, door, reasons)
    policy = DeidPolicy(
        free_text="drop" if schema.text is None else "clean", max_quarantine_fraction=_ALL_MAY_BE_SET_ASIDE
    )
    clean = Notes(key) if schema.text is not None else None
    with memory_file(written) as raw:
        table, rejected = deidentify_in_memory(raw, schema=door, policy=policy, key=key, named=source.name, clean=clean)
        images = None
        if schema.image is not None:
            from fedmed.data.imaging import images_of  # noqa: PLC0415  it imports pydicom

            token = Pseudonyms(key).token
            images, _ = images_of(raw, source.parent, schema=schema, token=token, named=source.name)
    for line, column, reason in sorted(rejected):
        reasons[places[line]] = f"{column}: {reason}"
    good = readable_rows(table, schema, images)
    lines = [int(line) for line in table[_LINE].to_list()]
    reasons |= {line: NOTHING_TO_READ for line, fine in zip(lines, good, strict=True) if not fine}
    kept = [line for line, fine in zip(lines, good, strict=True) if fine]
    for line in set(places.values()) - set(kept) - set(reasons):
        reasons[line] = INCOMPLETE
    if not kept:
        raise DataError(f"{source.name}: not one of its {len(reasons)} records can be read; see fedmed site check-data")
    features = rows_of_table(table.filter(pl.Series(good)), schema, images)
    if is_jsonl(source):  # a line there is an object; the CSV between has others
        ranks = {line: rank for rank, line in enumerate(sorted({*kept, *reasons}), start=1)}
        kept, reasons = [ranks[line] for line in kept], {ranks[line]: why for line, why in reasons.items()}
    return _Records(lines=kept, features=features, reasons=reasons)


def _numbered(source: Path, schema: Schema, door: _Door, reasons: dict[int, str]) -> tuple[bytes, dict[int, int]]:
    """Return a file's columns as CSV, one record a line with the number of its own, and line there to line here.

    Raises:
        DataError: The file can't be read, has no rows, or lacks a column that the schema keeps.
    """
    names = () if schema.header else [column.name for column in schema.columns]
    with table_of(source, schema) as plain:
        reader = open_table(plain, keyed=hashlib.sha256(), delimiter=schema.delimiter, names=names)
        columns = [column.name for column in door.columns[1:] if column.name in reader.header]
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=schema.delimiter)
        writer.writerow([_LINE, *columns])
        places: dict[int, int] = {}
        place = 2
        for batch in reader.batches(columns, _BATCH_ROWS):
            for fault in batch.faults:
                reasons |= dict.fromkeys(range(fault.first, fault.last + 1), f"no row: {fault.reason}")
            for line, *cells in zip(batch.lines, *(batch.cells[name] for name in columns), strict=True):
                writer.writerow([line, *cells])
                places[place] = line
                place += 1 + sum(_breaks(cell) for cell in cells)
    return text.getvalue().encode(), places


def _breaks(cell: str) -> int:
    """Return how many physical lines a cell adds to its row."""
    return cell.count("\n") + cell.count("\r") - cell.count("\r\n")


def _answer(records: _Records, scores: NDArray[np.floating], classes: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["line", *classes, "why_not"])
    rows: dict[int, list[str]] = {line: [*("" for _ in classes), why] for line, why in records.reasons.items()}
    rows |= {line: [*_shown(row), ""] for line, row in zip(records.lines, scores, strict=True)}
    for line in sorted(rows):
        writer.writerow([line, *rows[line]])
    return text.getvalue().encode()


def _shown(row: NDArray[np.floating]) -> Iterator[str]:
    return (f"{float(value):.6f}" for value in row)
