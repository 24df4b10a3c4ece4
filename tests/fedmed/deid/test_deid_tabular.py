"""The door from a hospital's CSV to the learner: what passes, what is refused, what is written down."""

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed import deid
from fedmed.audit import ChainLog
from fedmed.data.schema import Column, Schema, Target
from fedmed.deid import DeidPolicy, DeidReport, deidentify_table
from fedmed.errors import DataError

KEY = bytes(range(32))
CANARY = "Qxz7canary"
SCHEMA = Schema(
    name="ward",
    file="{site}.csv",
    columns=(
        Column(name="record", kind="identifier", role="patient-key"),
        Column(name="name", kind="text", role="direct-identifier"),
        Column(
            name="age",
            kind="number",
            role="quasi-identifier",
            unit="years",
            centre=55,
            scale=10,
            low=0,
            high=120,
            required=True,
        ),
        Column(name="ward", kind="category", role="feature", values=("A", "B")),
        Column(name="admitted", kind="date", role="quasi-identifier"),
        Column(name="code", kind="category", role="sensitive", values=("I10", "E11")),
        Column(name="dead", kind="binary", role="target", values=("0", "1"), required=True),
        Column(name="remarks", kind="text", role="free-text"),
    ),
    targets=(Target(name="dead", column="dead", one_of=("1",)),),
    missing=("?",),
)
NO_HEADER = replace(SCHEMA, header=False, columns=tuple(c for c in SCHEMA.columns if c.role != "patient-key"))
GOOD = {
    "record": "MR1",
    "name": CANARY,
    "age": "50",
    "ward": "A",
    "admitted": "2024-03-05",
    "code": "I10",
    "dead": "0",
    "remarks": f"call {CANARY}, now",
}


def rows(count: int = 10) -> list[dict[str, str]]:
    """Return good rows of different patients, both labels."""
    return [GOOD | {"record": f"MR{i}", "dead": str(i % 2)} for i in range(count)]


def text_of(table: Sequence[Mapping[str, str]], columns: Sequence[str] = tuple(GOOD), *, header: bool = True) -> str:
    """Return `table` as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([list(columns)] if header else [])
    writer.writerows([row[name] for name in columns] for row in table)
    return text.getvalue()


class Site:
    """A folder with a raw file, an output folder and a log."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "patients.csv"
        self.out = folder / "out"
        self.log = ChainLog(folder / "audit.jsonl")

    def run(self, text: str | bytes, *, schema: Schema = SCHEMA, key: bytes = KEY, **options: object) -> DeidReport:
        """Write `text` as the raw file and de-identify it."""
        self.source.write_bytes(text if isinstance(text, bytes) else text.encode())
        policy = DeidPolicy(**options)
        return deidentify_table(self.source, schema=schema, policy=policy, key=key, out_dir=self.out, log=self.log)

    def table(self) -> pl.DataFrame:
        """Return what was written."""
        return pl.read_parquet(self.out / "table.parquet")

    def refuses(self, text: str | bytes, match: str, **more: object) -> None:
        """Check that `text` is refused in one line without a cell in it, and that nothing is left behind."""
        with pytest.raises(DataError, match=match) as error:
            self.run(text, **more)
        message = str(error.value)
        assert "\n" not in message
        assert CANARY not in message
        assert error.value.__cause__ is None
        assert not self.out.exists()
        assert self.log.entries() == []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return an empty site."""
    return Site(tmp_path)


def test_only_vouched_columns_are_written(site: Site):
    """Token, features and targets stay in the schema's order; all else is gone."""
    site.run(text_of(rows()))
    assert site.table().columns == ["patient", "age", "ward", "admitted", "dead"]
    assert site.table().height == 10


def test_planted_identifiers_are_in_no_output(site: Site):
    """Name and remarks, and an unlisted column, reach neither table, quarantine list, log nor report."""
    table = [row | {"note": CANARY} for row in rows()] + [GOOD | {"age": CANARY, "ward": CANARY, "note": CANARY}]
    report = site.run(text_of(table, (*GOOD, "note")))
    written = b"".join(path.read_bytes() for path in [*site.out.iterdir(), site.log.path])
    assert CANARY.encode() not in written + site.table().write_csv().encode() + repr(report).encode()
    assert KEY.hex().encode() not in written
    assert KEY not in written
    assert b"MR1" not in written + site.table().write_csv().encode()


def test_same_patient_written_differently_has_one_token(site: Site):
    """Two admissions of one patient stay together."""
    site.run(text_of([GOOD | {"record": "MR 12"}, GOOD | {"record": "ｍｒ１２"}, GOOD | {"record": "MR13"}]))
    first, second, third = site.table()["patient"]
    assert first == second != third


