"""The de-identified table as one Parquet file, whole or absent.

Why it exists: rows that waited in a `Spill` go out in batches, generalised on the way, so that a table
larger than memory can be written; and a kill half-way leaves the old file or the new one.

Rules:
    * The rows go to a temporary file beside the target, which takes its place once it is on disk.
    * Where the rows are to be sealed, they go through the cipher on their way: no readable byte reaches the disk.
    * What a killed run left beside the target is removed by the next.
    * A generalised column keeps the type that the schema gives it: the middle of an age band, the first day
      of a period, null for `*`. A place becomes its label.

What it does not do: choose levels (see `anonymity`), or log.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import polars as pl
from polars.io.plugins import register_io_source

from fedmed.crypto.seal import Seal
from fedmed.deid.anonymity import Recoding
from fedmed.deid.hierarchies import SUPPRESSED, as_dates, as_numbers
from fedmed.deid.outgoing import Written, outgoing
from fedmed.deid.spill import Spill

_ROW_GROUP = 122_880  # fixed, so that the bytes don't depend on how the rows were batched


def write_table(
    path: Path, kept: Spill, *, recoding: Recoding | None, kinds: Mapping[str, str], seal: Seal | None = None
) -> Written:
    """Write the rows of `kept`, generalised, in place of `path` and return what the readable file is.

    Guarantees: the bytes don't depend on how the rows were batched. On an error or a kill `path` is unchanged.

    Args:
        path: The Parquet file; its folder must exist.
        kept: At least one frame.
        recoding: The levels of the quasi-identifiers and the rows that stay, or None to write all as it is.
        kinds: What each column is, so that a generalised one keeps its type.
        seal: The key and the name to seal the file under; None leaves it readable.

    Raises:
        OSError: The disk is full or the folder is not writable.
    """

    def rows() -> Iterator[pl.DataFrame]:
        first = 0
        for frame in kept.frames():
            yield frame if recoding is None else _typed(recoding.apply(frame, first=first), recoding, kinds)
            first += frame.height

    schema = next(rows()).schema
    frames = register_io_source(lambda *_: rows(), schema=schema, is_pure=True)
    with outgoing(path, seal) as file:
        frames.sink_parquet(cast("IO[bytes]", file), row_group_size=_ROW_GROUP)
        return file.written()


def _typed(frame: pl.DataFrame, recoding: Recoding, kinds: Mapping[str, str]) -> pl.DataFrame:
    """Return labels as the type that the schema gives their column: a model that takes numbers still gets them."""
    made = []
    for quasi in recoding.quasi_identifiers:
        label, kind = frame[quasi.column], kinds[quasi.column]
        if kind == "number":
            label = as_numbers(label)
        elif kind == "date":
            label = as_dates(label)
        elif kind in {"category", "binary"}:
            label = label.replace(SUPPRESSED, None)
            label = label.cast(pl.Int8) if kind == "binary" else label
        made.append(label.alias(quasi.column))
    return frame.with_columns(made)
