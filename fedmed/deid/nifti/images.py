"""One NIfTI image, its header written anew and its voxels as they are, on the way to the disk.

Why it exists: a functional series is larger than memory may be, and a compressed file of a kilobyte can claim to be
as large as a disk.

Rules:
    * The voxels are copied byte for byte; nothing before or behind them is, and neither is what gzip says of a file
      (its name, its time, a comment).
    * As many bytes are expanded as the header claims, and it may not claim more than a bound.
    * A file that ends too early or whose checksum is wrong is refused whole.

What it does not do: look at voxels. Text that is burnt into them stays, which is why colours and single slices are
not cleaned.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from fedmed.crypto.seal import Seal
from fedmed.deid.nifti.header import LONGEST_HEADER, CleanHeader, clean_header
from fedmed.deid.nifti.options import NiftiOptions
from fedmed.deid.nifti.quarantine import NiftiError
from fedmed.deid.outgoing import Outgoing, Written, outgoing

HEADER_RULES: Final = "nifti header 1"
"""Names the version of the rules of `header` in records of what was cleaned."""

_CHUNK_BYTES: Final = 1 << 20
_MOST_TRAILING: Final = 1 << 20
_LEVEL: Final = 4
"""zlib's: a third larger than at the usual 6 costs little here, and half the time."""


def clean_image(
    source: Path, target: Path, *, options: NiftiOptions, compress: bool, about_head: bool, seal: Seal | None
) -> tuple[Written, Mapping[str, int]]:
    """Write a cleaned image in place of `target` and return what it is, and counts of what was left out.

    Args:
        source: NIfTI-1 or NIfTI-2 in one file, compressed by gzip or not, whatever its name says.
        target: Where it goes; the folder must exist.
        options: What the site vouches for.
        compress: Whether the target is to be compressed.
        about_head: Whether something beside the image says that it shows the head or the neck.
        seal: What the target is sealed under as it is written; None leaves it readable.

    Raises:
        NiftiError: The image is not cleaned.
        OSError: It can't be read, or the target not be written.
    """
    if options.faces == "unassessed":
        raise NiftiError("nifti-faces")
    if options.faces == "absent" and about_head:
        raise NiftiError("nifti-head")
    with _opened(source) as file:
        header = clean_header(_exactly(file, LONGEST_HEADER, least=0))
        if header.flat and options.single_slices == "quarantine":
            raise NiftiError("nifti-one-slice")
    with _opened(source) as file, outgoing(target, seal) as out:
        with _compressing(out) if compress else _as_it_is(out) as written:
            trailing = _copy(file, written, header)
        return out.written(), {
            "texts_emptied": header.texts_emptied,
            "extension_bytes_dropped": header.extension_bytes,
            "trailing_bytes_dropped": trailing,
        }


def _copy(file: BinaryIO, out: IO[bytes], header: CleanHeader) -> int:
    """Write header and voxels, read to the end, and return how many bytes followed the voxels."""
    for _ in _pieces(file, header.offset):
        pass
    out.write(header.data)
    for piece in _pieces(file, header.voxel_bytes):
        out.write(piece)
    trailing = len(_exactly(file, _MOST_TRAILING + 1, least=0))
    if trailing > _MOST_TRAILING:
        raise NiftiError("nifti-malformed")
    return trailing


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes.

    Raises:
        NiftiError: There are fewer.
    """
    while size:
        piece = _exactly(file, min(size, _CHUNK_BYTES), least=1)
        size -= len(piece)
        yield piece


def _exactly(file: BinaryIO, size: int, *, least: int) -> bytes:
    """Return the next bytes, fewer than `size` only at the end of the file."""
    found = bytearray()
    try:
        while len(found) < size and (more := file.read(size - len(found))):
            found += more
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise NiftiError("nifti-truncated") from None
    if len(found) < least:
        raise NiftiError("nifti-truncated")
    return bytes(found)


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    """Yield the image, expanded where its content is compressed."""
    with source.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as expanded:
            yield cast("BinaryIO", expanded)


@contextmanager
def _compressing(out: Outgoing) -> Iterator[IO[bytes]]:
    with gzip.GzipFile(filename="", fileobj=cast("IO[bytes]", out), mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
        yield cast("IO[bytes]", packed)


@contextmanager
def _as_it_is(out: Outgoing) -> Iterator[IO[bytes]]:
    yield cast("IO[bytes]", out)