def test_without_a_patient_key_each_row_is_one_patient(site: Site):
    """Equal rows of a file without keys get different tokens, the same ones on every run."""
    text = text_of([GOOD] * 4, [c.name for c in NO_HEADER.columns], header=False)
    site.run(text, schema=NO_HEADER)
    tokens = site.table()["patient"].to_list()
    site.run(text, schema=NO_HEADER)
    assert len(set(tokens)) == 4
    assert site.table()["patient"].to_list() == tokens


@settings(max_examples=20, deadline=None)
@given(days=st.lists(st.dates(dt.date(1990, 1, 1), dt.date(2100, 12, 31)), min_size=2, max_size=8))
def test_a_patients_intervals_are_exact(tmp_path_factory: pytest.TempPathFactory, days: list[dt.date]):
    """All dates of a patient move by one shift, which is not zero."""
    site = Site(tmp_path_factory.mktemp("dates"))
    site.run(text_of([GOOD | {"admitted": day.isoformat()} for day in days]))
    shifts = {after - before for after, before in zip(site.table()["admitted"], days, strict=True)}
    assert len(shifts) == 1
    assert shifts.pop().days != 0


@pytest.mark.parametrize(("age", "written"), [("89", 89.0), ("89.5", 90.0), ("90", 90.0), ("104", 90.0), ("3", 3.0)])
def test_ages_above_89_become_90(site: Site, age: str, written: float):
    """HIPAA's cap, and exact below it."""
    report = site.run(text_of([*rows(), GOOD | {"age": age}]))
    assert site.table()["age"][-1] == written
    assert report.cells["cap-age"] == (float(age) > 89)


def test_sensitive_codes_are_exact_when_kept(site: Site):
    """With `sensitive: keep`, diagnosis codes come through unchanged."""
    site.run(text_of([*rows(4), *[GOOD | {"code": "E11"}] * 2]), sensitive="keep")
    assert site.table()["code"].to_list() == ["I10"] * 4 + ["E11"] * 2


def test_bad_rows_are_quarantined_by_line_column_and_reason(site: Site):
    """Each bad cell is listed; the other rows go on, in order."""
    table = [*rows(9), GOOD | {"age": "old", "ward": "Z"}, GOOD | {"record": " \u200b"}, GOOD | {"record": "MR99"}]
    report = site.run(text_of(table))
    listed = (site.out / "quarantine.csv").read_text().splitlines()
    assert listed == [
        "line,column,reason",
        "11,age,not a number",
        "11,ward,not an allowed value",
        "12,record,no patient key",
    ]
    assert (report.rows_read, report.rows_kept, report.rows_quarantined) == (12, 10, 2)
    assert report.quarantined == {"age": 1, "ward": 1, "record": 1}


def test_rows_of_another_width_or_with_open_quotes_are_quarantined_by_line(site: Site):
    """Ragged and badly quoted lines are counted one by one and do not stop the rest."""
    lines = text_of(rows(20)).split("\r\n")[:-1]
    lines[3] += ",extra"
    lines[5] = lines[5].replace("A,", '"A"B,', 1)
    report = site.run("\r\n".join(lines))
    assert (report.rows_read, report.rows_kept, report.rows_quarantined) == (20, 18, 2)
    assert (site.out / "quarantine.csv").read_text().splitlines()[1:] == [
        "4,(row),not 8 cells",
        "6,(row),quotes do not match",
    ]


def test_a_quote_that_is_never_closed_counts_every_line_that_it_swallows(site: Site):
    """The rest of the file is counted as lost, not as one row, so the file is refused."""
    lines = text_of([row | {"remarks": CANARY} for row in rows(20)]).split("\r\n")[:-1]
    lines[10] = lines[10].replace("A,", '"A,', 1)
    site.refuses("\r\n".join(lines), r"5\d% of the rows cannot be parsed")


def test_a_ragged_row_of_several_lines_counts_each_of_them(site: Site):
    """Each line may have been a patient."""
    table = [*rows(20), GOOD | {"remarks": "two\nlines"}]
    text = text_of(table).replace('"two\nlines"', '"two\nlines",extra')
    assert site.run(text).rows_quarantined == 2


def test_cells_with_line_breaks_and_quotes_are_read_whole(site: Site):
    """A remark of several lines is one cell."""
    report = site.run(text_of([GOOD | {"remarks": 'first\nsecond, "third"\n'}] * 3))
    assert (report.rows_read, report.rows_kept) == (3, 3)


def test_incomplete_rows_are_counted_by_column(site: Site):
    """A row without a required value is not used, and the report says which value."""
    table = [*rows(6), GOOD | {"age": "?"}, GOOD | {"age": "", "dead": "?"}, GOOD | {"ward": ""}]
    report = site.run(text_of(table))
    assert report.incomplete == {"age": 2, "dead": 1}
    assert (report.rows_kept, report.rows_incomplete, report.rows_quarantined) == (7, 2, 0)
    assert site.table()["ward"][-1] is None


