"""A publisher's parts and tables become rows of one table; nothing is parsed, and no row is counted twice."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fedmed.data.pooled import divide
from fedmed.data.published import missing_files, published_path, rows_of_publisher
from fedmed.data.schema import CodeFlag, Column, DataSet, JoinedFile, PooledFile, Schema, SplitRule, Target
from fedmed.errors import DataError
from fedmed.records import build

CHECKOUT = Path(__file__).parents[3]
SHARED = CHECKOUT.parent / "shared" / "data"

SCHEMA = Schema(
    name="trial",
    file="{site}.csv",
    columns=(
        Column(name="age", kind="number", role="feature", centre=55, scale=10, low=0, high=120),
        Column(name="dead", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="dead", column="dead", one_of=("1",)),),
    sites=("north", "south"),
    obtain="ask the trial's office",
)
HOSPITALS = JoinedFile(file="hospitals.csv", key="hospital", columns=("region",))
SCORES = JoinedFile(file="scores.csv", key="stay", columns=("score",), where={"version": "b"})
STAYS = "stay,hospital,age,dead\n1,x,50,0\n2,y,,1\n3,z,70,0\n4,,60,0\n"
REGIONS = "region,hospital\nnorth,x\nsouth,y\n,z\n"
POINTS = 'stay,version,score\n1,a,7\n1,b,"8,5"\n2,b,9\n3,b,10\n'


def dataset(pooled: PooledFile) -> DataSet:
    """Return the trial, published as `pooled` says."""
    split = SplitRule(kind="hash", test_fraction=0.3)
    return DataSet(name="trial", schema=SCHEMA, split=split, pooled=pooled)


def written(folder: Path, **files: str) -> Path:
    """Write files by name, with `_` for the point."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, pooled: PooledFile) -> list[list[str]]:
    """Return the header and the rows."""
    return list(rows_of_publisher(folder, dataset(pooled), pooled))


def test_rows_that_no_site_gets_are_counted_by_reason(tmp_path: Path) -> None:
    """A hospital that isn't in the table of hospitals, a stay without a score, and a region that is no site."""
    joined = PooledFile(file="stays.csv", column="region", joins=(HOSPITALS, SCORES))
    written(tmp_path, stays_csv=STAYS + "5,y,66,1\n6,z,61,0\n", hospitals_csv=REGIONS, scores_csv=POINTS + "6,b,1\n")
    found = divide(tmp_path, dataset(joined), tmp_path / "out")
    assert found.left_out == {
        "without a row in hospitals.csv": 1, "without a row in scores.csv": 1, "of other sites": 2
    }  # fmt: skip


@pytest.mark.parametrize("named", ["stays.csv.gz", "stays.csv", "all-stays.csv", "all-stays.csv.gz"])
@pytest.mark.parametrize("asked", ["stays.csv", "stays.csv.gz"])
def test_a_file_is_found_compressed_or_not_and_under_its_other_name(asked: str, named: str, tmp_path: Path) -> None:
    """As it was downloaded is good enough; what a file is, its own name says."""
    pooled = PooledFile(file=asked, also=("all-stays.csv",), column="hospital")
    data = STAYS.encode()
    (tmp_path / named).write_bytes(gzip.compress(data) if named.endswith(".gz") else data)
    assert missing_files(tmp_path, dataset(pooled)) == ()
    assert published_path(tmp_path, asked, pooled) == tmp_path / named
    assert read(tmp_path, pooled)[1] == ["1", "x", "50", "0"]


