"""Divide a publisher's files of all sites into the table that each site would have.

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
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedmed.data.published import place_of, rows_of_publisher
from fedmed.data.schema import DataSet, PooledFile, locate
from fedmed.errors import DataError
from fedmed.files import write_atomic


def divide(root: Path, dataset: DataSet, out: Path) -> tuple[str, ...]:
    """Write the table of every site of `dataset.schema` below `out`.

    Args:
        root: The folder that holds the publisher's files, CSV in UTF-8 or JSON Lines, compressed if a name ends in .gz.
        dataset: It says which file, which column names the site, and which sites there are.
        out: Where the tables go, named by the schema's `file`; created if absent.

    Returns:
        The sites, in the schema's order.

    Raises:
        DataError: The data set is published as a file per site, or a file is missing, unreadable, lacks a
            column, cannot be joined, or has no row of one of the sites.
    """
    schema, pooled = dataset.schema, dataset.pooled
    if pooled is None:
        raise DataError(f"{schema.name}: expected a data set that is published as one file, got one file per site")
    tables = {site: io.StringIO(newline="") for site in schema.sites}
    writers = {site: csv.writer(table, delimiter=schema.delimiter) for site, table in tables.items()}
    rows = dict.fromkeys(schema.sites, 0)
    lines = rows_of_publisher(root, dataset, pooled)
    header = next(lines, [])
    place = place_of(header, pooled.column, file=pooled.file)
    for writer in writers.values():
        writer.writerow(header)
    found = ((line[place], line) for line in lines)
    for called, line in found if pooled.dirichlet is None else _drawn(list(found), schema.sites, pooled):
        site = pooled.names.get(called, called)
        if site in writers:
            writers[site].writerow(line)
            rows[site] += 1
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
