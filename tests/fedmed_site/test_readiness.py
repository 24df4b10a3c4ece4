"""A raw table is told whether it is ready: what stops training is red, and no record's value is ever shown."""

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.errors import DataError
from fedmed_site.cli import site
from fedmed_site.readiness import Page, check_table
from fedmed_site.readiness_measures import determines, shown, shown_parts
from fedmed_site.readiness_table import tables_in

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

SCHEMA = Schema(
    name="ward",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="name", kind="text", role="direct-identifier"),
        Column(name="age", kind="number", role="feature", centre=60, scale=10, low=0, high=120),
        Column(name="ward", kind="category", role="feature", values=("heart", "lung")),
        Column(name="score", kind="number", role="feature", centre=0, scale=1, low=-10, high=10),
        Column(name="died", kind="binary", role="target", values=("0", "1"), missing=("unknown",)),
        Column(name="grade", kind="category", role="target", values=("a", "b", "c")),
    ),
    targets=(
        Target(name="died", column="died", one_of=("1",), classes=("alive", "dead")),
        Target(name="grade", column="grade", one_of=("a", "b", "c"), classes=("A", "B", "C")),
    ),
)
HEADER = "id,name,age,ward,score,died,grade"
ROWS = 200


def rows(count: int = ROWS, **changed: Sequence[object]) -> list[list[str]]:
    """Return the rows of a good table, with some columns replaced."""
    rng = np.random.default_rng(5)
    columns: dict[str, Sequence[object]] = {
        "id": [f"MRN{place:05d}" for place in range(count)],
        "name": [f"Quillfeather {place}" for place in range(count)],
        "age": [round(float(age), 3) for age in rng.normal(60, 10, count).clip(1, 119)],
        "ward": [("heart", "lung")[place % 2] for place in range(count)],
        "score": [round(float(score), 4) for score in rng.normal(0, 1, count).clip(-9, 9)],
        "died": [int(value) for value in rng.random(count) < 0.4],
        "grade": [("a", "b", "c")[int(place)] for place in rng.integers(0, 3, count)],
    } | changed
    return [[str(cell) for cell in row] for row in zip(*(columns[name] for name in HEADER.split(",")), strict=True)]


def table(folder: Path, lines: Sequence[Sequence[str]], *, header: str = HEADER) -> Path:
    """Write a table and return where it is."""
    path = folder / "north.csv"
    path.write_text("\n".join([header, *(",".join(line) for line in lines)]) + "\n", encoding="utf-8")
    return path


def page_of(folder: Path, lines: Sequence[Sequence[str]], *targets: str) -> Page:
    """Return the page of a table with these rows."""
    return check_table(table(folder, lines), SCHEMA, targets=targets)


def found(page: Page, name: str) -> list[str]:
    """Return `level: found` of the findings of one name."""
    return [f"{one.level}: {one.found}" for one in page.findings if one.name == name]


def test_a_good_table_is_ready(tmp_path: Path) -> None:
    """Nothing is red or yellow, and the page has the figures of each column that is kept."""
    page = page_of(tmp_path, rows())
    assert page.ready
    assert all(finding.level == "ok" for finding in page.findings)
    assert (page.rows, page.usable, page.patients, page.duplicates) == ("200", "200", "200", "0")
    assert [column.name for column in page.columns] == ["age", "ward", "score", "died", "grade"]
    assert abs(page.columns[0].shift or 0) <= 0.2
    assert page.columns[0].spread == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("changed", "name", "message"),
    [
        ({"died": [0] * ROWS}, "target died", "bad: every row has the same class"),
        ({"died": [""] * ROWS}, "target died", "bad: no row has a label"),
        ({"died": ["unknown"] * ROWS}, "target died", "bad: no row has a label"),
        ({"died": [0, 1] * 99 + ["dead", 1]}, "target died", "bad: < 5 labels in died are not among the schema's"),
        ({"grade": ["a", "x"] * 100}, "target grade", "bad: 100 labels in grade are not among the schema's"),
        ({"age": ["old", 50] * 100}, "rows", "bad: 100 of 200 rows have a cell outside the schema or are no rows"),
    ],
)
def test_what_makes_training_fail_is_red(tmp_path: Path, changed: dict[str, Any], name: str, message: str) -> None:
    """One class, no labels, labels outside the schema, or too many bad rows: not ready, with a cure."""
    page = page_of(tmp_path, rows(**changed))
    assert not page.ready
    assert message in found(page, name)
    assert all(finding.cure for finding in page.findings if finding.level != "ok")


