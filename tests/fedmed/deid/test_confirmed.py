"""Tables that a site has confirmed: what cannot be said in them, and that they drive de-identification end to end."""

import json
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from fedmed.audit import ChainLog
from fedmed.deid import ConfirmedColumn, ConfirmedTable, DeidPolicy, DeidReport, SqlTable, deidentify_table
from fedmed.deid.anonymity import QuasiIdentifier
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.errors import DataError, UsageError

KEY = bytes(range(32))
CANARY = "Qxz7canary"
TABLE = ConfirmedTable(
    name="visits",
    columns=(
        ConfirmedColumn(name="住院号", kind="identifier", role="patient-key"),
        ConfirmedColumn(name="姓名", kind="text", role="direct-identifier"),
        ConfirmedColumn(name="年龄", kind="number", role="quasi-identifier", unit="years", low=0, high=120),
        ConfirmedColumn(name="性别", kind="category", role="quasi-identifier", values=("男", "女")),
        ConfirmedColumn(name="住址", kind="address-cn", role="quasi-identifier"),
        ConfirmedColumn(name="入院日期", kind="date", role="quasi-identifier"),
        ConfirmedColumn(name="诊断编码", kind="icd10", role="sensitive"),
        ConfirmedColumn(name="血糖", kind="number", role="feature", low=0, high=60),
        ConfirmedColumn(name="备注", kind="text", role="free-text"),
    ),
)
POLICY = DeidPolicy(
    profile="test",
    k=5,
    sensitive="keep",
    quasi_identifiers=(
        QuasiIdentifier(column="年龄", hierarchy="age"),
        QuasiIdentifier(column="性别", hierarchy="category"),
        QuasiIdentifier(column="住址", hierarchy="address-cn"),
    ),
)
DISTRICTS = ["宁波市鄞州区", "浙江省宁波市海曙区", "浙江杭州西湖区", "江苏省南京市鼓楼区"]
RARE = "青海省果洛藏族自治州玛多县"
CODES = ["I10", "E11.9", "C50.901", "I10.x00x002"]
HIDDEN = "患者王建国，电话13912345678，身份证330212195001011234，家住百丈路8号"


def visits(count: int = 1200) -> pl.DataFrame:
    """Return visits with a rare district, ages over 89 and identifiers in the remarks."""
    rows = range(count)
    return pl.DataFrame(
        {
            "住院号": [f"ZY{at:06d}" for at in rows],
            "姓名": [f"{CANARY}{at}" for at in rows],
            "年龄": [float(20 + at * 7 % 80) for at in rows],
            "性别": ["男" if at % 2 else "女" for at in rows],
            "住址": [f"{RARE}{CANARY}" if at % 400 == 3 else f"{DISTRICTS[at % 4]}百丈路{at}号" for at in rows],
            "入院日期": [f"2024-03-{1 + at % 28:02d}" for at in rows],
            "诊断编码": [CODES[at * at % 4] for at in rows],
            "血糖": [repr(4 + at / 7) if at / 7 < 50 else "5.5" for at in rows],
            "备注": [f"{HIDDEN}{CANARY}" for _ in rows],
        }
    )


class Desk:
    """A folder with a source, an output folder and a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.log = ChainLog(folder / "audit.jsonl")

    def csv(self, frame: pl.DataFrame, name: str = "visits.csv") -> Path:
        """Write `frame` as CSV and return its path."""
        frame.write_csv(self.folder / name)
        return self.folder / name

    def run(self, source: Path | SqlTable, policy: DeidPolicy = POLICY, **more: object) -> DeidReport:
        """De-identify `source`."""
        options = {"schema": TABLE, "key": KEY, "out_dir": self.out, "log": self.log} | more
        return deidentify_table(source, policy=policy, **options)

    def table(self) -> pl.DataFrame:
        """Return what was written."""
        return pl.read_parquet(self.out / "table.parquet")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return an empty desk."""
    return Desk(tmp_path)


