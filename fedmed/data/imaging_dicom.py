"""What a DICOM file shows: one frame's values in [-1, 1], and where a file stands in its series.

Why it exists: what a stored number means stands in a dozen attributes, and in multi-frame files once more for each
frame. Every reader here asks one place for them.

Rules:
    * A value goes the standard's way (PS3.3 C.7.6.3, C.11.1, C.11.2): modality LUT, or rescale slope and intercept;
      then the window: the schema's; without one the file's own VOI LUT or window; without any, the whole range of what
      can be stored. Stored values are read by their own bits and sign (pydicom drops what old files keep above them).
      MONOCHROME1 is turned over after the window, so that high is bright.
    * A window is the linear function of PS3.3 C.11.2.1.2: centre and width as they are written, not off by half. A
      file's own may also be exact or a sigmoid, as it says.
    * In an enhanced multi-frame file, what the frame's own functional group says comes first, then the shared one
      (PS3.3 C.7.6.16), then the file.
    * Padding about an image (PS3.3 C.7.5.1.1.2) is dark, also where the file is turned over.
    * Of several frames the middle one in the file's order is taken.

What it does not do: reach the schema's size or spacing (see `imaging`), or map to real-world values by other means
(PS3.3 C.7.6.16.2.11).
"""

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.filereader import read_dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from fedmed.data.imaging_bounds import check_image, check_unpacked, size_of
from fedmed.data.parts import Slice
from fedmed.data.schema import ImagePart
from fedmed.files import unpacked_most

Array = NDArray[np.float64]

