"""From image files to arrays of one meaning: DICOM, PNG and NPZ.

Why it exists: the same tissue must have the same value at every site, whatever the scanner stored.

Rules:
    * What a file's values mean is its format's matter (see `imaging_dicom`, `imaging_arrays`). What neither the
      schema's window nor the format gives a range for, such as floating-point values, is no image.
    * Pixels that are not square are made square. With `spacing_mm` the image is brought to that spacing and then cut or
      padded about its centre, and a file that doesn't know its spacing is no image; without it the whole image is
      scaled into the schema's square.
    * Of several frames or slices the middle one is taken: one record, one image. A folder is one series, or of several
      the longest.
    * Each row has the image that it names itself; a patient may have many.
    * What can't be read is no image: counted, never guessed.

What it does not do: de-identify (see `fedmed.deid.dicom`), find lesions, or remove text burned into pixels.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from fedmed.audit import ChainLog
from fedmed.crypto.seal import DataKey, seal
from fedmed.data.imaging_arrays import Archive, is_archive
from fedmed.data.imaging_bounds import check_image, size_of
from fedmed.data.imaging_dicom import Sides, place_of, read_dicom, slice_of, windowed
from fedmed.data.parts import IMAGES_FILE, IMAGES_KIND, Image, NamedImages, Slice, best_first, images_to_bytes
from fedmed.data.schema import ImagePart, Schema
from fedmed.data.stored import seal_of, sealed_path
from fedmed.errors import DataError
from fedmed.files import write_atomic

__all__ = ["ImagesReport", "Pictures", "count_images", "images_of", "prepare_images", "read_image", "slice_of"]

Array = NDArray[np.float64]
_LARGEST_SIDE = 20_000
_MOST_SLICES = 20_000
_FAINT = 0.1
"""Of the whole range 2; a byte's hundred grey levels span 0.8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesReport:
    """What became of the images that a table's rows name; counts of rows, which stay at the site.

    `faint` images were read, but span less than a twentieth of the range that they are given.
    """

    images: int
    missing: int
    unreadable: int
    faint: int = 0


def prepare_images(
    named: NamedImages,
    folder: Path,
    *,
    schema: Schema,
    table: str,
    out_dir: Path,
    log: ChainLog,
    key: DataKey | None = None,
    source: str = "",
) -> ImagesReport:
    """Read the images that a raw table names and store them beside the de-identified one, under their numbers.

    Args:
        named: What the rows name: files below `folder`, folders of a DICOM series, or `file.npz#12`, the image at place
            12 of the archive's one array of images, or `file.npz#train_images#12`.
        folder: Where the images are.
        schema: With an image part.
        table: The SHA-256 of the de-identified table whose rows hold the numbers.
        out_dir: Where that table is.
        log: The site's audit log.
        key: What the images are sealed under; None leaves them readable.
        source: What messages call the raw table.

    Raises:
        DataError: The schema has no image, or not one image could be read.
    """
    images, report = images_of(named, folder, schema=schema)
    if not images:
        raise DataError(
            f"{source or schema.name}: none of the {report.missing + report.unreadable} images could be read; check the"
            f" folder and the column {_part_of(schema).column!r}"
        )
    data = images_to_bytes(images)
    _store(out_dir, data, data_set=schema.name, key=key)
    body: dict[str, str | int | float | bool | None] = {
        "schema_name": schema.name,
        "schema_digest": schema.digest,
        "table_sha256": table,
        "output_sha256": hashlib.sha256(data).hexdigest(),
        "images": report.images,
        "missing": report.missing,
        "unreadable": report.unreadable,
    }
    log.append(IMAGES_KIND, body)
    return report


def _store(folder: Path, data: bytes, *, data_set: str, key: DataKey | None) -> None:
    """Write the images, sealed where there is a key, and leave nothing of the other form."""
    plain, sealed, found = folder / IMAGES_FILE, sealed_path(folder, IMAGES_FILE), seal_of(data_set, IMAGES_FILE, key)
    if found is None:
        write_atomic(plain, data)
        sealed.unlink(missing_ok=True)
    else:
        write_atomic(sealed, seal(data, key=found.key, name=found.name))
        plain.unlink(missing_ok=True)


