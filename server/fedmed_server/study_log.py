"""The log of a study: JSON lines that people and scripts read, chained so that a change is noticed.

Why it exists: the log says which rounds were finished and over whom; an auditor compares that with the receipts, so a
line must not be changed, dropped or moved without a trace.

Rules:
    * Each line has its place, the digest of the line before, and the SHA-256 of its own canonical JSON without that.
    * A line without an end of line was never committed; the next one takes its place.

What it does not do: lock (its caller does), or notice that the end was cut off.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from fedmed.audit import GENESIS
from fedmed.errors import IntegrityError
from fedmed.files import append_durable
from fedmed.records import canonical_json, digest

_DIGEST: Final = "digest"


def append(path: Path, facts: Mapping[str, object]) -> None:
    """Append one line and return once it is on disk; a log of before there were chains is put aside.

    Raises:
        IntegrityError: The last line is not of a chained log; nothing is written.
    """
    _put_aside(path)
    place, previous = _follow(path)
    line: dict[str, object] = {**facts, "index": place, "previous": previous}
    append_durable(path, canonical_json({**line, _DIGEST: digest(line)}) + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the committed lines, verified; an absent file has none.

    Raises:
        IntegrityError: A line was changed, removed, inserted or moved; the message says which.
    """
    data = path.read_bytes() if path.is_file() else b""
    found: list[dict[str, Any]] = []
    previous = GENESIS
    for place, stored in enumerate(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]):
        line = _parse(stored, place)
        own = line.get(_DIGEST)
        bare = {key: value for key, value in line.items() if key != _DIGEST}
        if canonical_json(line) != stored or digest(bare) != own:
            raise IntegrityError(f"entry {place} is bad: the line does not match its own digest")
        if line.get("index") != place or line.get("previous") != previous:
            raise IntegrityError(
                f"entry {place} is bad: it does not follow the line before it; one was changed, removed or inserted"
            )
        found.append(line)
        previous = str(own)
    return found


def _follow(path: Path) -> tuple[int, str]:
    """Return the place of the next line and what it follows, after dropping a line that was never committed."""
    if not path.is_file() or not path.stat().st_size:
        return 0, GENESIS
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    lines = data[:whole].split(b"\n")[:-1]
    if not lines:
        return 0, GENESIS
    last = _parse(lines[-1], len(lines) - 1)
    return int(last["index"]) + 1, str(last[_DIGEST])


def _put_aside(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            first = file.readline()
        if first.endswith(b"\n") and b'"previous":' not in first:
            path.rename(path.with_name("log.unchained.jsonl"))


def _parse(stored: bytes, place: int) -> dict[str, Any]:
    try:
        line = msgspec.json.decode(stored, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        line = {}
    if not {"index", "previous", _DIGEST} <= line.keys():
        raise IntegrityError(f"entry {place} is bad: expected a chained line, got another")
    return line
