"""A hospital's own CSV file becomes a table of vouched columns, and the audit log says so.

Why it exists: training may read only what a policy has decided about, column by
column. This is the only door from a raw table to the learner.

Rules:
    * Default-deny: direct identifiers, free text and columns that the schema does not list never leave the reader.
    * A row that cannot be parsed is quarantined with a reason per column, an incomplete row is
      counted by column, and neither is dropped silently. Beyond the policy's fraction the file is refused.
    * An error, a log entry and the quarantine list name lines and columns, never what a cell holds.
    * The table is written whole, then logged; a table that the log does not vouch for is not trained on.

What it does not do: k-anonymity, generalisation beyond ages, or free text (dropped whole).
"""

import codecs
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

import polars as pl

import fedmed
from fedmed.audit import ChainLog, Scalar
from fedmed.deid.cells import NO_KEY, Parsed, parse_cells
from fedmed.deid.policy import AGE_CAP, AGE_LIMIT, Action, DeidPolicy, SchemaFacts
from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed.errors import DataError
from fedmed.files import write_atomic

TABLE_FILE = "table.parquet"
QUARANTINE_FILE = "quarantine.csv"
AUDIT_KIND = "table-deidentified"
PATIENT = "patient"
BATCH_ROWS = 50_000

_CHUNK_BYTES = 1 << 20
_WHOLE_ROW = "(row)"
_SHIFTED = pl.col("date") + pl.duration(days=pl.col("days"))
_FAULTS: Mapping[str, str] = {
    "number": "text where numbers belong, or numbers out of range,",
    "category": "values that the schema does not list",
    "binary": "values that the schema does not list",
    "identifier": "no patient key",
    "date": "no dates",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidReport:
    """What happened to one table. Counts are facts about patients: the report stays at the site.

    `quarantined` and `incomplete` count rows by column; a row may count in several columns.
    `cells` counts cells by action; under `cap-age` only those that changed.
    """

    rows_read: int
    rows_kept: int
    rows_quarantined: int
    rows_incomplete: int
    quarantined: Mapping[str, int]
    incomplete: Mapping[str, int]
    dates_removed: int
    cells: Mapping[str, int]
    input_hmac: str
    output_sha256: str
    schema_name: str
    schema_digest: str
    policy_digest: str
    key_id: str

    def audit_body(self) -> dict[str, Scalar]:
        """Return the flat facts of the audit record."""
        body: dict[str, Scalar] = {
            name: getattr(self, name)
            for name in (
                "rows_read", "rows_kept", "rows_quarantined", "rows_incomplete", "dates_removed", "input_hmac",
                "output_sha256", "schema_name", "schema_digest", "policy_digest", "key_id",
            )
        }  # fmt: skip
        for group in ("quarantined", "incomplete", "cells"):
            body |= {f"{group}.{name}": count for name, count in getattr(self, group).items()}
        return body | {"tool": __name__, "tool_version": fedmed.__version__}


def deidentify_table(
    source: Path, *, schema: SchemaFacts, policy: DeidPolicy, key: bytes, out_dir: Path, log: ChainLog
) -> DeidReport:
    """Write the vouched columns of the CSV file `source` to `out_dir` and log what was done.

    Guarantees: on an error, `out_dir` holds no new table and the log no new entry. Rows keep their order.

    Args:
        source: The table as the hospital or publisher wrote it: UTF-8 (with or without BOM) or GB18030.
        schema: What its columns are.
        policy: What happens to them.
        key: The site's pseudonym key, 32 bytes.
        out_dir: Where `table.parquet` and `quarantine.csv` (line, column, reason) go; created if absent.
        log: The site's audit log.

    Raises:
        DataError: The file is missing, empty, in another encoding, lacks a column, or has more bad rows than
            the policy allows.
    """
    pseudonyms = Pseudonyms(key)
    encoding, input_hmac = _inspect(source, pseudonyms)
    reading = _Reading(schema=schema, policy=policy, pseudonyms=pseudonyms, file=source.name)
    with source.open(encoding=encoding, newline="") as file:
        for batch in _batches(file, reading):
            reading.take(batch)
    _refuse_bad_columns(reading)
    table = pl.concat(reading.frames)
    encoded = io.BytesIO()
    table.write_parquet(encoded)

    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / QUARANTINE_FILE, _quarantine_list(reading.rejected))
    write_atomic(out_dir / TABLE_FILE, encoded.getvalue())
    report = _report(reading, kept=table.height, input_hmac=input_hmac, output=encoded.getvalue())
    log.append(AUDIT_KIND, report.audit_body())
    return report


