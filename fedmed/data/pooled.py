"""Divide a publisher's files of all sites into the table that each site would have.

Why it exists: a multi-centre trial is often published as one table with a column that names the
centre, while every hospital of a federation has a file of its own. Whoever plays all sites on
one machine divides the file once; from there on a site's table takes the usual way in.

Rules:
    * Rows keep their order and every cell its text; nothing is parsed or corrected here.
    * Only the sites that the schema lists get a table; rows of others are left out and counted. Without a column of
      sites, each class is divided over them in shares from a Dirichlet distribution; rows of one patient may then part,
      so such a file should have one row a patient.
    * Every row of the publisher goes to one site, or is counted with the reason why it goes to none.
    * A site without a single row is an error, not an empty table.

What it does not do: de-identify. What it writes is as raw as what it reads, readable by the owner alone.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmed.data.arrays import divide_arrays, is_arrays
from fedmed.data.published import place_of, rows_of_publisher
from fedmed.data.schema import DataSet, PooledFile, locate
from fedmed.errors import DataError
from fedmed.files import memory_file, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """What became of a publisher's rows: the sites with a table, and how many rows no site got, by reason."""

    sites: tuple[str, ...]
    left_out: Mapping[str, int]


def divide(root: Path, dataset: DataSet, out: Path) -> Divided:
    """Write the table of every site of `dataset.schema` below `out`.

    Args:
        root: The folder that holds the publisher's files, CSV in UTF-8 or JSON Lines, compressed if a name ends in .gz.
        dataset: It says which file, which column names the site, and which sites there are.
        out: Where the tables go, named by the schema's `file`; created if absent.

    Returns:
        The sites, in the schema's order, and the rows that none of them got.

    Raises:
        DataError: The data set is published as a file per site, or a file is missing, unreadable, lacks a
            column, cannot be joined, or has no row of one of the sites.
    """
    schema, pooled = dataset.schema, _pooled(dataset)
    if is_arrays(Path(pooled.file)):
        kept_out: Counter[str] = Counter()
        sites = divide_arrays(
            root, dataset, out, assign=lambda rows: _assigned(rows, schema.sites, pooled, left_out=kept_out)
        )
        return Divided(sites=sites, left_out=dict(kept_out))
    tables = {site: io.StringIO(newline="") for site in schema.sites}
    writers = {site: csv.writer(table, delimiter=schema.delimiter) for site, table in tables.items()}
    rows = dict.fromkeys(schema.sites, 0)
    left_out: Counter[str] = Counter()
    header, placed = _placed(root, dataset, left_out)
    for writer in writers.values():
        writer.writerow(header)
    for site, line in placed:
        writers[site].writerow(line)
        rows[site] += 1
    lacking = [site for site, count in rows.items() if count == 0]
    if lacking:
        raise DataError(
            f"{_pooled(dataset).file}: no row of site {', '.join(lacking)}; expected a table for each site of the"
            " schema"
        )
    for site, table in tables.items():
        target = out / schema.file.format(site=site)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, table.getvalue().encode())
        locate(out, schema, site)
    return Divided(sites=schema.sites, left_out=dict(left_out))


@contextmanager
def together(root: Path, dataset: DataSet) -> Iterator[tuple[Path, Divided]]:
    """Yield one table of the rows that all sites would get, which lives in memory for the block, and what is left out.

    Raises:
        DataError: As `divide`, but for sites without a row.
    """
    left_out: Counter[str] = Counter()
    header, placed = _placed(root, dataset, left_out)
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=dataset.schema.delimiter)
    writer.writerow(header)
    writer.writerows(line for _, line in placed)
    with memory_file(written.getvalue().encode()) as table:
        yield table, Divided(sites=dataset.schema.sites, left_out=dict(left_out))


def _pooled(dataset: DataSet) -> PooledFile:
    if dataset.pooled is None:
        raise DataError(
            f"{dataset.schema.name}: expected a data set that is published as one file, got one file per site"
        )
    return dataset.pooled


def _placed(root: Path, dataset: DataSet, left_out: Counter[str]) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """Return the header, and each row that a site gets with that site; the others are counted."""
    pooled, sites = _pooled(dataset), dataset.schema.sites
    lines = rows_of_publisher(root, dataset, pooled, left_out=left_out)
    header = next(lines, [])
    place = place_of(header, pooled.column, file=pooled.file)

    return header, _assigned(((line[place], line) for line in lines), sites, pooled, left_out=left_out)


def _assigned(
    rows: Iterable[tuple[str, list[str]]], sites: Sequence[str], pooled: PooledFile, *, left_out: Counter[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with the name of its site; those of other sites are counted."""
    for called, line in rows if pooled.dirichlet is None else _drawn(list(rows), sites, pooled):
        site = pooled.names.get(called, called)
        if site in sites:
            yield site, line
        else:
            left_out["of other sites"] += 1


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
