"""Tables and talks in JSON Lines, compressed tables, and images in an archive, as the CSV that the way in knows.

Why it exists: notes and instructions are published and exported as one JSON object per line, images as arrays (see
`arrays`); de-identification reads tables.

Rules:
    * A column is the value of the key of the same name: text, a number, true or false. Anything else is empty.
    * A conversation stands in a list of `{"role": ..., "content": ...}` under the column's name, or under `messages`;
      it becomes text with marks between the turns (see `fedmed.rows`), which de-identification leaves as they are. A
      content may be a list of texts, `{"type": "text", "text": ...}`; a conversation with other parts is empty.
    * A table whose name ends in .gz is unpacked likewise.
    * The table lies in an anonymous file in memory (memfd_create(2)): what is raw reaches no disk on the way.
    * A line that is no object becomes a row with a cell too many, which the way in sets aside and counts; too many of
      them are an error.

What it does not do: clean text. The table is as raw as what it is made from.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fedmed.data.arrays import is_arrays, rows_of_arrays
from fedmed.data.schema import Schema
from fedmed.errors import DataError
from fedmed.files import memory_file, unpacked_most
from fedmed.rows import conversation

SUFFIXES = (".jsonl", ".jsonl.gz")
_MOST_BAD = 0.2
_MESSAGES = "messages"


def is_jsonl(path: Path) -> bool:
    """Return whether a file is JSON Lines by its name.

    >>> is_jsonl(Path("north.jsonl")), is_jsonl(Path("north.csv"))
    (True, False)
    """
    return path.name.endswith(SUFFIXES)


def is_converted(path: Path) -> bool:
    """Return whether the way in knows a file only as a CSV that is made of it, by its name."""
    return is_jsonl(path) or is_arrays(path)


@contextmanager
def table_of(path: Path, schema: Schema) -> Iterator[Path]:
    """Yield a table for de-identification: `path` itself, or a CSV that lives in memory for the block.

    Of JSON Lines and of archives of images it is made; of a table whose name ends in .gz it is what was compressed.

    Raises:
        DataError: More than a fifth of the lines of JSON Lines are no objects, or the file is no text, or is damaged;
            or an archive has no images with labels.
    """
    if not is_converted(path):
        if path.suffix != ".gz":
            yield path
            return
        with memory_file(_unpacked(path)) as table:
            yield table
        return
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=schema.delimiter)
    if is_arrays(path):
        writer.writerows(rows_of_arrays(path))
    else:
        columns = [column.name for column in schema.columns]
        writer.writerow(columns)
        writer.writerows(rows_of(path, columns, talk=None if schema.text is None else schema.text.column))
    with memory_file(written.getvalue().encode()) as table:
        yield table


def rows_of(path: Path, columns: Sequence[str], *, talk: str | None) -> Iterator[list[str]]:
    """Yield the cells of each object of a file, by column; of a line that is none, one empty cell too many.

    Args:
        path: JSON Lines in UTF-8, compressed if its name ends in .gz.
        columns: What is wanted of each object.
        talk: The column that `messages` stand for.

    Raises:
        DataError: As `table_of`.
    """
    lines = bad = 0
    for line in _lines(path):
        lines += 1
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError, ValueError):  # nested too deep; a number of thousands of digits
            found = None
        if not isinstance(found, dict):
            bad += 1
            yield [""] * (len(columns) + 1)
            continue
        yield [_cell(found.get(column, found.get(_MESSAGES) if column == talk else None)) for column in columns]
    if lines == 0 or bad > _MOST_BAD * lines:
        raise DataError(f"{path.name}: expected a JSON object on each line, got {bad} others of {lines}; correct it")


def _unpacked(path: Path) -> bytes:
    try:
        most = unpacked_most(path.stat().st_size)
        with gzip.open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path.name}: expected a compressed table, got something else; export it again") from None
    if len(data) > most:
        raise DataError(f"{path.name}: the table unpacks to far more than a table of its size; export it again")
    return data


def _lines(path: Path) -> Iterator[bytes]:
    left = unpacked_most(path.stat().st_size)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(left + 1):
                left -= len(line)
                if left < 0:
                    raise DataError(f"{path.name}: the file unpacks to far more than its size; export it again")
                if line.strip():
                    yield line
    except (OSError, EOFError, zlib.error):
        raise DataError(f"{path.name}: the file can't be read; export it again") from None


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        contents = [_content(turn.get("content")) for turn in value]
        if None not in contents:
            return conversation(
                [(str(turn.get("role", "user")), said or "") for turn, said in zip(value, contents, strict=True)]
            )
    return ""


def _content(value: Any) -> str | None:
    """Return what a turn says: a text, or the texts of its parts; None where a part is no text."""
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "\n".join(part["text"] for part in value)
    return None