@dataclass(slots=True, kw_only=True)
class _Rejected:
    """Rows that were not kept, by line and column."""

    entries: list[tuple[int, str, str]] = field(default_factory=list)
    by_column: Counter[str] = field(default_factory=Counter)
    rows: int = 0

    def add_lines(self, first: int, last: int, reason: str) -> None:
        """Reject physical lines that make no row: each counts, since each may have been a row."""
        self.entries += [(line, _WHOLE_ROW, reason) for line in range(first, last + 1)]
        self.by_column[_WHOLE_ROW] += last + 1 - first
        self.rows += last + 1 - first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Rows as read: the line each starts on, and the cells of each vouched column."""

    lines: list[int]
    cells: dict[str, list[str]]


class _Reader(Protocol):
    """What `csv.reader` returns; its own type has no public name."""

    @property
    def line_num(self) -> int:
        """The number of physical lines read."""

    def __next__(self) -> list[str]:
        """Return the next row."""


class _Reading:
    """The running state of one file: what was kept and what was not."""

    def __init__(self, *, schema: SchemaFacts, policy: DeidPolicy, pseudonyms: Pseudonyms, file: str) -> None:
        self.schema, self.policy, self.file = schema, policy, file
        self.actions: dict[str, Action] = {column.name: policy.action(column) for column in schema.columns}
        self.vouched = [c for c in schema.columns if self.actions[c.name] not in {"drop", "drop-text"}]
        self.key = next((c.name for c in self.vouched if self.actions[c.name] == "pseudonymise"), None)
        self.unlisted = 0
        self.rows = 0
        self.frames: list[pl.DataFrame] = []
        self.rejected = _Rejected()
        self.incomplete: Counter[str] = Counter()
        self.incomplete_rows = 0
        self.ages_capped = 0
        self.dates_removed = 0
        self.pseudonyms = pseudonyms

    def take(self, batch: _Batch) -> None:
        """Parse one batch; keep its whole rows and count the others."""
        identities = batch.cells[self.key] if self.key else [f"{self.schema.name} row {line}" for line in batch.lines]
        parsed = {
            column.name: parse_cells(column, batch.cells[column.name], self.schema.missing)
            for column in self.vouched
            if column.name != self.key
        }
        reasons = {name: column.reasons for name, column in parsed.items()}
        tokens = [self.pseudonyms.token(identity) if normalise(identity) else None for identity in identities]
        if self.key:
            reasons[self.key] = pl.Series([None if token else NO_KEY for token in tokens], dtype=pl.String)
        good = self._count_bad(batch.lines, pl.DataFrame(reasons))
        frame = pl.DataFrame({PATIENT: pl.Series(tokens, dtype=pl.String)} | self._values(parsed, identities))
        kept = self._count_incomplete(frame.filter(good))
        self.rows += len(batch.lines)
        self.dates_removed += sum(column.dates_removed for column in parsed.values())
        self.frames.append(kept)

    def _values(self, parsed: Mapping[str, Parsed], identities: Sequence[str]) -> dict[str, pl.Series]:
        values = {}
        for name, column in parsed.items():
            series = column.values
            if self.actions[name] == "cap-age":
                above = series > AGE_LIMIT
                self.ages_capped += int(above.sum())
                series = pl.select(pl.when(above).then(pl.lit(float(AGE_CAP))).otherwise(series)).to_series()
            elif self.actions[name] == "shift-date":
                limit = self.policy.max_shift_days
                days = pl.Series([self.pseudonyms.shift_days(who, limit=limit) for who in identities], dtype=pl.Int64)
                series = pl.DataFrame({"date": series, "days": days}).select(_SHIFTED).to_series()
            values[name] = series
        return values

    def _count_bad(self, lines: Sequence[int], reasons: pl.DataFrame) -> pl.Series:
        """Record each reason with its line and return which rows have none."""
        for name in reasons.columns:
            at = reasons[name].is_not_null().arg_true().to_list()
            self.rejected.entries += [(lines[row], name, reasons[name][row]) for row in at]
            if at:
                self.rejected.by_column[name] += len(at)
        good = reasons.select(pl.all_horizontal(pl.all().is_null())).to_series()
        self.rejected.rows += int((~good).sum())
        return good

    def _count_incomplete(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that hold every required value; count the others by column."""
        required = [column.name for column in self.vouched if column.required and column.name != self.key]
        for name in required:
            if lacking := frame[name].null_count():
                self.incomplete[name] += lacking
        kept = frame.drop_nulls(required) if required else frame
        self.incomplete_rows += frame.height - kept.height
        return kept


def _inspect(source: Path, pseudonyms: Pseudonyms) -> tuple[str, str]:
    """Return the encoding of `source` and the keyed hash of its bytes."""
    if not source.is_file():
        raise DataError(f"no file {source}; expected the table as the hospital or publisher wrote it; check data.root")
    if source.stat().st_size == 0:
        raise DataError(f"{source.name}: the file is empty; expected a CSV table; export it again")
    keyed = pseudonyms.content_hash()
    possible = {name: codecs.getincrementaldecoder(name)() for name in ("utf-8-sig", "gb18030")}
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            keyed.update(chunk)
            possible = {name: decoder for name, decoder in possible.items() if _decodes(decoder, chunk)}
    possible = {name: decoder for name, decoder in possible.items() if _decodes(decoder, b"", final=True)}
    if not possible:
        raise DataError(f"{source.name}: the text is neither UTF-8 nor GB18030; save it as UTF-8")
    return next(iter(possible)), keyed.hexdigest()


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        text = decoder.decode(data, final)
    except UnicodeDecodeError:
        return False
    return "\0" not in text  # UTF-16 decodes as either, with a null beside each letter


