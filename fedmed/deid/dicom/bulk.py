"""Binary values beside the pixels: as long as the counts beside them say, and no longer.

Why it exists: waveforms, spectra, tables of colours and meshes are bytes that no reader shows. What stands behind the
last sample may be anything.

Rules:
    * Where the dataset counts the samples, a value is cut to them; a shorter one, or one without its counts, goes.
    * Where it does not, a value is a whole number of its cells.

What it does not do: judge samples, or pixels (see `extent`).

Source: PS3.3 C.10.9 (waveforms), C.8.14 (spectroscopy), C.7.6.3, C.7.9 and C.11 (lookup tables), C.27 (surfaces),
C.20.3 (deformation grids), C.36.2 (compensators and blocks).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fedmed.deid.dicom.pixels import COLUMNS, FRAMES, ROWS, number, words
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import Element

_CELLS = {"OB": 1, "OB or OW": 1, "OW": 2, "US or OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_TABLES = {
    0x00281201: 0x00281101, 0x00281202: 0x00281102, 0x00281203: 0x00281103, 0x00281204: 0x00281104,
    0x00281408: 0x00281407, 0x00283006: 0x00283002,
}  # fmt: skip
_SEGMENTED = frozenset(range(0x00281221, 0x00281225))
_GRID_SIZE, _COMPLEX = 0x00640007, 0x00289108

Number = Callable[..., int]


def within_counts(element: Element, dataset: Mapping[int, Element], vr: str, *, little: bool) -> Element | None:
    """Return a binary element that ends where its samples do, or None if it does not reach that far.

    Args:
        element: The element as it came.
        dataset: The dataset or item that holds it.
        vr: What the dictionary says of it.
        little: The byte order.
    """
    try:
        size = _size(element, dataset, little=little)
    except QuarantineError:
        return None
    if size is None:
        return element if len(element.value) % _CELLS.get(vr, 1) == 0 else None
    if len(element.value) < size:
        return None
    return element if len(element.value) == size else replace(element, value=element.value[:size])


def _size(element: Element, dataset: Mapping[int, Element], *, little: bool) -> int | None:
    """Return how many bytes the counts in `dataset` ask for, or None where it has no counts for this attribute."""
    tag = element.tag
    if tag in _TABLES:
        return _table_size(dataset, _TABLES[tag], len(element.value), little=little)
    if tag in _SEGMENTED:
        entries, _, bits = _words_of(dataset, tag - 0x120, "u2", 3, little=little)
        order = "<" if little else ">"
        cell = np.dtype("u1" if bits <= 8 else order + "u2")
        return _segments_size(element.value, entries or 1 << 16, cell)

    def count(counted: int, default: int | None = None) -> int:
        return number(dataset, counted, little=little, default=default)

    if tag == 0x00640009:
        return 12 * int(np.prod(_words_of(dataset, _GRID_SIZE, "u4", 3, little=little), dtype=np.int64))
    if tag == 0x56000020:
        parts = 2 if words(dataset, _COMPLEX) == ["COMPLEX"] else 1
        points = count(0x00289001, 1) * count(0x00289002)
        return 4 * parts * points * count(ROWS, 1) * count(COLUMNS, 1) * count(FRAMES, 1)
    formula = _FORMULAS.get(tag)
    return None if formula is None else formula(count)


_FORMULAS: Mapping[int, Callable[[Number], int]] = {
    0x54001010: lambda count: count(0x003A0005) * count(0x003A0010) * count(0x54001004) // 8,
    0x5400100A: lambda count: count(0x54001004) // 8,
    0x54000110: lambda count: (count(0x003A021A) + 7) // 8,
    0x54000112: lambda count: (count(0x003A021A) + 7) // 8,
    0x00660016: lambda count: 12 * count(0x00660015),
    0x00660021: lambda count: 4 * count(0x0066001E) * count(0x0066001F),
    0x300A0664: lambda count: 4 * count(0x300A00E7) * count(0x300A00E8),
    0x300A0665: lambda count: 4 * count(0x300A00E7) * count(0x300A00E8),
    0x300A066B: lambda count: 8 * count(0x300A0104),
}


def _table_size(dataset: Mapping[int, Element], descriptor: int, size: int, *, little: bool) -> int:
    entries, _, bits = _words_of(dataset, descriptor, "u2", 3, little=little)
    entries = entries or 1 << 16
    packed = bits <= 8 and size < 2 * entries
    return entries if packed else 2 * entries


def _segments_size(value: bytes, entries: int, cell: np.dtype[np.unsignedinteger]) -> int:
    """Return where the segments of a table end (PS3.3 C.7.9.2): an opcode, a length, and what they ask for.

    Segments that copy others are not followed: a table with any goes.
    """
    cells = np.frombuffer(value[: len(value) // cell.itemsize * cell.itemsize], dtype=cell).tolist()
    at = found = 0
    while found < entries and at + 2 <= len(cells) and cells[at] <= 1:
        found += cells[at + 1]
        at += 2 + (cells[at + 1] if cells[at] == 0 else 1)
    if found != entries or at > len(cells):
        raise QuarantineError("malformed")
    return int(at * cell.itemsize)


def _words_of(dataset: Mapping[int, Element], tag: int, kind: str, count: int, *, little: bool) -> list[int]:
    element = dataset.get(tag)
    order = "<" if little else ">"
    if element is None or len(element.value) != count * np.dtype(kind).itemsize:
        raise QuarantineError("malformed")
    found: list[int] = np.frombuffer(element.value, dtype=order + kind).tolist()
    return found