def images_of(named: NamedImages, folder: Path, *, schema: Schema) -> tuple[dict[str, Image], ImagesReport]:
    """Return the images that a raw table names by their numbers, and their counts; nothing is written.

    Args:
        named: As for `prepare_images`.
        folder: Where the images are.
        schema: With an image part.

    Raises:
        DataError: The schema has no image.
    """
    part = _part_of(schema)
    images: dict[str, Image] = {}
    report = _report(named, ((str(number), image) for number, image in _each(named, folder, part)), images)
    return images, report


def count_images(named: NamedImages, folder: Path, *, schema: Schema) -> ImagesReport:
    """Read the images that a raw table names, keep none, and return what would become of them.

    Raises:
        DataError: The schema has no image.
    """
    return _report(named, ((str(number), image) for number, image in _each(named, folder, _part_of(schema))), None)


def _part_of(schema: Schema) -> ImagePart:
    if schema.image is None:
        raise DataError(f"{schema.name}: expected a schema with an image, got one without")
    return schema.image


def _each(named: NamedImages, folder: Path, part: ImagePart) -> Iterator[tuple[int, Image | None]]:
    pictures = Pictures(folder, part)
    for number, name in named.names():
        yield number, pictures.read(name)


def _report(
    named: NamedImages, found: Iterator[tuple[str, Image | None]], keep: dict[str, Image] | None
) -> ImagesReport:
    """Count the rows of each image, and keep the images where they are wanted."""
    images = unreadable = faint = 0
    for number, image in found:
        rows = named.rows(number)
        if image is None:
            unreadable += rows
            continue
        images += rows
        faint += rows if float(np.ptp(image)) < _FAINT else 0
        if keep is not None:
            keep[number] = image
    return ImagesReport(images=images, missing=named.missing, unreadable=unreadable, faint=faint)


class Pictures:
    """The images below a folder, by name; an archive's array stays open until another one is asked for."""

    def __init__(self, folder: Path, part: ImagePart) -> None:
        self._folder, self._part = folder, part
        self._archive: Archive | None = None

    def read(self, name: str) -> Image | None:
        """Return an image, or None where it can't be read or its name leads out of the folder."""
        file, _, place = name.partition("#")
        path = self._folder / file
        try:
            if not path.resolve().is_relative_to(self._folder.resolve()):
                return None
            if path.is_dir():
                return None if place else _of_series(path, self._part)
            return self._of_archive(path, place) if place else read_image(path, self._part)
        except (DataError, OSError, ValueError):  # a name with a null byte is a ValueError
            return None

    def _of_archive(self, path: Path, place: str) -> Image:
        array, number = _place_of(place)
        with path.open("rb") as file:
            if not is_archive(file.read(132)) and not array:
                return read_image(path, self._part)
        if self._archive is None or self._archive.source != path:
            self._archive = None  # one archive at a time
            with _readable():
                self._archive = Archive(path)
        with _readable():
            return _finished(*_of_archive(self._archive, array, number, self._part), self._part)


def read_image(source: Path | bytes, part: ImagePart, *, place: int | None = None) -> Image:
    """Return one image as values in [-1, 1], shape `[channels, size, size]`.

    Args:
        source: DICOM, PNG or another format that Pillow reads, or NPZ; a file, or what one holds.
        part: Window, size and spacing.
        place: Which image of an NPZ.

    Raises:
        DataError: The file is none of these, or damaged.
    """
    with _readable(), io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        return _finished(*_read(file, part, place), part)


