"""`fedmed deid`: figures without text, a page of misses on request, and a tagger that says what it is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmed.errors import DataError, UsageError
from fedmed_sim.phantoms.notes import write_gold
from fedmed_site import cli


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Return a gold file of a few synthetic notes."""
    path = tmp_path / "gold.jsonl"
    write_gold(path, np.random.default_rng(3), languages=("zh", "en"), count=6)
    return path


def test_evaluate_prints_figures_and_no_text(gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Recall by kind and over-masking are printed and written as JSON; no entity's text is."""
    figures = tmp_path / "figures.json"
    assert cli.deid(["evaluate", str(gold), "--json", str(figures), "--misses", str(tmp_path / "misses.html")]) == 0
    told = capsys.readouterr().out + figures.read_text()
    assert "recall" in told
    assert "over-masking" in told
    for line in gold.read_text("utf-8").splitlines():
        note = json.loads(line)
        for one in note["entities"]:
            text = note["text"][one["start"] : one["end"]]
            assert len(text) < 4 or text not in told
    assert (tmp_path / "misses.html").is_file()


def test_a_missing_gold_file_and_policy_are_one_line(gold: Path, tmp_path: Path):
    """A missing file and an unknown policy are refused."""
    with pytest.raises(DataError, match="no gold file"):
        cli.deid(["evaluate", str(tmp_path / "none.jsonl")])
    with pytest.raises(UsageError, match="policy"):
        cli.deid(["evaluate", str(gold), "--policy", "nobody-knows"])


@pytest.mark.slow
def test_a_tagger_is_trained_and_says_what_it_is_not(gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A few steps leave a loadable folder, and the command says that it is not of clinical grade."""
    assert cli.deid(["train-tagger", str(gold), "--out", str(tmp_path / "tagger"), "--steps", "2"]) == 0
    assert "NOT of clinical grade" in capsys.readouterr().out
    assert cli.deid(["evaluate", str(gold), "--tagger", str(tmp_path / "tagger")]) == 0
