"""Encapsulated pixel data: which fragments make which frame, and nothing beside them.

Why it exists: pixels that pass byte for byte would carry out whatever stands in a comment, after the end of an
image, in a fragment that belongs to none, or in the table of offsets.

Rules:
    * Every frame is one stream of a kind that can be walked to its end (JPEG, JPEG-LS, JPEG 2000, RLE), and after that
      end stand only zeros, or 0xFF and zeros.
    * There are as many streams as frames, and every fragment belongs to one.
    * The table of offsets is empty, or made anew from where the frames are.
    * Every frame is as large as the dataset says: no viewer shows what lies beyond, and a decoder makes room for it.

What it does not do: decode JPEG. Video and kinds without a walk of their own do not pass.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from fedmed.deid.dicom.bits import Bits, refuse_unused
from fedmed.deid.dicom.jpeg import jpeg_end, jpeg_shape
from fedmed.deid.dicom.jpeg2000 import jpeg2000_end, jpeg2000_shape
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.rle import rle_segments

RLE = "1.2.840.10008.1.2.5"

_JPEG, _JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_MAGIC = (_JPEG, _JPEG_2000)
_ITEM = b"\xfe\xff\x00\xe0"
_WORD = 0xFFFFFFFF


class Shape(NamedTuple):
    """What the dataset says of its pixels: frames, rows and columns, and samples of each pixel in cells of `bits`."""

    frames: int
    rows: int
    columns: int
    samples: int
    bits: Bits

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.rows * self.columns


class Frame(NamedTuple):
    """One compressed frame; `start` is where its first fragment begins, after the table of offsets."""

    start: int
    stream: bytes


def fragments(value: bytes) -> list[bytes]:
    """Return the fragments of encapsulated pixel data, without the offset table (PS3.5 A.4)."""
    found, at = [], 0
    while at + 8 <= len(value):
        (length,) = struct.unpack_from("<I", value, at + 4)
        found.append(value[at + 8 : at + 8 + length])
        at += 8 + length
    return found[1:]


def frames_of(parts: Sequence[bytes], shape: Shape, *, rle: bool) -> list[Frame]:
    """Return the frames that fragments make.

    Raises:
        QuarantineError: They are fewer or more than the dataset says, or a fragment belongs to none.
    """
    one_each = rle and len(parts) == shape.frames
    starts: list[int] = []
    streams: list[list[bytes]] = []
    at = 0
    for part in parts:
        if one_each or (rle and not streams) or (not rle and part.startswith(_MAGIC)):
            starts.append(at)
            streams.append([part])
        elif streams:
            streams[-1].append(part)
        else:
            raise QuarantineError("unknown-stream")
        at += 8 + len(part)
    if len(streams) != shape.frames:
        raise QuarantineError("truncated" if len(streams) < shape.frames else "stray-bytes")
    return [Frame(start, b"".join(stream)) for start, stream in zip(starts, streams, strict=True)]


def only_frames(value: bytes, shape: Shape, *, rle: bool) -> bytes:
    """Return encapsulated pixel data that hold frames and nothing else; fragments keep their bytes.

    Args:
        value: The table of offsets and the fragments, as items.
        shape: What the dataset says of them.
        rle: Whether the transfer syntax is RLE.

    Raises:
        QuarantineError: They hold something else, or cannot be walked.
    """
    parts = fragments(value)
    frames = frames_of(parts, shape, rle=rle)
    for frame in frames:
        if rle:
            _refuse_rle(frame.stream, shape)
        else:
            _refuse_rest(frame.stream)
            _refuse_claims(frame.stream, shape)
    (size,) = struct.unpack_from("<I", value, 4)
    table = b""
    if size and frames[-1].start <= _WORD:
        table = struct.pack(f"<{len(frames)}I", *(frame.start for frame in frames))
    if value[8 : 8 + size] == table:
        return value
    return _ITEM + struct.pack("<I", len(table)) + table + value[8 + size :]


def check_claims(value: bytes, shape: Shape, *, rle: bool) -> None:
    """Refuse frames that claim to be larger or smaller than the dataset says, before a decoder believes them.

    Args:
        value: The table of offsets and the fragments, as items.
        shape: What the dataset says of them.
        rle: Whether the transfer syntax is RLE.

    Raises:
        QuarantineError: They are, or there are more or fewer of them.
    """
    for frame in frames_of(fragments(value), shape, rle=rle):
        if rle:
            rle_segments(frame.stream, count=shape.samples * (shape.bits.allocated // 8), pixels=shape.pixels)
            continue
        _refuse_claims(frame.stream, shape)


def extended_offsets(value: bytes) -> tuple[bytes, bytes]:
    """Return the extended offsets and lengths of encapsulated pixel data with one fragment for each frame."""
    lengths = [len(part) for part in fragments(value)]
    starts = list(accumulate((8 + size for size in lengths), initial=0))[:-1]
    return struct.pack(f"<{len(starts)}Q", *starts), struct.pack(f"<{len(lengths)}Q", *lengths)


def _refuse_rle(stream: bytes, shape: Shape) -> None:
    size = shape.bits.allocated // 8
    segments = rle_segments(stream, count=shape.samples * size, pixels=shape.pixels)
    if size in {1, 2, 4}:
        planes = np.frombuffer(b"".join(segments), np.uint8).reshape(shape.samples, size, shape.pixels)
        cells = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">u{size}")  # the highest byte comes first
        refuse_unused(cells, shape.bits)


def _refuse_claims(stream: bytes, shape: Shape) -> None:
    claimed = jpeg_shape(stream) if stream.startswith(_JPEG) else jpeg2000_shape(stream)
    if claimed != (shape.rows, shape.columns, shape.samples):
        raise QuarantineError("wrong-size")


def _refuse_rest(stream: bytes) -> None:
    end = jpeg_end(stream) if stream.startswith(_JPEG) else jpeg2000_end(stream)
    if stream[end:].removeprefix(b"\xff").strip(b"\0"):
        raise QuarantineError("stray-bytes")