_DEFLATED, _META_BYTES, _META_AT, _META_GROUP = b"1.2.840.10008.1.2.1.99", 4096, 132, 2
_GROUPS = ("PixelValueTransformationSequence", "PixelMeasuresSequence", "FrameVOILUTSequence")
_OF_FRAME = (
    "RescaleSlope", "RescaleIntercept", "PixelSpacing", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "VOILUTSequence",
)  # fmt: skip
_OF_FILE = (
    "ModalityLUTSequence", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "BitsStored",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The sides of a pixel, in mm or only in relation."""

    down: float
    across: float
    in_mm: bool


def read_dicom(file: BinaryIO, part: ImagePart) -> tuple[Array, Sides | None]:
    """Return the middle frame of a DICOM file, shape `[channels, height, width]` in [-1, 1], and a pixel's sides.

    Raises:
        Exception: Whatever pydicom and the decoders raise about a damaged file.
    """
    _check_inflated(file)
    dataset = pydicom.dcmread(file)
    _check_size(dataset, size_of(file))
    stored = dataset.pixel_array
    colour = int(dataset.SamplesPerPixel) == 3
    frame = 0
    if stored.ndim == (4 if colour else 3):
        frame = len(stored) // 2
        stored = stored[frame]
    facts = _facts(dataset, frame)
    kind = str(dataset.PhotometricInterpretation)
    high = float(2 ** int(dataset.BitsStored) - 1)
    if kind == "PALETTE COLOR":
        high = float(2 ** int(dataset.RedPaletteColorLookupTableDescriptor[2]) - 1)
        stored, colour = apply_color_lut(stored, dataset), True
    if colour:  # pydicom has turned YBR into RGB
        return windowed(stored.astype(np.float64).transpose(2, 0, 1), part, limits=(0.0, high)), _spacing(facts)
    if kind not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ValueError("another photometric interpretation")
    padding = _padding(stored, facts)
    values = np.asarray(apply_modality_lut(stored, facts), dtype=np.float64)
    shown = _shown(values[None], part, facts)
    shown = -shown if kind == "MONOCHROME1" else shown
    return np.where(padding[None], -1.0, shown), _spacing(facts)


def _check_size(dataset: Any, size: int) -> None:
    """Refuse frames that are far larger than their file, before a decoder makes room for them."""
    one = [int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)]
    check_image(one, size)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_unpacked(math.prod(one) * frames * (int(dataset.BitsAllocated) + 7) // 8, size)


def _check_inflated(file: BinaryIO) -> None:
    """Refuse a deflated DICOM file that inflates to far more than its size; its place stays at the beginning.

    Raises:
        ValueError: It does.
        Exception: Whatever a damaged file makes its readers raise.
    """
    deflated = _DEFLATED in file.read(_META_BYTES)
    file.seek(0)
    if not deflated:
        return
    file.seek(_META_AT)
    read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != _META_GROUP)
    data = file.read()
    file.seek(0)
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    engine.decompress(data, unpacked_most(len(data)))
    if engine.unconsumed_tail:
        raise ValueError("too large")


def slice_of(data: bytes) -> Slice | None:
    """Return where a DICOM file stands, or None where it has no patient or no pixels."""
    found = place_of(io.BytesIO(data))
    return found if found is not None and found.patient else None


def place_of(file: BinaryIO) -> Slice | None:
    """Return where a DICOM file stands, with or without a patient, or None where it has no pixels."""
    try:
        _check_inflated(file)
        header = pydicom.dcmread(file, stop_before_pixels=True)
        rows, number = int(header.get("Rows") or 0), int(header.get("InstanceNumber") or 0)
        found = Slice(
            patient=str(header.get("PatientID") or ""),
            series=str(header.get("SeriesInstanceUID") or ""),
            number=number,
            instance=str(header.get("SOPInstanceUID") or ""),
        )
    except Exception:  # noqa: BLE001  a damaged file makes readers raise anything
        return None
    return found if rows else None


def windowed(values: Array, part: ImagePart, *, limits: tuple[float, float] | None) -> Array:
    """Return values in [-1, 1] by the schema's window, or by `limits`: the least and the largest that can be stored.

    PS3.3 C.11.2.1.2.1: y = (x - (c - 0.5)) / (w - 1) + 0.5, clipped to [0, 1]; for w of 1 a threshold.

    Raises:
        ValueError: There is neither.
    """
    if part.centre is not None and part.width is not None:
        return _linear(values, part.centre, part.width)
    if limits is None:
        raise ValueError("no window, and values without a range of their own")
    low, high = limits
    return np.clip(2 * (values - low) / max(high - low, 1e-12) - 1, -1, 1)


def _shown(values: Array, part: ImagePart, facts: Any) -> Array:
    """Return grey values by the schema's window, the file's VOI, or the whole range."""
    if part.centre is None:
        if facts.get("VOILUTSequence"):
            bits = int(facts.VOILUTSequence[0].LUTDescriptor[2])
            looked_up = np.asarray(apply_voi(np.rint(values).astype(np.int64), facts), dtype=np.float64)
            return np.clip(2 * looked_up / ((1 << bits) - 1) - 1, -1, 1)
        own = _own_window(facts)
        if own is not None:
            return own(values)
    return windowed(values, part, limits=_range(facts))


def _own_window(facts: Any) -> Callable[[Array], Array] | None:
    """Return the file's first window, or None where it has none that can be used."""
    centre, width = _first(facts.get("WindowCenter")), _first(facts.get("WindowWidth"))
    kind = str(facts.get("VOILUTFunction") or "LINEAR").strip()
    if centre is None or width is None or width < (1.0 if kind == "LINEAR" else 1e-9):
        return None
    if kind == "LINEAR":
        return lambda values: _linear(values, centre, width)
    if kind == "LINEAR_EXACT":
        return lambda values: np.clip(2 * (values - centre) / width, -1, 1)
    if kind == "SIGMOID":
        return lambda values: np.asarray(np.tanh(2 * (values - centre) / width))
    return None


def _linear(values: Array, centre: float, width: float) -> Array:
    if width <= 1:
        return np.where(values > centre - 0.5, 1.0, -1.0)
    return np.clip(2 * ((values - (centre - 0.5)) / (width - 1) + 0.5) - 1, -1, 1)


def _first(value: Any) -> float | None:
    """Return a number, or the first of several."""
    one = value if value is None or isinstance(value, str | int | float) else next(iter(value), None)
    return None if one is None or not np.isfinite(float(one)) else float(one)


def _facts(dataset: Any, frame: int) -> Any:
    """Return the attributes that say what one frame's values mean."""
    found = pydicom.Dataset()
    found.set_original_encoding(*dataset.original_encoding)  # tables in it are read by its byte order
    for name in (*_OF_FILE, *_OF_FRAME):
        if dataset.get(name) is not None:
            found[name] = dataset[name]
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])[:1], *own[frame : frame + 1]]
    for group in groups:
        for item in (item for name in _GROUPS for item in (group.get(name) or [])[:1]):
            if "WindowCenter" in item or "VOILUTSequence" in item:  # a window is taken whole
                for name in _OF_FRAME[3:]:
                    found.pop(name, None)
            for name in _OF_FRAME:
                if item.get(name) is not None:
                    found[name] = item[name]
    return found


def _padding(stored: NDArray[np.integer], facts: Any) -> NDArray[np.bool_]:
    """Return which pixels are padding."""
    first = facts.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    last = facts.get("PixelPaddingRangeLimit", first)
    within: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return within


def _range(facts: Any) -> tuple[float, float]:
    """Return the least and the largest value that the file's format and modality transformation can give."""
    bits, signed = int(facts.BitsStored), int(facts.PixelRepresentation) == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    if "ModalityLUTSequence" in facts:
        ends = np.array([0, 2 ** int(facts.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
        return float(ends[0]), float(ends[1])
    slope, intercept = float(facts.get("RescaleSlope", 1)), float(facts.get("RescaleIntercept", 0))
    given = ends * slope + intercept
    return float(given.min()), float(given.max())


def _spacing(facts: Any) -> Sides | None:
    """Return the sides of a pixel; at the patient where known, else at the detector (PS3.3 10.7)."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = facts.get(name)
        if found is not None and len(found) == 2 and min(float(side) for side in found) > 0:
            return Sides(down=float(found[0]), across=float(found[1]), in_mm=True)
    ratio = facts.get("PixelAspectRatio")
    if ratio is not None and len(ratio) == 2 and min(int(side) for side in ratio) > 0:
        return Sides(down=float(ratio[0]) / float(ratio[1]), across=1.0, in_mm=False)
    return None