def test_every_row_read_is_kept_quarantined_or_incomplete(site: Site):
    """Nothing is dropped silently."""
    table = [*rows(30), GOOD | {"age": "x"}, GOOD | {"age": "?", "ward": "Z"}, GOOD | {"dead": ""}]
    report = site.run(text_of(table))
    assert report.rows_read == report.rows_kept + report.rows_quarantined + report.rows_incomplete == 33


def test_batches_do_not_show(site: Site, monkeypatch: pytest.MonkeyPatch):
    """A file read in small batches gives the same bytes and counts as in one."""
    text = text_of([*rows(23), GOOD | {"age": "x"}, GOOD | {"dead": "?"}])
    whole = site.run(text)
    monkeypatch.setattr(deid.tabular, "BATCH_ROWS", 5)
    assert site.run(text) == whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_usual_encodings_are_read(site: Site, encoding: str):
    """UTF-8 with and without BOM, and GB18030."""
    text = text_of([GOOD | {"name": "王芳", "remarks": "患者王芳，诉头晕"}] * 3)
    assert site.run(text.encode(encoding)).rows_kept == 3


@pytest.mark.parametrize(("encoding", "name"), [("utf-16", "x"), ("utf-16-le", "x"), ("latin-1", "André")])
def test_other_encodings_are_refused(site: Site, encoding: str, name: str):
    """The message says what to save the file as."""
    text = text_of([GOOD | {"name": name}])
    site.refuses(text.encode(encoding), "neither UTF-8 nor GB18030; save it as UTF-8")


def test_an_encoding_fault_late_in_the_file_is_found_before_anything_is_written(site: Site):
    """Half a character at the end is neither encoding."""
    site.refuses(text_of(rows()).encode() + "王".encode()[:1], "neither UTF-8 nor GB18030")


def test_a_missing_file_is_named(site: Site):
    """The path says what was expected."""
    with pytest.raises(DataError, match=r"no file .*patients\.csv; expected the table"):
        deidentify_table(site.source, schema=SCHEMA, policy=DeidPolicy(), key=KEY, out_dir=site.out, log=site.log)
    assert not site.out.exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"patients\.csv: the file is empty"),
        (text_of([]), r"patients\.csv: no rows; expected at least one patient"),
        (text_of(rows(), [n for n in GOOD if n != "age"]), r"patients\.csv: the header lacks column 'age'"),
        (text_of(rows(), [*GOOD, "age"]), r"patients\.csv: the header names column 'age' more than once"),
        (text_of(rows()).replace(",", ";"), r"the header lacks column .* check the delimiter ','"),
        (text_of(rows(), header=False), r"the header lacks column 'record', 'age'"),
        ('"record', r"patients\.csv: no header in the first line"),
    ],
)
def test_a_wrong_shape_is_refused(site: Site, text: str, match: str):
    """File, column and cure are named; what the file holds is not."""
    site.refuses(text, match)


@pytest.mark.parametrize(
    ("column", "cell", "match"),
    [
        (
            "age",
            CANARY,
            r"patients\.csv: column 'age' holds text where numbers belong.* in 30% of the rows, above .* 20%",
        ),
        ("ward", CANARY, r"patients\.csv: column 'ward' holds values that the schema does not list in 30%"),
        ("record", " ", r"patients\.csv: column 'record' holds no patient key in 30%"),
    ],
)
def test_a_column_with_too_many_bad_cells_refuses_the_file(site: Site, column: str, cell: str, match: str):
    """Three of ten is above a fifth; the column and the cure are named."""
    site.refuses(text_of([*rows(7), *[GOOD | {column: cell}] * 3]), match)


def test_the_quarantine_limit_is_inclusive_and_the_sites_to_set(site: Site):
    """Two of ten pass under 20 %, three of ten under 30 %."""
    assert site.run(text_of([*rows(8), *[GOOD | {"age": "x"}] * 2])).rows_kept == 8
    seven = text_of([*rows(7), *[GOOD | {"age": "x"}] * 3])
    assert site.run(seven, max_quarantine_fraction=0.3).rows_kept == 7


def test_many_columns_with_few_faults_each_are_refused_together(site: Site):
    """The limit holds for rows too, whatever their columns."""
    table = [*rows(7), GOOD | {"age": "x"}, GOOD | {"ward": "x"}, GOOD | {"dead": "x"}]
    site.refuses(text_of(table), r"30% of the rows cannot be parsed")


def test_a_required_column_that_is_nan_everywhere_is_refused(site: Site):
    """The message names the column that leaves no complete row."""
    site.refuses(text_of([row | {"age": "NaN"} for row in rows()]), r"no row is complete; missing most often: 'age'")


