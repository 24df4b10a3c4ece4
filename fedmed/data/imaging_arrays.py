"""An NPZ archive of images: which of its arrays holds them, one of them, and the range of what its type can store.

Why it exists: research sets are published as archives of thousands of images, in several arrays, in types that say more
or less about what a number means.

Rules:
    * An array that is named is taken; without a name, the only one that can hold images. Of several none is guessed.
    * Whole numbers of up to 16 bits have the range of their type. Wider ones, and floating-point ones, have none.
    * Colours stand last. What has neither one, three nor four values there is a volume, of which the middle slice is
      taken.
    * Nothing is unpickled. An array is decompressed once for all the images that are asked for in turn.

What it does not do: apply a window (see `imaging`).
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fedmed.data.imaging_bounds import check_image, check_unpacked, size_of

_COLOURS: Final = (1, 3, 4)
_LARGEST_RANGED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an array's header says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def is_archive(head: bytes) -> bool:
    """Return whether a file that begins with `head` is an archive.

    >>> is_archive(bytes([0x50, 0x4B, 3, 4])), is_archive(b"DICM")
    (True, False)
    """
    return head[:2] == b"PK"


def forms_of(source: Path | BinaryIO) -> dict[str, Form]:
    """Return the arrays of an archive by name, without reading more than their headers.

    Raises:
        Exception: Whatever zipfile and NumPy raise about a damaged archive.
    """
    found: dict[str, Form] = {}
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    read = (
                        np.lib.format.read_array_header_1_0
                        if np.lib.format.read_magic(member) == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                found[name.removesuffix(".npy")] = Form(shape=shape, dtype=dtype)
    return found


class Archive:
    """One archive; the array that was asked for last stays in memory."""

    def __init__(self, source: Path | BinaryIO) -> None:
        """Open an archive.

        Args:
            source: The file, or an open one, which must stay open.

        Raises:
            Exception: As `forms_of`.
        """
        self.source = source
        self._forms = forms_of(source)
        self._held: tuple[str, NDArray[Any]] | None = None

    def image(self, array: str, place: int | None) -> tuple[NDArray[np.float64], tuple[float, float] | None]:
        """Return one image, shape `[channels, height, width]`, and the ends of what its type can store, if any.

        Args:
            array: Its name; empty where the archive has only one that can hold images.
            place: Which of an array of images; None for an array that is one image.

        Raises:
            ValueError: There is no such image.
            Exception: As `forms_of`.
        """
        name = array or self._only(place)
        form = self._forms.get(name)
        if form is None or not _fits(form, place) or (place is not None and place >= form.shape[0]):
            raise ValueError("no such image")
        size = self.source.stat().st_size if isinstance(self.source, Path) else size_of(self.source)
        check_unpacked(math.prod(form.shape) * form.dtype.itemsize, size)
        one = form.shape if place is None else form.shape[1:]
        check_image(one if one[-1] in _COLOURS else one[-2:], size)  # of a volume one slice is taken
        stored = self._array(name)
        return _in_channels(stored if place is None else stored[place]), _limits(form.dtype)

    def _only(self, place: int | None) -> str:
        found = [name for name, form in self._forms.items() if _fits(form, place)]
        if len(found) != 1:
            raise ValueError("expected one array of images; name it")
        return found[0]

    def _array(self, name: str) -> NDArray[Any]:
        if self._held is None or self._held[0] != name:
            self._held = None  # one array at a time
            if not isinstance(self.source, Path):
                self.source.seek(0)
            with np.load(self.source, allow_pickle=False) as arrays:
                self._held = (name, arrays[name])
        return self._held[1]


def _fits(form: Form, place: int | None) -> bool:
    """Return whether an array can be an image, or images where there is a place."""
    if form.dtype.kind not in "buif" or 0 in form.shape:
        return False
    return len(form.shape) in (3, 4) if place is not None else len(form.shape) in (2, 3) and min(form.shape[:2]) > 1


def _in_channels(stored: NDArray[Any]) -> NDArray[np.float64]:
    if stored.ndim == 2:
        return np.asarray(stored[None], dtype=np.float64)
    if stored.shape[-1] in _COLOURS:
        return np.asarray(stored.transpose(2, 0, 1), dtype=np.float64)
    if stored.shape[0] <= max(_COLOURS):
        raise ValueError("expected colours last")
    return np.asarray(stored[len(stored) // 2][None], dtype=np.float64)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind in "ui" and dtype.itemsize <= _LARGEST_RANGED:
        ends = np.iinfo(dtype)
        return float(ends.min), float(ends.max)
    return None
