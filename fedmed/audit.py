"""A hash chain of entries, and the append-only file that keeps one.

Why it exists: a privacy budget and an audit trail are only believable when a
changed, missing or reordered entry is noticed. Every entry names the SHA-256 of
the one before it, and every stored line also carries its own.

Rules:
    * `append` and `verify` are pure; `ChainLog` is the only part that touches files.
    * A stored line is canonical JSON and ends in a newline: a line without one was
      never committed, because `ChainLog.append` had not returned.
    * Bodies hold finite JSON scalars only: flat facts, never patient data.

What it does not do: sign, encrypt, or notice that whole entries were cut from the
end or that an older copy of the file was restored. Whoever must notice that keeps
`digest` of the last entry somewhere else.
"""

import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedmed.errors import IntegrityError
from fedmed.files import append_durable, locked
from fedmed.records import canonical_json, decode, digest, require

ENTRY_VERSION = 1
GENESIS = "0" * 64
"""What the first entry names as the digest of the one before it."""

Scalar = str | int | float | bool | None

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One link of the chain: what happened, and the digest of what happened before."""

    index: int
    previous: str
    kind: str
    body: dict[str, Scalar]
    version: int = ENTRY_VERSION

    def __post_init__(self) -> None:
        require(self.version == ENTRY_VERSION, f"version must be {ENTRY_VERSION}, got {self.version}")
        require(self.index >= 0, f"index must be at least 0, got {self.index}")
        require(_HEX_DIGEST.fullmatch(self.previous) is not None, "previous must be 64 hexadecimal digits")
        require(bool(self.kind) and self.kind.isprintable(), "kind must be a printable word")
        for key, value in self.body.items():
            require(isinstance(value, Scalar), f"body.{key} must be a JSON scalar, got a {type(value).__name__}")
            require(not isinstance(value, float) or math.isfinite(value), f"body.{key} must be finite, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """What one line of the file holds: an entry beside its own digest."""

    digest: str
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """Bytes that verified, what they say, and the digest of the last entry."""

    data: bytes
    entries: tuple[Entry, ...]
    head: str


_NOTHING: Final = _Verified(data=b"", entries=(), head=GENESIS)


class _Memory:
    """What this process verified of each log, so that a long one is not parsed anew for every object that opens it."""

    MOST: Final = 256

    def __init__(self) -> None:
        self._known: dict[Path, _Verified] = {}
        self._lock = threading.Lock()

    def of(self, path: Path) -> _Verified:
        with self._lock:
            return self._known.get(path, _NOTHING)

    def keep(self, path: Path, verified: _Verified) -> None:
        with self._lock:
            self._known.pop(path, None)
            self._known[path] = verified
            if len(self._known) > self.MOST:
                del self._known[next(iter(self._known))]


_memory = _Memory()
os.register_at_fork(after_in_child=_memory.__init__)  # type: ignore[misc]  # another thread may have held the lock


def append(previous: Entry | None, kind: str, body: Mapping[str, Scalar]) -> Entry:
    """Return the entry that follows `previous` (None: the first entry of a chain).

    >>> first = append(None, "opened", {"dataset": "heart"})
    >>> second = append(first, "closed", {})
    >>> (second.index, second.previous == digest(first))
    (1, True)

    Raises:
        ValueError: The kind is empty or the body holds something other than finite JSON scalars.
    """
    if previous is None:
        return Entry(index=0, previous=GENESIS, kind=kind, body=dict(body))
    return Entry(index=previous.index + 1, previous=digest(previous), kind=kind, body=dict(body))


def verify(entries: Sequence[Entry]) -> None:
    """Check that `entries` are one whole chain from its first entry on.

    >>> first = append(None, "opened", {"dataset": "heart"})
    >>> verify([first, append(first, "closed", {})])

    Raises:
        IntegrityError: An entry is out of place or does not name the digest of the one
            before it; the message gives the first bad index.
    """
    expected = GENESIS
    for index, entry in enumerate(entries):
        _check_link(entry, index=index, expected=expected)
        expected = digest(entry)


class ChainLog:
    """A chain in a file of JSON lines, safe against kills and concurrent writers.

    Guarantees: an entry that was returned is on disk; an entry that was not
    returned may be on disk whole, or is dropped as a torn last line by the next
    append. Writers of several processes take turns through a lock file beside it.
    Every call compares the whole file with what this process verified before, byte by
    byte, and verifies what is new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(f"{path.name}.lock")
        self._key = path.absolute()

    def append(self, kind: str, body: Mapping[str, Scalar]) -> Entry:
        """Append one entry and return it once it is on disk.

        Raises:
            IntegrityError: The stored chain does not verify; nothing is written.
            OSError: The disk is full or the file is not writable.
        """
        written = self.extend(lambda _: (kind, body))
        if written is None:
            raise AssertionError("a decision to write always writes")
        return written

    def extend(self, decide: Callable[[Sequence[Entry]], tuple[str, Mapping[str, Scalar]] | None]) -> Entry | None:
        """Append what `decide` answers to the verified entries, with no writer in between.

        Args:
            decide: Called once under the lock; returns a kind and a body to append, or None
                to write nothing. An exception that it raises passes through and writes nothing.

        Returns:
            The entry on disk, or None.
        """
        with locked(self._lock):
            data = self._read()
            entries = self._verify(data)
            decision = decide(entries)
            if decision is None:
                return None
            entry = append(entries[-1] if entries else None, *decision)
            self._drop_torn_line(data)
            line = _Line(digest=digest(entry), entry=entry)
            append_durable(self.path, canonical_json(line) + b"\n")
            return entry

    def append_all(self, facts: Sequence[tuple[str, Mapping[str, Scalar]]]) -> list[Entry]:
        """Append several entries, each a kind and a body, and return them once all are on disk.

        The log is verified once and synced once, whatever their number. A kill in the middle leaves the first few
        of them on disk, each whole.

        Raises:
            IntegrityError: The stored chain does not verify; nothing is written.
            OSError: The disk is full or the file is not writable.
        """
        with locked(self._lock):
            data = self._read()
            stored = self._verify(data)
            last, entries, lines = (stored[-1] if stored else None), list[Entry](), list[bytes]()
            for kind, body in facts:
                last = append(last, kind, body)
                entries.append(last)
                lines.append(canonical_json(_Line(digest=digest(last), entry=last)) + b"\n")
            if lines:
                self._drop_torn_line(data)
                append_durable(self.path, b"".join(lines))
            return entries

    def entries(self) -> list[Entry]:
        """Return the committed entries, verified; an absent file has none.

        Raises:
            IntegrityError: A line or the chain does not verify. A last line without a newline
                was never committed and is left out.
        """
        return list(self._verify(self._read()))

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _verify(self, data: bytes) -> Sequence[Entry]:
        """Return the entries of the lines in `data` that end in a newline; the rest was never committed."""
        whole = data[: data.rfind(b"\n") + 1]
        known = _memory.of(self._key)
        if whole == known.data:
            return known.entries
        if not whole.startswith(known.data):
            known = _NOTHING
        entries, head = list(known.entries), known.head
        for stored in whole[len(known.data) :].split(b"\n")[:-1]:
            line = _parse_line(len(entries), stored)
            _check_link(line.entry, index=len(entries), expected=head)
            entries.append(line.entry)
            head = line.digest
        verified = _Verified(data=whole, entries=tuple(entries), head=head)
        _memory.keep(self._key, verified)
        return verified.entries

    def _drop_torn_line(self, data: bytes) -> None:
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, whole)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_link(entry: Entry, *, index: int, expected: str) -> None:
    if entry.index != index:
        raise IntegrityError(f"audit chain: entry {index} is bad: expected index {index}, got {entry.index}")
    if entry.previous != expected:
        raise IntegrityError(
            f"audit chain: entry {index} is bad: it does not follow the stored entry {index - 1}; "
            "an entry was changed, removed or inserted"
        )


def _parse_line(index: int, data: bytes) -> _Line:
    try:
        line = decode(data, _Line)
    except IntegrityError:
        raise IntegrityError(f"audit chain: entry {index} is bad: the line is not an entry of version 1") from None
    if canonical_json(line) != data or digest(line.entry) != line.digest:
        raise IntegrityError(f"audit chain: entry {index} is bad: the line does not match its own digest")
    return line
