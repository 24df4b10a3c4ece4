"""Read a publisher's files of all sites as one table: a header, then rows of text.

Why it exists: what a publisher spreads over parts and tables must stand in one row a record before it is divided.

Rules:
    * Every cell keeps its text; nothing is parsed or corrected.
    * A joined table adds the columns that it is asked for and no row; one with two rows for a key is refused, because
      a patient would then count twice.
    * Messages name files, columns and lines, never a cell.

What it does not do: divide rows among sites (see `pooled`).
"""

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fedmed.data.jsonl import is_jsonl, rows_of
from fedmed.data.pooled_file import JoinedFile, PooledFile
from fedmed.data.schema import DataSet
from fedmed.errors import DataError

Row = list[str]
_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)
_LARGEST_CELL = 1 << 24


def missing_files(root: Path, dataset: DataSet) -> tuple[str, ...]:
    """Return which of the publisher's files of all sites are not in `root`."""
    pooled = dataset.pooled
    return () if pooled is None else tuple(name for name in pooled.files if not (root / name).is_file())


def rows_of_publisher(root: Path, dataset: DataSet, pooled: PooledFile) -> Iterator[Row]:
    """Yield the header, then each row, of the files of `pooled` in `root`.

    A generator: files are opened when the first row is asked for.

    Args:
        root: Where the files are: CSV in UTF-8 or JSON Lines, compressed if a name ends in .gz.
        dataset: Its schema names the columns of JSON Lines.
        pooled: Which files, and how they belong together.

    Raises:
        DataError: A file is missing, unreadable, of another width than its header, or cannot be joined.
    """
    lacking = missing_files(root, dataset)
    if lacking:
        cure = f"; {dataset.schema.obtain}" if dataset.schema.obtain else ""
        raise DataError(
            f"{dataset.schema.name}: expected the file {', '.join(lacking)} in folder {root}, found none{cure}"
        )
    header, rows = _parts(root, dataset, pooled)
    for join in pooled.joins:
        header, rows = _joined(header, rows, root, join, delimiter=pooled.delimiter or dataset.schema.delimiter)
    yield header
    yield from rows


def place_of(header: Sequence[str], column: str, *, file: str) -> int:
    """Return where `column` stands in a header.

    Raises:
        DataError: It stands there not once.
    """
    if header.count(column) != 1:
        raise DataError(f"{file}: expected one column {column!r} in the header, got {header.count(column)}")
    return header.index(column)


def _parts(root: Path, dataset: DataSet, pooled: PooledFile) -> tuple[Row, Iterator[Row]]:
    """Return the common header of the file and its further parts, and the rows of all."""
    header: Row | None = None
    found: list[Iterator[Row]] = []
    for name in (pooled.file, *pooled.more):
        rows = _rows(root / name, dataset, pooled)
        columns = list(pooled.columns) or next(rows, [])
        if header is not None and columns != header:
            raise DataError(f"{name}: expected the columns of {pooled.file} in their order; name parts of one table")
        header = columns
        found.append(_of_width(rows, len(columns), file=name, first=1 if pooled.columns else 2))
    return header or [], itertools.chain.from_iterable(found)


def _rows(path: Path, dataset: DataSet, pooled: PooledFile) -> Iterator[Row]:
    """Yield the lines of a pooled file: CSV, or JSON Lines with the schema's columns."""
    schema = dataset.schema
    if is_jsonl(path):
        columns = [column.name for column in schema.columns]
        columns += [pooled.column] if pooled.column not in columns else []
        talk = None if schema.text is None else schema.text.column
        yield from itertools.chain([columns], rows_of(path, columns, talk=talk))
        return
    yield from _csv(path, delimiter=pooled.delimiter or schema.delimiter, quoted=pooled.quoted)


def _csv(path: Path, *, delimiter: str, quoted: bool) -> Iterator[Row]:
    """Yield the lines of a CSV file that hold anything."""
    try:
        with _opened(path) as file, _large_cells():
            plain = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            yield from filter(None, csv.reader(file, delimiter=delimiter) if quoted else plain)
    except _UNREADABLE:
        raise DataError(f"{path.name}: expected CSV in UTF-8, got something else; download it again") from None


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@contextmanager
def _large_cells() -> Iterator[None]:
    """Let a cell hold a long note while a file is read; the module's limit is 128 KiB for the whole process."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _of_width(rows: Iterator[Row], width: int, *, file: str, first: int) -> Iterator[Row]:
    """Yield rows of one width; a row of another would put its cells under other columns' names."""
    for number, row in enumerate(rows, start=first):
        if len(row) != width:
            raise DataError(f"{file}: row {number} has {len(row)} cells, the header {width}; correct the file")
        yield row


def _joined(
    header: Row, rows: Iterator[Row], root: Path, join: JoinedFile, *, delimiter: str
) -> tuple[Row, Iterator[Row]]:
    """Return header and rows with the columns of one more table; rows without a partner there are left out."""
    twice = sorted(set(header) & set(join.columns))
    if twice:
        raise DataError(f"{join.file}: column {twice[0]!r} is there already; take it from one table only")
    at = place_of(header, join.key, file="the table before the join")
    partners = _partners(root / join.file, join, delimiter=delimiter)
    return [*header, *join.columns], (row + partners[row[at]] for row in rows if row[at] in partners)


def _partners(path: Path, join: JoinedFile, *, delimiter: str) -> dict[str, Row]:
    """Return the wanted cells of a table by key."""
    rows = _csv(path, delimiter=delimiter, quoted=True)
    header = next(rows, [])
    at = place_of(header, join.key, file=join.file)
    wanted = [place_of(header, column, file=join.file) for column in join.columns]
    asked = [(place_of(header, column, file=join.file), value) for column, value in join.where.items()]
    found: dict[str, Row] = {}
    for number, row in enumerate(_of_width(rows, len(header), file=join.file, first=2), start=2):
        if not row[at] or any(row[place] != value for place, value in asked):
            continue
        if row[at] in found:
            raise DataError(
                f"{join.file}: row {number} has a key of an earlier row in {join.key!r}; name the rows that count under"
                " where"
            )
        found[row[at]] = [row[place] for place in wanted]
    return found
