"""Read a publisher's files of all sites as one table: a header, then rows of text.

Why it exists: what a publisher spreads over parts and tables must stand in one row a record before it is divided.

Rules:
    * Every cell keeps its text; nothing is corrected, and nothing parsed but codes that a flag asks for.
    * A joined table adds the columns that it is asked for and no row; one with two rows for a key is refused, because
      a patient would then count twice. Rows without a partner are counted.
    * Messages name files, columns and lines, never a cell.

What it does not do: divide rows among sites (see `pooled`).
"""

import ast
import csv
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fedmed.data.jsonl import is_jsonl, rows_of
from fedmed.data.pooled_file import CodeFlag, JoinedFile, PooledFile
from fedmed.data.schema import DataSet
from fedmed.errors import DataError

Row = list[str]
_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)
_LARGEST_CELL = 1 << 24
_LARGEST_CODES = 1 << 16


def missing_files(root: Path, dataset: DataSet) -> tuple[str, ...]:
    """Return which of the publisher's files of all sites are not in `root`."""
    pooled = dataset.pooled
    return () if pooled is None else tuple(name for name in pooled.files if published_path(root, name, pooled) is None)


def published_path(root: Path, name: str, pooled: PooledFile) -> Path | None:
    """Return where one of the files of `pooled` lies in `root`: under its name or another one of it, compressed or not.

    None if it is not there.
    """
    for called in (name, *(pooled.also if name == pooled.file else ())):
        plain = called.removesuffix(".gz")
        for candidate in (called, plain, f"{plain}.gz"):
            if (root / candidate).is_file():
                return root / candidate
    return None


def rows_of_publisher(
    root: Path, dataset: DataSet, pooled: PooledFile, *, left_out: Counter[str] | None = None
) -> Iterator[Row]:
    """Yield the header, then each row, of the files of `pooled` in `root`.

    A generator: files are opened when the first row is asked for.

    Args:
        root: Where the files are: CSV in UTF-8 or JSON Lines, compressed if a name ends in .gz.
        dataset: Its schema names the columns of JSON Lines.
        pooled: Which files, and how they belong together.
        left_out: Gets, by reason, how many rows were left out, when the last row was taken.

    Raises:
        DataError: A file is missing, unreadable, of another width than its header, or cannot be joined.
    """
    lacking = missing_files(root, dataset)
    if lacking:
        obtain = pooled.obtain or dataset.schema.obtain
        cure = f"; {obtain}" if obtain else ""
        raise DataError(
            f"{dataset.schema.name}: expected the file {', '.join(lacking)} in folder {root}, found none{cure}"
        )
    header, rows = _parts(root, dataset, pooled)
    for join in pooled.joins:
        delimiter = pooled.delimiter or dataset.schema.delimiter
        path, counted = _existing(root, join.file, pooled), Counter[str]() if left_out is None else left_out
        header, rows = _joined(header, rows, path, join, delimiter=delimiter, left_out=counted)
    for flag in pooled.flags:
        header, rows = _flagged(header, rows, flag, file=pooled.file)
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
        rows = _rows(_existing(root, name, pooled), dataset, pooled)
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


def _existing(root: Path, name: str, pooled: PooledFile) -> Path:
    return published_path(root, name, pooled) or root / name


def _joined(
    header: Row, rows: Iterator[Row], path: Path, join: JoinedFile, *, delimiter: str, left_out: Counter[str]
) -> tuple[Row, Iterator[Row]]:
    """Return header and rows with the columns of one more table; rows without a partner there are left out."""
    twice = sorted(set(header) & set(join.columns))
    if twice:
        raise DataError(f"{join.file}: column {twice[0]!r} is there already; take it from one table only")
    at = place_of(header, join.key, file="the table before the join")
    partners = _partners(path, join, delimiter=delimiter)

    def found() -> Iterator[Row]:
        for row in rows:
            if row[at] in partners:
                yield row + partners[row[at]]
            else:
                left_out[f"without a row in {join.file}"] += 1

    return [*header, *join.columns], found()


def _flagged(header: Row, rows: Iterator[Row], flag: CodeFlag, *, file: str) -> tuple[Row, Iterator[Row]]:
    """Return header and rows with the column of a flag; codes that can't be read leave it empty."""
    if flag.column in header:
        return header, rows
    at = place_of(header, flag.codes, file=file)

    def word(row: Row) -> str:
        codes = _codes(row[at])
        return "" if codes is None else flag.values[flag.code in codes]

    return [*header, flag.column], ([*row, word(row)] for row in rows)


def _codes(cell: str) -> frozenset[str] | None:
    """Return the codes in a cell, or None where it holds no mapping and no list of them.

    >>> sorted(_codes("{'NORM': 100.0, 'SR': 0.0}") or ())
    ['NORM', 'SR']
    """
    try:
        found = ast.literal_eval(cell) if len(cell) <= _LARGEST_CODES else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return frozenset(map(str, found)) if isinstance(found, dict | list | tuple | set) else None


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
