"""How far pixel data reach: exactly what their description asks for, compressed or not.

Why it exists: bytes that no image needs may hold anything, and nobody sees them.

Rules:
    * One element holds the pixels. Native ones are cut to the described length and have nothing in unused bits.
    * Compressed ones that stay compressed hold frames and nothing else (see `codestream`); those that are decoded and
      masked leave the rest behind anyway, and are as large as their description before a decoder sees them.
    * Nothing is made as large as a description says before the bytes are there to fill it.

What it does not do: judge what the image shows.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedmed.deid.dicom.bits import Bits, refuse_unused
from fedmed.deid.dicom.codestream import Shape, check_claims, extended_offsets, only_frames
from fedmed.deid.dicom.pixels import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    FLOAT_PIXELS,
    FRAMES,
    HIGH_BIT,
    PHOTOMETRIC,
    ROWS,
    SAMPLES,
    SIGNED,
    number,
    words,
)
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import PIXEL_DATA, Element

OFFSETS, LENGTHS = 0x7FE00001, 0x7FE00002
MAX_DECODED_BYTES = 2 << 30
"""What the samples of a file may take when they are decoded, at two bytes each."""
LEAST_DECODED_BYTES, DECODED_OF_A_BYTE = 128 << 20, 256
"""What they may take in any file, and what each compressed byte adds: a blank image compresses to nothing."""

_CELLS = frozenset({8, 16, 32})


def check_extent(
    dataset: Mapping[int, Element], *, little: bool, encapsulated: bool, rle: bool, decoded: bool
) -> dict[int, Element]:
    """Return `dataset` with pixel data that hold what their description asks for and nothing else.

    Args:
        dataset: As it came.
        little: Its byte order.
        encapsulated: Whether the transfer syntax asks for encapsulated pixel data.
        rle: Whether it is the one of RLE.
        decoded: Whether the pixels will be decoded, so that nothing of their streams is written.

    Raises:
        QuarantineError: Pixels are missing, are encapsulated where the transfer syntax says otherwise, or hold more.
    """
    found = [tag for tag in (PIXEL_DATA, *FLOAT_PIXELS) if tag in dataset]
    if len(found) > 1:
        raise QuarantineError("two-images")
    changed = dict(dataset)
    for tag in found:
        element = dataset[tag]
        if element.encapsulated != encapsulated or element.items is not None:
            raise QuarantineError("malformed")
        if not encapsulated:
            changed[tag] = _native(dataset, element, little=little)
        elif decoded:
            shape = _shape(dataset, little=little)
            most = min(MAX_DECODED_BYTES, LEAST_DECODED_BYTES + DECODED_OF_A_BYTE * len(element.value))
            if shape.frames * shape.pixels * shape.samples * 2 > most:
                raise QuarantineError("too-large")
            check_claims(element.value, shape, rle=rle)
        else:
            changed[tag] = replace(element, value=only_frames(element.value, _shape(dataset, little=little), rle=rle))
    _check_offsets(changed, encapsulated=encapsulated)
    return changed


def _native(dataset: Mapping[int, Element], element: Element, *, little: bool) -> Element:
    shape = _shape(dataset, little=little)
    total = shape.frames * shape.pixels * shape.samples * shape.bits.allocated
    if words(dataset, PHOTOMETRIC) == ["YBR_FULL_422"]:
        total = total * 2 // 3
    wanted = (total + 7) // 8
    if len(element.value) < wanted or wanted == 0:
        raise QuarantineError("truncated")
    if len(element.value) > wanted:
        element = replace(element, value=element.value[:wanted])
    if element.tag == PIXEL_DATA and shape.bits.allocated in _CELLS:
        order = "<" if little else ">"
        refuse_unused(np.frombuffer(element.value, dtype=f"{order}u{shape.bits.allocated // 8}"), shape.bits)
    return element


def _shape(dataset: Mapping[int, Element], *, little: bool) -> Shape:
    def whole(tag: int, default: int | None = None) -> int:
        return number(dataset, tag, little=little, default=default)

    allocated = whole(BITS_ALLOCATED)
    stored = whole(BITS_STORED, allocated)
    bits = Bits(allocated, stored, whole(HIGH_BIT, stored - 1), whole(SIGNED, 0) == 1)
    return Shape(whole(FRAMES, 1), whole(ROWS), whole(COLUMNS), whole(SAMPLES, 1), bits)


def _check_offsets(dataset: dict[int, Element], *, encapsulated: bool) -> None:
    """Remove the extended tables of offsets where they are not those of the frames."""
    if OFFSETS not in dataset and LENGTHS not in dataset:
        return
    true = extended_offsets(dataset[PIXEL_DATA].value) if encapsulated and PIXEL_DATA in dataset else None
    stored = tuple(dataset[tag].value if tag in dataset else b"" for tag in (OFFSETS, LENGTHS))
    if true != stored:
        dataset.pop(OFFSETS, None)
        dataset.pop(LENGTHS, None)
