"""The benchmarks run as their pages say, and write the figures that are asked for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def quick(name: str, folder: Path, *words: str) -> Any:
    """Run a benchmark as a user would and return its JSON."""
    out = folder / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--quick", "--json", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603  our own
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_utility_gives_both_trust_models_and_both_arms_of_the_digits(tmp_path: Path):
    """Each promised key has an accuracy with its epsilon and trust model, and the plots are drawn."""
    if not (DATA / "heart-disease").is_dir():
        pytest.skip("needs ../shared/data/heart-disease")
    found = quick("utility.py", tmp_path, "--data", str(DATA), "--plots", str(tmp_path / "plots"))
    for key in ("heart_eps1_distributed", "heart_eps01_distributed", "digits_ewc", "digits_naive"):
        assert 0 < found[key]["mean"] < 1, key
        assert found[key]["trust_model"] == ("distributed" if key.startswith("heart") else "none")
    assert list((tmp_path / "plots").glob("*.png"))


@pytest.mark.slow
def test_dp_step_gives_time_and_memory_of_every_model(tmp_path: Path):
    """Seven architectures, and no private step holds a quarter more memory than a plain one, even at a tiny scale."""
    found = quick("dp_step.py", tmp_path)
    models = {"BERT", "RoBERTa", "GPT-2", "Llama", "Qwen2", "ViT", "ResNet"}
    assert set(found["dp_step_ratio"]) == set(found["dp_memory_ratio"]) == models
    assert all(ratio > 0.5 for ratio in found["dp_step_ratio"].values())
    assert max(found["dp_memory_ratio"].values()) < 1.25