def test_a_released_table_is_k_anonymous(desk: Desk):
    """Checked by a grouping by hand, with a rare district and ages over 89: k >= 5, suppression <= 5 % and reported."""
    source = visits()
    report = desk.run(desk.csv(source))
    grouped = defaultdict(set)
    for row in desk.table().to_dicts():
        grouped[row["年龄"], row["性别"], row["住址"]].add(row["patient"])
    assert min(map(len, grouped.values())) >= 5
    assert report.anonymity.smallest_class == min(map(len, grouped.values()))
    lost = source.height - desk.table().height
    assert lost == report.anonymity.rows_suppressed <= 0.05 * source.height
    assert report.rows_kept == desk.table().height
    (entry,) = desk.log.entries()
    assert entry.body["anonymity.rows_suppressed"] == lost
    assert entry.body["anonymity.level.年龄"] == report.anonymity.levels["年龄"]
    assert desk.table()["年龄"].max() <= 90


def test_codes_and_laboratory_values_are_exact(desk: Desk):
    """Every row that stays has its diagnosis code as text and its laboratory value bit by bit."""
    source = visits()
    desk.run(desk.csv(source))
    tokens = {Pseudonyms(KEY).token(row["住院号"]): row for row in source.to_dicts()}
    for row in desk.table().to_dicts():
        before = tokens[row["patient"]]
        assert (row["诊断编码"], row["血糖"]) == (before["诊断编码"], float(before["血糖"]))


def test_no_identifier_is_left_anywhere(desk: Desk):
    """Name, street, and what hides in the remarks: in no output, log, report or quarantine list."""
    table = visits().with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(CANARY)).otherwise("血糖").alias("血糖")
    )
    report = desk.run(desk.csv(table))
    assert report.rows_quarantined == 1
    written = b"".join(path.read_bytes() for path in [*desk.out.iterdir(), desk.log.path])
    shown = (
        written.decode("utf-8", "replace") + desk.table().write_csv() + repr(report) + json.dumps(report.audit_body())
    )
    for secret in (CANARY, "王建国", "13912345678", "330212195001011234", "百丈路", "ZY0000", KEY.hex()):
        assert secret not in shown


def test_remarks_are_dropped_whole_unless_something_cleans_them(desk: Desk):
    """By default the column is gone; `clean` without a cleaner is refused before anything is read."""
    source = desk.csv(visits())
    desk.run(source)
    assert "备注" not in desk.table().columns
    with pytest.raises(UsageError, match="nothing was given that cleans"):
        desk.run(source, replace(POLICY, free_text="clean"))


def test_a_cleaner_sees_whose_note_it_is_and_its_failures_are_quarantined(desk: Desk):
    """What the caller brings cleans each note; a note that it fails on stays out, and its text out of every message."""

    def clean(text: str, *, patient: str) -> str:
        if patient == "ZY000005":
            raise ValueError(text)
        return text.replace(HIDDEN, "[患者]").replace(CANARY, "")

    report = desk.run(desk.csv(visits()), replace(POLICY, free_text="clean"), clean=clean)
    assert desk.table()["备注"].unique().to_list() == ["[患者]"]
    assert report.quarantined == {"备注": 1}
    written = (desk.out / "quarantine.csv").read_text()
    assert written.splitlines()[1:] == ["7,备注,text that could not be cleaned"]


def test_one_patient_has_one_token_in_every_kind_of_source(desk: Desk):
    """A number in Excel, text in CSV, a float in Parquet and a database column: the same person."""
    table = replace(TABLE, columns=(TABLE.columns[0], TABLE.columns[7]))
    plain = DeidPolicy(profile="plain")
    frame = pl.DataFrame({"住院号": [1001.0, 1002.0, 1003.0], "血糖": [5.5, 6.0, 7.25]})
    text = pl.DataFrame({"住院号": ["１００１", " 1002", "1003"], "血糖": ["5.5", "6", "7.25"]})
    frame.write_parquet(desk.folder / "t.parquet")
    frame.write_excel(desk.folder / "t.xlsx")
    connection = sqlite3.connect(desk.folder / "t.db")
    connection.execute('create table t ("住院号" real, "血糖" real)')
    connection.executemany("insert into t values (?, ?)", frame.rows())
    connection.commit()
    connection.close()
    url = f"sqlite:///{desk.folder / 't.db'}"
    made = []
    for source in (desk.csv(text), desk.folder / "t.parquet", desk.folder / "t.xlsx", SqlTable(url, "t")):
        desk.run(source, plain, schema=table)
        made.append(desk.table())
    assert all(other.equals(made[0]) for other in made)
    assert made[0]["血糖"].to_list() == [5.5, 6.0, 7.25]
    desk.run(desk.csv(text), plain, schema=table, key=bytes(32))
    assert not set(desk.table()["patient"]) & set(made[0]["patient"])
    assert url not in desk.log.path.read_text()


