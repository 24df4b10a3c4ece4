"""Rows on their way through, kept in a file that has no name.

Why it exists: k-anonymity needs every row before it can release one, and a table may be
larger than memory. The rows wait here, and nobody finds them after a kill.

Rules:
    * The file is unlinked from the start: the kernel frees it when the process dies, however it dies.
    * Up to `MEMORY_BYTES` stay in memory.

What it does not do: hold identifiers; what comes in has been de-identified cell by cell.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import polars as pl

MEMORY_BYTES = 64 << 20


class Spill:
    """Frames of one schema, written once and read as often as needed; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open an unnamed file in `folder`, which should lie on the disk of the output."""
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES, dir=str(folder))  # noqa: SIM115  closed by exit
        self._ends: list[int] = []
        self.height = 0

    def __enter__(self) -> "Spill":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, frame: pl.DataFrame) -> None:
        """Add a frame behind the others.

        Raises:
            OSError: The disk is full.
        """
        encoded = io.BytesIO()
        frame.write_ipc_stream(encoded, compression="lz4")
        self._file.seek(0, io.SEEK_END)
        self._file.write(encoded.getbuffer())
        self._ends.append(self._file.tell())
        self.height += frame.height

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the frames in order."""
        start = 0
        for end in self._ends:
            self._file.seek(start)
            yield pl.read_ipc_stream(io.BytesIO(self._file.read(end - start)))
            start = end

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Return these columns of all the rows, in memory."""
        return pl.concat([frame.select(names) for frame in self.frames()])
