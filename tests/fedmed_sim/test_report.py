"""Behaviour of the report: what a reader sees first, and that every figure is there."""

import csv
import json
import re
from pathlib import Path

import pytest

from fedmed.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run without privacy and with two studies."""
    out = tmp_path_factory.mktemp("report")
    words = ["engine=inprocess", "model=linear", "plan.rounds=2", "plan.local_steps=1", "privacy=off"]
    sizes = ["scenario.sites=3", "scenario.patients_per_site=150"]
    assert main(["simulate", f"out={out}", *words, *sizes]) == 0
    (run,) = out.iterdir()
    return run


def test_warnings_come_before_any_figure(folder: Path) -> None:
    """A reader meets "insecure" and "no differential privacy" before the first number of the result."""
    page = (folder / "index.html").read_text()
    warnings = [match.start() for match in re.finditer("<strong>Warning:</strong>", page)]
    assert len(warnings) == 2
    assert max(warnings) < page.index("<h2>Result</h2>")


def test_the_page_shows_data_going_in_and_none_coming_out(folder: Path) -> None:
    """One invented row stands before and after: the name goes in and nothing of it comes out."""
    page = (folder / "index.html").read_text()
    planted = json.loads((folder / "hospitals" / "planted.json").read_text())
    assert any(f'<td class="cell">{name}</td><td class="cell"></td>' in page for name in planted)
    assert "replaced by a keyed token" in page


def test_every_figure_that_the_page_names_exists(folder: Path) -> None:
    """No broken picture, and every plot is a PNG."""
    names = re.findall(r'<img src="(plots/[^"]+)"', (folder / "index.html").read_text())
    assert len(names) == 2
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_the_page_needs_no_network(folder: Path) -> None:
    """A hospital opens it offline: nothing is fetched from anywhere."""
    assert not re.search(r'(?:src|href)="https?:', (folder / "index.html").read_text())


def test_the_metrics_hold_every_evaluation(folder: Path) -> None:
    """Each site, arm, round and view has its line, the what-if arm included."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["site"] for row in rows}) == 3
    assert len({row["study"] for row in rows}) == 3
    assert sum(row["stage"] == "round" for row in rows) == 3 * 3 * 2
    assert sum(row["stage"] == "final" for row in rows) == 3 * (1 + 2 + 2)
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)


def test_the_measures_of_the_field_are_shown(folder: Path) -> None:
    """AUC and macro F1 stand beside accuracy on the page, in the summary and in the metrics; a C-index does not."""
    page = (folder / "index.html").read_text()
    final = json.loads((folder / "summary.json").read_text())["final"]
    assert '<th class="n">AUC</th><th class="n">macro F1</th><th class="n">epsilon spent</th>' in page
    assert f'<td class="n">{final["auc_mean"]:.3f}</td><td class="n">{final["macro_f1_mean"]:.3f}</td>' in page
    assert "C-index" not in page
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_site = [row for row in rows if row["stage"] == "final" and row["view"] == "0"][-1]
    assert float(of_site["auc"]) == pytest.approx(final["measures"][of_site["site"]]["auc"], abs=1e-6)
    assert of_site["c_index"] == ""


def test_the_configuration_is_on_the_page(folder: Path) -> None:
    """Whoever has the page can run it again."""
    assert "family: linear" in (folder / "index.html").read_text()
