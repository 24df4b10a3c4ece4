"""`fedmed site deidentify` on tables: headings, encodings, workbooks and databases."""

import datetime as dt
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter

from fedmed.audit import ChainLog
from fedmed.errors import FedMedError, UsageError
from fedmed_site import cli
from fedmed_site.deidentification_formats import REASONS, SetAsideError, kind_of
from fedmed_site.manifest import ITEM_KIND

HEADLESS = [
    f"1370000{n:04d},{family}{given},{1941 + n}-0{1 + n % 9}-11,{85 - n},J{10 + n % 8},浙江省杭州市西湖区文三路{n}号"
    for n, (family, given) in enumerate(zip("周吴郑冯陈褚卫蒋沈韩" * 3, ["志远", "慧敏", "家明"] * 10, strict=True))
]
HEADINGS = "联系电话,患者姓名,出生日期,年龄,诊断,住址"


def home_and_source(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Make a site and an empty source, and return them with the output folder."""
    home, source = tmp_path / "home", tmp_path / "source"
    assert cli.site(["init", "--home", str(home), "--name", "north"]) == 0
    source.mkdir()
    return home, source, tmp_path / "out"


def clean(source: Path, out: Path, home: Path, *more: str, policy: str = "hipaa-safe-harbor") -> int:
    """Run the command with one worker; readable outputs."""
    words = ["deidentify", str(source), "--out", str(out), "--home", str(home), "--policy", policy, "--workers", "1"]
    return cli.site([*words, "--export", *more])


def clean_with_proposal(source: Path, out: Path, home: Path, *more: str, policy: str = "hipaa-safe-harbor") -> int:
    """Run the command, and once more with the proposal as it stands where it asks for columns."""
    try:
        return clean(source, out, home, *more, policy=policy)
    except UsageError:
        return clean(source, out, home, *more, "--columns", str(out / "columns.yaml"), policy=policy)


def bodies(home: Path) -> list[dict]:
    """Return the audit record of each item."""
    return [dict(entry.body) for entry in ChainLog(home / "audit.jsonl").entries() if entry.kind == ITEM_KIND]


def everything(*folders: Path) -> bytes:
    """Return all bytes below the folders, and all names."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return b"\n".join([str(path.name).encode() for path in paths] + [p.read_bytes() for p in paths if p.is_file()])


def test_a_table_without_headings_leaves_nothing_of_its_first_patient(tmp_path: Path, capsys: pytest.CaptureFixture):
    """The first patient of a table without a heading line gets into no output, log, proposal or printed line."""
    home, source, out = home_and_source(tmp_path)
    (source / "t.csv").write_text("\n".join(HEADLESS), "utf-8")
    (source / "u.csv").write_text("\n".join([HEADINGS, *HEADLESS[1:]]), "utf-8")
    assert clean_with_proposal(source, out, home) == 0
    printed = capsys.readouterr()
    assert sorted((body["outcome"], body["reason"]) for body in bodies(home)) == [
        ("cleaned", ""), ("quarantined", "no-headings"),
    ]  # fmt: skip
    told = everything(out, home) + (printed.out + printed.err).encode()
    for cell in HEADLESS[0].split(","):
        if len(cell) > 3:
            assert cell.encode() not in told, cell
    report = json.loads((out / "report.json").read_text())
    assert "values" in report["meanings"]["no-headings"]


def test_the_audit_log_calls_columns_by_number(tmp_path: Path):
    """No heading of an export gets into the audit log, since a person may have overlooked that it is a value."""
    home, source, out = home_and_source(tmp_path)
    (source / "t.csv").write_text("\n".join([HEADINGS, *HEADLESS]), "utf-8")
    assert clean_with_proposal(source, out, home, policy="pipl-strict") == 0
    (body,) = bodies(home)
    assert body["outcome"] == "cleaned"
    levels = {name for name in body if name.startswith("facts.anonymity.level.")}
    assert levels
    assert all(name.removeprefix("facts.anonymity.level.").startswith("column-") for name in levels)
    log = (home / "audit.jsonl").read_bytes().decode("utf-8")
    assert not any(heading in log for heading in HEADINGS.split(","))


def test_columns_that_are_called_like_values_are_refused(tmp_path: Path):
    """A file of columns from before, with a first patient's date of birth as a name, is refused and not repeated."""
    home, source, out = home_and_source(tmp_path)
    (source / "t.csv").write_text("\n".join(HEADLESS), "utf-8")
    columns = tmp_path / "columns.yaml"
    columns.write_text("columns:\n- {name: '1941-01-11', role: quasi-identifier, kind: date, hierarchy: date}\n")
    with pytest.raises(FedMedError, match="line of headings") as caught:
        clean(source, out, home, "--columns", str(columns))
    assert "1941" not in str(caught.value)


OTHERS = {
    "big5": "姓名：吳宗翰，病歷號 55310，患者吳宗翰自訴胸悶三天，住院治療，主治醫師林淑芬。",
    "cp1252": "Herr Jörg Krüger, geb. Müller, wurde für drei Tage aufgenommen. Tel. 555-010-7788.",
    "cp932": "患者は鈴木一郎さん、62歳男性。胸痛を主訴に入院した。",
    "cp949": "환자 김민수는 흉통으로 입원하였다. 고혈압 병력이 있다.",
}


def test_texts_in_other_encodings_are_not_released(tmp_path: Path):
    """A note or table that is neither UTF-8 nor Chinese in GB18030 is quarantined, not released."""
    home, source, out = home_and_source(tmp_path)
    for encoding, text in OTHERS.items():
        (source / f"{encoding}.txt").write_bytes(text.encode(encoding))
        (source / f"{encoding}.csv").write_bytes(f"no,note\n1,{text.replace(',', ';')}\n".encode(encoding))
        (source / f"{encoding}.jsonl").write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode(encoding))
    (source / "sound.txt").write_bytes("患者贾思远，女，58岁，因反复咳嗽3天入院。".encode("gb18030"))
    assert clean_with_proposal(source, out, home) == 0
    found = bodies(home)
    assert [body["outcome"] for body in found].count("cleaned") == 1
    assert {body["reason"] for body in found} == {"", "encoding"}