def test_a_missing_or_doubled_column_is_red(tmp_path: Path) -> None:
    """All columns that are kept must stand in the header once; those that are dropped need not."""
    lines = [line[:2] + line[3:] for line in rows()]
    page = check_table(table(tmp_path, lines, header="id,name,ward,score,died,died"), SCHEMA)
    assert found(page, "columns") == ["bad: missing, or there twice: age, died, grade"]
    nameless = [line[:1] + line[2:] for line in rows()]
    assert check_table(table(tmp_path, nameless, header="id,age,ward,score,died,grade"), SCHEMA).ready


def test_an_empty_table_is_red_and_an_empty_file_an_error(tmp_path: Path) -> None:
    """A header alone is a table without rows; no bytes are no table."""
    page = page_of(tmp_path, [])
    assert found(page, "rows") == ["bad: the table has no rows"]
    (tmp_path / "north.csv").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        check_table(tmp_path / "north.csv", SCHEMA)


def test_only_the_wanted_target_counts(tmp_path: Path) -> None:
    """A site that is to learn one target is not stopped by another; an unknown one is an error."""
    lines = rows(died=[0] * ROWS)
    assert page_of(tmp_path, lines, "grade").ready
    with pytest.raises(DataError, match="no target 'cost'"):
        page_of(tmp_path, lines, "cost")


def test_a_column_that_knows_the_class_is_a_suspect(tmp_path: Path) -> None:
    """A score made from the outcome is named for that target alone; so is a column that is missing with it."""
    died = [int(place % 3 == 0) for place in range(ROWS)]
    page = page_of(tmp_path, rows(died=died, score=[2 * one + 0.001 * place for place, one in enumerate(died)]))
    assert [target.suspects for target in page.targets] == [("score",), ()]
    assert found(page, "leakage died") == ["warn: score alone nearly determines the class"]
    absent = page_of(tmp_path, rows(died=died, age=["" if one else 60 + place % 9 for place, one in enumerate(died)]))
    assert absent.targets[0].suspects == ("age",)
    assert absent.ready


def test_a_key_of_its_own_in_each_row_knows_nothing() -> None:
    """Cells of one record are taken off as chance; a column that is the class is worth 1, noise nearly 0."""
    rng = np.random.default_rng(3)
    labels = pl.Series(rng.integers(0, 2, 400))
    category = Column(name="code", kind="category", role="feature", values=("a", "b"))
    number = SCHEMA.column("score")
    keys = pl.Series([f"key {place}" for place in range(400)])
    assert determines(keys, labels, category, k=5) < 0.5
    assert determines(labels.cast(pl.String), labels, category, k=5) > 0.98
    assert determines(pl.Series(rng.normal(size=400)), labels, number, k=5) < 0.1
    assert determines(labels.cast(pl.Float64).head(20), labels.head(20), number, k=5) == 0


def test_drift_from_the_schema_is_yellow(tmp_path: Path) -> None:
    """Another unit, a constant, and a category of one value are named, without the value."""
    page = page_of(tmp_path, rows(age=[3 + place % 7 for place in range(ROWS)], score=[7] * ROWS, ward=["lung"] * ROWS))
    assert found(page, "drift age") == ["warn: the mean lies -5.4 public scales from the public centre"]
    assert found(page, "drift score") == ["warn: all values are nearly alike"]
    assert found(page, "drift ward") == ["warn: one value in 98% of the rows or more"]
    assert next(column for column in page.columns if column.name == "score").shift is None
    assert page.ready


def test_copies_and_patients_with_several_records_are_counted(tmp_path: Path) -> None:
    """A copy of a row is yellow; several records of a patient are as they should be."""
    lines = rows()
    several = [[lines[place % 50][0], *line[1:]] for place, line in enumerate(lines)]
    page = page_of(tmp_path, several + several[:9])
    assert found(page, "duplicates") == ["warn: 9 rows repeat an earlier one"]
    assert found(page, "patients") == ["ok: 50 have several records; each patient stands on one side of the split"]
    nobody = page_of(tmp_path, [["", *line[1:]] if place < 20 else line for place, line in enumerate(lines)])
    assert found(nobody, "patients") == ["warn: 20 rows have no id"]


def test_small_counts_are_hidden_and_cannot_be_inferred() -> None:
    """Below k a count is `< k`, above total - k it is that; a single hidden part hides a second."""
    assert [shown(count, k=5) for count in (0, 1, 4, 5)] == ["0", "< 5", "< 5", "5"]
    assert [shown(count, k=5, of=10) for count in (5, 6, 9, 10)] == ["5", "> 5", "> 5", "10"]
    assert shown(3, k=5, of=4) == "< 5"
    assert shown_parts({"a": 1, "b": 50, "c": 9}, k=5) == {"a": "< 5", "b": "50", "c": "5 or more"}
    assert shown_parts({"a": 1, "b": 2, "c": 9}, k=5) == {"a": "< 5", "b": "< 5", "c": "5 or more"}


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(2, 5))
def test_no_small_part_follows_from_what_is_shown(counts: list[int], k: int) -> None:
    """Whoever knows the whole can bring every small part to any value from 1 to k - 1 and would read the same."""
    named = {str(place): count for place, count in enumerate(counts)}
    page = shown_parts(named, k=k)
    ranges = [_possible(page[name], sum(counts), k=k) for name in named]
    alike = [parts for parts in itertools.product(*ranges) if sum(parts) == sum(counts)]
    for place, count in enumerate(counts):
        if 0 < count < k and "hidden" not in page.values():
            assert {parts[place] for parts in alike} >= set(range(1, k))
        if count >= k:
            assert page[str(place)] in {str(count), f"{k} or more", "hidden"}
        assert (count == 0) == (page[str(place)] == "0")


