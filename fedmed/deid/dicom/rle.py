"""RLE frames, unpacked to their last byte.

Why it exists: a header of sixteen words has room that few images use, and bytes may follow the last run.

Rules:
    * A frame has as many segments as its pixels have bytes; the words that it does not use are zero.
    * Each segment gives exactly one byte for each pixel; nothing but zeros follows its last run.

What it does not do: judge pixels.

Source: PS3.5 annex G.
"""

import struct

from fedmed.deid.dicom.quarantine import QuarantineError

_HEADER = 64


def rle_segments(frame: bytes, *, count: int, pixels: int) -> list[bytes]:
    """Return the `count` segments of a frame, unpacked to `pixels` bytes each.

    Raises:
        QuarantineError: The header or a segment is not exactly what the image needs.
    """
    if len(frame) < _HEADER:
        raise QuarantineError("truncated")
    number, *words = struct.unpack("<16I", frame[:_HEADER])
    starts = words[:count]
    if number != count or any(words[count:]) or starts[0] != _HEADER or starts != sorted(set(starts)):
        raise QuarantineError("stray-bytes")
    ends = [*starts[1:], len(frame)]
    return [_unpacked(frame[start:end], pixels) for start, end in zip(starts, ends, strict=True)]


def _unpacked(segment: bytes, wanted: int) -> bytes:
    parts: list[bytes] = []
    at = found = 0
    try:
        while found < wanted:  # a few thousand turns for each image: no call that can be spared
            control = segment[at]
            if control < 128:
                end = at + control + 2
                parts.append(segment[at + 1 : end])
                found += control + 1
                at = end
            elif control > 128:
                parts.append(segment[at + 1 : at + 2] * (257 - control))
                found += 257 - control
                at += 2
            else:
                at += 1
    except IndexError:
        raise QuarantineError("truncated") from None
    unpacked = b"".join(parts)
    if found != wanted or len(unpacked) != wanted or segment[at:].strip(b"\0"):
        raise QuarantineError("stray-bytes")
    return unpacked
