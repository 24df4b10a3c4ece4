"""One published file becomes the table that each site would have; nothing is corrected on the way."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from fedmed.data.pooled import Divided, divide, together
from fedmed.data.schema import Column, DataSet, PooledFile, Schema, SplitRule, Target, sites_under
from fedmed.errors import DataError

AGE = Column(name="age", kind="number", role="feature", centre=55, scale=10, low=0, high=120)
DEAD = Column(name="dead", kind="binary", role="target", values=("0", "1"))
SCHEMA = Schema(
    name="trial",
    file="{site}/table.csv",
    columns=(AGE, DEAD),
    targets=(Target(name="dead", column="dead", one_of=("1",)),),
    sites=("north", "south"),
    obtain="ask the trial's office",
)
DATASET = DataSet(
    name="trial",
    schema=SCHEMA,
    split=SplitRule(kind="hash", test_fraction=0.3),
    pooled=PooledFile(file="trial.csv", column="centre"),
)
ROWS = 'age,centre,note,dead\n071,north,"a, b",0\n,south,,1\n64,west,c,0\n55,north,"d\ne",1\n'


def published(folder: Path, text: str = ROWS) -> Path:
    """Write the trial's one file."""
    (folder / "trial.csv").write_text(text, encoding="utf-8")
    return folder


def test_each_site_gets_its_rows_in_order_and_every_cell_as_it_was(tmp_path: Path) -> None:
    """Leading zeros, empty cells, commas and line breaks in cells survive; a centre that is no site is left out."""
    found = divide(published(tmp_path), DATASET, tmp_path / "out")
    assert found == Divided(sites=("north", "south"), left_out={"of other sites": 1})
    north = (tmp_path / "out" / "north" / "table.csv").read_bytes()
    assert north == b'age,centre,note,dead\r\n071,north,"a, b",0\r\n55,north,"d\ne",1\r\n'
    assert (tmp_path / "out" / "south" / "table.csv").read_bytes() == b"age,centre,note,dead\r\n,south,,1\r\n"
    assert sites_under(tmp_path / "out", SCHEMA) == ("north", "south")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["north", "south"]