FLAG = CodeFlag(column="flutter", codes="found", code="AFLT", values=("none", "flutter"))


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("{'AFLT': 0.0, 'NORM': 80.0}", "flutter"),
        ('{"AFLTX": 100, "NORM": 80}', "none"),
        ("['NORM', 'AFLT']", "flutter"),
        ("{}", "none"),
        ("", ""),
        ("AFLT", ""),
        ("{'AFLT': open('x')}", ""),
        ("{" * 5000, ""),
        ("7", ""),
    ],
)
def test_a_code_becomes_a_column(cell: str, word: str, tmp_path: Path) -> None:
    """Whether a mapping or list of codes holds one; what is neither is missing, and nothing in it runs."""
    pooled = PooledFile(file="stays.csv", column="hospital", flags=(FLAG,))
    quoted = cell.replace('"', '""')
    written(tmp_path, stays_csv=f'hospital,found\nx,"{quoted}"\n')
    assert read(tmp_path, pooled) == [["hospital", "found", "flutter"], ["x", cell, word]]


def test_a_column_that_is_there_is_not_derived_again(tmp_path: Path) -> None:
    """Somebody's own labels count."""
    pooled = PooledFile(file="stays.csv", column="hospital", flags=(FLAG,))
    written(tmp_path, stays_csv="hospital,flutter\nx,unsure\n")
    assert read(tmp_path, pooled) == [["hospital", "flutter"], ["x", "unsure"]]


def test_codes_that_are_not_there_are_named(tmp_path: Path) -> None:
    """A file of another version."""
    pooled = PooledFile(file="stays.csv", column="hospital", flags=(FLAG,))
    written(tmp_path, stays_csv="hospital,age\nx,7\n")
    with pytest.raises(DataError, match=r"stays\.csv: expected one column 'found' in the header, got 0"):
        read(tmp_path, pooled)


def shipped(name: str) -> DataSet:
    """Return a data set that ships."""
    return build(yaml.safe_load((CHECKOUT / f"conf/data/{name}.yaml").read_text(encoding="utf-8")), DataSet)


