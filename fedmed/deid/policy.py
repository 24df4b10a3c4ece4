"""What de-identification does to each kind of column, as one frozen record with a digest.

Why it exists: the audit must say under which rules a file was made, and an
administrator must be able to read those rules in one place.

Rules:
    * Default-deny: a column that no rule keeps is dropped; free text and direct
      identifiers are always dropped, and no option keeps them.
    * A patient key becomes a keyed token; dates move by one keyed whole-day shift per patient, or keep
      only month or year; ages above 89 become 90, and dates that tell such an age go (HIPAA Safe Harbor, 45 CFR
      164.514(b)(2)(i)(C)): months and years to a floor, shifted dates altogether.
    * Free text passes only where the policy says `clean` and the caller brings something that cleans it.
    * A column whose values nobody can list (an address) passes only as a quasi-identifier, through a ladder.

What it does not do: promise more than `k`. By default sex, ward and exact laboratory values stay and k is 1,
so the output is pseudonymised personal data and does not leave the site.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fedmed.deid.anonymity import QuasiIdentifier
from fedmed.deid.hierarchies import LEVELS, HierarchyName
from fedmed.errors import UsageError
from fedmed.records import digest, require

POLICY_VERSION = 2
AGE_LIMIT = 89
AGE_CAP = 90
PLACES: tuple[HierarchyName, ...] = ("address-cn", "division-cn", "zip-us")
"""Kinds of column that hold a place: they pass only through the ladder of the same name."""

Action = Literal[
    "drop", "drop-text", "clean-text", "pseudonymise", "shift-date", "truncate-date", "cap-age", "place", "keep"
]

_PLACE_FLOOR = 1
_DATE_ACTIONS: Mapping[str, Action] = {
    "shift": "shift-date", "month": "truncate-date", "year": "truncate-date", "drop": "drop",
}  # fmt: skip
_LADDER_OF_KIND = {"number": "age", "date": "date", "category": "category", "binary": "category"}


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
    """The options of one site.

    `dates`: one keyed shift per patient, or month or year alone, or none. `free_text`: dropped, or cleaned by
    what the caller brings. `k` and `l_diversity`: 1 is off. `quasi_identifiers`: the columns that `k` is about, each
    with its ladder. `floors`: the lowest level that any column on a ladder may be released at, whatever k allows.
    `keep`: where not empty, the only columns that pass, besides the patient key. `allow`: for columns named
    here, the only values that pass.
    """

    profile: str = "site-training"
    dates: Literal["shift", "month", "year", "drop"] = "shift"
    sensitive: Literal["keep", "drop"] = "drop"
    free_text: Literal["drop", "clean"] = "drop"
    keep: tuple[str, ...] = ()
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    k: int = 1
    l_diversity: int = 1
    quasi_identifiers: tuple[QuasiIdentifier, ...] = ()
    floors: Mapping[HierarchyName, int] = field(default_factory=dict)
    suppression_limit: float = 0.05
    max_shift_days: int = 365
    max_quarantine_fraction: float = 0.2
    version: int = POLICY_VERSION

    def __post_init__(self) -> None:
        require(self.version == POLICY_VERSION, f"version must be {POLICY_VERSION}, got {self.version}")
        require(
            re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", self.profile) is not None,
            "profile must be a name of small letters, digits and hyphens",
        )
        require(self.max_shift_days >= 30, f"max_shift_days must be at least 30, got {self.max_shift_days}")
        for name in ("max_quarantine_fraction", "suppression_limit"):
            share = getattr(self, name)
            require(math.isfinite(share) and 0 <= share < 1, f"{name} must be in [0, 1), got {share}")
        self._check_anonymity()

    def _check_anonymity(self) -> None:
        require(self.k >= 1, f"k must be at least 1, got {self.k}")
        require(self.l_diversity >= 1, f"l_diversity must be at least 1, got {self.l_diversity}")
        names = [quasi.column for quasi in self.quasi_identifiers]
        require(len(set(names)) == len(names), "quasi_identifiers must name each column once")
        require(
            self.l_diversity == 1 or (self.k > 1 and self.sensitive == "keep"),
            "l_diversity must be 1 unless k is above 1 and sensitive columns are kept",
        )
        for name, level in self.floors.items():
            top = len(LEVELS[name]) - 1
            require(0 <= level <= top, f"floors must be in 0..{top} for {name}, got {level}")
        for quasi in self.ladders:
            # A district read by its form alone could hold a name; in a class of k patients it cannot be one's own.
            require(
                self.k > 1 or quasi.hierarchy != "address-cn" or quasi.at_least >= _PLACE_FLOOR,
                f"k must be above 1 for the districts of column {quasi.column!r}, or its at_least 1 (city)",
            )

    @property
    def digest(self) -> str:
        """The SHA-256 of the policy's canonical JSON."""
        return digest(self)

    @property
    def ladders(self) -> tuple[QuasiIdentifier, ...]:
        """The quasi-identifiers, none below the floor of its ladder."""
        return tuple(
            QuasiIdentifier(
                column=quasi.column,
                hierarchy=quasi.hierarchy,
                at_least=max(quasi.at_least, self.floors.get(quasi.hierarchy, 0)),
            )
            for quasi in self.quasi_identifiers
        )

    @property
    def generalises(self) -> bool:
        """Whether any column goes through a ladder."""
        return bool(self.quasi_identifiers)

    def action(self, column: ColumnFacts) -> Action:
        """Return what happens to `column`; whatever no rule names is dropped."""
        if column.role == "patient-key":
            return "pseudonymise"
        if column.role == "free-text":
            return "clean-text" if self.free_text == "clean" and self._chosen(column) else "drop-text"
        if column.kind == "text":
            return "drop-text"
        kept = {"feature", "target", "quasi-identifier"}
        if self.sensitive == "keep":
            kept.add("sensitive")
        if column.role not in kept or column.kind == "identifier" or not self._chosen(column):
            return "drop"
        return self._kept_action(column)

    def _kept_action(self, column: ColumnFacts) -> Action:
        if column.kind == "date":
            return _DATE_ACTIONS[self.dates]
        if column.kind in PLACES:
            return "place" if any(q.column == column.name for q in self.quasi_identifiers) else "drop"
        return "cap-age" if column.unit == "years" else "keep"

    def _chosen(self, column: ColumnFacts) -> bool:
        return not self.keep or column.name in self.keep