def _batches(file: TextIO, reading: _Reading) -> Iterator[_Batch]:
    """Yield the rows of `file`, only their vouched cells; reject lines that make no row."""
    reader = csv.reader(file, delimiter=reading.schema.delimiter, strict=True)
    width, positions = _layout(reader, reading)
    lines: list[int] = []
    rows: list[list[str]] = []
    empty = True
    for line, row in _rows(reader, width, reading.rejected):
        lines.append(line)
        rows.append([row[position] for position in positions.values()])
        if len(lines) == BATCH_ROWS:
            yield _batch(lines, rows, positions)
            lines, rows, empty = [], [], False
    if lines or empty:
        yield _batch(lines, rows, positions)


def _batch(lines: list[int], rows: list[list[str]], positions: Mapping[str, int]) -> _Batch:
    columns = zip(*rows, strict=True) if rows else ([] for _ in positions)
    return _Batch(lines=lines, cells={name: list(cells) for name, cells in zip(positions, columns, strict=True)})


def _layout(reader: _Reader, reading: _Reading) -> tuple[int, dict[str, int]]:
    """Return the number of cells in a row and where each vouched column stands."""
    schema, file = reading.schema, reading.file
    names = [column.name for column in schema.columns]
    if schema.header:
        try:
            header = [cell.strip() for cell in next(reader)]
        except (StopIteration, csv.Error):
            raise DataError(f"{file}: no header in the first line; expected the names of the columns") from None
        # What the file calls its columns is not repeated: without a header it would be a patient.
        twice = sorted(name for name in names if header.count(name) > 1)
        if twice:
            raise DataError(f"{file}: the header names column {twice[0]!r} more than once; remove or rename one")
        lacking = [column.name for column in reading.vouched if column.name not in header]
        if lacking:
            raise DataError(
                f"{file}: the header lacks column {', '.join(map(repr, lacking))}; expected all the columns of schema "
                f"{schema.name} that are kept; check the delimiter {schema.delimiter!r} and the export"
            )
        reading.unlisted = len([name for name in header if name not in names])
        names = header
    return len(names), {column.name: names.index(column.name) for column in reading.vouched}


def _rows(reader: _Reader, width: int, rejected: _Rejected) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that has `width` cells with the line it starts on; reject the others."""
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rejected.add_lines(first, reader.line_num, "quotes do not match")
            continue
        if not row:
            continue
        if len(row) != width:
            rejected.add_lines(first, reader.line_num, f"not {width} cells")
            continue
        yield first, row


def _refuse_bad_columns(reading: _Reading) -> None:
    """Refuse a file of which too much was rejected, or of which nothing is left."""
    file, limit, rejected = reading.file, reading.policy.max_quarantine_fraction, reading.rejected
    rows = reading.rows + rejected.by_column[_WHOLE_ROW]
    if rows == 0:
        raise DataError(f"{file}: no rows; expected at least one patient; export the table again")
    for column in reading.vouched:
        share = rejected.by_column[column.name] / rows
        if share > limit:
            raise DataError(
                f"{file}: column {column.name!r} holds {_FAULTS[column.kind]} in {share:.0%} of the rows, above "
                f"max_quarantine_fraction {limit:.0%}; correct the export, or the column's kind, range, values or "
                "missing tokens in the schema"
            )
    share = rejected.rows / rows
    if share > limit:
        raise DataError(
            f"{file}: {share:.0%} of the rows cannot be parsed, above max_quarantine_fraction {limit:.0%}; most of "
            f"them for {rejected.by_column.most_common(1)[0][0]}; correct the export"
        )
    if sum(frame.height for frame in reading.frames) == 0:
        columns = ", ".join(f"{name!r}" for name, _ in reading.incomplete.most_common(3))
        raise DataError(f"{file}: no row is complete; missing most often: {columns}; required columns need values")


def _quarantine_list(rejected: _Rejected) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("line", "column", "reason"))
    writer.writerows(sorted(rejected.entries))
    return text.getvalue().encode()


def _report(reading: _Reading, *, kept: int, input_hmac: str, output: bytes) -> DeidReport:
    rejected = reading.rejected
    rows = reading.rows
    cells: Counter[str] = Counter()
    for action in reading.actions.values():
        cells[action] += rows
    cells["cap-age"] = reading.ages_capped
    cells["drop-unlisted"] = rows * reading.unlisted
    return DeidReport(
        rows_read=rows + rejected.by_column[_WHOLE_ROW],
        rows_kept=kept,
        rows_quarantined=rejected.rows,
        rows_incomplete=reading.incomplete_rows,
        quarantined=dict(rejected.by_column),
        incomplete=dict(reading.incomplete),
        dates_removed=reading.dates_removed,
        cells=dict(cells),
        input_hmac=input_hmac,
        output_sha256=hashlib.sha256(output).hexdigest(),
        schema_name=reading.schema.name,
        schema_digest=reading.schema.digest,
        policy_digest=reading.policy.digest,
        key_id=reading.pseudonyms.key_id,
    )
