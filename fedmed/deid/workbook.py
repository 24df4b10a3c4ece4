"""The sheet of a workbook, read in a process of its own that has an end of its memory.

Why it exists: two cells in far corners make a sheet of seventeen thousand million, and a reader makes room for all of
them before anybody can ask. What runs out of memory, or panics, is then this process and not the one that called it.

Rules:
    * The process may take a fixed amount of memory, and more for a larger file; then it ends.
    * The file's name goes in through a pipe: every process of the machine could read it on a command line.
    * The cells come back through a pipe: nothing raw reaches a disk, and nothing that a reader says of them a terminal.

What it does not do: judge what is in the cells, or bound memory where no Linux holds it. It is run by its path, and
imports nothing of this project.
"""

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import polars as pl

_MEMORY_BYTES, _MEMORY_OF_A_BYTE = 1 << 30, 64
_STATM = Path("/proc/self/statm")


class WorkbookError(Exception):
    """A workbook that can't be read in the memory that it may take."""


def read_sheet(path: Path) -> tuple[int, pl.DataFrame]:
    """Return how many sheets a workbook has, and the first one as the text of its cells.

    Raises:
        WorkbookError: It can't be read, or takes too much memory.
    """
    done = subprocess.run(  # noqa: S603  this very file, under this very interpreter
        [sys.executable, "-P", __file__], capture_output=True, check=False, input=os.fsencode(path)
    )
    head, _, frame = done.stdout.partition(b"\n")
    if done.returncode != 0 or not head:
        raise WorkbookError
    return int(json.loads(head)), pl.read_ipc_stream(io.BytesIO(frame)) if frame else pl.DataFrame()


def _bound(size: int) -> None:
    """Let this process take so much memory beyond what it has, for a file of so many bytes."""
    if not _STATM.exists():
        return
    taken = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    most = taken + _MEMORY_BYTES + _MEMORY_OF_A_BYTE * size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _main(path: Path) -> None:
    import fastexcel  # noqa: PLC0415  an optional extra

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would be a raw copy on the disk
    _bound(path.stat().st_size)
    book = fastexcel.read_excel(path)
    sheets = len(book.sheet_names)
    frame = book.load_sheet(0, header_row=None, dtypes="string").to_polars() if sheets else pl.DataFrame()
    sys.stdout.buffer.write(json.dumps(sheets).encode() + b"\n")
    if sheets:
        frame.write_ipc_stream(sys.stdout.buffer)


if __name__ == "__main__":
    _main(Path(os.fsdecode(sys.stdin.buffer.read())))