def _possible(text: str, whole: int, *, k: int) -> range:
    """Return what a shown count may stand for."""
    if text == f"< {k}":
        return range(1, k)
    if text == f"{k} or more":
        return range(k, whole + 1)
    return range(1, whole + 1) if text == "hidden" else range(int(text), int(text) + 1)


def test_a_table_of_few_patients_does_not_show_its_size(tmp_path: Path) -> None:
    """Below 4 k rows the size is hidden too, because the parts of a class would follow from it."""
    page = page_of(tmp_path, rows(12, died=[1, *[0] * 11]))
    assert (page.rows, page.usable) == ("< 20", "< 20")
    assert found(page, "rows") == ["warn: fewer than 20 rows can be used"]
    assert page.targets[0].classes == {"alive": "5 or more", "dead": "< 5"}
    assert page.patients == "< 20"


def test_no_value_of_a_record_is_on_any_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, keys, numbers and wrong cells of the table stand neither on the terminal nor in JSON nor in HTML."""
    lines = rows(age=[*(f"{60 + place / 7:.5f}" for place in range(ROWS - 2)), "13800138000", "Zyxwvut"])
    lines[3][6], lines[4][5] = "gradient-x", "deadish"
    source = table(tmp_path, lines)
    assert site(["check-data", str(source), "--data", str(written(tmp_path)), "--out", str(tmp_path / "page")]) == 2
    pages = [
        capsys.readouterr().out,
        *((tmp_path / "page" / f"readiness.{kind}").read_text() for kind in ("json", "html")),
    ]
    secrets = {cell for line in lines for cell in (line[0], line[1], line[2], line[4])} | {"gradient-x", "deadish"}
    secrets = {secret for secret in secrets if len(secret) > 4}
    for text in pages:
        assert not [secret for secret in secrets if secret in text]
        assert "north.csv" in text
    assert (tmp_path / "page" / "readiness.html").stat().st_mode & 0o777 == 0o600


def written(folder: Path) -> Path:
    """Write the ward's schema as a data set's YAML and return its path."""
    plain = {"name": "ward", "schema": msgspec.to_builtins(SCHEMA), "split": {"kind": "hash", "test_fraction": 0.3}}
    path = folder / "ward.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path


def test_the_command_ends_with_two_where_training_would_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's tables are all looked at; JSON says for each what is to cure; 0 where nothing is."""
    data = str(written(tmp_path))
    source = table(tmp_path, rows())
    assert site(["check-data", str(source), "--data", data]) == 0
    assert "ready to be trained on" in capsys.readouterr().out
    (tmp_path / "south.csv").write_text(HEADER + "\n")
    assert site(["check-data", str(tmp_path), "--data", data, "--json"]) == 2
    pages = json.loads(capsys.readouterr().out)
    assert (pages["version"], pages["ready"]) == (1, False)
    assert {one["table"]: [f["level"] for f in one["findings"]] for one in pages["tables"]}["south.csv"] == ["bad"]


def test_the_policys_k_hides_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy with a larger k raises what is hidden; none lowers it below five."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("profile: our-own\nk: 30\n")
    source = table(tmp_path, rows(grade=["a"] * 20 + ["b"] * 90 + ["c"] * 90))
    words = ["check-data", str(source), "--data", str(written(tmp_path)), "--target", "grade"]
    assert site([*words, "--policy", str(policy)]) == 0
    assert "target grade: A < 30, B 30 or more, C 90" in capsys.readouterr().out
    assert site(words) == 0
    assert "target grade: A 20, B 90, C 90" in capsys.readouterr().out


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    """Which files were looked for is said."""
    with pytest.raises(DataError, match=r"expected tables like \{site\}\.csv, found none"):
        tables_in(tmp_path, SCHEMA)


