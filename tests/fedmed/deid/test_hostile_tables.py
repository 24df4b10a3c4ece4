"""Tables made to take memory or time: refused in one line, whatever process reads them."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter

from fedmed.deid import headings, table_bounds, workbook
from fedmed.deid.headings import check_headings, value_kind
from fedmed.deid.readers import open_table
from fedmed.deid.roles import propose
from fedmed.errors import DataError


def test_a_table_of_too_many_columns_or_too_long_headings_is_refused(tmp_path: Path):
    """A line of separators is no header, and a page of text is no heading."""
    for line, says in (("x," * 5_000, "at most"), ("a" * 2_001 + ",b", "a heading of more")):
        (tmp_path / "t.csv").write_text(f"{line}\n1,2\n")
        with pytest.raises(DataError, match=says):
            open_table(tmp_path / "t.csv", keyed=hashlib.sha256())
    pl.DataFrame({f"c{at}": [1] for at in range(5_000)}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="at most"):
        open_table(tmp_path / "t.parquet", keyed=hashlib.sha256())


def test_headings_that_may_be_addresses_are_read_together(monkeypatch: pytest.MonkeyPatch):
    """The ladder of addresses is asked once for all headings, not once for each."""
    calls: list[int] = []
    labels = headings.labels
    monkeypatch.setattr(headings, "_districts", {})
    monkeypatch.setattr(headings, "labels", lambda values, *more: calls.append(len(values)) or labels(values, *more))
    header = [f"病区{at}" for at in range(100)]
    check_headings("t", header, {})
    assert [value_kind(heading) for heading in header] == [None] * 100
    assert calls == [100, 100]


def test_a_parquet_file_of_far_more_rows_than_bytes_is_refused(tmp_path: Path):
    """Runs of one value make millions of rows of a few bytes; they would all be made at once."""
    pl.DataFrame({"a": pl.repeat(1, 6_000_000, dtype=pl.Int8, eager=True)}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="far more rows"):
        open_table(tmp_path / "t.parquet", keyed=hashlib.sha256())


def test_long_cells_of_parquet_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cells that share one long text are taken out a few at a time, in order, and one that is too long not at all."""
    texts = ["x" * 400, "y" * 400, "z" * 300, "w" * 200]
    pl.DataFrame({"a": texts}).write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(table_bounds, "_MOST_TEXT", 500)
    parts = list(open_table(tmp_path / "t.parquet", keyed=hashlib.sha256()).batches(["a"], 100))
    assert [[*part.cells["a"]] for part in parts] == [texts[:1], texts[1:2], texts[2:]]
    assert [line for part in parts for line in part.lines] == [1, 2, 3, 4]
    monkeypatch.setattr(table_bounds, "_MOST_TEXT", 399)
    with pytest.raises(DataError, match="a row of more"):
        list(open_table(tmp_path / "t.parquet", keyed=hashlib.sha256()).batches(["a"], 100))


def test_a_sample_has_an_end_by_its_text_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a proposal looks at is bounded in characters, not in rows alone."""
    (tmp_path / "t.csv").write_text("note\n" + "some words of a note\n" * 3_000)
    reader = open_table(tmp_path / "t.csv", keyed=hashlib.sha256())
    read: list[int] = []
    batches = reader.batches
    monkeypatch.setattr(
        reader, "batches", lambda *more: (read.append(len(one.lines)) or one for one in batches(*more)), raising=False
    )
    monkeypatch.setattr("fedmed.deid.roles._MOST_SAMPLED", 100)
    monkeypatch.setattr("fedmed.deid.roles._BATCH_ROWS", 500)
    propose(reader, sample_rows=2_000)
    assert len(read) == 1


def test_a_sheet_with_a_cell_in_its_far_corner_is_refused(tmp_path: Path):
    """Two cells that span seventeen thousand million end the process that reads them, and no other."""
    with xlsxwriter.Workbook(tmp_path / "made.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, "a")
        sheet.write(1_048_575, 16_383, 1)
    with pytest.raises(DataError, match="takes too much memory"):
        open_table(tmp_path / "made.xlsx", keyed=hashlib.sha256())
    with pytest.raises(workbook.WorkbookError):
        workbook.read_sheet(tmp_path / "made.xlsx")
    assert zipfile.is_zipfile(tmp_path / "made.xlsx")


def test_the_name_of_a_workbook_stands_on_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names of files are names of patients, and every user of a machine sees what its processes were started with."""
    with xlsxwriter.Workbook(tmp_path / "Okonkwo.xlsx") as book:
        book.add_worksheet().write(0, 0, "age")
    started: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(workbook.subprocess, "run", lambda words, **more: started.append(words) or run(words, **more))
    assert workbook.read_sheet(tmp_path / "Okonkwo.xlsx")[1].rows() == [("age",)]
    assert len(started) == 1
    assert "Okonkwo" not in str(started)


def test_a_sheet_that_fits_the_machine_is_refused_all_the_same(tmp_path: Path):
    """A workbook of a few kilobytes may take what its bytes explain, and not what the machine happens to have left."""
    with xlsxwriter.Workbook(tmp_path / "made.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write(0, 0, "a")
        sheet.write(40_000, 1_500, 1)
    with pytest.raises(workbook.WorkbookError):
        workbook.read_sheet(tmp_path / "made.xlsx")
