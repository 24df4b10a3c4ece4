"""Rows on their way through, kept sealed in a file that has no name.

Why it exists: k-anonymity needs every row before it can release one, and a table may be
larger than memory. The rows wait here, and nobody finds them after a kill.

Rules:
    * Every frame is sealed under a key that only this process has: what reaches a disk can't be read, not even from
      the blocks that a killed process leaves behind.
    * The file is unlinked from the start: the kernel frees it when the process dies, however it dies.
    * Up to `MEMORY_BYTES` stay in memory, and everything where no folder is given.

What it does not do: hold identifiers; what comes in has been de-identified cell by cell.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import polars as pl

from fedmed.crypto.seal import DataKey, seal, unseal

MEMORY_BYTES = 64 << 20


class Spill:
    """Frames of one schema, written once and read as often as needed; a context manager."""

    def __init__(self, folder: Path | None) -> None:
        """Open an unnamed file in `folder`, which should lie on the disk of the output; None keeps all in memory."""
        most = 0 if folder is None else MEMORY_BYTES  # of 0, Python's own name for no bound
        self._file = tempfile.SpooledTemporaryFile(max_size=most, dir=None if folder is None else str(folder))  # noqa: SIM115  closed by exit
        self._ends: list[int] = []
        self._key = DataKey.generate()
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
        self._file.write(seal(encoded.getvalue(), key=self._key, name=str(len(self._ends))))
        self._ends.append(self._file.tell())
        self.height += frame.height

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the frames in order.

        Raises:
            IntegrityError: The file was changed under the process.
        """
        start = 0
        for number, end in enumerate(self._ends):
            self._file.seek(start)
            frame = unseal(self._file.read(end - start), key=self._key, name=str(number))
            yield pl.read_ipc_stream(io.BytesIO(frame))
            start = end

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Return these columns of all the rows, in memory."""
        return pl.concat([frame.select(names) for frame in self.frames()])