def test_notes_and_conversations_are_looked_at_too(tmp_path: Path) -> None:
    """JSON Lines with notes: empty notes count as missing, and no note is on the page."""
    notes = Schema(
        name="notes",
        file="{site}.jsonl",
        columns=(
            Column(name="note", kind="text", role="free-text"),
            Column(name="sign", kind="binary", role="target", values=("0", "1")),
        ),
        targets=(Target(name="sign", column="sign", one_of=("1",)),),
        text=TextPart(column="note", characters=50),
    )
    path = tmp_path / "north.jsonl"
    lines = [{"note": "" if place < 40 else f"Sinus rhythm {place}", "sign": place % 2} for place in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = check_table(path, notes)
    assert found(page, "column note") == ["warn: 40 of 60 cells are missing"]
    assert page.ready
    assert "Sinus" not in str(page)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["north.jsonl"]


@pytest.mark.skipif(not (SHARED / "heart-disease").is_dir(), reason="needs ../shared/data/heart-disease")
def test_the_cholesterol_of_one_real_hospital_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """One hospital of the UCI files wrote 0 for every cholesterol; it is named, and all four are ready otherwise."""
    assert site(["check-data", str(SHARED / "heart-disease"), "--data", "heart_disease", "--json"]) == 0
    drift = {
        (one["table"], finding["name"])
        for one in json.loads(capsys.readouterr().out)["tables"]
        for finding in one["findings"]
        if finding["name"].startswith("drift")
    }
    assert drift == {("processed.switzerland.data", "drift chol")}


CHATS = Schema(
    name="advice",
    file="{site}.jsonl",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="talk", kind="text", role="free-text"),
    ),
    targets=(Target(name="answer", column="talk", answered=True),),
    text=TextPart(column="talk", characters=60, form="chat"),
)


def chats(folder: Path, answers: Sequence[str]) -> Page:
    """Return the page of conversations with these answers."""
    lines = [
        json.dumps({"id": place, "messages": [{"role": "user", "content": "may I eat?"}, *said]})
        for place, said in enumerate([{"role": "assistant", "content": a}] if a else [] for a in answers)
    ]
    path = folder / "north.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return check_table(path, CHATS)


def test_conversations_have_answers_and_no_classes(tmp_path: Path) -> None:
    """A good set of conversations is green: that nothing is of class `no` is no lack."""
    page = chats(tmp_path, [f"yes, at {place}" for place in range(60)])
    assert found(page, "target answer") == ["ok: 60 conversations with an answer"]
    assert {finding.level for finding in page.findings} == {"ok"}


def test_few_answers_are_still_a_warning(tmp_path: Path) -> None:
    """Three conversations of sixty have an answer."""
    page = chats(tmp_path, ["yes"] * 3 + [""] * 57)
    assert found(page, "target answer") == ["warn: fewer than 5 conversations with an answer"]


def test_answers_that_are_too_long_are_counted(tmp_path: Path) -> None:
    """A cut answer is no label; whoever exports learns it before training does."""
    page = chats(tmp_path, ["yes"] * 50 + ["no, " * 30] * 10)
    assert "warn: 10 answers are longer than text.characters" in found(page, "target answer")


def test_a_compressed_table_is_checked_like_a_plain_one(tmp_path: Path) -> None:
    """Its page is that of what is compressed."""
    plain = table(tmp_path, rows())
    (tmp_path / "north.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    zipped = check_table(tmp_path / "north.csv.gz", SCHEMA)
    assert zipped.ready
    assert zipped.findings == check_table(plain, SCHEMA).findings


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_publishers_files_are_checked_as_a_simulation_takes_them(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Joined and divided, with what no site gets counted; the folder or its first file means them all."""
    lines = [f"p{place},{('a', 'b', 'c')[place % 3]},{30 + place % 40},{place % 2}" for place in range(90)]
    (tmp_path / "all.csv.gz").write_bytes(gzip.compress("\n".join(["id,centre,age,died", *lines]).encode()))
    described = {
        "name": "pool", "split": {"kind": "hash", "test_fraction": 0.3},
        "pooled": {"file": "all.csv", "column": "centre"},
        "schema": {
            "name": "pool", "version": 1, "file": "{site}.csv", "sites": ["a", "b"],
            "columns": [
                {"name": "id", "kind": "identifier", "role": "patient-key"},
                {"name": "age", "kind": "number", "role": "feature", "centre": 50, "scale": 20, "low": 0, "high": 120},
                {"name": "died", "kind": "binary", "role": "target", "values": ["0", "1"]},
            ],
            "targets": [{"name": "died", "column": "died", "one_of": ["1"]}],
        },
    }  # fmt: skip
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(described))
    source = tmp_path if named == "folder" else tmp_path / "all.csv.gz"
    code = site(["check-data", str(source), "--data", str(tmp_path / "pool.yaml"), "--json"])
    (page,) = json.loads(capsys.readouterr().out)["tables"]
    assert (code, page["rows"]) == (0, "60")
    assert [one["found"] for one in page["findings"] if one["name"] == "publisher"] == [
        "rows that no site gets: 30 of other sites"
    ]
