"""Search what reached the coordinator for identifiers that were planted at the hospitals.

Why it exists: "nothing leaks" is only believable when somebody looked. The
synthetic hospitals know every name, number and address that they invented; after a
run all bytes that the coordinator received or wrote are searched for them.

Rules:
    * Raw bytes are searched, in UTF-8 and GB18030; patterns under six bytes are left
      out, because random weights contain them by chance.
    * A find is reported as a count and a place, never as the identifier.

What it does not do: find what was encoded in other ways (compressed, hashed).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHORTEST = 6
_PREFIX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """What the search covered and found."""

    planted: int
    searched_bytes: int
    found: int
    places: tuple[str, ...]
    whole: bool = True
    """False after a resumption: messages from before the stop were not searched."""


@dataclass(slots=True)
class LeakSearch:
    """A search for planted identifiers over everything that is fed to it."""

    identifiers: Iterable[str]
    _patterns: dict[bytes, list[bytes]] = field(init=False, default_factory=dict)
    _prefixes: "np.ndarray[tuple[int], np.dtype[np.uint32]]" = field(init=False)
    _planted: int = field(init=False, default=0)
    _bytes: int = field(init=False, default=0)
    _found: int = field(init=False, default=0)
    _places: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for identifier in set(self.identifiers):
            forms = {form for form in _encodings(identifier) if len(form) >= SHORTEST}
            self._planted += bool(forms)
            for form in forms:
                self._patterns.setdefault(form[:_PREFIX], []).append(form)
        self._prefixes = np.array(sorted(int.from_bytes(p, "little") for p in self._patterns), dtype=np.uint32)

    def feed(self, data: bytes, place: str) -> None:
        """Search `data`; `place` says where it came from."""
        self._bytes += len(data)
        hits = sum(
            data.startswith(pattern, start)
            for start in self._candidates(data)
            for pattern in self._patterns[data[start : start + _PREFIX]]
        )
        if hits:
            self._found += hits
            self._places.append(place)

    def feed_folder(self, folder: Path) -> None:
        """Search every file below `folder`, and its name."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = os.fsencode(path.relative_to(folder))
                before = self._found
                self.feed(name, "the name of a file")
                self.feed(path.read_bytes(), "a file" if self._found > before else name.decode("utf-8", "replace"))

    def report(self) -> LeakReport:
        """Return what was covered and found so far."""
        return LeakReport(
            planted=self._planted,
            searched_bytes=self._bytes,
            found=self._found,
            places=tuple(sorted(set(self._places))),
        )

    def _candidates(self, data: bytes) -> list[int]:
        """Return the positions where the first bytes of some pattern stand."""
        found: list[int] = []
        for offset in range(_PREFIX):
            count = (len(data) - offset) // _PREFIX
            if count <= 0 or len(self._prefixes) == 0:
                continue
            words = np.frombuffer(data, dtype="<u4", count=count, offset=offset)
            found += [int(i) * _PREFIX + offset for i in np.flatnonzero(np.isin(words, self._prefixes))]
        return found


def _encodings(text: str) -> Iterable[bytes]:
    yield text.encode()
    yield text.encode("gb18030")
