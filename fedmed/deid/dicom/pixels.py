"""Pixels: which may pass as they are, which are masked, and which files a person must look at.

Why it exists: text that is burnt into an image cannot be found reliably, and BurnedInAnnotation cannot be trusted. What
can be known is how a class of images comes about, and where an ultrasound machine puts its image.

Rules:
    * Pixels pass untouched, byte for byte, only in classes that scanners fill themselves, and in those that the site
      vouches for; anything that looks like a screen capture does not.
    * Ultrasound passes only with regions (PS3.3 C.8.5.5); everything outside their union is blackened in every frame.
    * Everything else raises `QuarantineError`, with a reason that names no value.

What it does not do: find text by recognition, or hide faces that a head scan could be rendered into.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.utils import pixel_array

from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import PIXEL_DATA, Element
from fedmed.deid.dicom.values import texts

Pixels = Literal["none", "untouched", "unassessed", "mask"]
"""`unassessed`: the option Clean Pixel Data is off, so nobody vouches for them."""

FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
ROWS, COLUMNS, SAMPLES, PHOTOMETRIC, PLANAR = 0x00280010, 0x00280011, 0x00280002, 0x00280004, 0x00280006
FRAMES, BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED = 0x00280008, 0x00280100, 0x00280101, 0x00280102, 0x00280103
BURNED_IN, IMAGE_TYPE, CONVERSION, MODALITY = 0x00280301, 0x00080008, 0x00080064, 0x00080060
REGIONS, REGION_CORNERS = 0x00186011, (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_ULTRASOUND = frozenset(_STORAGE + last for last in ("3", "3.1", "6", "6.1"))
_CAPTURES = frozenset(_STORAGE + last for last in ("7", "7.1", "7.2", "7.3", "7.4"))
_RT_DOSE = _STORAGE + "481.2"  # the one image class that may hold no image, only histograms
_DOCUMENTS = _STORAGE + "104."
_OPAQUE = frozenset({_STORAGE + "66"})
_SCANNERS = frozenset(
    _STORAGE + last
    for last in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),  # radiography, mammography
        *("12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.2", "13.1.3"),  # angiography, fluoroscopy, tomosynthesis
        *("2", "2.1", "2.2", "4", "4.1", "4.4"),  # CT, MR
        *("5", "20", "128", "128.1", "130"),  # nuclear medicine, PET
        *("30", "66.4", "481.1", "481.2"),  # parametric maps, segmentations, RT images and doses
    )
)
_CAPTURE_WORDS = ("SCREEN", "CAPTURE", "REPORT", "DOSE_INFO", "DOSE INFO", "PROTOCOL", "PATIENT PROT", "PASTED")


def assess(dataset: Mapping[int, Element], sop_class: str, options: DicomOptions, *, little: bool) -> Pixels:
    """Decide what happens to the pixels of a file, from its dataset as it came.

    Raises:
        QuarantineError: A person must look at the file.
    """
    _refuse_class(dataset, sop_class, options)
    if all(tag not in dataset for tag in (PIXEL_DATA, *FLOAT_PIXELS)):
        if sop_class in _SCANNERS | _ULTRASOUND and (ROWS in dataset or sop_class != _RT_DOSE):
            raise QuarantineError("no-pixels")
        return "none"
    if any(0x6000 <= tag >> 16 <= 0x60FF and tag >> 16 << 16 | 0x3000 not in dataset for tag in dataset):
        raise QuarantineError("overlay-in-pixels")
    ultrasound = sop_class in _ULTRASOUND
    if words(dataset, BURNED_IN) == ["YES"] and not (ultrasound and options.burned_in == "mask"):
        raise QuarantineError("burned-in")
    if ultrasound:
        if not options.clean_pixel_data or not _items(dataset, REGIONS):
            raise QuarantineError("ultrasound-without-regions")
        _boxes(dataset, little=little)
        return "mask"
    if sop_class not in _SCANNERS and sop_class not in options.trusted_pixels:
        raise QuarantineError("pixels-unassessed")
    if sop_class in _SCANNERS and _looks_captured(dataset):
        raise QuarantineError("screen-capture")
    return "untouched" if options.clean_pixel_data else "unassessed"


def region_mask(dataset: Mapping[int, Element], *, little: bool) -> NDArray[np.bool_]:
    """Return which pixels lie outside every ultrasound region, as an array of shape (rows, columns).

    The array is as large as the dataset says that the image is: look at the pixels first (see `extent`).

    Raises:
        QuarantineError: A region is no rectangle inside the image, or the regions leave nothing outside.
    """
    rows, columns = number(dataset, ROWS, little=little), number(dataset, COLUMNS, little=little)
    outside = np.ones((rows, columns), dtype=np.bool_)
    for left, top, right, bottom in _boxes(dataset, little=little):
        outside[top : bottom + 1, left : right + 1] = False
    if not outside.any():
        raise QuarantineError("ultrasound-regions")
    return outside


def mask_native(dataset: Mapping[int, Element], outside: NDArray[np.bool_], *, little: bool) -> dict[int, Element]:
    """Return `dataset` with the pixels `outside` blackened in every frame of uncompressed pixel data.

    Guarantees: pixels inside the regions keep their bytes.
    """
    rows, columns = outside.shape
    samples = number(dataset, SAMPLES, little=little, default=1)
    size = number(dataset, BITS_ALLOCATED, little=little)
    element = dataset[PIXEL_DATA]
    photometric = words(dataset, PHOTOMETRIC)
    if size not in {8, 16} or samples not in {1, 3} or photometric == ["YBR_FULL_422"]:
        raise QuarantineError("pixels-undecodable")
    pixels = np.frombuffer(bytearray(element.value), dtype=np.uint8 if size == 8 else np.uint16)
    length = rows * columns * samples
    frames = number(dataset, FRAMES, little=little, default=1)
    planar = samples == 3 and number(dataset, PLANAR, little=little, default=0) == 1
    shape = (frames, samples, rows, columns) if planar else (frames, rows, columns, samples)
    image = pixels[: frames * length].reshape(shape)
    black = [0, 128, 128] if photometric[0].startswith("YBR") else [0] * samples
    for sample, level in enumerate(black[:samples]):
        plane = image[:, sample] if planar else image[..., sample]
        plane[:, outside] = level
    return dict(dataset) | {PIXEL_DATA: replace(element, value=pixels.tobytes())}


def mask_compressed(dataset: Mapping[int, Element], outside: NDArray[np.bool_], part10: bytes) -> dict[int, Element]:
    """Return `dataset` with decoded pixels, blackened `outside`, for explicit VR little endian.

    Args:
        dataset: The cleaned dataset, little endian.
        outside: As `region_mask` returns it.
        part10: The same dataset as a file in its compressed transfer syntax.

    Raises:
        QuarantineError: No decoder can read the pixels, or their shape is not the described one.
    """
    try:
        source = dcmread(BytesIO(part10))
        image = np.array(pixel_array(source))
    except Exception:  # noqa: BLE001  decoders raise anything, and their text may hold values
        raise QuarantineError("pixels-undecodable") from None
    samples = number(dataset, SAMPLES, little=True, default=1)
    shape = (number(dataset, FRAMES, little=True, default=1), *outside.shape, samples)
    if image.size != math.prod(shape) or image.dtype.kind not in "ui" or image.dtype.itemsize > 2:
        raise QuarantineError("pixels-undecodable")
    image = image.reshape(shape)
    image[:, outside] = 0
    bits = 8 * image.dtype.itemsize
    changed = [
        Element(PIXEL_DATA, "OB" if bits == 8 else "OW", image.astype(image.dtype.newbyteorder("<")).tobytes()),
        Element(BITS_ALLOCATED, "US", bits.to_bytes(2, "little")),
    ]
    if samples == 3:
        changed += [Element(PHOTOMETRIC, "CS", b"RGB "), Element(PLANAR, "US", bytes(2))]
    return dict(dataset) | {element.tag: element for element in changed}


def number(dataset: Mapping[int, Element], tag: int, *, little: bool, default: int | None = None) -> int:
    """Return the one whole number in a US, UL or IS attribute.

    Raises:
        QuarantineError: It is absent and has no default, or is no number.
    """
    element = dataset.get(tag)
    if element is None or not element.value:
        if default is None:
            raise QuarantineError("malformed")
        return default
    if element.vr == "IS":
        parts = texts(element.value)
        if len(parts) != 1 or not parts[0].isdecimal() or len(parts[0]) > 9:
            raise QuarantineError("malformed")
        return int(parts[0])
    if len(element.value) != (2 if element.vr in {"US", "SS"} else 4):
        raise QuarantineError("malformed")
    return int.from_bytes(element.value, "little" if little else "big")


def words(dataset: Mapping[int, Element], tag: int) -> list[str]:
    """Return the values of a text attribute in capitals, without empty ones."""
    element = dataset.get(tag)
    return [part.upper() for part in texts(element.value) if part] if element is not None else []


def _boxes(dataset: Mapping[int, Element], *, little: bool) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom of each ultrasound region, the last two included."""
    rows, columns = number(dataset, ROWS, little=little), number(dataset, COLUMNS, little=little)
    boxes: list[tuple[int, int, int, int]] = []
    for item in _items(dataset, REGIONS):
        region = {element.tag: element for element in item}
        left, top, right, bottom = (_corner(region, tag, little=little) for tag in REGION_CORNERS)
        if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
            raise QuarantineError("ultrasound-regions")
        boxes.append((left, top, right, bottom))
    return boxes


