"""Where a table comes from: CSV, Parquet, Excel or a database, read in batches of cells as text.

Why it exists: hospitals keep tables in four kinds of place, and de-identification must
not care which. Whatever a cell is, it arrives as the text that a CSV export would hold,
so one person has one spelling of an identifier in all of them.

Rules:
    * Only the columns that are asked for are read; the rest never enters memory (but for the line being split).
    * A batch has at most the given number of rows, so a table may be larger than memory. An Excel sheet may not:
      its format is one compressed document of at most 1,048,576 rows.
    * An error names the file or table and a column by the caller's name for it, never a cell, and never
      a database URL, because that may hold a password.
    * Every source is hashed with what the caller brings: a file's bytes, or the cells read from a database.

What it does not do: decide what may pass (see `policy`), or write.
"""

import csv
import itertools
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import polars as pl
from polars.exceptions import PanicException, PolarsError

from fedmed.deid.encodings import Encoding, encoding_of
from fedmed.deid.table_bounds import check_cells, check_header, in_pieces
from fedmed.deid.workbook import WorkbookError, read_sheet
from fedmed.errors import DataError, UsageError

EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")

_CHUNK_BYTES = 1 << 20
_MOST_UNPACKED = 1 << 30
_DELIMITERS = (",", "\t", ";", "|")
_EXACT_FLOAT = 2.0**53
_EXTRA = "install FedMed with the extra 'tables'"


class Running(Protocol):
    """A running hash; an HMAC is one."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the hash of the bytes so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Physical lines that make no row, each of which may have been one."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows as read: the line each starts on, the cells of each column, and the lines that made no row."""

    lines: Sequence[int]
    cells: Mapping[str, Sequence[str]]
    faults: Sequence[Fault] = ()


class TableReader(Protocol):
    """A table that can be read once, in order."""

    @property
    def name(self) -> str:
        """What messages call it; no path and no URL."""

    @property
    def header(self) -> tuple[str, ...]:
        """The names of all the columns, as they stand there; two may be equal."""

    def batches(self, columns: Sequence[str], rows: int) -> Generator[Batch]:
        """Yield the cells of `columns` in batches of at most `rows` rows."""

    def fingerprint(self) -> str:
        """Return the keyed hash of what was read; call it after the last batch."""


class SqlTable:
    """A table of a database. It is no record: the URL may hold a password and shows nowhere.

    Args:
        url: What SQLAlchemy takes, such as `postgresql+psycopg://user:password@host/database`.
        table: The table or view.
        schema: The schema that holds it, if not the default one.
    """

    __slots__ = ("schema", "table", "url")

    def __init__(self, url: str, table: str, *, schema: str | None = None) -> None:
        self.url, self.table, self.schema = url, table, schema

    def __repr__(self) -> str:
        return f"SqlTable(table={self.table!r})"


def open_table(
    source: Path | SqlTable,
    *,
    keyed: Running,
    delimiter: str | None = None,
    names: Sequence[str] = (),
    encoding: Encoding = "detect",
) -> TableReader:
    """Return a reader for `source`, by its suffix (.parquet, .xlsx, .xls, .xlsb, .ods; anything else is CSV).

    Args:
        source: A file or a database table.
        keyed: A running hash that takes what is read.
        delimiter: Of CSV, the character between two cells; None takes the likeliest of comma, tab, semicolon, bar.
        names: The names of the columns of a CSV file without a header.
        encoding: Of CSV, if the site knows it.

    Raises:
        DataError: The source is missing, empty, unreadable, or in another encoding.
        UsageError: A package that reads this kind of source is not installed.
    """
    if isinstance(source, SqlTable):
        return _Database(source, keyed)
    if not source.is_file():
        raise DataError(f"no file {source}; expected the table as the hospital or publisher wrote it; check data.root")
    suffix = source.suffix.lower()
    if source.stat().st_size == 0:
        raise DataError(f"{source.name}: the file is empty; expected a CSV table; export it again")
    if suffix == ".parquet":
        return _Parquet(source, keyed)
    if suffix in EXCEL_SUFFIXES:
        return _Excel(source, keyed)
    return _Csv(source, keyed, delimiter=delimiter, names=names, encoding=encoding)


def reads_excel() -> bool:
    """Return whether a reader for workbooks is installed."""
    try:
        import fastexcel  # noqa: F401, PLC0415  an optional extra
    except ImportError:
        return False
    return True


