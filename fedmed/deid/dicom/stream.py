"""The encoding of a DICOM dataset: bytes to elements and back, nothing in between.

Why it exists: a cleaner must see every byte, refuse what does not parse exactly, and write untouched values as
they were. A reader made for viewing repairs, guesses, warns with the value in the text, or stops early in silence.

Rules:
    * Every element lies wholly inside what contains it; anything else raises `StreamError`.
    * A value that is not changed is written byte for byte; lengths become defined, group lengths are dropped by the
      caller, encapsulated frames stay one untouched block.
    * A public attribute with VR UN and a defined length that the dictionary calls a sequence is parsed as one
      (PS3.5 6.2.2: implicit VR little endian).

What it does not do: know what an attribute means, or read file meta beyond its elements.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fedmed.errors import DataError

LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
SHORT_VRS = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI"}
    | {"UL", "US"}
)
MAX_DEPTH = 24
MAX_ELEMENTS = 2_000_000
"""An enhanced file of 10,000 frames has about a million."""
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_KNOWN = {vr.encode(): vr for vr in LONG_VRS | SHORT_VRS}
_NUL_PADDED = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UI", "UN"})
_EXPLICIT = {"US or SS": "US", "OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}


class StreamError(DataError):
    """The bytes are not a whole DICOM dataset; `truncated` tells that they end too early."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True, slots=True)
class Element:
    """One data element: its value as encoded, or the items of a sequence.

    `encapsulated` marks pixel data of undefined length: the value is its fragments as they stood in the file.
    """

    tag: int
    vr: str
    value: bytes = b""
    items: tuple[tuple["Element", ...], ...] | None = None
    encapsulated: bool = False


class Syntax(NamedTuple):
    """How a dataset is encoded."""

    implicit: bool
    little: bool


def parse(data: bytes, start: int, *, syntax: Syntax, vr_of: Mapping[int, str]) -> list[Element]:
    """Return the elements of the dataset that fills `data` from `start` on, in tag order, the last of each tag.

    Args:
        data: The bytes of a file, uncompressed.
        start: Where the dataset begins.
        syntax: Its encoding.
        vr_of: The VR of each public attribute, for implicit VR.

    Raises:
        StreamError: The bytes end early or are no dataset. Zeros after the last element are ignored.
    """
    return _Parser(data, vr_of).dataset(start, len(data), syntax, depth=0).elements


def parse_meta(data: bytes, start: int) -> tuple[list[Element], int]:
    """Return the file meta elements (group 0002, PS3.10 7.1) of `data` and where the dataset begins."""
    parser = _Parser(data, {})
    elements = []
    at = start
    while data[at : at + 2] == b"\x02\x00":
        element, at = parser.element(at, len(data), Syntax(implicit=False, little=True), depth=0)
        elements.append(element)
    return elements, at


def encode(elements: Iterable[Element], syntax: Syntax) -> bytes:
    """Return the encoding of `elements`, which are in tag order."""
    return b"".join(_encoded(elements, syntax))


class _Parsed(NamedTuple):
    elements: list[Element]
    end: int