def test_a_policy_may_name_the_encoding_of_the_files(tmp_path: Path):
    """Where a site's own policy says that its files are Big5, notes and tables are read as Big5 and cleaned."""
    home, source, out = home_and_source(tmp_path)
    (source / "note.txt").write_bytes("病患：王大明，電話 0912-345-678，胸悶。".encode("big5"))
    rows = "\n".join(f"{n},{30 + n % 40},{1970 + n % 30}-05-06" for n in range(40))
    (source / "t.csv").write_bytes(f"病歷號,年齡,出生日期\n{rows}\n".encode("big5"))
    policy = tmp_path / "own.yaml"
    policy.write_text("profile: our-own\ndates: year\nfiles: {encoding: big5}\n")
    assert clean_with_proposal(source, out, home, policy=str(policy)) == 0
    assert [body["outcome"] for body in bodies(home)] == ["cleaned", "cleaned"]
    (note,) = (out / "items").rglob("*.txt")
    assert "胸悶" in note.read_text("utf-8")
    assert "王大明" not in note.read_text("utf-8")
    policy.write_text("profile: hipaa-safe-harbor\nfiles: {encoding: big5}\n")
    with pytest.raises(FedMedError, match="profile"):
        clean(source, tmp_path / "other", home, policy=str(policy))
    policy.write_text("profile: our-own\nfiles: {encoding: koi8-r}\n")
    with pytest.raises(FedMedError, match="encoding"):
        clean(source, tmp_path / "other", home, policy=str(policy))


def test_safe_harbor_releases_no_year_of_birth_of_somebody_above_89(tmp_path: Path):
    """Beside an age of 90 stands no year of birth of 1921: the table's years begin 90 years ago."""
    home, source, out = home_and_source(tmp_path)
    today = dt.datetime.now(dt.UTC).date()
    ages = [20 + 3 * n for n in range(30)]
    lines = [f"K{n},{today.year - age}-01-01,{age}" for n, age in enumerate(ages)]
    (source / "t.csv").write_text("\n".join(["mrn,birth_date,age", *lines]))
    assert clean_with_proposal(source, out, home) == 0
    (path,) = (out / "items").rglob("*.parquet")
    table = pl.read_parquet(path)
    assert table["age"].max() == 90
    assert table["birth_date"].dt.year().min() == today.year - 90
    assert table["birth_date"].null_count() == 0
    assert table.filter(pl.col("age") == 90)["birth_date"].n_unique() == 1


def workbook(path: Path, sheets: int = 1) -> None:
    """Write a workbook with the sound table on each sheet."""
    with xlsxwriter.Workbook(path) as book:
        for _ in range(sheets):
            sheet = book.add_worksheet()
            for at, line in enumerate([HEADINGS, *HEADLESS]):
                sheet.write_row(at, 0, line.split(","))


