"""A published archive of images, from its file to a trained model and a prediction, by what ships for it."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from model_folders import write_image_folder

from fedmed.audit import ChainLog
from fedmed.cli import main
from fedmed.config import load
from fedmed.data.schema import DataSet
from fedmed.data.source import Split
from fedmed.records import DataSpec
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome

SHIPPED = Path(__file__).parents[2] / "conf" / "data" / "medmnist.yaml"
SPLITS: Final[tuple[Split, ...]] = ("train", "test")
COUNTS = {"train": 160, "val": 40, "test": 100}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Leave torch's threads as they were: a run sets them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Return a folder with an archive in the publisher's form, in which the ill are brighter."""
    rng, arrays = np.random.default_rng(5), {}
    for part, images in COUNTS.items():
        labels = rng.integers(0, 2, (images, 1), dtype=np.uint8)
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = (rng.integers(0, 100, (images, 28, 28)) + 150 * labels[:, :, None]).astype(np.uint8)
    folder = tmp_path / "downloads"
    folder.mkdir()
    np.savez_compressed(folder / "pneumoniamnist.npz", **arrays)
    return folder


def test_an_archive_is_listed_checked_and_trained_on_as_it_is(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No table is written by hand, every image is counted once, and the publisher's test set is the one of the run."""
    assert main(["data", "list", str(downloads), "--json"]) == 0
    listed = {one["option"]: one for one in json.loads(capsys.readouterr().out)["data_sets"]}
    assert listed["medmnist"]["here"]["complete"]
    assert listed["medmnist"]["form"] == "image"
    assert "zenodo.org" in listed["medmnist"]["obtain"]
    assert main(["site", "check-data", str(downloads / "pneumoniamnist.npz"), "--data", "medmnist"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "300 of 300 can be used" in said
    assert "300 can be read" in said
    write_image_folder(tmp_path / "model", "vit")
    words = ["data=medmnist", f"data.root={downloads}", "model=image_encoder", f"model.path={tmp_path / 'model'}"]
    words += ["engine=inprocess", "privacy=off", f"out={tmp_path / 'runs'}", "plan.rounds=2", "plan.local_steps=2"]
    assert main(["simulate", *words, "plan.consolidation=0", "data.schema.image.size=16"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    seen = {"train": 0, "test": 0}
    for folder in (one for one in (run / "sites").iterdir() if one.is_dir()):
        datasets = SiteAgent(SiteHome(folder)).datasets
        digest = datasets.description("medmnist").schema.digest
        spec = DataSpec(schema="medmnist", schema_digest=digest, target="pneumonia")
        for split in SPLITS:
            cohort = datasets.load(spec, split)
            assert ((cohort.features[:, 1:].mean(axis=1) > 0) == (cohort.labels == 1)).all()
            seen[split] += len(cohort)
    assert seen == {"train": COUNTS["train"] + COUNTS["val"], "test": COUNTS["test"]}


def test_a_site_prepares_an_archive_of_its_own(downloads: Path, tmp_path: Path) -> None:
    """What each image showed at its publisher is counted in the site's log."""
    home = tmp_path / "home"
    assert main(["site", "init", "--home", str(home), "--name", "north"]) == 0
    words = ["site", "prepare", str(downloads / "pneumoniamnist.npz"), "--data", "medmnist", "--home", str(home)]
    assert main(words) == 0
    body = ChainLog(SiteHome(home).audit_path).entries()[-1].body
    assert (body["images"], body["missing"], body["unreadable"]) == (300, 0, 0)
    dataset = load(DataSet, SHIPPED)
    assert SiteAgent(SiteHome(home)).datasets.description("medmnist").schema.digest == dataset.schema.digest