@contextmanager
def _readable() -> Iterator[None]:
    """Make one error of all that a damaged file makes readers raise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers warn of what they repair; the values are checked
            yield
    except Exception:  # noqa: BLE001  readers raise anything, zlib's and zipfile's own errors too
        raise DataError(
            "an image can't be read: expected DICOM, PNG or NPZ with finite values, and a window where the format has"
            " no range of its own; export it again"
        ) from None


def _place_of(place: str) -> tuple[str, int | None]:
    """Return the array and the number of `12`, `train_images` or `train_images#12`."""
    array, _, number = place.rpartition("#")
    if number.isdecimal():
        return array, int(number)
    if array:
        raise DataError("expected a number behind the name of an array")
    return number, None


def _of_series(folder: Path, part: ImagePart) -> Image | None:
    """Return the image that stands for a folder of a DICOM series, or None where it has none or is of two patients."""
    places: dict[Slice, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())[:_MOST_SLICES]:
        with path.open("rb") as file:
            found = place_of(file)
        if found is not None:
            places.setdefault(found, path)
    if len({one.patient for one in places}) > 1:
        return None
    for one in best_first(list(places)):
        try:
            return read_image(places[one], part)
        except DataError:
            continue
    return None


def _finished(values: Array, sides: Sides | None, part: ImagePart) -> Image:
    return _squared(_channels(_finite(values), part.channels), sides, part)


def _finite(values: Array) -> Array:
    if values.ndim != 3 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("no finite image")
    return values


def _of_archive(archive: Archive, array: str, place: int | None, part: ImagePart) -> tuple[Array, Sides | None]:
    values, limits = archive.image(array, place)
    return windowed(_finite(values), part, limits=limits), None


def _read(file: BinaryIO, part: ImagePart, place: int | None) -> tuple[Array, Sides | None]:
    """Return values in [-1, 1], shape `[channels, height, width]`, and the sides of a pixel."""
    head = file.read(132)
    file.seek(0)
    if is_archive(head):
        return _of_archive(Archive(file), "", place, part)
    if head[128:] == b"DICM":
        return read_dicom(file, part)
    return _of_picture(file, part), None


def _of_picture(file: BinaryIO, part: ImagePart) -> Array:
    """Return what Pillow reads; 16 bits stay 16, and what has no range of its own needs a window."""
    limits: tuple[float, float] | None = (0.0, 255.0)
    with Picture.open(file) as picture:
        if max(picture.size) > _LARGEST_SIDE:
            raise ValueError("too large")
        check_image((*picture.size, part.channels), size_of(file))
        wide = picture.mode in {"I", "F"} or picture.mode.startswith("I;16")
        if wide:
            sixteen = picture.mode.startswith("I;16") or picture.format == "PNG"
            limits = (0.0, 65535.0) if sixteen else None
        values = np.asarray(picture if wide else picture.convert("L" if part.channels == 1 else "RGB"), np.float64)
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return windowed(_finite(values), part, limits=limits)


def _channels(values: Array, wanted: int) -> Array:
    """Return grey from colour by its luminance (Rec. 601), or colour from grey by repetition."""
    if len(values) == wanted:
        return values
    if wanted == 1 and len(values) in (3, 4):
        return np.tensordot(np.array([0.299, 0.587, 0.114]), values[:3], axes=1)[None]
    if wanted == 3 and len(values) in (1, 4):
        return np.repeat(values, 3, axis=0) if len(values) == 1 else values[:3]
    raise ValueError("another number of channels")


def _squared(values: Array, sides: Sides | None, part: ImagePart) -> Image:
    """Return the square of the schema's size."""
    height, width = (float(side) for side in values.shape[1:])
    if sides is not None:
        height, width = height * sides.down, width * sides.across
    if part.spacing_mm is None:
        scale = part.size / max(height, width)
    elif sides is not None and sides.in_mm:
        scale = 1 / part.spacing_mm
    else:
        raise ValueError("no spacing")
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    return _centred(_scaled(values, target), part.size)


def _scaled(values: Array, target: tuple[int, int]) -> Array:
    """Return each channel scaled to height and width, by area where it shrinks."""
    if max(target) > _LARGEST_SIDE:
        raise ValueError("too large")
    size = (target[1], target[0])
    scaled = [
        np.asarray(Picture.fromarray(channel.astype(np.float32)).resize(size, Picture.Resampling.BILINEAR), np.float64)
        for channel in values
    ]
    return np.stack(scaled)


def _centred(values: Array, size: int) -> Image:
    """Return the central square, padded with the lowest value."""
    found = np.full((len(values), size, size), -1.0, dtype=np.float32)
    height, width = values.shape[1:]
    rows, columns = min(height, size), min(width, size)
    top, left = (height - rows) // 2, (width - columns) // 2
    down, right = (size - rows) // 2, (size - columns) // 2
    found[:, down : down + rows, right : right + columns] = values[:, top : top + rows, left : left + columns]
    return np.clip(found, -1, 1)
