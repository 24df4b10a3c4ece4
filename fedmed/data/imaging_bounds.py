"""How large an image may be for the bytes that it comes in.

Why it exists: a blank square of a thousand million pixels takes a few kilobytes, and whoever opens it gigabytes.

Rules:
    * A few bytes may stand for what any scanner makes; beyond that each byte of the file adds some.
    * Sizes are compared as a file says them, before anything is made as large.

What it does not do: open a file.
"""

import math
import os
from collections.abc import Sequence
from typing import BinaryIO, Final

from fedmed.files import unpacked_most

LEAST_VALUES: Final = 1 << 24
VALUES_OF_A_BYTE: Final = 32


def size_of(file: BinaryIO) -> int:
    """Return how many bytes an open file has; its place stays."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def check_image(shape: Sequence[int], size: int) -> None:
    """Refuse one image of more values than a file of `size` bytes may hold.

    Raises:
        ValueError: It has more.
    """
    if math.prod(shape) > LEAST_VALUES + VALUES_OF_A_BYTE * size:
        raise ValueError("too large")


def check_unpacked(unpacked: int, size: int) -> None:
    """Refuse what a file of `size` bytes says it unpacks to, if it is far more.

    Raises:
        ValueError: It is.
    """
    if unpacked > unpacked_most(size):
        raise ValueError("too large")
