"""Durable files: a write is whole or absent, an append survives a power cut.

Why it exists: budgets, audits and checkpoints are only believable when a kill
at any instant leaves either the old bytes or the new ones.

Rules:
    * `write_atomic` writes beside the target, fsyncs, renames, fsyncs the folder.
    * `append_durable` returns only after the bytes are on disk.
    * `locked` holds an exclusive lock that the kernel frees when the process dies.

What it does not do: read, parse or encrypt.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a reader sees the old or the new file, never a part.

    Args:
        path: The target; its folder must exist.
        data: The whole new content.
        mode: Permission bits of the new file.

    Raises:
        OSError: The disk is full or the folder is not writable; the target is unchanged.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
        _sync_folder(path.parent)


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
