"""From image files to arrays of one meaning: DICOM, PNG and NPZ.

Why it exists: the same tissue must have the same value at every site, whatever the scanner stored.

Rules:
    * A DICOM value goes the standard's way (PS3.3 C.7.6.3, C.11.1, C.11.2): modality LUT, or rescale slope and
      intercept; then the window, which is the schema's or, without one, the whole range of what can be stored. Stored
      values are read by their own bits and sign (pydicom drops what old files keep above them). MONOCHROME1 is turned
      over after the window, so that high is bright.
    * A window is the linear function of PS3.3 C.11.2.1.2: centre and width as they are written, not off by half.
    * Pixels that are not square are made square. With `spacing_mm` the image is brought to that spacing and then cut or
      padded about its centre, and a file that doesn't know its spacing is no image; without it the whole image is
      scaled into the schema's square.
    * Padding about an image (PS3.3 C.7.5.1.1.2) is dark, also where the file is turned over.
    * Of several frames or slices the middle one is taken: one record, one image.
    * What can't be read is no image: counted, never guessed.

What it does not do: de-identify (see `fedmed.deid.dicom`), find lesions, or remove text burned into pixels.
"""

import csv
import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image as Picture
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from fedmed.audit import ChainLog
from fedmed.crypto.seal import DataKey, seal
from fedmed.data.parts import IMAGES_FILE, IMAGES_KIND, Image, Slice, images_to_bytes
from fedmed.data.schema import ImagePart, Schema
from fedmed.data.stored import seal_of, sealed_path
from fedmed.errors import DataError
from fedmed.files import write_atomic

Array = NDArray[np.float64]
_LARGEST_SIDE = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesReport:
    """What became of a table's images; a count of patients, which stays at the site."""

    images: int
    missing: int
    unreadable: int