def test_all_that_sites_get_can_be_read_together(tmp_path: Path) -> None:
    """In memory, in the publisher's order; what no site gets is counted once it was read."""
    with together(published(tmp_path), DATASET) as (table, found):
        assert table.read_bytes() == b'age,centre,note,dead\r\n071,north,"a, b",0\r\n,south,,1\r\n55,north,"d\ne",1\r\n'
    assert found.left_out == {"of other sites": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["trial.csv"]


def test_a_compressed_file_gives_the_same_tables(tmp_path: Path) -> None:
    """A name that ends in .gz is read through gzip, with or without a byte order mark."""
    (tmp_path / "trial.csv.gz").write_bytes(gzip.compress(ROWS.encode("utf-8-sig")))
    zipped = replace(DATASET, pooled=PooledFile(file="trial.csv.gz", column="centre"))
    divide(tmp_path, zipped, tmp_path / "zipped")
    divide(published(tmp_path), DATASET, tmp_path / "plain")
    for site in SCHEMA.sites:
        table = f"{site}/table.csv"
        assert (tmp_path / "zipped" / table).read_bytes() == (tmp_path / "plain" / table).read_bytes()


def test_only_the_owner_can_read_what_is_still_raw(tmp_path: Path) -> None:
    """The divided tables hold raw records, so nobody else on the machine may open them."""
    divide(published(tmp_path), DATASET, tmp_path / "out")
    assert (tmp_path / "out" / "north" / "table.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS.replace("centre", "hospital"), "expected one column 'centre' in the header, got 0"),
        (ROWS.replace("note", "centre"), "expected one column 'centre' in the header, got 2"),
        (ROWS.replace("south", "west"), "no row of site south"),
        (ROWS + "60,north,1\n", "row 6 has 3 cells, the header 4"),
        ("", "expected one column 'centre' in the header, got 0"),
    ],
)
def test_a_file_that_cannot_be_divided_leaves_no_table(tmp_path: Path, text: str, message: str) -> None:
    """The message says what was expected, repeats no cell, and not a single site's table is written."""
    with pytest.raises(DataError) as refused:
        divide(published(tmp_path, text), DATASET, tmp_path / "out")
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    """Without the file the error names it and how to obtain it."""
    with pytest.raises(DataError, match=r"expected the file trial\.csv .*; ask the trial's office"):
        divide(tmp_path, DATASET, tmp_path / "out")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A file in another encoding, or cut short in its compression, is one error."""
    (tmp_path / "trial.csv").write_bytes(b"age,centre,note,dead\n\xff\xfe,north,a,0\n")
    with pytest.raises(DataError, match="expected CSV in UTF-8"):
        divide(tmp_path, DATASET, tmp_path / "out")
    (tmp_path / "trial.csv.gz").write_bytes(gzip.compress(ROWS.encode())[:-12])
    cut = replace(DATASET, pooled=PooledFile(file="trial.csv.gz", column="centre"))
    with pytest.raises(DataError, match="expected CSV in UTF-8"):
        divide(tmp_path, cut, tmp_path / "out")


def test_a_data_set_with_a_file_per_site_is_not_divided(tmp_path: Path) -> None:
    """Where every site has its own file there is nothing to divide, and the error says so."""
    with pytest.raises(DataError, match="one file per site"):
        divide(tmp_path, replace(DATASET, pooled=None), tmp_path / "out")


def test_sites_may_have_names_of_their_own(tmp_path: Path) -> None:
    """The column's words need be no names for sites."""
    named = PooledFile(file="trial.csv", column="centre", names={"1.0": "north", "2.0": "south"})
    folder = published(tmp_path, ROWS.replace("north", "1.0").replace("south", "2.0"))
    divide(folder, replace(DATASET, pooled=named), tmp_path / "out")
    assert (tmp_path / "out" / "north" / "table.csv").read_text().count("\n") == 4


def test_classes_are_divided_in_shares_that_the_seed_draws(tmp_path: Path) -> None:
    """Every row goes to one site, in its order; equal seeds divide alike, and small concentrations unequally."""
    rows = "age,dead,kind\n" + "".join(f"{20 + i % 60},{i % 2},{'abc'[i % 3]}\n" for i in range(300))
    drawn = PooledFile(file="trial.csv", column="kind", dirichlet=0.3, seed=1)
    folder = published(tmp_path, rows)
    for out in ("one", "two"):
        divide(folder, replace(DATASET, pooled=drawn), tmp_path / out)
    tables = [(tmp_path / "one" / site / "table.csv").read_text().splitlines()[1:] for site in SCHEMA.sites]
    assert sorted(tables[0] + tables[1]) == sorted(rows.splitlines()[1:])
    for site in SCHEMA.sites:
        table = f"{site}/table.csv"
        assert (tmp_path / "one" / table).read_bytes() == (tmp_path / "two" / table).read_bytes()
    share = [sum(line.endswith(kind) for line in tables[0]) / 100 for kind in "abc"]
    assert max(share) - min(share) > 0.2


def test_lines_of_objects_are_divided_too(tmp_path: Path) -> None:
    """A published file may be JSON Lines; the tables have the schema's columns."""
    (tmp_path / "trial.jsonl").write_text(
        "".join(
            f'{{"age": {60 + i}, "dead": "{i % 2}", "centre": "{"north" if i % 2 else "south"}"}}\n' for i in range(6)
        )
    )
    lines = PooledFile(file="trial.jsonl", column="centre")
    divide(tmp_path, replace(DATASET, pooled=lines), tmp_path / "out")
    assert (tmp_path / "out" / "north" / "table.csv").read_text().splitlines() == [
        "age,dead,centre", "61,1,north", "63,1,north", "65,1,north",
    ]  # fmt: skip
