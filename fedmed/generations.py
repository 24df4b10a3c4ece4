"""A folder of files that change together: the reader sees all old ones or all new ones.

Why it exists: a certificate without its key is useless. Where several files must change at once, they
are written into a folder of their own, and one symbolic link is what decides which folder counts.

Rules:
    * `current` is a symbolic link to a generation; replacing the link (rename(2)) is the one step that counts.
    * The generation before stays, for whoever has a file of it open; older ones go.
    * All is on disk before the link changes.

What it does not do: lock; one process at a time replaces.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedmed.files import write_atomic

CURRENT: Final = "current"
_PREFIX: Final = "g-"


def replace_generation(place: Path, files: Mapping[str, bytes], *, mode: int = 0o600) -> Path:
    """Make `files` the current generation below `place` and return its folder.

    Args:
        place: Holds the generations; made with mode 700 if absent.
        files: Content by name.
        mode: Permission bits of each file.

    Raises:
        OSError: The disk is full or the folder is not writable; the generation before stays current.
    """
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = current(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    link = place / f".{CURRENT}.{folder.name}"
    try:
        for name, data in files.items():
            write_atomic(folder / name, data, mode=mode)
        link.symlink_to(folder.name)
        link.replace(place / CURRENT)
    except BaseException:
        link.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(place)
    for old in place.glob(f"{_PREFIX}*"):
        if old not in {folder, before}:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def current(place: Path) -> Path | None:
    """Return the folder of the current generation, or None if there is none yet."""
    link = place / CURRENT
    return place / link.readlink() if link.is_symlink() else None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
