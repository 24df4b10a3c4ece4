"""A published archive of images is a data set: its rows, its division among sites, and its own split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedmed.config import build, config_dir
from fedmed.data.arrays import rows_of_arrays
from fedmed.data.pooled import divide
from fedmed.data.schema import DataSet, SplitRule
from fedmed.errors import DataError

COUNTS = {"train": 60, "val": 10, "test": 20}


def shipped() -> DataSet:
    """Return the data set as it ships."""
    return build(yaml.safe_load((config_dir() / "data/medmnist.yaml").read_text(encoding="utf-8")), DataSet)


def archive(folder: Path, name: str = "pneumoniamnist.npz", **changes: Any) -> Path:
    """Write an archive in the publisher's form: each image has a grey of its own, and odd ones are ill."""
    arrays: dict[str, Any] = {}
    grey = 0
    for part, images in COUNTS.items():
        values = np.arange(grey, grey + images)
        arrays[f"{part}_images"] = np.repeat(values, 28 * 28).reshape(images, 28, 28).astype(np.uint8)
        arrays[f"{part}_labels"] = (values % 2)[:, None].astype(np.uint8)
        grey += images
    np.savez(folder / name, **{name: one for name, one in (arrays | changes).items() if one is not None})
    return folder / name


def test_each_image_is_a_row(tmp_path: Path) -> None:
    """With the part and the label that the publisher gave it."""
    rows = list(rows_of_arrays(archive(tmp_path)))
    assert rows[0] == ["id", "part", "image", "label"]
    assert len(rows) == 1 + sum(COUNTS.values())
    assert rows[2] == ["train 1", "train", "pneumoniamnist.npz#train_images#1", "1"]
    assert rows[-1] == ["test 19", "test", "pneumoniamnist.npz#test_images#19", "1"]


def test_several_labels_have_a_column_each(tmp_path: Path) -> None:
    """As in sets with many findings of one radiograph; labels in one row per part will do too."""
    many = {f"{part}_labels": np.ones((count, 3), np.int64) for part, count in COUNTS.items()}
    assert next(rows_of_arrays(archive(tmp_path, **many))) == ["id", "part", "image", "label_0", "label_1", "label_2"]
    flat = {f"{part}_labels": np.ones(count, np.int64) for part, count in COUNTS.items()}
    assert next(rows_of_arrays(archive(tmp_path, **flat))) == ["id", "part", "image", "label"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.zeros((9, 1), np.uint8)}, "val has 10 images and 9 labels"),
        ({"val_labels": None}, "expected val_images with val_labels"),
        ({"train_labels": np.zeros((60, 1))}, "train_labels: expected whole numbers"),
        ({"train_labels": np.zeros((60, 2), np.uint8)}, "as many labels of an image in each part"),
        ({"test_labels": np.zeros((20, 0), np.uint8)}, "expected whole numbers"),
        ({f"{part}_{kind}": None for part in COUNTS for kind in ("images", "labels")}, "expected arrays such as"),
    ],
)
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """One label too few, and every later image would have its neighbour's."""
    with pytest.raises(DataError, match=message):
        list(rows_of_arrays(archive(tmp_path, **changes)))


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    """A page that was saved in its place, half a download, and none at all."""
    (tmp_path / "a.npz").write_text("<html>")
    half = archive(tmp_path, "b.npz")
    half.write_bytes(half.read_bytes()[:3000])
    for path in (tmp_path / "a.npz", half, tmp_path / "none.npz"):
        with pytest.raises(DataError, match="expected an NPZ archive"):
            list(rows_of_arrays(path))
    with pytest.raises(DataError, match=r"download pneumoniamnist\.npz from"):
        divide(tmp_path, shipped(), tmp_path / "out")


def test_every_image_goes_to_one_site_with_its_label_and_part(tmp_path: Path) -> None:
    """None is lost, doubled or given another one's label."""
    archive(tmp_path)
    data = shipped()
    assert data.pooled is not None
    sites = divide(tmp_path, data, tmp_path / "out").sites
    seen: dict[int, tuple[str, int]] = {}
    for site in sites:
        with np.load(tmp_path / "out" / f"{site}.npz") as arrays:
            for name in (name for name in arrays if name.endswith("_images")):
                part = name.partition("_")[0]
                for image, label in zip(arrays[name], arrays[f"{part}_labels"][:, 0], strict=True):
                    assert int(image[0, 0]) not in seen
                    seen[int(image[0, 0])] = (part, int(label))
    assert seen == {grey: ("train" if grey < 60 else "val" if grey < 70 else "test", grey % 2) for grey in range(90)}
    bounds = replace(data, pooled=replace(data.pooled, column="part", dirichlet=None, names={"train": "north"}))
    with pytest.raises(DataError, match="no image for site east, south, west, centre"):
        divide(tmp_path, bounds, tmp_path / "parts")
    with pytest.raises(DataError, match="no column 'ward'"):
        divide(tmp_path, replace(data, pooled=replace(data.pooled, column="ward")), tmp_path / "wards")


@pytest.mark.parametrize("changes", [{"column": "label_9"}, {"test": ("tset",)}, {"column": "id"}])
def test_a_split_names_a_column_and_values_that_there_are(changes: dict[str, Any]) -> None:
    """A slip of the pen would leave the test set empty."""
    data = shipped()
    with pytest.raises(ValueError, match=r"split\.column names a category"):
        replace(data, split=replace(data.split, **changes))
    with pytest.raises(ValueError, match="takes column and test"):
        SplitRule(kind="column")
    with pytest.raises(ValueError, match="takes column and test"):
        SplitRule(kind="hash", column="part", test=("test",))
