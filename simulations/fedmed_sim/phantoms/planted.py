"""What was planted in a file, and the search for it in what comes out.

Why it exists: "no leak" means that nothing of a list is found in the raw output
bytes, in any of the encodings that a file may use.

Rules:
    * A secret is a text, searched in UTF-8, GB18030, UTF-16 and Latin-1, or bytes, searched as they are.
    * Each hiding place holds a word of its own, so that a leak tells where it came from.
    * A fact that must survive is told with its value.

What it does not do: judge a date. Under a shift one date of a file can become another of its dates
by chance; compare `dates` attribute by attribute.
"""

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

SecretKind = Literal[
    "NAME", "DATE", "ID", "PHONE", "EMAIL", "RECORD", "ADDRESS", "HOSPITAL", "DEVICE", "UID", "PIXELS", "CANARY", "URL"
]
Value = str | int | float | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
_ENCODINGS = ("utf-8", "gb18030", "utf-16-le", "latin-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Something that must not survive."""

    kind: SecretKind
    where: str
    """What it is, or the hiding place."""

    text: str = ""
    raw: bytes = b""

    def forms(self) -> frozenset[bytes]:
        """Return the byte strings to search for."""
        return frozenset({self.raw}) if self.raw else _forms(self.text)

    def is_in(self, data: bytes) -> bool:
        """Tell whether any form of the secret occurs in `data`."""
        return any(form in data for form in self.forms())


@lru_cache(maxsize=4096)
def _forms(text: str) -> frozenset[bytes]:
    coded = {name: text.encode(name, "ignore") for name in _ENCODINGS}
    return frozenset(raw for name, raw in coded.items() if raw.decode(name) == text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A top-level attribute that must keep its value."""

    keyword: str
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The facts of one file."""

    secrets: tuple[Secret, ...]
    kept: tuple[Kept, ...] = ()
    dates: tuple[tuple[str, date], ...] = ()
    """Top-level dates by keyword; intervals between them must stay, the days themselves must not."""

    references: tuple[str, ...] = ()
    """UIDs of other files that this file points to."""

    def leaks(self, data: bytes, *, but: frozenset[SecretKind] = frozenset()) -> tuple[Secret, ...]:
        """Return the secrets that occur in `data`, leaving out the kinds in `but`."""
        return tuple(item for item in self.secrets if item.kind not in but and item.is_in(data))
