"""Four kinds of place for a table, one kind of cell."""

import datetime as dt
import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter

from fedmed.deid.readers import SqlTable, TableReader, open_table
from fedmed.errors import DataError

CANARY = "Qxz7canary"
FRAME = pl.DataFrame(
    {
        "mrn": [12345.0, 678.0, 9.5],
        "count": [1, None, 3],
        "sure": [True, False, None],
        "day": [dt.date(2024, 3, 5), None, dt.date(1999, 12, 31)],
        "at": [dt.datetime(2024, 3, 5, 14, 22, 9), None, dt.datetime(1999, 12, 31)],  # noqa: DTZ001  a clock on a wall
        "备注": ["患者诉头晕", "", None],
        "dose": [Decimal("1.50"), Decimal("2.00"), None],
    }
)
EXPECTED = {
    "mrn": ["12345", "678", "9.5"],
    "count": ["1", "", "3"],
    "sure": ["1", "0", ""],
    "day": ["2024-03-05", "", "1999-12-31"],
    "at": ["2024-03-05 14:22:09", "", "1999-12-31 00:00:00"],
    "备注": ["患者诉头晕", "", ""],
    "dose": ["1.5", "2", ""],
}


def opened(source: Path | SqlTable, **more: object) -> TableReader:
    """Open `source` with a plain hash."""
    return open_table(source, keyed=hashlib.sha256(), **more)


def read(reader: TableReader, columns: Sequence[str] | None = None, rows: int = 2) -> dict[str, list[str]]:
    """Return all the cells, read in small batches."""
    wanted = list(reader.header) if columns is None else list(columns)
    cells: dict[str, list[str]] = {name: [] for name in wanted}
    for batch in reader.batches(wanted, rows):
        assert len(batch.lines) <= rows
        assert set(batch.cells) == set(wanted)
        for name in wanted:
            cells[name] += batch.cells[name]
    return cells