class _Parser:
    """Reads one buffer; `end` always bounds what an element may claim."""

    def __init__(self, data: bytes, vr_of: Mapping[int, str]) -> None:
        self.data, self.vr_of = data, vr_of
        self.elements = 0

    def dataset(self, at: int, end: int, syntax: Syntax, *, depth: int, delimited: bool = False) -> _Parsed:
        """Read elements up to `end`, or up to the item delimiter if `delimited`."""
        if depth > MAX_DEPTH:
            raise StreamError(f"sequences are nested deeper than {MAX_DEPTH}; not a dataset that this site reads")
        found: dict[int, Element] = {}
        while at < end:
            if delimited and self.tag(at, end, little=syntax.little) == _ITEM_END:
                return _Parsed(_sorted(found), at + 8)
            if depth == 0 and not self.data[at : at + 8].strip(b"\0"):
                if self.data[at:].strip(b"\0"):
                    raise StreamError("bytes follow the last element; expected the end of the file")
                break
            element, at = self.element(at, end, syntax, depth=depth)
            found[element.tag] = element
        if delimited:
            raise StreamError("an item has no end; the file is cut off", truncated=True)
        return _Parsed(_sorted(found), at)

    def tag(self, at: int, end: int, *, little: bool) -> int:
        """Return the tag at `at`, where eight bytes must be left."""
        if at + 8 > end:
            raise StreamError("the header of an element is cut off", truncated=True)
        group, number = struct.unpack_from("<HH" if little else ">HH", self.data, at)
        return int(group) << 16 | int(number)

    def element(self, at: int, end: int, syntax: Syntax, *, depth: int) -> tuple[Element, int]:
        """Read one element and return it with the place after it."""
        self._count()
        tag = self.tag(at, end, little=syntax.little)
        order = "<" if syntax.little else ">"
        if syntax.implicit:
            vr = self._implicit_vr(tag)
            (length,) = struct.unpack_from(order + "I", self.data, at + 4)
            at += 8
        else:
            known = _KNOWN.get(self.data[at + 4 : at + 6])
            if known is None:
                raise StreamError("an element has no value representation of PS3.5; expected explicit VR")
            vr = known
            if vr in LONG_VRS:
                if at + 12 > end:
                    raise StreamError("the header of an element is cut off", truncated=True)
                (length,) = struct.unpack_from(order + "I", self.data, at + 8)
                at += 12
            else:
                (length,) = struct.unpack_from(order + "H", self.data, at + 6)
                at += 8
        if length == UNDEFINED:
            return self._undefined(tag, vr, at, end, syntax, depth=depth)
        if at + length > end:
            raise StreamError("an element is longer than what contains it; the file is cut off", truncated=True)
        return self._defined(tag, vr, at, at + length, syntax, depth=depth), at + length

    def _defined(self, tag: int, vr: str, at: int, end: int, syntax: Syntax, *, depth: int) -> Element:
        if vr == "SQ":
            return Element(tag, vr, items=self._sequence(at, end, syntax, depth=depth, delimited=False)[0])
        if vr == "UN" and self.vr_of.get(tag) == "SQ" and syntax.little:
            inner = Syntax(implicit=True, little=True)
            return Element(tag, "SQ", items=self._sequence(at, end, inner, depth=depth, delimited=False)[0])
        return Element(tag, vr, self.data[at:end])

    def _undefined(self, tag: int, vr: str, at: int, end: int, syntax: Syntax, *, depth: int) -> tuple[Element, int]:
        if tag == PIXEL_DATA and vr != "SQ" and not syntax.implicit:
            after = self._fragments(at, end, little=syntax.little)
            return Element(tag, vr, self.data[at : after - 8], encapsulated=True), after
        if vr not in {"SQ", "UN"}:
            raise StreamError("an element that is no sequence has no length")
        inner = Syntax(implicit=True, little=True) if vr == "UN" else syntax
        items, after = self._sequence(at, end, inner, depth=depth, delimited=True)
        return Element(tag, "SQ", items=items), after

    def _sequence(
        self, at: int, end: int, syntax: Syntax, *, depth: int, delimited: bool
    ) -> tuple[tuple[tuple[Element, ...], ...], int]:
        items: list[tuple[Element, ...]] = []
        while at < end:
            tag = self.tag(at, end, little=syntax.little)
            (length,) = struct.unpack_from("<I" if syntax.little else ">I", self.data, at + 4)
            at += 8
            self._count()
            if tag == _SEQUENCE_END and delimited:
                return tuple(items), at
            if tag != _ITEM:
                raise StreamError("a sequence holds something other than items")
            if length == UNDEFINED:
                item = self.dataset(at, end, syntax, depth=depth + 1, delimited=True)
            elif at + length > end:
                raise StreamError("an item is longer than its sequence; the file is cut off", truncated=True)
            else:
                item = self.dataset(at, at + length, syntax, depth=depth + 1)
            items.append(tuple(item.elements))
            at = item.end
        if delimited:
            raise StreamError("a sequence has no end; the file is cut off", truncated=True)
        return tuple(items), at

    def _count(self) -> None:
        """Count an element or an item: each takes many times the memory of its eight bytes.

        Raises:
            StreamError: There are more than a dataset has.
        """
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise StreamError(f"more than {MAX_ELEMENTS} elements; not a dataset that this site reads")

    def _fragments(self, at: int, end: int, *, little: bool) -> int:
        """Return the place after the sequence delimiter of encapsulated pixel data (PS3.5 A.4)."""
        while True:
            tag = self.tag(at, end, little=little)
            (length,) = struct.unpack_from("<I" if little else ">I", self.data, at + 4)
            if tag == _SEQUENCE_END:
                return at + 8
            if tag != _ITEM or length == UNDEFINED:
                raise StreamError("encapsulated pixel data holds something other than fragments")
            at += 8 + length
            if at > end:
                raise StreamError("a fragment of pixel data is cut off", truncated=True)

    def _implicit_vr(self, tag: int) -> str:
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            return "LO"
        return self.vr_of.get(tag, "UN")


def _sorted(found: Mapping[int, Element]) -> list[Element]:
    return [found[tag] for tag in sorted(found)]


def _encoded(elements: Iterable[Element], syntax: Syntax) -> Iterator[bytes]:
    order = "<" if syntax.little else ">"
    for element in elements:
        value = _items(element.items, syntax) if element.items is not None else element.value
        vr = _EXPLICIT.get(element.vr, element.vr)
        if len(value) % 2:
            value += b"\0" if vr in _NUL_PADDED else b" "
        length = UNDEFINED if element.encapsulated else len(value)
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if syntax.implicit:
            yield struct.pack(order + "HHI", group, number, length)
        elif vr in LONG_VRS or length > 0xFFFF:
            vr = vr if vr in LONG_VRS else "UN"
            yield struct.pack(order + "HH2sHI", group, number, vr.encode(), 0, length)
        else:
            yield struct.pack(order + "HH2sH", group, number, vr.encode(), length)
        yield value
        if element.encapsulated:
            yield struct.pack(order + "HHI", _SEQUENCE_END >> 16, _SEQUENCE_END & 0xFFFF, 0)


def _items(items: Iterable[Iterable[Element]], syntax: Syntax) -> bytes:
    chunks = []
    for item in items:
        inner = encode(item, syntax)
        order = "<" if syntax.little else ">"
        chunks += [struct.pack(order + "HHI", _ITEM >> 16, _ITEM & 0xFFFF, len(inner)), inner]
    return b"".join(chunks)