def check_fit(policy: DeidPolicy, schema: SchemaFacts) -> None:
    """Raise unless every column that the policy names exists and can be treated so.

    Raises:
        UsageError: It names an unknown column, gives one a ladder of another kind, or leaves a quasi-identifier
            beside the classes of k.
    """
    columns = {column.name: column for column in schema.columns}
    named = {*policy.keep, *policy.allow, *(quasi.column for quasi in policy.quasi_identifiers)}
    unknown = sorted(named - set(columns))
    if unknown:
        raise UsageError(f"policy {policy.profile}: schema {schema.name} has no column {unknown[0]!r}; correct one")
    for name in policy.allow:
        if columns[name].kind != "category":
            raise UsageError(f"policy {policy.profile}: allow: column {name!r} is no category; give its range instead")
    for quasi in policy.quasi_identifiers:
        column = columns[quasi.column]
        expected = column.kind if column.kind in PLACES else _LADDER_OF_KIND.get(column.kind)
        if quasi.hierarchy != expected:
            raise UsageError(
                f"policy {policy.profile}: column {quasi.column!r} is a {column.kind}, so it takes the hierarchy "
                f"{expected}, got {quasi.hierarchy}"
            )
    if policy.k > 1:
        _check_all_named(policy, schema)


def _check_all_named(policy: DeidPolicy, schema: SchemaFacts) -> None:
    """Raise if a quasi-identifier would be released beside the classes of k; a shifted date is none."""
    named = {quasi.column for quasi in policy.quasi_identifiers}
    for column in schema.columns:
        kept = policy.action(column) not in {"drop", "drop-text", "shift-date"}
        if column.role == "quasi-identifier" and kept and column.name not in named:
            raise UsageError(
                f"policy {policy.profile}: k is {policy.k}, but the quasi-identifier {column.name!r} has no hierarchy; "
                "name it in quasi_identifiers, or drop it"
            )