def database(folder: Path) -> str:
    """Return the URL of a database that holds the table `visits`."""
    path = folder / f"{CANARY}.db"
    with sqlite3.connect(path) as connection:
        connection.execute('create table visits (mrn real, "count" integer, "备注" text, dose numeric)')
        rows = [(12345.0, 1, "患者诉头晕", 1.5), (678.0, None, "", 2.0), (9.5, 3, None, None)]
        connection.executemany("insert into visits values (?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{path}"


def test_parquet_becomes_the_text_of_a_csv_export(tmp_path: Path):
    """Numbers without .0, truth as 1 and 0, ISO dates, nothing for missing; only the columns asked for."""
    FRAME.write_parquet(tmp_path / "t.parquet")
    assert read(opened(tmp_path / "t.parquet")) == EXPECTED
    assert read(opened(tmp_path / "t.parquet"), ["day", "mrn"]) == {name: EXPECTED[name] for name in ("day", "mrn")}


def test_excel_becomes_the_same_text(tmp_path: Path):
    """Typed cells of a workbook read as in the other formats; a time of midnight may follow a date."""
    FRAME.drop("dose", "sure").write_excel(tmp_path / "t.xlsx")
    cells = read(opened(tmp_path / "t.xlsx"))
    assert [text[:10] for text in cells["day"]] == EXPECTED["day"]
    assert {name: cells[name] for name in ("mrn", "count", "at", "备注")} == {
        name: EXPECTED[name] for name in ("mrn", "count", "at", "备注")
    }


def test_a_database_table_becomes_the_same_text(tmp_path: Path):
    """A table behind SQLAlchemy reads as in the other formats."""
    cells = read(opened(SqlTable(database(tmp_path), "visits")))
    assert cells == {name: EXPECTED[name] for name in ("mrn", "count", "备注", "dose")}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_any_usual_encoding_and_delimiter(tmp_path: Path, encoding: str, delimiter: str):
    """The likeliest delimiter is found where none is named."""
    text = delimiter.join(["编号", "备注"]) + "\n" + delimiter.join(["7", "头晕"]) + "\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read(opened(tmp_path / "t.csv")) == {"编号": ["7"], "备注": ["头晕"]}


def test_csv_lines_that_make_no_row_are_told_with_the_batch(tmp_path: Path):
    """Ragged lines come as faults with their line and reason, also when no row is left."""
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n4,5\n6\n")
    batches = list(opened(tmp_path / "t.csv").batches(["b"], 10))
    assert [(list(b.lines), b.cells["b"]) for b in batches] == [([3], ["5"])]
    faults = [(fault.first, fault.last, fault.reason) for b in batches for fault in b.faults]
    assert faults == [(2, 2, "not 2 cells"), (4, 4, "not 2 cells")]
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n")
    assert [len(b.faults) for b in opened(tmp_path / "t.csv").batches(["b"], 10)] == [1]


def test_a_workbook_keeps_two_columns_of_one_name_apart(tmp_path: Path):
    """The header is what stands in the first row, so a name that stands there twice can be refused."""
    with xlsxwriter.Workbook(tmp_path / "t.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["age", "age"])
        sheet.write_row(1, 0, [1, 2])
    assert opened(tmp_path / "t.xlsx").header == ("age", "age")


def test_a_workbook_of_two_sheets_is_refused(tmp_path: Path):
    """Nobody guesses which sheet was meant."""
    with xlsxwriter.Workbook(tmp_path / "t.xlsx") as book:
        book.add_worksheet(CANARY).write(0, 0, "a")
        book.add_worksheet().write(0, 0, "a")
    with pytest.raises(DataError, match="expected one sheet, got 2") as error:
        opened(tmp_path / "t.xlsx")
    assert CANARY not in str(error.value)


def test_lines_of_a_workbook_are_those_of_the_sheet(tmp_path: Path):
    """An empty row in between is passed over, and the numbers go on."""
    with xlsxwriter.Workbook(tmp_path / "t.xlsx") as book:
        sheet = book.add_worksheet()
        for row, value in [(0, "a"), (1, "x"), (3, "y")]:
            sheet.write(row, 0, value)
    batches = list(opened(tmp_path / "t.xlsx").batches(["a"], 10))
    assert [(list(b.lines), b.cells["a"]) for b in batches] == [([2, 4], ["x", "y"])]


@pytest.mark.parametrize("name", ["t.parquet", "t.xlsx"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str):
    """One line, without a byte of the file."""
    (tmp_path / name).write_text(CANARY * 10)
    with pytest.raises(DataError, match="not a readable") as error:
        read(opened(tmp_path / name))
    assert CANARY not in str(error.value)
    assert error.value.__suppress_context__


def test_nested_values_are_refused(tmp_path: Path):
    """A list in a cell has no text of its own."""
    pl.DataFrame({"a": [[1, 2]], "b": [1]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'a' holds no plain values"):
        read(opened(tmp_path / "t.parquet"))
    assert read(opened(tmp_path / "t.parquet"), ["b"]) == {"b": ["1"]}


@pytest.mark.parametrize(
    ("url", "table"),
    [
        ("sqlite:///{folder}/Qxz7canary.db", "nothing"),
        ("sqlite:////nowhere/Qxz7canary.db", "visits"),
        ("nosuch://user:Qxz7canary@host/db", "visits"),
        ("postgresql+psycopg://user:Qxz7canary@127.0.0.1:1/db", "visits"),
        ("Qxz7canary", "visits"),
    ],
)
def test_a_database_error_never_holds_the_url(tmp_path: Path, url: str, table: str):
    """Missing tables, files, drivers and servers: one line names the table and the kind of error."""
    database(tmp_path)
    source = SqlTable(url.format(folder=tmp_path), table)
    with pytest.raises(DataError, match=f"table '{table}': the database cannot be read") as error:
        opened(source)
    assert CANARY not in str(error.value) + repr(source)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


def test_a_table_name_is_never_a_query(tmp_path: Path):
    """A name with SQL in it is the name of no table."""
    url = database(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        opened(SqlTable(url, "visits; drop table visits"))
    assert read(opened(SqlTable(url, "visits")), ["count"]) == {"count": ["1", "", "3"]}


def test_every_source_is_hashed(tmp_path: Path):
    """A file by its bytes; of a database, the cells that were read."""
    (tmp_path / "t.csv").write_text("a\n1\n")
    reader = opened(tmp_path / "t.csv")
    read(reader)
    assert reader.fingerprint() == hashlib.sha256(b"a\n1\n").hexdigest()
    url = database(tmp_path)
    prints = []
    for columns in (["mrn"], ["mrn"], ["count"]):
        reader = opened(SqlTable(url, "visits"))
        read(reader, columns)
        prints.append(reader.fingerprint())
    assert prints[0] == prints[1] != prints[2]


MEMORY = """
import hashlib, resource, sys
from pathlib import Path
from fedmed.deid.readers import open_table
reader = open_table(Path(sys.argv[1]), keyed=hashlib.sha256())
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
batches = reader.batches(["a"], 10_000)
next(batches); before = peak()
rows = 10_000 + sum(len(batch.lines) for batch in batches)
print(rows, peak() - before)
"""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, suffix: str):
    """Of 26 MB of text, reading one column batch by batch adds less than half that to memory."""
    frame = pl.select(a=pl.int_range(400_000).cast(pl.String), b=pl.lit("x" * 60))
    path = tmp_path / f"t.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(
        path, row_group_size=50_000, compression="uncompressed"
    )
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == 400_000
    assert grown_kib < 13_000
