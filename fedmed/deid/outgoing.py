"""A large output on its way to the disk, sealed as it goes.

Why it exists: what is too long for memory is written piece by piece, and no piece of it may be readable on a disk
unless that was asked for.

Rules:
    * The file takes its place once it is whole; an error or a kill leaves the place as it was.
    * Its readable form is hashed and measured on the way, because nobody can do that later.

What it does not do: know what it holds.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedmed.crypto.seal import Seal, SealingWriter
from fedmed.files import replacing


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Where a file lies, sealed or not, and what it is when it can be read."""

    path: Path
    sha256: str
    size_bytes: int


class Outgoing:
    """A file that is written only, and what was written."""

    def __init__(self, path: Path, target: BinaryIO | SealingWriter) -> None:
        self._path, self._target, self._digest, self._size = path, target, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take more bytes and return how many they were."""
        self._digest.update(data)
        self._size += len(data)
        return self._target.write(data)

    def flush(self) -> None:
        """Pass on what the target holds back, but for an unfinished chunk of a seal."""
        self._target.flush()

    def written(self) -> Written:
        """Return what has been written so far."""
        return Written(path=self._path, sha256=self._digest.hexdigest(), size_bytes=self._size)


@contextmanager
def outgoing(path: Path, seal: Seal | None) -> Iterator[Outgoing]:
    """Yield a file to write, which takes the place of `path` once the block has ended well.

    Args:
        path: The target; its folder must exist.
        seal: The key and the name to seal the file under; None leaves it readable.

    Raises:
        OSError: The disk is full or the folder is not writable.
    """
    with replacing(path) as file:
        sealing = None if seal is None else SealingWriter(file, seal)
        yield Outgoing(path, file if sealing is None else sealing)
        if sealing is not None:
            sealing.finish()