class _Csv:
    """Text with a delimiter, in UTF-8 (with or without BOM), GB18030 or what the site names."""

    def __init__(
        self, path: Path, keyed: Running, *, delimiter: str | None, names: Sequence[str], encoding: Encoding
    ) -> None:
        self.name, self._path, self._headless, self._keyed = path.name, path, bool(names), keyed
        self._encoding = encoding_of(path, keyed.update, declared=encoding)
        self._delimiter = delimiter or self._likeliest_delimiter()
        self.header = tuple(names) or self._read_header()
        check_header(self.name, self.header)

    def batches(self, columns: Sequence[str], rows: int) -> Generator[Batch]:
        first = {name: at for at, name in reversed(list(enumerate(self.header)))}
        positions = [first[column] for column in columns]
        with self._open() as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            if not self._headless:
                next(reader)
            faults: list[Fault] = []
            found = self._rows(reader, faults)
            while True:
                part = list(itertools.islice(found, rows))
                if not part and not faults:
                    return
                cells = {name: [row[at] for _, row in part] for name, at in zip(columns, positions, strict=True)}
                yield Batch(lines=[line for line, _ in part], cells=cells, faults=tuple(faults))
                faults.clear()

    def fingerprint(self) -> str:
        return self._keyed.hexdigest()

    def _open(self) -> TextIO:
        return self._path.open(encoding=self._encoding, newline="")

    def _likeliest_delimiter(self) -> str:
        with self._open() as file:
            line = file.readline(_CHUNK_BYTES)
        return max(_DELIMITERS, key=line.count)

    def _read_header(self) -> tuple[str, ...]:
        with self._open() as file:
            try:
                return tuple(cell.strip() for cell in next(csv.reader(file, delimiter=self._delimiter, strict=True)))
            except (StopIteration, csv.Error):
                raise DataError(
                    f"{self.name}: no header in the first line; expected the names of the columns"
                ) from None

    def _rows(self, reader: "_Lines", faults: list[Fault]) -> Iterator[tuple[int, list[str]]]:
        """Yield each row of the right width with the line it starts on; note the others in `faults`."""
        width = len(self.header)
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                faults.append(Fault(first=first, last=reader.line_num, reason="quotes do not match"))
                continue
            if not row:
                continue
            if len(row) != width:
                faults.append(Fault(first=first, last=reader.line_num, reason=f"not {width} cells"))
                continue
            yield first, row


class _Parquet:
    """A Parquet file; its typed values become the text of a CSV export."""

    def __init__(self, path: Path, keyed: Running) -> None:
        self.name, self._path, self._keyed = path.name, path, keyed
        _hash_file(path, keyed)
        try:
            self._types = dict(pl.scan_parquet(path).collect_schema())
        except (PolarsError, PanicException, OSError):
            raise DataError(f"{self.name}: not a readable Parquet file; export the table again") from None
        self.header = tuple(self._types)
        check_header(self.name, self.header)
        check_cells(self.name, path, len(self.header))

    def batches(self, columns: Sequence[str], rows: int) -> Generator[Batch]:
        for name in columns:
            if self._types[name].is_nested() or self._types[name] in {pl.Binary, pl.Object}:
                raise DataError(f"{self.name}: column {name!r} holds no plain values; flatten or remove it")
        cells = pl.scan_parquet(self._path).select(_as_text(name, self._types[name]) for name in columns)
        line = 1
        try:
            batches = cells.collect_batches(chunk_size=rows, maintain_order=True)
            for part in (piece for batch in batches for piece in in_pieces(self.name, batch)):
                yield Batch(lines=range(line, line + part.height), cells=part.to_dict(as_series=False))
                line += part.height
        except (PolarsError, PanicException, OSError):
            raise DataError(f"{self.name}: not a readable Parquet file; export the table again") from None

    def fingerprint(self) -> str:
        return self._keyed.hexdigest()


class _Excel:
    """The only sheet of a workbook, as the text of its cells."""

    def __init__(self, path: Path, keyed: Running) -> None:
        if not reads_excel():
            raise UsageError(f"{path.name}: no reader for Excel is installed; {_EXTRA}")
        self.name, self._keyed = path.name, keyed
        _hash_file(path, keyed)
        if _unpacked_bytes(path) > _MOST_UNPACKED:
            raise DataError(f"{self.name}: expected a workbook of at most 1 GiB unpacked, got more; save it as CSV")
        try:
            sheets, self._sheet = read_sheet(path)
        except WorkbookError:
            raise DataError(
                f"{self.name}: not a readable workbook, or one that takes too much memory; save it again, without a "
                "password, or as CSV"
            ) from None
        if sheets != 1:
            raise DataError(f"{self.name}: expected one sheet, got {sheets}; save the sheet as a file of its own")
        if self._sheet.is_empty():
            raise DataError(f"{self.name}: no header in the first line; expected the names of the columns")
        self.header = tuple((cell or "").strip() for cell in self._sheet.row(0))
        check_header(self.name, self.header)

    def batches(self, columns: Sequence[str], rows: int) -> Generator[Batch]:
        chosen = self._sheet.select(
            pl.nth(self.header.index(name)).fill_null("").alias(f"{at}") for at, name in enumerate(columns)
        )
        blank = self._sheet.select(pl.all_horizontal(pl.all().is_null())).to_series()
        for first in range(1, self._sheet.height, rows):
            part = chosen.slice(first, rows).filter(~blank.slice(first, rows))
            lines = [first + 1 + at for at, empty in enumerate(blank.slice(first, rows)) if not empty]
            yield Batch(lines=lines, cells={name: part[f"{at}"].to_list() for at, name in enumerate(columns)})

    def fingerprint(self) -> str:
        return self._keyed.hexdigest()


