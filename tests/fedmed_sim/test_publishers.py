"""Data sets in their publishers' formats, from the files as they are to a model that every site trained."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedmed.cli import main
from fedmed.config import config_dir
from fedmed.data.pooled import divide
from fedmed.data.schema import DataSet
from fedmed.records import build

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
EICU = SHARED / "eicu-demo"
CRITERIA = SHARED / "trial-criteria-zh"
needs_eicu = pytest.mark.skipif(not EICU.is_dir(), reason="needs ../shared/data/eicu-demo")
needs_criteria = pytest.mark.skipif(not CRITERIA.is_dir(), reason="needs ../shared/data/trial-criteria-zh")


def published(name: str) -> list[dict[str, str]]:
    """Return a table of the eICU demo."""
    with gzip.open(EICU / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def final(out: Path, *words: str) -> dict[str, Any]:
    """Run a simulation without privacy and return what it reached."""
    assert main(["simulate", "engine=inprocess", "privacy=off", "plan.consolidation=0", f"out={out}", *words]) == 0
    (folder,) = out.iterdir()
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["final"]
    return found


@needs_eicu
def test_every_stay_of_the_eicu_demo_with_apache_variables_is_in_its_region(tmp_path: Path) -> None:
    """A stay has the region of its hospital and its own variables; a hospital without a region is in none."""
    data = build(yaml.safe_load((config_dir() / "data/eicu.yaml").read_text(encoding="utf-8")), DataSet)
    divide(EICU, data, tmp_path)
    regions = {row["hospitalid"]: row["region"] for row in published("hospital")}
    variables = {row["patientunitstayid"]: row for row in published("apacheapsvar")}
    expected = {
        row["patientunitstayid"]: regions[row["hospitalid"]].lower()
        for row in published("patient")
        if regions[row["hospitalid"]] and row["patientunitstayid"] in variables
    }
    found: dict[str, str] = {}
    for site in data.schema.sites:
        with (tmp_path / f"{site}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found[row["patientunitstayid"]] = site
                assert row["heartrate"] == variables[row["patientunitstayid"]]["heartrate"]
    assert found == expected
    assert Counter(found.values()) == {"midwest": 733, "northeast": 140, "south": 671, "west": 461}


@needs_eicu
@pytest.mark.slow
def test_four_regions_learn_who_dies_in_hospital(tmp_path: Path) -> None:
    """Fifteen rounds over four regions: the pooled AUC is above 0.79."""
    words = ("data=eicu", f"data.root={EICU}", "model=linear", "plan=fedsgd", "optimiser=fedavgm")
    assert final(tmp_path, *words, "plan.rounds=15", "plan.learning_rate=0.2")["auc_pooled"] > 0.79


@needs_criteria
@pytest.mark.slow
def test_five_sites_learn_the_categories_of_chinese_criteria(tmp_path: Path) -> None:
    """A few rounds over sites of unlike categories do better than the most frequent category everywhere (0.23)."""
    words = ("data=cmedtc", f"data.root={CRITERIA}", "model=ngrams", "optimiser=fedavgm", "plan.rounds=8")
    words += ("plan.local_steps=4", "plan.sample_rate=0.05", "plan.learning_rate=20")
    assert final(tmp_path, *words)["accuracy_mean"] > 0.4
