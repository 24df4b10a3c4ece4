"""A raw table as its schema reads it: values, and why a cell is none.

Why it exists: what a table is worth is judged on the same values that de-identification would make of its cells.

Rules:
    * Only the columns that the schema keeps are read; a note is kept if a model reads it.
    * A patient's key becomes a digest in memory; nothing is written but a copy of JSON Lines, which is removed.

What it does not do: judge (see `readiness`), or de-identify.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from fedmed.data.schema import Column, Schema
from fedmed.deid.cells import NO_KEY, parse_cells
from fedmed.deid.pseudonyms import normalise
from fedmed.deid.readers import TableReader, open_table
from fedmed.deid.tabular import PATIENT
from fedmed.errors import DataError

_BATCH_ROWS: Final = 50_000
_DROPPED: Final = ("direct-identifier", "ignore")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawTable:
    """A table as the schema reads it: `values` of the rows, and why a cell is none (`reasons`, null where it is)."""

    rows: int
    unreadable: int
    values: pl.DataFrame
    reasons: pl.DataFrame
    patients: pl.Series | None

    @property
    def whole(self) -> pl.Series:
        """Which rows have no cell with a reason."""
        if not self.reasons.width:
            return pl.Series([True] * self.values.height, dtype=pl.Boolean)
        return self.reasons.select(pl.all_horizontal(pl.all().is_null())).to_series()


def opened_rows(frame: pl.DataFrame, schema: Schema) -> RawTable | list[str]:
    """Return de-identified rows as a table of which every cell is a value or missing, or the columns that they lack."""
    kept = [column.name for column in kept_columns(schema) if column.role != "patient-key"]
    lacking = [name for name in kept if name not in frame.columns]
    if lacking:
        return lacking
    notes = [column.name for column in schema.columns if column.role == "free-text" and column.name in kept]
    blank = [pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)).alias(name) for name in notes]
    values = frame.select(kept).with_columns(blank)
    return RawTable(
        rows=frame.height, unreadable=0, values=values,
        reasons=pl.DataFrame({name: pl.Series([None] * frame.height, dtype=pl.String) for name in kept}),
        patients=None if schema.patient_key is None else frame[PATIENT],
    )  # fmt: skip


def opened_table(path: Path, schema: Schema) -> TableReader:
    """Return a reader of a table that is no JSON Lines.

    Raises:
        DataError: The file is missing, empty, unreadable, or in another encoding.
    """
    names = () if schema.header else [column.name for column in schema.columns]
    return open_table(path, keyed=hashlib.sha256(), delimiter=schema.delimiter, names=names)


def kept_columns(schema: Schema) -> list[Column]:
    """Return the columns that pass the door, and the note that a model reads."""
    return [column for column in schema.columns if column.role not in _DROPPED and not _unread(column, schema)]


def _unread(column: Column, schema: Schema) -> bool:
    """Whether free text is dropped: all of it but the note that a model reads."""
    return column.role == "free-text" and (schema.text is None or schema.text.column != column.name)


def lacking_columns(reader: TableReader, schema: Schema) -> list[str]:
    """Return the kept columns that the header does not name exactly once."""
    return [column.name for column in kept_columns(schema) if reader.header.count(column.name) != 1]


def read_table(reader: TableReader, schema: Schema) -> RawTable:
    """Read the kept columns, batch by batch."""
    kept = kept_columns(schema)
    key = schema.patient_key
    values, reasons, patients, unreadable = [], [], [], 0
    for batch in reader.batches([column.name for column in kept], _BATCH_ROWS):
        unreadable += sum(fault.last + 1 - fault.first for fault in batch.faults)
        parsed = {column.name: _parsed(column, batch.cells[column.name], schema) for column in kept}
        values.append(pl.DataFrame({name: value for name, (value, _) in parsed.items() if name != key}))
        reasons.append(pl.DataFrame({name: reason for name, (_, reason) in parsed.items()}))
        if key is not None:
            patients.append(parsed[key][0])
    frame = pl.concat(values) if values else pl.DataFrame()
    return RawTable(
        rows=(frame.height if values else 0) + unreadable, unreadable=unreadable, values=frame,
        reasons=pl.concat(reasons) if reasons else pl.DataFrame(), patients=pl.concat(patients) if patients else None,
    )  # fmt: skip


def _parsed(column: Column, cells: Sequence[str], schema: Schema) -> tuple[pl.Series, pl.Series]:
    """Return the values of a column and the reasons of its cells; patients become digests that nobody keeps."""
    if column.role == "patient-key":
        digests = [_digest(cell) for cell in cells]
        reasons = [None if digest else NO_KEY for digest in digests]
        return pl.Series(digests, dtype=pl.String), pl.Series(reasons, dtype=pl.String)
    if column.role == "free-text":
        notes = pl.Series([cell if cell.strip() else None for cell in cells], dtype=pl.String)
        return notes, pl.Series([None] * len(cells), dtype=pl.String)
    parsed = parse_cells(column, cells, schema.missing)
    return parsed.values, parsed.reasons


def _digest(cell: str) -> str | None:
    plain = normalise(cell)
    return hashlib.sha256(plain.encode()).hexdigest() if plain else None


def tables_in(folder: Path, schema: Schema) -> tuple[Path, ...]:
    """Return the tables of a folder that the schema's `file` names, one for each site that has one.

    Raises:
        DataError: There is none.
    """
    pattern = schema.file.replace("{site}", "*")
    found = sorted({*folder.glob(pattern), *folder.glob(Path(pattern).name)})
    if schema.sites:
        names = {Path(schema.file.format(site=site)).name for site in schema.sites}
        found = [path for path in found if path.name in names]
    if not found:
        raise DataError(f"{folder}: expected tables like {schema.file}, found none; name the file itself")
    return tuple(found)