def prepare_images(
    table: Path,
    folder: Path,
    *,
    schema: Schema,
    token: Callable[[str], str],
    out_dir: Path,
    log: ChainLog,
    key: DataKey | None = None,
    named: str | None = None,
) -> ImagesReport:
    """Read the image of every row of a raw table and store them beside the de-identified one.

    Args:
        table: The raw table, CSV with a header; its image column names files below `folder`, or is empty. In an NPZ,
            `file.npz#12` is the image at place 12 of its first array with images.
        folder: Where the images are.
        schema: With an image part and a patient key.
        token: What the de-identified table calls a patient.
        out_dir: Where that table is.
        log: The site's audit log.
        key: What the images are sealed under; None leaves them readable.
        named: What messages call the table; None is its own name.

    Raises:
        DataError: The schema has no image or patient key, the table is no CSV with these columns, or not one image
            could be read.
    """
    images, report = images_of(table, folder, schema=schema, token=token, named=named)
    data = images_to_bytes(images)
    _store(out_dir, data, data_set=schema.name, key=key)
    body: dict[str, str | int | float | bool | None] = {
        "schema_name": schema.name,
        "schema_digest": schema.digest,
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


def images_of(
    table: Path, folder: Path, *, schema: Schema, token: Callable[[str], str], named: str | None = None
) -> tuple[dict[str, Image], ImagesReport]:
    """Return the images of a raw table by the token of the patient, and their counts; nothing is written.

    Arguments and errors are those of `prepare_images`.
    """
    part, who = schema.image, schema.patient_key
    if part is None or who is None:
        raise DataError(f"{schema.name}: expected a schema with an image and a patient key, got one without")
    images: dict[str, Image] = {}

    def keep(patient: str, image: Image) -> None:
        images.setdefault(token(patient), image)

    found = _read_each(table, folder, schema, part, keep)
    if not images:
        raise DataError(
            f"{named or table.name}: none of the {found.missing + found.unreadable} images could be read; check the"
            f" folder and the column {part.column!r}"
        )
    return images, replace(found, images=len(images))


def count_images(table: Path, folder: Path, *, schema: Schema) -> ImagesReport:
    """Read the image of every row of a raw table, keep none, and return what would become of them.

    Raises:
        DataError: As `prepare_images`, but for images that can't be read.
    """
    if schema.image is None or schema.patient_key is None:
        raise DataError(f"{schema.name}: expected a schema with an image and a patient key, got one without")
    return _read_each(table, folder, schema, schema.image, lambda _patient, _image: None)


def _read_each(
    table: Path, folder: Path, schema: Schema, part: ImagePart, keep: Callable[[str, Image], None]
) -> ImagesReport:
    """Hand each image that can be read to `keep`, and count them and the others."""
    images = missing = unreadable = 0
    for patient, name in _names(table, schema.patient_key or "", part.column, delimiter=schema.delimiter):
        image = _read_or_none(folder, name, part) if name else None
        if image is not None:
            keep(patient, image)
            images += 1
        elif name:
            unreadable += 1
        else:
            missing += 1
    return ImagesReport(images=images, missing=missing, unreadable=unreadable)


def read_image(source: Path | bytes, part: ImagePart, *, place: int | None = None) -> Image:
    """Return one image as values in [-1, 1], shape `[channels, size, size]`.

    Args:
        source: DICOM, PNG or another format that Pillow reads, or NPZ; a file, or what one holds.
        part: Window, size and spacing.
        place: Which image of an NPZ.

    Raises:
        DataError: The file is none of these, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers warn of what they repair; the values are checked below
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                values, spacing = _read(file, part, place)
        return _squared(_channels(_finite(values), part.channels), spacing, part)
    except Exception:  # noqa: BLE001  a damaged file makes readers raise anything, zlib's and zipfile's own errors too
        raise DataError(
            "an image can't be read: expected DICOM, PNG or NPZ with finite values; export it again"
        ) from None


def slice_of(data: bytes) -> Slice | None:
    """Return where a DICOM file stands, or None where it has no patient or no pixels."""
    try:
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        patient, rows = str(header.get("PatientID") or ""), int(header.get("Rows") or 0)
        number = int(header.get("InstanceNumber") or 0)
        found = Slice(
            patient=patient,
            series=str(header.get("SeriesInstanceUID") or ""),
            number=number,
            instance=str(header.get("SOPInstanceUID") or ""),
        )
    except Exception:  # noqa: BLE001  as above
        return None
    return found if patient and rows else None


def _finite(values: Array) -> Array:
    if values.ndim != 3 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("no finite image")
    return values


def _read_or_none(folder: Path, name: str, part: ImagePart) -> Image | None:
    """Return an image, or None where it can't be read or its name leads out of the folder."""
    file, _, place = name.partition("#")
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or (place and not place.isdigit()):
        return None
    try:
        return read_image(path, part, place=int(place) if place else None)
    except DataError:
        return None


def _read(file: BinaryIO, part: ImagePart, place: int | None) -> "tuple[Array, _Sides | None]":
    """Return values in [-1, 1], shape `[channels, height, width]`, and the sides of a pixel."""
    head = file.read(132)
    file.seek(0)
    if head[:2] == b"PK":
        return _windowed(_of_npz(file, place), part, high=255.0), None
    if head[128:] == b"DICM":
        return _dicom(file, part)
    with Picture.open(file) as picture:
        if max(picture.size) > _LARGEST_SIDE:
            raise ValueError("too large")
        deep = picture.mode in {"I;16", "I;16B", "I;16L", "I"}
        values = np.asarray(picture if deep else picture.convert("L" if part.channels == 1 else "RGB"), np.float64)
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return _windowed(values, part, high=65535.0 if deep else 255.0), None


def _of_npz(file: BinaryIO, place: int | None) -> Array:
    """Return one image of the first array that holds images, `[channels, height, width]`; nothing is unpickled."""
    with zipfile.ZipFile(file) as archive:
        names = sorted(archive.namelist())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        for name in (name.removesuffix(".npy") for name in names):
            stored = arrays[name]
            if stored.ndim in (3, 4) and place is not None:  # images, height, width, and perhaps channels
                found = stored[place].astype(np.float64)
            elif stored.ndim in (2, 3) and place is None and min(stored.shape[:2]) > 1:
                found = stored.astype(np.float64)
            else:
                continue
            return np.asarray(found[None] if found.ndim == 2 else found.transpose(2, 0, 1))
    raise ValueError("no images")


def _dicom(file: BinaryIO, part: ImagePart) -> "tuple[Array, _Sides | None]":
    """Return the middle frame of a DICOM file, as `_read`."""
    dataset = pydicom.dcmread(file)
    stored = dataset.pixel_array
    colour = int(dataset.SamplesPerPixel) == 3
    if stored.ndim == (4 if colour else 3):
        stored = stored[len(stored) // 2]
    kind = str(dataset.PhotometricInterpretation)
    high = float(2 ** int(dataset.BitsStored) - 1)
    if kind == "PALETTE COLOR":
        high = float(2 ** int(dataset.RedPaletteColorLookupTableDescriptor[2]) - 1)
        stored, colour = apply_color_lut(stored, dataset), True
    if colour:  # pydicom has turned YBR into RGB
        return _windowed(stored.astype(np.float64).transpose(2, 0, 1), part, high=high), _spacing(dataset)
    if kind not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ValueError("another photometric interpretation")
    padding = _padding(stored, dataset)
    low, high = _range(dataset)
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    shown = _windowed(values[None], part, low=low, high=high)
    shown = -shown if kind == "MONOCHROME1" else shown
    return np.where(padding[None], -1.0, shown), _spacing(dataset)


def _padding(stored: NDArray[np.integer], dataset: Any) -> NDArray[np.bool_]:
    """Return which pixels are padding."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    last = dataset.get("PixelPaddingRangeLimit", first)
    within: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return within


def _range(dataset: Any) -> tuple[float, float]:
    """Return the least and the largest value that the file's format and modality transformation can give."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    if "ModalityLUTSequence" in dataset:
        ends = np.array([0, 2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
        return float(ends[0]), float(ends[1])
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    given = ends * slope + intercept
    return float(given.min()), float(given.max())


def _spacing(dataset: Any) -> "_Sides | None":
    """Return the sides of a pixel; at the patient where known, else at the detector (PS3.3 10.7)."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = dataset.get(name)
        if found is not None and len(found) == 2 and min(float(side) for side in found) > 0:
            return _Sides(down=float(found[0]), across=float(found[1]), in_mm=True)
    ratio = dataset.get("PixelAspectRatio")
    if ratio is not None and len(ratio) == 2 and min(int(side) for side in ratio) > 0:
        return _Sides(down=float(ratio[0]) / float(ratio[1]), across=1.0, in_mm=False)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """The sides of a pixel, in mm or only in relation."""

    down: float
    across: float
    in_mm: bool


def _windowed(values: Array, part: ImagePart, *, low: float = 0.0, high: float) -> Array:
    """Return values in [-1, 1] by the schema's window, or by the whole range.

    PS3.3 C.11.2.1.2.1: y = (x - (c - 0.5)) / (w - 1) + 0.5, clipped to [0, 1]; for w of 1 a threshold.
    """
    if part.centre is None or part.width is None:
        return np.clip(2 * (values - low) / max(high - low, 1e-12) - 1, -1, 1)
    if part.width <= 1:
        return np.where(values > part.centre - 0.5, 1.0, -1.0)
    return np.clip(2 * ((values - (part.centre - 0.5)) / (part.width - 1) + 0.5) - 1, -1, 1)


def _channels(values: Array, wanted: int) -> Array:
    """Return grey from colour by its luminance (Rec. 601), or colour from grey by repetition."""
    if len(values) == wanted:
        return values
    if wanted == 1 and len(values) >= 3:
        return np.tensordot(np.array([0.299, 0.587, 0.114]), values[:3], axes=1)[None]
    if wanted == 3 and len(values) == 1:
        return np.repeat(values, 3, axis=0)
    raise ValueError("another number of channels")


def _squared(values: Array, sides: _Sides | None, part: ImagePart) -> Image:
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


def _names(table: Path, key: str, column: str, *, delimiter: str) -> list[tuple[str, str]]:
    """Return the patient and the image's name of each row of a raw table."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError(f"{table.name}: expected CSV in UTF-8, got something else; export the table again") from None
    if not rows or key not in rows[0] or column not in rows[0]:
        raise DataError(f"{table.name}: expected rows with columns {key!r} and {column!r}; export the table again")
    return [(row[key] or "", (row[column] or "").strip()) for row in rows if row[key]]