def test_parts_without_a_header_follow_each_other(tmp_path: Path) -> None:
    """Columns have the names that the data set gives them, quotation marks are text, blank lines are none."""
    parts = PooledFile(
        file="a.txt", more=("b.txt.gz",), column="kind", columns=("kind", "text"), delimiter="\t", quoted=False
    )
    written(tmp_path, a_txt='north\t"he said\nsouth\tx, y\n\n')
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("north\t1.年龄>18".encode()))
    assert read(tmp_path, parts) == [["kind", "text"], ["north", '"he said'], ["south", "x, y"], ["north", "1.年龄>18"]]
    assert divide(tmp_path, dataset(parts), tmp_path / "out").sites == ("north", "south")
    with (tmp_path / "out/north.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["kind", "text"], ["north", '"he said'], ["north", "1.年龄>18"]]


def test_parts_of_different_tables_are_refused(tmp_path: Path) -> None:
    """A further part with other columns, or in another order, would put cells under wrong names."""
    written(tmp_path, a_csv="age,dead\n50,0\n", b_csv="dead,age\n0,50\n")
    with pytest.raises(DataError, match=r"b\.csv: expected the columns of a\.csv"):
        read(tmp_path, PooledFile(file="a.csv", more=("b.csv",), column="dead"))


def test_tables_are_joined_and_rows_without_a_partner_left_out(tmp_path: Path) -> None:
    """A row gets the columns it asks for, in order; an empty key has no partner; an empty cell stays empty."""
    written(tmp_path, stays_csv=STAYS, hospitals_csv=REGIONS, scores_csv=POINTS)
    joined = PooledFile(file="stays.csv", column="region", joins=(HOSPITALS, SCORES))
    assert read(tmp_path, joined) == [
        ["stay", "hospital", "age", "dead", "region", "score"],
        ["1", "x", "50", "0", "north", "8,5"],
        ["2", "y", "", "1", "south", "9"],
        ["3", "z", "70", "0", "", "10"],
    ]
    divide(tmp_path, dataset(joined), tmp_path / "out")
    assert (tmp_path / "out/north.csv").read_text().splitlines()[1:] == ['1,x,50,0,north,"8,5"']


@pytest.mark.parametrize(
    ("join", "message"),
    [
        (replace(SCORES, where={}), r"scores\.csv: row 3 has a key of an earlier row in 'stay'; name the rows"),
        (replace(SCORES, columns=("age",)), r"scores\.csv: column 'age' is there already"),
        (replace(SCORES, columns=("points",)), r"scores\.csv: expected one column 'points' in the header, got 0"),
        (replace(SCORES, where={"v": "b"}), r"scores\.csv: expected one column 'v' in the header, got 0"),
        (replace(SCORES, key="version"), r"the table before the join: expected one column 'version'"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(tmp_path: Path, join: JoinedFile, message: str) -> None:
    """Two rows for one stay would count a patient twice; a column may come from one table only."""
    written(tmp_path, stays_csv=STAYS, scores_csv=POINTS)
    with pytest.raises(DataError, match=message):
        read(tmp_path, PooledFile(file="stays.csv", column="hospital", joins=(join,)))


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    """Whoever fetches the data set learns in one line what is still to fetch, and where from."""
    written(tmp_path, stays_csv=STAYS)
    joined = PooledFile(file="stays.csv", column="region", joins=(HOSPITALS, SCORES))
    assert missing_files(tmp_path, dataset(joined)) == ("hospitals.csv", "scores.csv")
    with pytest.raises(DataError, match=r"expected the file hospitals\.csv, scores\.csv in .*; ask the trial's office"):
        read(tmp_path, joined)


def test_a_note_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    """A cell of 200,000 characters is read, and the limit of the process is as before."""
    before = csv.field_size_limit()
    written(tmp_path, a_csv=f"age,dead\n{'x' * 200_000},0\n")
    assert len(read(tmp_path, PooledFile(file="a.csv", column="dead"))[1][0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"file": "a.csv", "column": "x", "delimiter": "||"},
        {"file": "a.csv", "column": "x", "columns": ("x", "x")},
        {"file": "a.csv", "column": "x", "more": ("a.csv",)},
        {"file": "a.csv", "column": " "},
    ],
)
def test_a_pooled_file_that_means_nothing_is_refused(wrong: dict[str, str]) -> None:
    """A delimiter is one character; no column and no file is named twice."""
    with pytest.raises(ValueError, match=r"delimiter|two columns|named twice|its name and a column"):
        PooledFile(**wrong)  # type: ignore[arg-type]


def test_a_join_names_columns_beside_its_key() -> None:
    """A join without columns, or that takes its key again, adds nothing."""
    for columns in ((), ("stay",), ("a", "a")):
        with pytest.raises(ValueError, match="different columns beside stay"):
            JoinedFile(file="scores.csv", key="stay", columns=columns)


@pytest.mark.skipif(not (SHARED / "trial-criteria-zh").is_dir(), reason="needs ../shared/data/trial-criteria-zh")
def test_every_criterion_of_cmedtc_goes_to_one_site(tmp_path: Path) -> None:
    """All 17,960 criteria in 44 categories are divided, each with the category and the text that it had."""
    data = shipped("cmedtc")
    divide(SHARED / "trial-criteria-zh", data, tmp_path)
    found: list[tuple[str, str]] = []
    for site in data.schema.sites:
        with (tmp_path / f"{site}.csv").open(encoding="utf-8", newline="") as file:
            found += [(row["category"], row["criterion"]) for row in csv.DictReader(file)]
    published: list[tuple[str, str]] = []
    for name in ("train", "dev", "test"):
        with gzip.open(SHARED / f"trial-criteria-zh/{name}.txt.gz", "rt", encoding="utf-8") as lines:
            published += [tuple(line.rstrip("\n").split("\t")) for line in lines if line.strip()]  # type: ignore[misc]
    assert len(found) == 17_960
    assert sorted(found) == sorted(published)
    assert {category for category, _ in found} == set(data.schema.column("category").values)
