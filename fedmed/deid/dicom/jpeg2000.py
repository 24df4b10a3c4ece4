"""JPEG 2000 code streams, walked tile part by tile part to their end.

Why it exists: comments may stand in the main header and in that of every tile part, and bytes after the last one. The
file format around a code stream (JP2) has boxes for any XML.

Rules:
    * Only markers that decoding needs pass, with the length that their own fields ask for, lists of lengths that are
      true, and in the main header a comment that names a known encoder and nothing else.
    * Tile parts follow each other without a gap up to the end of the code stream.
    * Packed packet headers and registrations are refused, as is the file format: nobody writes them into DICOM
      for the image's sake.

What it does not do: decode. Packets themselves are not judged.

Source: ITU-T T.800 annex A, T.814 for the capabilities of high throughput.
"""

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedmed.deid.dicom.jpeg import ENCODER
from fedmed.deid.dicom.quarantine import QuarantineError

_SIZE, _CAPABILITIES, _PROFILE, _STYLE, _STYLE_ONE = 0x51, 0x50, 0x59, 0x52, 0x53
_STEPS, _STEPS_ONE, _REGION, _ORDER, _TILE_LENGTHS, _PACKET_LENGTHS = 0x5C, 0x5D, 0x5E, 0x5F, 0x55, 0x58
_COMMENT, _TILE, _DATA, _END = 0x64, 0x90, 0x93, 0xD9
_TILE_BYTES = 12  # the marker of a tile part, its length and its fields


class _Segment(NamedTuple):
    marker: int
    content: bytes
    end: int


def jpeg2000_end(stream: bytes) -> int:
    """Return the place after the end of the code stream in `stream`, which begins with its start.

    Raises:
        QuarantineError: It holds a comment, or bytes that decoding does not need, or cannot be walked to an end.
    """
    at, promised = _main_header(stream)
    lengths: list[int] = []
    while stream[at : at + 2] == bytes((0xFF, _TILE)):
        after = _tile_part(stream, at)
        lengths.append(after - at)
        at = after
    if not lengths or (promised and promised != lengths):
        raise QuarantineError("stray-bytes")
    if stream[at : at + 2] == bytes((0xFF, _END)):
        return at + 2
    return at  # an older encoder wrote no end; the caller lets nothing follow


def jpeg2000_shape(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and samples of the image, as the size segment says, which comes first (T.800 A.5.1).

    Raises:
        QuarantineError: It does not come first, or is too short.
    """
    segment = _segment(stream, 2)
    if segment.marker != _SIZE or not _size_fits(segment.content):
        raise QuarantineError("wrong-size")
    width, height, left, top = struct.unpack_from(">4I", segment.content, 2)
    return height - top, width - left, int.from_bytes(segment.content[34:36], "big")


def _main_header(stream: bytes) -> tuple[int, list[int]]:
    """Return where the first tile part begins, and the lengths of all of them as far as the header lists any."""
    at, promised = 2, list[int]()
    while stream[at + 1 : at + 2] != bytes((_TILE,)):
        segment = _segment(stream, at)
        if segment.marker == _COMMENT:
            if ENCODER.fullmatch(segment.content[2:]) is None:
                raise QuarantineError("embedded-comment")
        elif segment.marker == _TILE_LENGTHS:
            promised += _listed_tiles(segment.content)
        elif not _fits(segment, _MAIN):
            raise QuarantineError("stray-bytes")
        at = segment.end
    return at, promised


def _tile_part(stream: bytes, start: int) -> int:
    """Return the place after the tile part that begins at `start`."""
    (length,) = struct.unpack_from(">I", stream, start + 6) if len(stream) >= start + _TILE_BYTES else (1,)
    at, packets = start + _TILE_BYTES, 0
    counted = False
    while stream[at : at + 2] != bytes((0xFF, _DATA)):
        segment = _segment(stream, at)
        if segment.marker == _PACKET_LENGTHS:
            packets, counted = packets + _listed_packets(segment.content), True
        elif not _fits(segment, _EITHER):
            raise QuarantineError("embedded-comment" if segment.marker == _COMMENT else "stray-bytes")
        at = segment.end
    if length == 0:  # the last one reaches to the end; no two bytes of packets look like that
        end = stream.find(bytes((0xFF, _END)), at)
        end = len(stream) if end < 0 else end
    else:
        end = start + length
    if end < at + 2 or end > len(stream):
        raise QuarantineError("truncated")
    if counted and packets != end - at - 2:
        raise QuarantineError("stray-bytes")
    return end


def _segment(stream: bytes, at: int) -> _Segment:
    if stream[at : at + 1] != b"\xff" or len(stream) < at + 4:
        raise QuarantineError("stray-bytes")
    end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    if not at + 4 <= end <= len(stream):
        raise QuarantineError("stray-bytes")
    return _Segment(stream[at + 1], stream[at + 4 : end], end)


def _fits(segment: _Segment, allowed: Mapping[int, Callable[[bytes], bool]]) -> bool:
    test = allowed.get(segment.marker)
    return test is not None and test(segment.content)


def _size_fits(content: bytes) -> bool:
    return len(content) >= 36 and len(content) == 36 + 3 * int.from_bytes(content[34:36], "big")


def _capabilities_fit(content: bytes) -> bool:
    return len(content) >= 4 and len(content) == 4 + 2 * int.from_bytes(content[:4], "big").bit_count()


def _style_fits(content: bytes) -> bool:
    if len(content) < 10:
        return False
    return len(content) == 10 + (content[5] + 1 if content[0] & 1 else 0) and content[5] <= 32


def _style_of_one_fits(content: bytes) -> bool:
    for index in (1, 2):  # the number of the component has one or two bytes
        if len(content) >= index + 6 and content[index + 1] <= 32:
            extra = content[index + 1] + 1 if content[index] & 1 else 0
            if len(content) == index + 6 + extra:
                return True
    return False


def _steps_fit(content: bytes) -> bool:
    if not content:
        return False
    style, size = content[0] & 31, len(content) - 1
    bands = size if style == 0 else size // 2
    return size == 2 if style == 1 else style in {0, 2} and size == bands * (style or 1) and 1 <= bands <= 97


_EITHER: Mapping[int, Callable[[bytes], bool]] = {
    _STYLE: _style_fits,
    _STYLE_ONE: _style_of_one_fits,
    _STEPS: _steps_fit,
    _STEPS_ONE: lambda content: _steps_fit(content[1:]) or _steps_fit(content[2:]),
    _REGION: lambda content: len(content) in {3, 4},
    _ORDER: lambda content: len(content) % 7 == 0 or len(content) % 9 == 0,
}
_MAIN: Mapping[int, Callable[[bytes], bool]] = {
    **_EITHER,
    _SIZE: _size_fits,
    _CAPABILITIES: _capabilities_fit,
    _PROFILE: lambda content: len(content) in {2, 4},
}


def _listed_tiles(content: bytes) -> list[int]:
    if len(content) < 2:
        raise QuarantineError("stray-bytes")
    index, size = content[1] >> 4 & 3, 4 if content[1] & 0x40 else 2
    step = index + size
    if index == 3 or content[1] & 0x8F or (len(content) - 2) % step:
        raise QuarantineError("stray-bytes")
    starts = range(2, len(content), step)
    return [int.from_bytes(content[at + index : at + step], "big") for at in starts]


def _listed_packets(content: bytes) -> int:
    total = length = 0
    for byte in content[1:]:
        length = length << 7 | byte & 0x7F
        if byte < 0x80:
            total, length = total + length, 0
    return total if length == 0 else -1