def _corner(region: Mapping[int, Element], tag: int, *, little: bool) -> int:
    try:
        return number(region, tag, little=little)
    except QuarantineError:
        raise QuarantineError("ultrasound-regions") from None


def _refuse_class(dataset: Mapping[int, Element], sop_class: str, options: DicomOptions) -> None:
    entry = UID_dictionary.get(sop_class)
    if sop_class == "1.2.840.10008.1.3.10":
        raise QuarantineError("dicomdir")
    if entry is None or entry[1] != "SOP Class" or "Storage" not in entry[0] or sop_class in _OPAQUE:
        raise QuarantineError("sop-class")
    if sop_class.startswith(_DOCUMENTS) or 0x00420011 in dataset:
        raise QuarantineError("encapsulated-document")
    if sop_class in _CAPTURES and sop_class not in options.trusted_pixels:
        raise QuarantineError("secondary-capture")


def _looks_captured(dataset: Mapping[int, Element]) -> bool:
    colour = not all(word.startswith("MONOCHROME") for word in words(dataset, PHOTOMETRIC))
    kind = words(dataset, IMAGE_TYPE)
    named = any(marker in word for word in kind[2:] for marker in _CAPTURE_WORDS)
    return colour or named or bool(words(dataset, CONVERSION))


def _items(dataset: Mapping[int, Element], tag: int) -> tuple[tuple[Element, ...], ...]:
    element = dataset.get(tag)
    return element.items or () if element is not None else ()
