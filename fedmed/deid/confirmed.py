"""A table as the site has confirmed it: what each column is, and what its values may be.

Why it exists: a table without a study's schema (a plain export) needs the same decisions,
column by column. `roles` proposes them; a person at the site decides; this record says what was decided.

Rules:
    * A kept number states its range, a kept category lists its values, a place names its ladder by its kind:
      nothing passes that was not foreseen.
    * A column that is not listed is dropped.

What it does not do: guess (see `roles`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedmed.deid.policy import PLACES
from fedmed.records import digest, require

TABLE_VERSION = 1

Kind = Literal[
    "number", "category", "binary", "date", "text", "identifier", "icd10", "address-cn", "division-cn", "zip-us"
]
Role = Literal["direct-identifier", "patient-key", "quasi-identifier", "sensitive", "feature", "free-text", "ignore"]

_VALUED: tuple[Kind, ...] = ("number", "category", "binary", "date", "icd10")
_KINDS_OF_ROLE: Mapping[str, tuple[str, ...]] = {
    "patient-key": ("identifier",),
    "quasi-identifier": ("number", "category", "binary", "date", *PLACES),
    "sensitive": _VALUED,
    "feature": _VALUED,
    "free-text": ("text",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedColumn:
    """One column. A number with `unit: years` is an age: above 89 becomes 90."""

    name: str
    kind: Kind
    role: Role
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    required: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "a column needs a name")
        kinds = _KINDS_OF_ROLE.get(self.role)
        if kinds is None:
            return
        require(
            self.kind in kinds, f"column {self.name}: role {self.role} takes kind {' or '.join(kinds)}, got {self.kind}"
        )
        require(
            self.kind != "number" or (self.low is not None and self.high is not None and self.low < self.high),
            f"column {self.name}: a number that is kept states low < high, got {self.low} and {self.high}",
        )
        require(
            self.kind not in {"category", "binary"} or len(set(self.values)) == len(self.values) >= 2,
            f"column {self.name}: a {self.kind} lists two or more different values",
        )
        require(
            self.kind != "binary" or len(self.values) == 2,
            f"column {self.name}: a binary lists two values, first the one for 0, got {len(self.values)}",
        )
        unknown = len(set(self.synonyms.values()) - set(self.values))
        require(not unknown, f"column {self.name}: {unknown} synonyms stand for none of its values")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedTable:
    """What `deidentify_table` needs to know of a table."""

    name: str
    columns: tuple[ConfirmedColumn, ...]
    delimiter: str = ","
    header: bool = True
    missing: tuple[str, ...] = ()
    version: int = TABLE_VERSION

    def __post_init__(self) -> None:
        require(self.version == TABLE_VERSION, f"version must be {TABLE_VERSION}, got {self.version}")
        require(bool(self.name) and self.name.isprintable(), "name must be a printable name")
        require(len(self.delimiter) == 1, "delimiter must be one character")
        names = [column.name for column in self.columns]
        require(len(set(names)) == len(names), "two columns have the same name")
        keys = sum(column.role == "patient-key" for column in self.columns)
        require(keys <= 1, f"at most one column may be the patient key, got {keys}")

    @property
    def digest(self) -> str:
        """The SHA-256 of the table's canonical JSON."""
        return digest(self)
