"""What de-identification does to each kind of column, as one frozen record with a digest.

Why it exists: the audit must say under which rules a file was made, and an
administrator must be able to read those rules in one place.

Rules:
    * Default-deny: a column that no rule keeps is dropped; free text and direct
      identifiers are always dropped, and no option keeps them.
    * A patient key becomes a keyed token; dates move by one keyed whole-day shift
      per patient; ages above 89 become 90 (HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C)).

What it does not do: promise k-anonymity. Sex, ward and exact laboratory values stay,
so the output is pseudonymised personal data and does not leave the site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fedmed.records import digest, require

POLICY_VERSION = 1
AGE_LIMIT = 89
AGE_CAP = 90

Action = Literal["drop", "drop-text", "pseudonymise", "shift-date", "cap-age", "keep"]


class ColumnFacts(Protocol):
    """What de-identification must know of a column; `fedmed.data.schema.Column` is one."""

    @property
    def name(self) -> str:
        """The name in the header."""

    @property
    def kind(self) -> str:
        """One of number, category, binary, date, text, identifier."""

    @property
    def role(self) -> str:
        """One of direct-identifier, patient-key, quasi-identifier, sensitive, feature, target, free-text, ignore."""

    @property
    def unit(self) -> str | None:
        """The unit of a number."""

    @property
    def low(self) -> float | None:
        """The least that a number can be."""

    @property
    def high(self) -> float | None:
        """The most that a number can be."""

    @property
    def values(self) -> Sequence[str]:
        """The allowed values of a category; of a binary, the one for 0 and then the one for 1."""

    @property
    def synonyms(self) -> Mapping[str, str]:
        """Other spellings of allowed values."""

    @property
    def missing(self) -> Sequence[str]:
        """What stands for a missing value, besides the tokens of the schema."""

    @property
    def required(self) -> bool:
        """Whether a row without this value is not used."""


class SchemaFacts(Protocol):
    """What de-identification must know of a table; `fedmed.data.schema.Schema` is one."""

    @property
    def name(self) -> str:
        """The name of the data set."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the whole schema."""

    @property
    def columns(self) -> Sequence[ColumnFacts]:
        """The columns, in the file's order where it has no header."""

    @property
    def delimiter(self) -> str:
        """The character between two cells."""

    @property
    def header(self) -> bool:
        """Whether the first line names the columns."""

    @property
    def missing(self) -> Sequence[str]:
        """What stands for a missing value in every column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidPolicy:
    """The options of one site."""

    dates: Literal["shift", "drop"] = "shift"
    sensitive: Literal["keep", "drop"] = "drop"
    max_shift_days: int = 365
    max_quarantine_fraction: float = 0.2
    version: int = POLICY_VERSION

    def __post_init__(self) -> None:
        require(self.version == POLICY_VERSION, f"version must be {POLICY_VERSION}, got {self.version}")
        require(self.max_shift_days >= 30, f"max_shift_days must be at least 30, got {self.max_shift_days}")
        require(
            0 <= self.max_quarantine_fraction < 1,
            f"max_quarantine_fraction must be in [0, 1), got {self.max_quarantine_fraction}",
        )

    @property
    def digest(self) -> str:
        """The SHA-256 of the policy's canonical JSON."""
        return digest(self)

    def action(self, column: ColumnFacts) -> Action:
        """Return what happens to `column`; whatever no rule names is dropped."""
        if column.role == "patient-key":
            return "pseudonymise"
        if column.role == "free-text" or column.kind == "text":
            return "drop-text"
        kept = {"feature", "target", "quasi-identifier"}
        if self.sensitive == "keep":
            kept.add("sensitive")
        if column.role not in kept or column.kind == "identifier":
            return "drop"
        if column.kind == "date":
            return "shift-date" if self.dates == "shift" else "drop"
        return "cap-age" if column.unit == "years" else "keep"
