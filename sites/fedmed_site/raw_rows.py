"""A raw table on its way to the door: with numbers in place of the names of images, and other columns where wanted.

Why it exists: names of files don't pass the door, yet each row must keep the image that it names. So the way in takes
the table with a number in place of each name, whatever form the table has.

Rules:
    * The table is read as de-identification reads it (CSV in UTF-8 or GB18030, Parquet, Excel), and every other cell
      keeps its text. It becomes a CSV in memory (memfd_create(2)): what is raw reaches no disk on the way.
    * A row stands on the line on which it stood, so that a list of lines is right for the hospital's own file; only
      where rows are counted without a header, as in Parquet, the header is line 1. A line that is no row stays one.
    * A row without its patient's key names no image: it does not pass.

What it does not do: read images (see `fedmed.data.imaging`), or judge cells.
"""

import csv
import hashlib
import heapq
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fedmed.data.parts import NamedImages
from fedmed.data.schema import Column, Schema
from fedmed.deid.pseudonyms import normalise
from fedmed.deid.readers import Fault, open_table
from fedmed.errors import DataError
from fedmed.files import memory_file

BATCH_ROWS: Final = 50_000
_MOST: Final = 1e15
_NO_QUOTES: Final = "quotes do not match"
_LEFT_OUT: Final = ("direct-identifier", "ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What de-identification must know of such a table: a schema's facts, under the schema's own digest.

    A number that stands for an image or a line is no value of the hospital's, so no token of the schema makes it
    missing: the tokens stand with the other columns.
    """

    name: str
    digest: str
    columns: tuple[Column, ...]
    delimiter: str
    header: bool
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: Schema, *, line: str | None = None, targets: bool = True) -> "Door":
        """Return the door of a schema's rows, with a column for the number of their line, with or without targets."""
        found = [] if line is None else [_number(line)]
        for column in schema.columns:
            if schema.image is not None and column.name == schema.image.column:
                found.append(_number(column.name))
            elif targets or column.role != "target":
                found.append(replace(column, missing=(*column.missing, *schema.missing)))
        return cls(
            name=schema.name,
            digest=schema.digest,
            columns=tuple(found),
            delimiter=schema.delimiter,
            header=schema.header or line is not None,
        )


def _number(name: str) -> Column:
    return Column(name=name, kind="number", role="target", low=0, high=_MOST)


def named_images(schema: Schema) -> NamedImages:
    """Return what numbers the images of a schema's tables, before the first row."""
    column = "" if schema.image is None else schema.image.column
    words = next((one.missing for one in schema.columns if one.name == column), ())
    return NamedImages(missing=(*words, *schema.missing))


def image_names(table: Path, schema: Schema, *, named: str | None = None) -> NamedImages:
    """Return the images that a raw table names.

    Args:
        table: CSV, Parquet or Excel.
        schema: With an image.
        named: What messages call the table; None is its own name.

    Raises:
        DataError: The table can't be read, or lacks the column.
    """
    found = named_images(schema)
    reader = open_table(table, keyed=hashlib.sha256(), delimiter=schema.delimiter, names=_names(schema))
    columns = [column.name for column in schema.columns if column.name in {schema.patient_key, _image_column(schema)}]
    lacking = [name for name in columns if name not in reader.header]
    if lacking:
        raise DataError(
            f"{named or table.name}: the header lacks column {lacking[0]!r}, which images are found by; export the"
            " table again"
        )
    for batch in reader.batches(columns, BATCH_ROWS):
        image_numbers(batch.cells, schema, found)
    return found


def image_numbers(cells: Mapping[str, Sequence[str]], schema: Schema, found: NamedImages) -> list[str]:
    """Return what stands in the image column of each row, and count the rows in `found`."""
    names, key = cells[_image_column(schema)], schema.patient_key
    if key is None or key not in cells:
        return [found.number(name) for name in names]
    return [found.number(name) if normalise(who) else "" for name, who in zip(names, cells[key], strict=True)]


@contextmanager
def numbered_table(table: Path, schema: Schema) -> Iterator[tuple[Path, Door, NamedImages]]:
    """Yield a raw table with numbers in its image column, its door, and the images that it names; for the block.

    Raises:
        DataError: The table can't be read.
    """
    found, image = named_images(schema), _image_column(schema)
    reader = open_table(table, keyed=hashlib.sha256(), delimiter=schema.delimiter, names=_names(schema))
    listed = {column.name for column in schema.columns if column.role not in _LEFT_OUT or column.name == image}
    places = {name: place for place, name in reversed(list(enumerate(reader.header))) if name in listed}
    text = LinedText(schema.delimiter)
    if schema.header:
        text.row(1, reader.header)
    width = len(reader.header)
    for batch in reader.batches(list(places), BATCH_ROWS):
        cells = dict(batch.cells)
        if image in cells:
            cells[image] = image_numbers(cells, schema, found)
        rows = zip(batch.lines, zip(*(cells[name] for name in places), strict=True), strict=True)
        for line, fault, row in _in_order(rows, batch.faults):
            if fault is not None:
                text.no_row(line, fault, width=width)
                continue
            whole = [""] * width
            for place, cell in zip(places.values(), row, strict=True):
                whole[place] = cell
            text.row(line, whole)
    with memory_file(text.encoded()) as raw:
        yield raw, Door.of(schema), found


class LinedText:
    """CSV in which each row stands on a line of one's choice, or on the next one where that has passed."""

    def __init__(self, delimiter: str) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, delimiter=delimiter)
        self._next = 1

    def row(self, line: int, cells: Sequence[str]) -> int:
        """Write a row, and return the line on which it begins."""
        self._reach(line)
        began = self._next
        self._writer.writerow(cells)
        self._next += 1 + sum(_breaks(cell) for cell in cells)
        return began

    def no_row(self, line: int, reason: str, *, width: int) -> None:
        """Write a line that is no row, for the same reason."""
        if reason == _NO_QUOTES:
            self._reach(line)
            self._text.write('""x\r\n')
            self._next += 1
        else:
            self.row(line, [""] * (width + 1))

    def encoded(self) -> bytes:
        """Return the text in UTF-8."""
        return self._text.getvalue().encode()

    def _reach(self, line: int) -> None:
        blank = max(0, line - self._next)
        self._text.write("\r\n" * blank)
        self._next += blank


def _in_order(
    rows: Iterable[tuple[int, tuple[str, ...]]], faults: Sequence[Fault]
) -> Iterator[tuple[int, str | None, tuple[str, ...]]]:
    """Yield rows and the lines that are none, by line, with the reason of the latter."""
    of_rows = ((line, None, row) for line, row in rows)
    of_faults = ((line, fault.reason, ()) for fault in faults for line in range(fault.first, fault.last + 1))
    return heapq.merge(of_rows, of_faults, key=lambda one: one[0])


def _breaks(cell: str) -> int:
    """Return how many physical lines a cell adds to its row."""
    return cell.count("\n") + cell.count("\r") - cell.count("\r\n")


def _names(schema: Schema) -> Sequence[str]:
    return () if schema.header else [column.name for column in schema.columns]


def _image_column(schema: Schema) -> str:
    return "" if schema.image is None else schema.image.column
