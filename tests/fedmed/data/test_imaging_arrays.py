"""Archives of images: the array that is named, in the range of its type."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from fedmed.data.imaging import Pictures, read_image
from fedmed.data.schema import ImagePart
from fedmed.errors import DataError

PART = ImagePart(column="slide", size=5)
WINDOW = ImagePart(column="slide", size=5, centre=0.5, width=3.0)


def grey(folder: Path, name: str, part: ImagePart = PART) -> float | None:
    """Return the value of a uniform image, None where it can't be read."""
    found = Pictures(folder, part).read(name)
    return None if found is None else float(found[0, 2, 2])


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        (np.uint8, 255, 1.0), (np.uint16, 65535, 1.0), (np.uint16, 30000, 2 * 30000 / 65535 - 1), (np.bool_, 1, 1.0),
        (np.int16, -32768, -1.0), (np.int16, 32767, 1.0), (np.int8, -128, -1.0),
    ],
)  # fmt: skip
def test_a_number_has_the_range_of_its_type(tmp_path: Path, dtype: Any, value: int, wanted: float) -> None:
    """Sixteen bits aren't cut to the eight of a photograph."""
    np.savez(tmp_path / "a.npz", slide=np.full((6, 6), value, dtype))
    assert grey(tmp_path, "a.npz") == pytest.approx(wanted, abs=1e-4)
    assert float(read_image(tmp_path / "a.npz", PART)[0, 2, 2]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.int64, np.uint32])
def test_values_without_a_range_need_a_window(tmp_path: Path, dtype: Any) -> None:
    """Floating-point values in 0..1 would all be black, and nobody would know."""
    np.savez(tmp_path / "a.npz", slide=np.ones((6, 6), dtype))
    assert grey(tmp_path, "a.npz") is None
    assert grey(tmp_path, "a.npz", WINDOW) == pytest.approx(2 * (1 / 2 + 0.5) - 1)
    with pytest.raises(DataError, match="a window where the format has no range"):
        read_image(tmp_path / "a.npz", PART)


def test_floating_point_pictures_need_a_window_too(tmp_path: Path) -> None:
    """A TIFF of such values is not cut to a byte."""
    Picture.fromarray(np.full((6, 6), 0.5, np.float32)).save(tmp_path / "a.tiff")
    assert grey(tmp_path, "a.tiff") is None
    assert grey(tmp_path, "a.tiff", WINDOW) is not None


def test_an_array_that_is_named_is_taken(tmp_path: Path) -> None:
    """Of several none is guessed: an image of the wrong array would train under another one's label."""
    levels = {"alpha": 0, "beta": 255}
    np.savez(tmp_path / "a.npz", **{name: np.full((3, 6, 6), value, np.uint8) for name, value in levels.items()})
    assert [grey(tmp_path, f"a.npz#{name}#2") for name in ("alpha", "beta", "gamma")] == [-1.0, 1.0, None]
    assert [grey(tmp_path, f"a.npz#{rest}") for rest in ("2", "beta#3", "beta#-1", "beta#x", "beta#")] == [None] * 5
    np.savez(tmp_path / "b.npz", left=np.zeros((6, 6), np.uint8), right=np.full((6, 6), 255, np.uint8))
    assert [grey(tmp_path, name) for name in ("b.npz", "b.npz#left", "b.npz#right")] == [None, -1.0, 1.0]


def test_labels_beside_images_are_no_images(tmp_path: Path) -> None:
    """An archive with one array of images needs no name, whatever else is in it."""
    labels = {"labels": np.zeros((2, 1), np.uint8), "who": np.array(["a", "b"])}
    np.savez(tmp_path / "a.npz", slides=np.full((2, 6, 6), 255, np.uint8), **labels)
    assert grey(tmp_path, "a.npz#1") == 1.0


def test_colours_stand_last_and_a_volume_gives_its_middle(tmp_path: Path) -> None:
    """Three slices of a body are not red, green and blue."""
    coloured = np.zeros((1, 6, 6, 3), np.uint8)
    coloured[..., 1] = 255
    volume = np.zeros((1, 7, 6, 6), np.uint8)
    volume[0, 3] = 255
    np.savez(tmp_path / "a.npz", coloured=coloured, volume=volume, first=np.zeros((1, 3, 6, 6), np.uint8))
    assert grey(tmp_path, "a.npz#coloured#0") == pytest.approx(2 * 0.587 - 1, abs=1e-6)
    assert grey(tmp_path, "a.npz#volume#0") == 1.0
    assert grey(tmp_path, "a.npz#first#0") is None


def test_an_archive_is_decompressed_once_for_all_its_images(tmp_path: Path) -> None:
    """A published set of many images is read in seconds, not hours."""
    values = np.random.default_rng(0).integers(0, 255, (3000, 28, 28), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", slides=values)
    pictures = Pictures(tmp_path, PART)
    began = time.process_time()
    pictures.read("a.npz#slides#0")
    first = time.process_time() - began
    began = time.process_time()
    assert all(pictures.read(f"a.npz#slides#{place}") is not None for place in range(1, 11))
    assert time.process_time() - began < 5 * first
