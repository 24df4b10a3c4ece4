"""A set of images in one NPZ file, as research collections are published, taken for a table.

Why it exists: collections such as MedMNIST (Yang et al. 2023) come as `train_images`, `train_labels`, `val_images` and
so on in one archive. Whoever has one needs no table beside it.

Rules:
    * Each image is a row: `id` (its part and place), `part` (train, val or test), `image` (its name in the archive),
      and `label`, or `label_0`, `label_1` and so on where an image has several.
    * Images and labels of a part must be equally many; labels are whole numbers. Else the file is refused.
    * Dividing such a file gives each site a file of the same form, whose images keep their part.

What it does not do: know patients. An archive has none, so each image counts as one; where some show one patient, take
the split that the publisher made.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from fedmed.data.imaging_arrays import Form, forms_of
from fedmed.data.imaging_bounds import check_unpacked
from fedmed.data.schema import DataSet
from fedmed.errors import DataError
from fedmed.files import write_atomic

PARTS: Final = ("train", "val", "test")
ID, PART, IMAGE, LABEL = "id", "part", "image", "label"
Row = list[str]
Assign: TypeAlias = Callable[[Iterable[tuple[str, Row]]], Iterator[tuple[str, Row]]]
"""From rows with the value of the dividing column to rows with the site's name."""


def is_arrays(path: Path) -> bool:
    """Return whether a file is such a set by its name.

    >>> is_arrays(Path("north.npz")), is_arrays(Path("north.csv"))
    (True, False)
    """
    return path.suffix.lower() == ".npz"


def rows_of_arrays(path: Path) -> Iterator[Row]:
    """Yield the header, then a row for each image.

    Raises:
        DataError: The file can't be read, has no part, or one whose images and labels don't belong together.
    """
    forms = _forms(path)
    parts = [part for part in PARTS if f"{part}_images" in forms or f"{part}_labels" in forms]
    if not parts:
        raise DataError(
            f"{path.name}: expected arrays such as train_images and train_labels, got none; name its arrays so, or"
            " export a table that names its images"
        )
    several = {_labels_each(path, forms, part) for part in parts}
    if len(several) != 1:
        raise DataError(f"{path.name}: expected as many labels of an image in each part; correct the archive")
    each = several.pop()
    yield [ID, PART, IMAGE, *([LABEL] if each == 1 else [f"{LABEL}_{place}" for place in range(each)])]
    for part in parts:
        labels = _read(path, f"{part}_labels").reshape(-1, each)
        for place, found in enumerate(labels.tolist()):
            yield [f"{part} {place}", part, f"{path.name}#{part}_images#{place}", *map(str, map(int, found))]


def divide_arrays(root: Path, dataset: DataSet, out: Path, *, assign: Assign) -> tuple[str, ...]:
    """Write the file of every site of `dataset.schema` below `out`.

    Args:
        root: The folder that holds the publisher's file.
        dataset: It says which file, by which column it is divided, and which sites there are.
        out: Where the files go, named by the schema's `file`.
        assign: What gives each row a site.

    Raises:
        DataError: The file is missing or can't be read, has no such column, or a site would get no image.
    """
    pooled, schema = dataset.pooled, dataset.schema
    if pooled is None or not (root / pooled.file).is_file():
        raise DataError(
            f"{schema.name}: expected an archive of all sites in {root}; {schema.obtain or 'check the path'}"
        )
    path = root / pooled.file
    rows = rows_of_arrays(path)
    header = next(rows)
    if pooled.column not in header:
        raise DataError(f"{pooled.file}: no column {pooled.column!r}; expected one of: {', '.join(header)}")
    at = header.index(pooled.column)
    chosen: dict[str, dict[str, list[int]]] = {site: {} for site in schema.sites}
    for site, row in assign((row[at], row) for row in rows):
        if site in chosen:
            chosen[site].setdefault(row[header.index(PART)], []).append(int(row[0].rpartition(" ")[2]))
    lacking = [site for site, parts in chosen.items() if not parts]
    if lacking:
        raise DataError(
            f"{pooled.file}: no image for site {', '.join(lacking)}; expected some for each of the schema's"
        )
    names = [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")]
    held = {name: _read(path, name) for name in names if name in _forms(path)}
    for site, parts in chosen.items():
        data = io.BytesIO()
        arrays = {name: held[name][parts[part]] for name in held for part in [name.partition("_")[0]] if part in parts}
        np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub takes every keyword for its own option
        target = out / schema.file.format(site=site)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data.getvalue())
    return schema.sites


def _labels_each(path: Path, forms: dict[str, Form], part: str) -> int:
    """Return how many labels each image of a part has."""
    images, labels = forms.get(f"{part}_images"), forms.get(f"{part}_labels")
    if images is None or labels is None or len(labels.shape) not in (1, 2) or not images.shape:
        raise DataError(f"{path.name}: expected {part}_images with {part}_labels, one row each; correct the archive")
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{path.name}: {part} has {images.shape[0]} images and {labels.shape[0]} labels; expected equally many"
        )
    each = labels.shape[1] if len(labels.shape) == 2 else 1
    if labels.dtype.kind not in "bui" or each == 0:
        raise DataError(f"{path.name}: {part}_labels: expected whole numbers, got {labels.dtype}; correct the archive")
    return each


def _forms(path: Path) -> dict[str, Form]:
    try:
        return forms_of(path)
    except Exception:  # noqa: BLE001  zipfile, zlib and NumPy raise anything about a damaged file
        raise DataError(f"{path.name}: expected an NPZ archive, got something else; download it again") from None


def _read(path: Path, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    try:
        form = forms_of(path)[name]
        check_unpacked(math.prod(form.shape) * form.dtype.itemsize, path.stat().st_size)
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except Exception:  # noqa: BLE001  as above
        raise DataError(f"{path.name}: {name} can't be read; download the archive again") from None
