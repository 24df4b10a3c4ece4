"""Divide a publisher's one file of all sites into the table that each site would have.

Why it exists: a multi-centre trial is often published as one table with a column that names the
centre, while every hospital of a federation has a file of its own. Whoever plays all sites on
one machine divides the file once; from there on a site's table takes the usual way in.

Rules:
    * Rows keep their order and every cell its text; nothing is parsed or corrected here.
    * Only the sites that the schema lists get a table; rows of others are left out. Without a column of sites, each
      class is divided over them in shares from a Dirichlet distribution; rows of one patient may then part, so such a
      file should have one row a patient.
    * A site without a single row is an error, not an empty table.

What it does not do: de-identify. What it writes is as raw as what it reads, readable by the owner alone.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from fedmed.data.jsonl import is_jsonl, rows_of
from fedmed.data.schema import DataSet, PooledFile, locate
from fedmed.errors import DataError
from fedmed.files import write_atomic


def divide(root: Path, dataset: DataSet, out: Path) -> tuple[str, ...]:
    """Write the table of every site of `dataset.schema` below `out`.

    Args:
        root: The folder that holds the pooled file, CSV in UTF-8, compressed if its name ends in .gz.
        dataset: It says which file, which column names the site, and which sites there are.
        out: Where the tables go, named by the schema's `file`; created if absent.

    Returns:
        The sites, in the schema's order.

    Raises:
        DataError: The data set is not published as one file, or the file is missing, unreadable, lacks the
            column, or has no row of one of the sites.
    """
    schema, pooled = dataset.schema, dataset.pooled
    if pooled is None:
        raise DataError(f"{schema.name}: expected a data set that is published as one file, got one file per site")
    path = root / pooled.file
    if not path.is_file():
        cure = f"; {schema.obtain}" if schema.obtain else ""
        raise DataError(f"{schema.name}: expected the file {pooled.file} in folder {root}, found none{cure}")
    tables = {site: io.StringIO(newline="") for site in schema.sites}
    writers = {site: csv.writer(table, delimiter=schema.delimiter) for site, table in tables.items()}
    rows = dict.fromkeys(schema.sites, 0)
    try:
        with _lines_of(path, dataset) as lines:
            header = next(lines, [])
            place = _place(header, pooled.column, file=pooled.file)
            for writer in writers.values():
                writer.writerow(header)
            found = _by_site(lines, place, len(header), file=pooled.file)
            for called, line in found if pooled.dirichlet is None else _drawn(list(found), schema.sites, pooled):
                site = pooled.names.get(called, called)
                if site in writers:
                    writers[site].writerow(line)
                    rows[site] += 1
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error):
        raise DataError(f"{pooled.file}: expected CSV in UTF-8, got something else; download it again") from None
    lacking = [site for site, count in rows.items() if count == 0]
    if lacking:
        raise DataError(
            f"{pooled.file}: no row of site {', '.join(lacking)}; expected a table for each site of the schema"
        )
    for site, table in tables.items():
        target = out / schema.file.format(site=site)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, table.getvalue().encode())
        locate(out, schema, site)
    return schema.sites


@contextmanager
def _lines_of(path: Path, dataset: DataSet) -> Iterator[Iterator[list[str]]]:
    """Lend the header and the rows of a pooled file: CSV, or JSON Lines with the schema's columns."""
    if is_jsonl(path):
        schema, pooled = dataset.schema, dataset.pooled
        columns = [column.name for column in schema.columns]
        columns += [pooled.column] if pooled is not None and pooled.column not in columns else []
        talk = None if schema.text is None else schema.text.column
        yield itertools.chain([columns], rows_of(path, columns, talk=talk))
        return
    with _opened(path) as file:
        yield csv.reader(file, delimiter=dataset.schema.delimiter)


def _drawn(
    rows: list[tuple[str, list[str]]], sites: Sequence[str], pooled: PooledFile
) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with the site that it is drawn to, in the order of the rows."""
    rng = np.random.default_rng(pooled.seed)
    drawn: dict[int, str] = {}
    for label in sorted({label for label, _ in rows}):
        places = rng.permutation([place for place, (found, _) in enumerate(rows) if found == label])
        shares = rng.dirichlet(np.full(len(sites), pooled.dirichlet))
        ends = np.rint(np.cumsum(shares) * len(places)).astype(int)[:-1]
        for site, part in zip(sites, np.split(places, ends), strict=True):
            drawn |= dict.fromkeys((int(place) for place in part), site)
    for place, (_, line) in enumerate(rows):
        yield drawn[place], line


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _place(header: list[str], column: str, *, file: str) -> int:
    if header.count(column) != 1:
        raise DataError(f"{file}: expected one column {column!r} in the header, got {header.count(column)}")
    return header.index(column)


def _by_site(lines: Iterator[list[str]], place: int, width: int, *, file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield site and row; a row of another width would put its cells under other columns' names."""
    for number, line in enumerate(lines, start=2):
        if len(line) != width:
            raise DataError(f"{file}: row {number} has {len(line)} cells, the header {width}; correct the file")
        yield line[place], line
