"""Durable files: a write is whole or absent, an append survives a power cut.

Why it exists: budgets, audits and checkpoints are only believable when a kill
at any instant leaves either the old bytes or the new ones.

Rules:
    * `write_atomic` and `replacing` write beside the target, fsync, rename, fsync the folder.
    * `append_durable` returns only after the bytes are on disk.
    * `appearing` does the same for a folder, and overwrites none.
    * `memory_file` lends a path to what must reach no disk.
    * `unpacked_most` says what is believed of a compressed file: a few bytes may stand for what anybody has, and
      beyond that each byte of the file adds some.
    * `locked` holds an exclusive lock that the kernel frees when the process dies.

What it does not do: read, parse or encrypt.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from fedmed.errors import UsageError

_LOOK_S: Final = 0.05
_PART: Final = ".part"
LEAST_UNPACKED: Final = 128 << 20
UNPACKED_OF_A_BYTE: Final = 64
"""Text is seldom packed to a fiftieth; images and masks that are mostly zeros may be."""

LONGEST_SOCKET: Final = 100
"""Bytes of a Unix socket's path (unix(7) allows 108)."""


def unpacked_most(size: int) -> int:
    """Return how many bytes a file of `size` bytes may unpack to, before it counts as made to fill memory."""
    return LEAST_UNPACKED + UNPACKED_OF_A_BYTE * size


def require_short(root: Path, socket: Path) -> None:
    """Raise if `socket`, a path below `root`, would be too long for a Unix socket.

    Raises:
        UsageError: It would; the message says how long the path of `root` may be.
    """
    if len(bytes(root / socket)) > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(bytes(socket)) - 1
        raise UsageError(f"{root}: expected a path of at most {most} bytes, for a Unix socket in it; move the folder")


def private_folder(path: Path) -> None:
    """Make a folder, and what is missing above it, for the owner alone; `parents=True` would open the upper ones."""
    for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a reader sees the old or the new file, never a part.

    Args:
        path: The target; its folder must exist.
        data: The whole new content.
        mode: Permission bits of the new file.

    Raises:
        OSError: The disk is full or the folder is not writable; the target is unchanged.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with _becoming(path, descriptor, Path(name), mode=mode) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file, open to write and read, that takes the place of `path` once the block has ended well.

    For what is too long to hold in memory; for the rest there is `write_atomic`. If the block raises, no trace is
    left; what a run that was killed left beside `path` is removed first: it has a name of its own, so that nobody
    need list a folder of ten thousand files to find it. One process writes a path at a time.

    Args:
        path: The target; its folder must exist. The new file is for its owner only.

    Raises:
        OSError: The disk is full or the folder is not writable; the target is unchanged.
    """
    temporary = path.with_name(f".{path.name}{_PART}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with _becoming(path, descriptor, temporary, mode=0o600) as file:
        yield file


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, which is called `folder` once the block has ended well.

    If the block raises, no trace is left; what a run that was killed left beside `folder` is removed first. One
    process writes a folder at a time.

    Args:
        folder: What is not there yet; the folder around it must exist.

    Raises:
        UsageError: There is something at `folder`, or nothing around it.
        OSError: The disk is full or the folder around it is not writable.
    """
    if not folder.parent.is_dir():
        raise UsageError(f"{folder}: expected the folder {folder.parent} around it, found none; make it first")
    stage = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(stage, ignore_errors=True)
    refuse_present(folder)
    stage.mkdir()
    try:
        yield stage
        for path in (*stage.rglob("*"), stage):
            _sync(path)
        refuse_present(folder)
        stage.rename(folder)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    _sync(folder.parent)


def refuse_present(path: Path) -> None:
    """Raise if there is something at `path`, a link to nowhere included.

    Raises:
        UsageError: There is.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path}: expected nothing there yet, found something; nothing was overwritten")


def append_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Append `data` to `path` and return once it is on disk.

    Args:
        path: The file to append to; created if absent.
        data: The bytes to append, in one write call.
        mode: Permission bits if the file is created.

    Raises:
        OSError: The disk is full or the file is not writable.
    """
    created = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if created:
        _sync(path.parent)


def is_full(error: BaseException | None) -> bool:
    """Say whether an error is that of a disk, or of a quota, that has no room left."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def memory_file(data: bytes) -> Iterator[Path]:
    """Yield the path of a file that is in memory alone, has no name and is the owner's (memfd_create(2)).

    The kernel frees it with the block, or with the process, however that ends.
    """
    with os.fdopen(os.memfd_create("fedmed", os.MFD_CLOEXEC), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive advisory lock on `path` (created if absent) for the block.

    Blocks until the lock is free. The kernel frees it when the holder dies, so a
    killed process never leaves a stale lock behind.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held_alone(path: Path, *, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold an exclusive advisory lock on `path` for the block if nobody else does, and yield whether that worked.

    Args:
        path: The lock's file, created if absent.
        patience_s: How long to wait for a holder that is about to end.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOOK_S)
                    continue
                yield False
                return
            yield True
            return
    finally:
        os.close(descriptor)


@contextmanager
def _becoming(path: Path, descriptor: int, temporary: Path, *, mode: int) -> Iterator[BinaryIO]:
    """Yield the temporary file of a descriptor, which takes the place of `path` once the block has ended well."""
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