def test_dates_keep_month_or_year_or_nothing(desk: Desk):
    """Each mode changes exactly the dates."""
    source = desk.csv(visits(40))
    seen = {}
    for mode in ("month", "year", "drop"):
        desk.run(source, DeidPolicy(profile="plain", dates=mode))
        seen[mode] = desk.table()
    assert {str(day) for day in seen["month"]["入院日期"]} == {"2024-03-01"}
    assert {str(day) for day in seen["year"]["入院日期"]} == {"2024-01-01"}
    assert "入院日期" not in seen["drop"].columns
    assert seen["month"].drop("入院日期").equals(seen["year"].drop("入院日期"))
    assert seen["month"].drop("入院日期").equals(seen["drop"])


def test_a_date_may_be_a_quasi_identifier(desk: Desk):
    """Named with its ladder, it becomes the first day of its period, as a date."""
    quasi = (*POLICY.quasi_identifiers, QuasiIdentifier(column="入院日期", hierarchy="date", at_least=2))
    desk.run(desk.csv(visits()), replace(POLICY, dates="month", quasi_identifiers=quasi))
    assert desk.table()["入院日期"].dtype == pl.Date
    assert set(map(str, desk.table()["入院日期"])) <= {"2024-01-01", "None"}


def test_keep_and_allow_narrow_what_passes(desk: Desk):
    """Columns beside `keep` are gone; a value beside `allow` is a reason."""
    plain = DeidPolicy(profile="plain", keep=("性别", "血糖"), allow={"性别": ("男",)}, max_quarantine_fraction=0.9)
    report = desk.run(desk.csv(visits(20)), plain)
    assert desk.table().columns == ["patient", "性别", "血糖"]
    assert report.quarantined == {"性别": 10}


def test_an_address_without_a_ladder_is_dropped(desk: Desk):
    """No option lets an address through as it is."""
    desk.run(desk.csv(visits(20)), DeidPolicy(profile="plain"))
    assert "住址" not in desk.table().columns


def test_addresses_that_cannot_be_read_are_removed_and_counted(desk: Desk):
    """They become missing, and the report says how many."""
    frame = visits().with_columns(住址=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit(CANARY)).otherwise("住址"))
    report = desk.run(desk.csv(frame))
    assert report.places_removed == 600
    assert desk.log.entries()[0].body["places_removed"] == 600
    assert CANARY not in desk.table().write_csv()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"quasi_identifiers": POLICY.quasi_identifiers[:2]}, "quasi-identifier '住址'|no hierarchy"),
        ({"dates": "month"}, "'入院日期' has no hierarchy"),
        ({"keep": ("nothing",)}, "no column 'nothing'"),
        ({"allow": {"血糖": ("1",)}}, "is no category"),
        ({"quasi_identifiers": (QuasiIdentifier(column="年龄", hierarchy="category"),)}, "takes the hierarchy age"),
    ],
)
def test_a_policy_that_does_not_fit_the_table_is_refused(desk: Desk, changes: dict[str, object], match: str):
    """Before anything is read or written; no quasi-identifier slips through beside the classes."""
    policy = replace(POLICY, **changes)
    if "住址" in match:
        desk.run(desk.csv(visits()), policy)
        assert "住址" not in desk.table().columns  # a place without a ladder is dropped, not released
        return
    with pytest.raises(UsageError, match=match):
        desk.run(desk.csv(visits()), policy)
    assert not desk.out.exists()


def test_a_table_that_cannot_be_made_anonymous_leaves_nothing(desk: Desk):
    """Too few patients: no table, no quarantine list, no log entry."""
    with pytest.raises(DataError, match="cannot be made 5-anonymous"):
        desk.run(desk.csv(visits(4)))
    assert not desk.out.exists()
    assert desk.log.entries() == []


