"""A database table as the source of `deidentify`: where its URL comes from, and what it is called.

Why it exists: many archives are databases, and exporting a table to a file first leaves a readable copy behind.

Rules:
    * The URL may hold a password, so it comes from a file that its owner alone can read: never from the command line,
      which every process of the machine sees. No record, message or log repeats it.
    * The table's name stands for a path: the item bears its keyed hash.

What it does not do: read the table (see `fedmed.deid.readers`), or keep a copy of one that is quarantined.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from fedmed.crypto.passphrases import read_private
from fedmed.deid.readers import SqlTable
from fedmed.errors import UsageError

URL_VARIABLE: Final = "FEDMED_SQL_URL_FILE"
_MOST_BYTES: Final = 4096


def table_at(name: str, url_file: Path | None, *, environment: Mapping[str, str] = os.environ) -> SqlTable:
    """Return the table that is meant.

    Args:
        name: `TABLE` or `SCHEMA.TABLE`.
        url_file: The file with the URL, as SQLAlchemy takes it; None for the one that the environment names.
        environment: Where `FEDMED_SQL_URL_FILE` may name the file.

    Raises:
        UsageError: No file is named, others may read it, or it holds no URL; the message repeats nothing of it.
    """
    named = url_file or (Path(environment[URL_VARIABLE]) if environment.get(URL_VARIABLE) else None)
    if named is None:
        raise UsageError(f"expected the file with the database's URL; give --sql-url-file FILE, or set {URL_VARIABLE}")
    data = read_private(named, what="a database's URL", most_bytes=_MOST_BYTES, environment=environment)
    try:
        url = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        url = ""
    if "://" not in url or len(url.split()) != 1:
        raise UsageError(f"{named}: expected one URL such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")
    schema, _, table = name.rpartition(".")
    if not table:
        raise UsageError("expected TABLE or SCHEMA.TABLE, got a name without a table")
    return SqlTable(url, table, schema=schema or None)


def relative_name(source: SqlTable) -> str:
    """Return what stands for the path of a table below its source, without any character that means something there.

    >>> relative_name(SqlTable("sqlite://", "a/b", schema="ward"))
    'sql-ward.a%2Fb'
    """
    return "sql-" + ".".join(quote(part, safe="") for part in (source.schema, source.table) if part)
