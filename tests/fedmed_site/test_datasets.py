"""Behaviour of a site's data sets: the one way in, the vouched way out."""

from dataclasses import replace
from pathlib import Path

import pytest
from federation import Consortium, build_consortium, tiny_dataset, write_table

from fedmed.deid.policy import DeidPolicy
from fedmed.errors import DataError, IntegrityError, RefusedError
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Return one prepared site."""
    return build_consortium(tmp_path, sites=1)


def test_a_patient_stands_on_one_side(consortium: Consortium) -> None:
    """Train and test together are all rows, and the same ones on every load."""
    datasets, data = SiteAgent.open(consortium.homes[0]).datasets, consortium.plan().data
    sizes = [len(datasets.load(data, split)) for split in ("train", "test")]
    assert sum(sizes) == 160
    assert sizes == [len(datasets.load(data, split)) for split in ("train", "test")]


def test_no_name_is_kept(consortium: Consortium) -> None:
    """Nothing in the site's data folder holds a patient's name."""
    kept = b"".join(path.read_bytes() for path in SiteHome(consortium.homes[0]).data("tiny").rglob("*"))
    assert not [name for name in consortium.patients if name.encode() in kept]


def test_the_dimensions_follow_from_the_schema(consortium: Consortium) -> None:
    """A base can be built for a view without reading a record."""
    assert SiteAgent.open(consortium.homes[0]).datasets.dimensions(consortium.plan().data) == (3, 2)


def test_a_cohort_is_a_part_of_the_patients(consortium: Consortium) -> None:
    """A view of one ward holds that ward only."""
    datasets, data = SiteAgent.open(consortium.homes[0]).datasets, consortium.plan().data
    south = replace(data, cohort_column="ward", cohort=("south",))
    cohort = datasets.load(south, "train")
    assert 0 < len(cohort) < len(datasets.load(data, "train"))
    assert set(cohort.features[:, cohort.feature_names.index("ward=south")]) == {1.0}


def test_a_table_put_back_from_before_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    """Only the latest table that the audit log names is read, so an older export can't return unnoticed."""
    agent = SiteAgent.open(consortium.homes[0])
    path = SiteHome(consortium.homes[0]).data("tiny") / "table.parquet.sealed"
    old = path.read_bytes()
    newer = tmp_path / "newer.csv"
    write_table(newer, rows=170, seed=9)
    agent.datasets.prepare(newer, tiny_dataset(), DeidPolicy())
    path.write_bytes(old)
    with pytest.raises(IntegrityError, match="latest audit record"):
        agent.datasets.load(consortium.plan().data, "train")


def test_unknown_data_and_schemas_are_refused(consortium: Consortium) -> None:
    """A plan can name only what was prepared, under the schema it was prepared with."""
    datasets, data = SiteAgent.open(consortium.homes[0]).datasets, consortium.plan().data
    with pytest.raises(RefusedError, match="holds no data set 'other'"):
        datasets.check(replace(data, schema="other"))
    with pytest.raises(RefusedError, match="bring both to one version"):
        datasets.check(replace(data, schema_digest="f" * 64))


def test_a_bad_table_leaves_the_good_one_in_place(consortium: Consortium, tmp_path: Path) -> None:
    """Preparing again from a broken export fails and changes nothing."""
    agent, data = SiteAgent.open(consortium.homes[0]), consortium.plan().data
    broken = tmp_path / "broken.csv"
    broken.write_text("record,patient_name\n")
    with pytest.raises(DataError):
        agent.datasets.prepare(broken, tiny_dataset(), DeidPolicy())
    assert len(agent.datasets.load(data, "train")) > 0


def test_what_is_prepared_is_the_owners_alone(consortium: Consortium) -> None:
    """No folder on the way to a table lets another user in, whatever the umask."""
    data = SiteHome(consortium.homes[0]).data("tiny")
    assert [folder.stat().st_mode & 0o077 for folder in (data.parent, data)] == [0, 0]