def test_headers_may_have_spaces_and_another_order(site: Site):
    """Columns are found by name."""
    columns = list(reversed(GOOD))
    site.run(text_of(rows(), columns).replace("ward,age", " ward , age ", 1))
    assert site.table().columns == ["patient", "age", "ward", "admitted", "dead"]


def test_the_audit_record_says_what_was_done(site: Site):
    """One record per table: hashes, tool, schema, policy, key id and counts, all flat."""
    report = site.run(text_of([*rows(), GOOD | {"age": "x"}]))
    (entry,) = site.log.entries()
    assert entry.kind == "table-deidentified"
    expected = {
        "input_hmac", "output_sha256", "tool", "tool_version", "schema_name", "schema_digest", "policy_digest",
        "policy_profile", "key_id", "rows_read", "rows_kept", "rows_quarantined", "rows_incomplete", "dates_removed",
        "quarantined.age", "cells.pseudonymise", "cells.drop", "cells.drop-text", "cells.keep", "cells.cap-age",
        "cells.shift-date", "cells.drop-unlisted",
    }  # fmt: skip
    assert set(entry.body) == expected
    assert entry.body["schema_digest"] == SCHEMA.digest
    assert entry.body["output_sha256"] == report.output_sha256


def test_the_input_hash_is_keyed(site: Site):
    """Who guesses the file cannot confirm it in the log without the key; one key always gives one hash."""
    first = site.run(text_of(rows()))
    other = site.run(text_of(rows()), key=bytes(32))
    assert first.input_hmac == site.run(text_of(rows())).input_hmac != other.input_hmac
    assert first.key_id != other.key_id


def test_a_full_disk_leaves_no_table_and_no_log_entry(site: Site, monkeypatch: pytest.MonkeyPatch):
    """When the table cannot be written, nothing vouches for anything."""

    def fill_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        site.run(text_of(rows()))
    assert {path.name for path in site.out.iterdir()} == {"quarantine.csv"}
    assert site.log.entries() == []


def test_a_refused_file_leaves_the_earlier_table_alone(site: Site):
    """A bad export does not destroy a good one."""
    site.run(text_of(rows()))
    before = {path.name: path.read_bytes() for path in site.out.iterdir()}
    with pytest.raises(DataError):
        site.run("")
    assert {path.name: path.read_bytes() for path in site.out.iterdir()} == before
    assert len(site.log.entries()) == 1


def years_ago(years: int, *, days: int = 0) -> dt.date:
    """Return the day so many years ago, and so many days later."""
    today = dt.datetime.now(dt.UTC).date()
    return today.replace(year=today.year - years, day=min(today.day, 28)) + dt.timedelta(days=days)


OLD = (years_ago(107), years_ago(95), years_ago(90, days=-60))
YOUNG = (years_ago(88), years_ago(40), years_ago(1))


def with_dates(days: Sequence[dt.date]) -> str:
    """Return a table with a row for each date."""
    return text_of([GOOD | {"record": f"MR{at}", "admitted": day.isoformat()} for at, day in enumerate(days)])


@pytest.mark.parametrize(("mode", "unit"), [("year", "1y"), ("month", "1mo")])
def test_a_date_never_tells_who_is_older_than_89(site: Site, mode: str, unit: str):
    """Whoever is 90 or more has the year (or month) of 90 years ago as that of birth; others keep theirs."""
    report = site.run(with_dates([*OLD, *YOUNG]), dates=mode)
    limit, *kept = (pl.Series([years_ago(90), *YOUNG]).dt.truncate(unit)).to_list()
    assert site.table()["admitted"].to_list() == [limit] * len(OLD) + kept
    assert report.cells["cap-date"] == sum(pl.Series(OLD).dt.truncate(unit) < limit)


def test_a_shifted_date_of_birth_that_tells_an_age_above_89_is_removed(site: Site):
    """A shift of a year hides no age of 107, and a floor would break intervals: such a date is removed and counted."""
    report = site.run(with_dates([*OLD, *YOUNG]), dates="shift")
    shifted = site.table()["admitted"]
    assert shifted.is_null().to_list() == [True] * len(OLD) + [False] * len(YOUNG)
    assert report.dates_removed == len(OLD)


@given(days=st.lists(st.dates(min_value=dt.date(1850, 1, 1), max_value=dt.date(2035, 12, 31)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_no_released_date_is_of_an_age_above_89(tmp_path_factory: pytest.TempPathFactory, days: list[dt.date]):
    """Whatever the dates, what is released lies no further back than 90 years and the shift."""
    for mode in ("year", "month", "shift"):
        site = Site(tmp_path_factory.mktemp("old"))
        site.run(with_dates(days), dates=mode)
        released = site.table()["admitted"].drop_nulls()
        slack = dt.timedelta(days=366 if mode != "month" else 31)
        assert all(day >= years_ago(90) - slack for day in released)