def test_batches_do_not_show_in_an_anonymous_table(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Small batches give the same bytes and counts."""
    source = desk.csv(visits())
    whole = desk.run(source)
    monkeypatch.setattr("fedmed.deid.tabular.BATCH_ROWS", 37)
    monkeypatch.setattr("fedmed.deid.spill.MEMORY_BYTES", 1000)
    assert desk.run(source) == whole


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_confirmed as t
desk = t.Desk(Path(sys.argv[1]))
if len(sys.argv) > 3:
    import os, signal
    from fedmed.deid import writing
    from fedmed.deid.spill import Spill
    frames = Spill.frames
    def dying(self):
        for at, frame in enumerate(frames(self)):
            if at == 3 and list(desk.out.glob(".table.parquet.*")):
                os.kill(os.getpid(), signal.SIGKILL)
            yield frame
    Spill.frames = dying
    from fedmed.deid import tabular
    tabular.BATCH_ROWS = 100
desk.run(desk.folder / "visits.csv")
"""


def limit_files() -> None:
    """Let no file of this process grow beyond a few kilobytes, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))


def child(desk: Desk, *more: str, full_disk: bool = False) -> subprocess.CompletedProcess[bytes]:
    """De-identify in a process of its own."""
    return subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", PROGRAM, str(desk.folder), str(Path(__file__).parent), *more],
        preexec_fn=limit_files if full_disk else None,
        capture_output=True,
        check=False,
    )


def test_a_full_disk_leaves_no_part_and_no_entry(desk: Desk):
    """When the system refuses to write the table, none is there, nothing vouches for one, and no cell is shown."""
    desk.csv(visits())
    done = child(desk, full_disk=True)
    assert done.returncode == 1
    assert b"File too large" in done.stderr
    assert CANARY.encode() not in done.stderr + done.stdout
    assert not [path.name for path in desk.out.glob("*table*")] + [path.name for path in desk.out.glob(".*")]
    assert desk.log.entries() == []


def test_a_kill_half_way_leaves_no_table_and_the_next_run_is_clean(desk: Desk):
    """After SIGKILL amid the table: no table, no entry; the next run gives the same as an undisturbed one."""
    desk.csv(visits())
    assert child(desk, "kill").returncode == -signal.SIGKILL
    assert not (desk.out / "table.parquet").exists()
    assert desk.log.entries() == []
    report = desk.run(desk.folder / "visits.csv")
    assert {path.name for path in desk.out.iterdir()} == {"table.parquet", "quarantine.csv"}
    other = Desk(desk.folder / "other")
    other.folder.mkdir()
    assert other.run(other.csv(visits())) == report


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"kind": "text", "role": "feature"}, "takes kind"),
        ({"kind": "address-cn", "role": "feature"}, "takes kind"),
        ({"kind": "number", "role": "feature"}, "low < high"),
        ({"kind": "category", "role": "feature", "values": ("a",)}, "two or more"),
        ({"kind": "binary", "role": "feature", "values": ("a", "b", "c")}, "two values"),
        ({"kind": "category", "role": "feature", "values": ("a", "b"), "synonyms": {"x": "c"}}, "synonyms"),
        ({"kind": "identifier", "role": "quasi-identifier"}, "takes kind"),
        ({"name": " ", "kind": "text", "role": "ignore"}, "needs a name"),
    ],
)
def test_a_column_that_would_let_anything_pass_cannot_exist(wrong: dict[str, object], match: str):
    """Kept numbers have ranges, kept categories have values, and free text is never a feature."""
    with pytest.raises(ValueError, match=match):
        ConfirmedColumn(**{"name": "x"} | wrong)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"columns": (TABLE.columns[0], replace(TABLE.columns[0], name="other"))}, "at most one"),
        ({"columns": (TABLE.columns[1], TABLE.columns[1])}, "same name"),
        ({"delimiter": ""}, "delimiter"),
        ({"version": 2}, "version"),
        ({"name": ""}, "name"),
    ],
)
def test_a_table_out_of_form_cannot_exist(wrong: dict[str, object], match: str):
    """A record that exists is valid."""
    with pytest.raises(ValueError, match=match):
        replace(TABLE, **wrong)