class _Database:
    """A table behind SQLAlchemy, streamed by a server-side cursor where the driver has one."""

    def __init__(self, source: SqlTable, keyed: Running) -> None:
        try:
            import sqlalchemy  # noqa: PLC0415  an optional extra
        except ImportError:
            raise UsageError(f"table {source.table!r}: no reader for databases is installed; {_EXTRA}") from None
        self.name, self._keyed = source.table, keyed
        self._sql = sqlalchemy
        try:
            self._engine = sqlalchemy.create_engine(source.url, hide_parameters=True, echo=False)
            self._table = sqlalchemy.Table(
                source.table, sqlalchemy.MetaData(), schema=source.schema, autoload_with=self._engine
            )
        except Exception as error:  # noqa: BLE001  drivers raise anything, and their messages may hold the URL
            raise self._failed(error) from None
        self.header = tuple("".join(column.name) for column in self._table.columns)  # plain text, no type of theirs

    def batches(self, columns: Sequence[str], rows: int) -> Generator[Batch]:
        # The names come from the database's own catalogue and are quoted by SQLAlchemy; no text is pasted in.
        query = self._sql.select(*(self._table.columns[name] for name in columns))
        line = 1
        try:
            with self._engine.connect() as connection:
                streaming = connection.execution_options(stream_results=True, yield_per=rows)
                for part in streaming.execute(query).partitions(rows):
                    texts = [[_text_of(value) for value in row] for row in part]
                    for row in texts:
                        self._keyed.update("\x1f".join(row).encode("utf-8", "surrogatepass") + b"\x1e")
                    cells = dict(zip(columns, map(list, zip(*texts, strict=True)), strict=True))
                    yield Batch(lines=range(line, line + len(texts)), cells=cells)
                    line += len(texts)
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001  as above
            raise self._failed(error) from None
        finally:
            self._engine.dispose()

    def fingerprint(self) -> str:
        return self._keyed.hexdigest()

    def _failed(self, error: Exception) -> DataError:
        return DataError(
            f"table {self.name!r}: the database cannot be read ({type(error).__name__}); check the URL, the driver, "
            "the table's name and the account's rights"
        )


class _Lines(Protocol):
    """What `csv.reader` returns; its own type has no public name."""

    @property
    def line_num(self) -> int:
        """The number of physical lines read."""

    def __next__(self) -> list[str]:
        """Return the next row."""


def _hash_file(path: Path, keyed: Running) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            keyed.update(chunk)


def _unpacked_bytes(path: Path) -> int:
    """Return what a compressed workbook says it unpacks to, 0 for one of the older kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return 0


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """Return the text that a CSV export would hold: 12345.0 is 12345, true is 1, null is empty."""
    value = pl.col(name)
    if kind == pl.Boolean:
        text = value.cast(pl.Int8).cast(pl.String)
    elif kind.is_float():
        exact = value.cast(pl.Float64)
        whole = exact.is_finite() & (exact == exact.round()) & (exact.abs() < _EXACT_FLOAT)
        text = pl.when(whole).then(exact.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(value.cast(pl.String))
    elif kind.is_decimal():
        text = value.cast(pl.String).str.replace(r"\.0*$", "").str.replace(r"(\.\d*?[1-9])0+$", "$1")
    elif kind == pl.Datetime:
        text = value.dt.to_string("%Y-%m-%d %H:%M:%S")
    else:
        text = value.cast(pl.String)
    return text.fill_null("").alias(name)


def _text_of(value: object) -> str:
    """Return the same for one value from a database."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        return str(int(value))
    text = str(value)
    if "." in text and text.replace(".", "", 1).lstrip("-").isdigit() and not isinstance(value, str):
        return text.rstrip("0").rstrip(".")  # a decimal with trailing zeros
    return text