def test_a_workbook_comes_out_as_the_same_table_as_its_csv(tmp_path: Path):
    """A sheet and the CSV of it give the same rows; a broken workbook or one of two sheets is quarantined."""
    home, source, out = home_and_source(tmp_path)
    (source / "t.csv").write_text("\n".join([HEADINGS, *HEADLESS]), "utf-8")
    workbook(source / "t.xlsx")
    workbook(source / "two.XLSX", sheets=2)
    (source / "broken.xlsx").write_bytes((source / "t.xlsx").read_bytes()[:900])
    assert clean_with_proposal(source, out, home, "--names", "same") == 0
    first, second = (pl.read_parquet(out / "items" / f"t.{suffix}.parquet") for suffix in ("csv", "xlsx"))
    assert first.height == len(HEADLESS)
    assert first.drop("patient", strict=False).equals(second.drop("patient", strict=False))
    reasons = {body["reason"] for body in bodies(home) if body["outcome"] == "quarantined"}
    assert reasons == {"table-refused"}
    assert len(bodies(home)) == 4


def test_a_workbook_is_quarantined_in_words_where_no_reader_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without the extra a workbook is set aside with a reason that says what to install."""
    workbook(tmp_path / "t.xlsx")
    assert kind_of(tmp_path / "t.xlsx") == "table"
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(SetAsideError) as caught:
        kind_of(tmp_path / "t.xlsx")
    assert "extra" in REASONS[caught.value.reason]


PASSWORD = "Zq8-hunter-Kx"


def database(folder: Path) -> Path:
    """Make a database with the sound table, and return the file with its URL."""
    with closing(sqlite3.connect(folder / "ward.db")) as connection:
        columns = ", ".join(f'"{name}" text' for name in HEADINGS.split(","))
        connection.execute(f"create table visits ({columns})")
        rows = [line.split(",") for line in HEADLESS]
        connection.executemany("insert into visits values (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    url = folder / "db.url"
    url.write_text(f"sqlite:///{folder / 'ward.db'}\n")
    url.chmod(0o600)
    return url


def clean_database(url: Path, out: Path, home: Path, *more: str, table: str = "visits") -> int:
    """Run the command on a table, once more with the proposal where it asks for columns."""
    words = ["--sql", table, "--sql-url-file", str(url), "--out", str(out), "--home", str(home), "--workers", "1"]
    words = ["deidentify", *words, "--policy", "hipaa-safe-harbor", "--export", *more]
    try:
        return cli.site(words)
    except UsageError as error:
        if not (out / "columns.yaml").is_file():
            raise error from None
        return cli.site([*words, "--columns", str(out / "columns.yaml")])


def test_a_database_table_comes_out_as_the_same_table_as_its_csv(tmp_path: Path):
    """A table behind SQLAlchemy gives the rows of its export, and its name is in no output."""
    home, source, out = home_and_source(tmp_path)
    (source / "t.csv").write_text("\n".join([HEADINGS, *HEADLESS]), "utf-8")
    assert clean_with_proposal(source, tmp_path / "of-csv", home) == 0
    assert clean_database(database(tmp_path), out, home) == 0
    (expected,) = (tmp_path / "of-csv" / "items").rglob("*.parquet")
    (path,) = (out / "items").rglob("*.parquet")
    kept = [name for name in pl.read_parquet(path).columns if name != "patient"]
    assert kept
    assert pl.read_parquet(path)[kept].equals(pl.read_parquet(expected)[kept])
    last = bodies(home)[-1]
    assert (last["kind"], last["outcome"], len(str(last["input_hmac"]))) == ("table", "cleaned", 64)
    assert b"visits" not in everything(out)
    assert clean_database(tmp_path / "db.url", out, home) == 0
    assert cli.audit(["verify", "--home", str(home)]) == 0


def test_the_url_of_a_database_is_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture):
    """A password in the URL gets into no file, message or line, also where the database can't be reached."""
    home, _, out = home_and_source(tmp_path)
    url = tmp_path / "db.url"
    for text in (f"sqlite:////{PASSWORD}/no/such.db", f"nosuchdriver://me:{PASSWORD}@localhost/ward"):
        url.write_text(text)
        url.chmod(0o600)
        assert clean_database(url, out, home) == 0
    assert bodies(home)[-1]["reason"] == "table-refused"
    printed = capsys.readouterr()
    told = everything(home, out) + (printed.out + printed.err).encode()
    assert PASSWORD.encode() not in told
    for text, mode, says in ((PASSWORD, 0o600, "one URL"), (f"sqlite:///{PASSWORD}", 0o644, "chmod 600")):
        url.write_text(text)
        url.chmod(mode)
        with pytest.raises(UsageError, match=says) as caught:
            clean_database(url, out, home)
        assert PASSWORD not in str(caught.value)
    with pytest.raises(UsageError, match="sql-url-file"):
        cli.site(["deidentify", "--sql", "t", "--out", str(out), "--home", str(home), "--policy", "pipl-strict"])
    with pytest.raises(UsageError, match="not both"):
        cli.site(["deidentify", "--out", str(out), "--home", str(home), "--policy", "pipl-strict"])
