"""Bits of a pixel that the image does not use.

Why it exists: an image of 12 bits in cells of 16 has room for a letter in every second pixel, and no viewer shows it.

Rules:
    * Unused bits are zero, or above a signed value the copies of its sign.
    * One single value may break this, however often: scanners mark what lies outside the scan so.
    * Anything else is refused, not cleared: where the description is wrong, those bits are image.

What it does not do: look at the bits that the image uses, or at cells of other sizes than 8, 16 and 32 bits.

Source: PS3.5 8.1.1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmed.deid.dicom.quarantine import QuarantineError


class Bits(NamedTuple):
    """How a pixel lies in its cell: sizes in bits, `high` counts from 0."""

    allocated: int
    stored: int
    high: int
    signed: bool


def refuse_unused(cells: NDArray[np.unsignedinteger], bits: Bits) -> None:
    """Refuse pixels whose unused bits hold something.

    Args:
        cells: The cells of an image as unsigned numbers of `bits.allocated` bits, of any shape.
        bits: What the dataset says of them.

    Raises:
        QuarantineError: They do, or the description is impossible.
    """
    if not 1 <= bits.stored <= bits.high + 1 <= bits.allocated:
        raise QuarantineError("malformed")
    above = (1 << bits.allocated) - (1 << bits.high + 1)
    below = (1 << bits.high + 1 - bits.stored) - 1
    if cells.size == 0 or not int(np.bitwise_or.reduce(cells, axis=None)) & (above | below):
        return
    kind = cells.dtype.type
    unused = cells & kind(above | below)
    strange = unused != 0
    if bits.signed:
        negative = (cells & kind(1 << bits.high)) != 0
        strange &= ~(negative & (unused == above))
    found = cells[strange]
    if found.size and (found != found[0]).any():
        raise QuarantineError("unused-bits")
