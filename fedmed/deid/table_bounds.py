"""How large a table may be for the bytes that it comes in, and how many columns it may have.

Why it exists: a few kilobytes of Parquet can say a thousand million rows, and a line of commas a million columns.

Rules:
    * Nothing is made as large as a file says before that was compared with the file's size.
    * Text that many cells share is taken out a bounded part at a time.

What it does not do: read files (see `readers`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from fedmed.errors import DataError

_MOST_COLUMNS, _LONGEST_HEADING = 4_096, 2_000
_LEAST_CELLS, _CELLS_OF_A_BYTE = 4_000_000, 16
_MOST_TEXT = 64 << 20


def check_header(name: str, header: Sequence[str]) -> None:
    """Refuse what no table has: a hundred thousand columns, or a heading as long as a page.

    Raises:
        DataError: The table has either.
    """
    if len(header) > _MOST_COLUMNS:
        raise DataError(f"{name}: expected at most {_MOST_COLUMNS} columns, got {len(header)}; check the delimiter")
    if any(len(heading) > _LONGEST_HEADING for heading in header):
        raise DataError(f"{name}: a heading of more than {_LONGEST_HEADING} characters; check the first line")


def check_cells(name: str, path: Path, columns: int) -> None:
    """Refuse a file of few bytes that says it has very many cells: they would all be made at once.

    Raises:
        DataError: It does, or is damaged.
    """
    try:
        rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
    except (PolarsError, PanicException, OSError):
        raise DataError(f"{name}: not a readable Parquet file; export the table again") from None
    if rows * columns > _LEAST_CELLS + _CELLS_OF_A_BYTE * path.stat().st_size:
        raise DataError(f"{name}: far more rows than a file of its size holds; export the table again")


def in_pieces(name: str, batch: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield a batch in parts of not too much text: many cells may share one long text until they are taken out.

    Raises:
        DataError: A row alone has too much.
    """
    if batch.is_empty():
        yield batch
        return
    sizes = batch.select(pl.sum_horizontal(pl.all().str.len_bytes().cast(pl.Int64))).to_series()
    if int(sizes.sum()) <= _MOST_TEXT:
        yield batch
        return
    if int(sizes.max()) > _MOST_TEXT:  # type: ignore[arg-type]  # of whole numbers
        raise DataError(f"{name}: a row of more than 64 MiB; expected cells of a table; export it again")
    first = taken = 0
    for at, size in enumerate(sizes):
        if taken + size > _MOST_TEXT:
            yield batch.slice(first, at - first)
            first, taken = at, 0
        taken += size
    yield batch.slice(first)
