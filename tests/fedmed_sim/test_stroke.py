"""The International Stroke Trial by country, from the publisher's one file to a model that every country trained."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from fedmed.cli import main
from fedmed.data.pooled import divide
from fedmed.data.schema import DataSet
from fedmed.records import build

CHECKOUT = Path(__file__).parents[2]
PUBLISHED = CHECKOUT.parent / "shared" / "data" / "stroke-trial"


def stroke_trial() -> DataSet:
    """Return the data set that ships."""
    return build(yaml.safe_load((CHECKOUT / "conf/data/stroke_trial.yaml").read_text(encoding="utf-8")), DataSet)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the table of each country."""
    if not PUBLISHED.is_dir():
        pytest.skip("needs the International Stroke Trial's table in ../shared/data/stroke-trial")
    folder = tmp_path_factory.mktemp("countries")
    divide(PUBLISHED, stroke_trial(), folder)
    return folder


def result(out: Path, *words: str) -> dict[str, Any]:
    """Run the experiment and return its summary."""
    assert main(["simulate", "experiment=stroke", "engine=inprocess", f"out={out}", *words]) == 0
    (folder,) = out.iterdir()
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_the_countries_are_those_with_enough_patients_and_deaths(tables: Path) -> None:
    """Exactly the countries with 100 patients and 10 deaths within 14 days are sites, and their rows are all there."""
    published = pl.read_csv(PUBLISHED / "stroke.csv.gz", infer_schema=False)
    counts = published.group_by("COUNTRY").agg(patients=pl.len(), deaths=(pl.col("ID14") == "1").sum())
    enough = counts.filter((pl.col("patients") >= 100) & (pl.col("deaths") >= 10))
    assert sorted(enough["COUNTRY"]) == sorted(stroke_trial().schema.sites)
    for country, patients, deaths in enough.iter_rows():
        table = pl.read_csv(tables / f"{country}.csv", infer_schema=False)
        assert (table.height, (table["ID14"] == "1").sum()) == (patients, deaths)


def test_one_file_of_all_countries_is_not_taken_for_a_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a country's table is one line that names the missing table, and nothing is left on disk."""
    empty = tmp_path / "data"
    empty.mkdir()
    (empty / "COUNTRY.csv").write_text("COUNTRY\nUK\n")
    words = ("simulate", "experiment=stroke", f"data.root={empty}", f"out={tmp_path / 'runs'}", "privacy.epsilon=1")
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert "does not hold the table of site UK; expected UK.csv" in complaint
    assert "stroke.csv.gz" in complaint
    assert not any((tmp_path / "runs").glob("*"))


@pytest.mark.slow
def test_the_stroke_experiment_learns_over_eleven_countries(tmp_path: Path, tables: Path) -> None:
    """Twenty rounds without privacy over eleven countries: the pooled AUC of death within 14 days is above 0.77."""
    summary = result(tmp_path, f"data.root={tables}", "privacy=off", "plan.rounds=20", "plan.learning_rate=1")
    assert sorted(summary["sites"]) == sorted(stroke_trial().schema.sites)
    assert summary["final"]["auc_pooled"] > 0.77
    assert summary["aggregation"]["secure"]


@pytest.mark.slow
def test_eleven_countries_share_the_noise_within_the_budget(tmp_path: Path, tables: Path) -> None:
    """Five rounds at epsilon 1 with shared noise: each country's ledger spent the budget and no more."""
    words = ("privacy=distributed", "privacy.epsilon=1", "privacy.delta=1e-5", "privacy.clip_norm=0.5")
    summary = result(tmp_path, f"data.root={tables}", "plan.rounds=5", *words)
    assert len(summary["privacy"]["epsilon"]) == 11
    assert all(0.9 < spent <= 1.0 for spent in summary["privacy"]["epsilon"].values())
