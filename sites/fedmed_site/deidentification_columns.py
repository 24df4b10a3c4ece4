"""What each column of a site's tables is: proposed by the machine, confirmed by a person, never assumed.

Why it exists: tables without a schema come with a hundred headings. Nobody may release a column that
nobody has looked at, and nobody should have to type what a first guess can say.

Rules:
    * A proposal is complete and safe as it stands: a column that needs a range or a list of values to be kept is
      proposed as dropped, and the reason says what to fill in.
    * One decision per heading, for all tables of a folder; where they suggest different roles, the stricter stands.
    * A heading that the confirmed file does not list is dropped.
    * A proposal holds headings and reasons, for the site's own eyes: it is readable by its owner alone. A table whose
      first line holds values is passed over, and no column may be called like a value (see `fedmed.deid.headings`).
    * The audit log calls a column by its number in the confirmed file, so that no heading gets into it.

What it does not do: look at more than the sample that `fedmed.deid.roles` reads.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import yaml

from fedmed.data.schema import Schema
from fedmed.deid.anonymity import QuasiIdentifier
from fedmed.deid.confirmed import ConfirmedColumn, ConfirmedTable, Kind, Role
from fedmed.deid.encodings import Encoding
from fedmed.deid.headings import value_kind
from fedmed.deid.hierarchies import HierarchyName
from fedmed.deid.policy import DeidPolicy, check_fit
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.readers import SqlTable, open_table
from fedmed.deid.roles import Proposal, propose
from fedmed.deid.workers import Workers
from fedmed.errors import FedMedError
from fedmed.files import write_atomic
from fedmed.records import build, digest, require
from fedmed_site.deidentification_policy import read_mapping

COLUMNS_FILE = "columns.yaml"
COLUMNS_VERSION = 1
OLDEST = 130
_SAMPLE_ROWS = 2_000
_TABLES_PER_HEADING = 8
_STRICTNESS: tuple[Role, ...] = (
    "direct-identifier", "free-text", "ignore", "patient-key", "quasi-identifier", "sensitive", "feature",
)  # fmt: skip
_MISSING = ("NA", "N/A", "null", "NULL", "-", "?", "无", "未知")

_HEAD = """\
# What each column of the tables is. A machine proposed it; you decide. Pass this file as --columns.
# role: direct-identifier | patient-key | quasi-identifier | sensitive | feature | free-text | ignore
#       direct-identifier and ignore are dropped; patient-key becomes a keyed token; free-text as the policy says
# kind: number (low, high; unit: years for an age) | category (values) | binary (values) | date | text | identifier
#       | icd10 | address-cn | division-cn | zip-us
# A column that is not listed is dropped. This file may show headings of your tables: keep it inside the hospital.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDecision:
    """One heading; `reason` is the machine's and is ignored when the file is read back."""

    name: str
    role: Role
    kind: Kind
    hierarchy: HierarchyName | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    synonyms: Mapping[str, str] | None = None
    required: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        require(value_kind(self.name) is None, "a column's name reads as a value; give the table a line of headings")
        _ = self.confirmed

    @property
    def confirmed(self) -> ConfirmedColumn:
        """The column as the table engine takes it."""
        return ConfirmedColumn(
            name=self.name,
            kind=self.kind,
            role=self.role,
            unit=self.unit,
            low=self.low,
            high=self.high,
            values=self.values,
            synonyms=self.synonyms or {},
            required=self.required,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The confirmed columns of a folder's tables."""

    columns: tuple[ColumnDecision, ...] = ()
    missing: tuple[str, ...] = _MISSING
    version: int = COLUMNS_VERSION

    def __post_init__(self) -> None:
        require(self.version == COLUMNS_VERSION, f"version must be {COLUMNS_VERSION}, got {self.version}")
        names = [column.name for column in self.columns]
        require(len(set(names)) == len(names), "columns must name each heading once")

    @property
    def digest(self) -> str:
        """The SHA-256 of the decisions, without the reasons."""
        return digest(replace(self, columns=tuple(replace(column, reason="") for column in self.columns)))

    def table(
        self,
        header: Sequence[str],
        policy: DeidPolicy,
        *,
        name: str,
        delimiter: str = ",",
        notes: bool = False,  # noqa: ARG002
    ) -> "TablePlan":
        """Return what is done to a table with this header.

        Args:
            header: The headings as they stand in the file.
            policy: The site's policy; what it says of columns that this table lacks is left out.
            name: The table's name in reports; no file name, because that may hold a patient's.
            delimiter: The character between two cells.
            notes: Whether the rows are notes with a schema; never here.

        Raises:
            UsageError: The policy does not fit the columns.
        """
        here = set(header)
        chosen = [column for column in self.columns if column.name in here]
        names = {column.name for column in chosen}
        keys = [column.name for column in chosen if column.role == "patient-key"]
        # Two numbers of the same patient: the first one tells who a row is about, the other ones are dropped.
        confirmed = [
            replace(column.confirmed, role="direct-identifier") if column.name in keys[1:] else column.confirmed
            for column in chosen
        ]
        fitted = replace(
            policy,
            keep=tuple(column for column in policy.keep if column in names),
            allow={column: values for column, values in policy.allow.items() if column in names},
            quasi_identifiers=_quasi_identifiers(chosen, policy),
        )
        table = ConfirmedTable(name=name, columns=tuple(confirmed), delimiter=delimiter, missing=self.missing)
        check_fit(fitted, table)
        called = {column.name: f"column-{number}" for number, column in enumerate(self.columns, start=1)}
        return TablePlan(schema=table, policy=fitted, called=called)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What `deidentify_table` is told about one table, and what the audit log calls its columns if not by name."""

    schema: ConfirmedTable | Schema
    policy: DeidPolicy
    called: Mapping[str, str] = field(default_factory=dict)


def read_columns(path: Path, policy: DeidPolicy) -> Columns:
    """Return the confirmed columns of a file, checked against the policy.

    Raises:
        UsageError: There is no such file, or policy and columns do not fit together.
        ConfigError: A key is unknown, or a kept column lacks its range, values or ladder.
    """
    columns = build(read_mapping(path, what="columns"), Columns, at="columns")
    columns.table([column.name for column in columns.columns], policy, name="columns")
    return columns


def propose_columns(
    tables: Iterable[Path | SqlTable], *, encoding: Encoding = "detect"
) -> tuple[list[ColumnDecision], int]:
    """Return a proposal for each heading of the tables, and how many tables could not be read.

    A table is read up to its sample, unless each of its headings was seen in enough tables before it: what a person
    confirms holds for all of them, and values that do not fit it are refused when the table is cleaned. A table that
    cannot be read will be quarantined later and is passed over. `encoding` is what the site says of its files.
    """
    found: dict[str, ColumnDecision] = {}
    unread = 0
    # One process, and one table at a time, so that the first table comes first: a damaged one may end its process.
    crew: Workers[Path | SqlTable, tuple[Proposal, ...] | None] = Workers(
        start=_quiet, work=partial(_proposals, encoding=encoding), crashed=_nothing, processes=1, window=1
    )
    for _, proposals in crew.results(tables):
        unread += proposals is None
        for proposal in proposals or ():
            if proposal.column.strip():
                decision = _decision(proposal)
                known = found.get(decision.name)
                found[decision.name] = decision if known is None else _stricter(known, decision)
    return list(found.values()), unread


_SEEN: Counter[str] = Counter()
"""How many tables had each heading, in the process that reads them."""


def _quiet() -> None:
    """Keep what libraries that read files log and warn of, which quotes values, away from everybody."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _proposals(path: Path | SqlTable, *, encoding: Encoding) -> tuple[Proposal, ...] | None:
    """Return the proposals for a table's columns; none if there are enough, None if it cannot be read."""
    try:
        keyed = Pseudonyms(bytes(32)).content_hash()  # only read, never shown
        reader = open_table(path, keyed=keyed, encoding=encoding)
        if all(_SEEN[heading] >= _TABLES_PER_HEADING for heading in reader.header):
            return ()
        proposals = propose(reader, sample_rows=_SAMPLE_ROWS)
    except (FedMedError, OSError, ValueError):
        return None
    _SEEN.update(proposal.column for proposal in proposals)
    return proposals


def _nothing(_: Path | SqlTable) -> None:
    """Stand for a table whose process ended abruptly, twice."""


def write_proposal(path: Path, decisions: Sequence[ColumnDecision]) -> None:
    """Write proposals as a YAML file that `read_columns` takes as it stands, mode 600."""
    plain = {"version": COLUMNS_VERSION, "missing": list(_MISSING), "columns": [_plain(one) for one in decisions]}
    text = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=120)
    write_atomic(path, (_HEAD + text).encode())


def _decision(proposal: Proposal) -> ColumnDecision:
    if proposal.kind == "number" and proposal.hierarchy == "age":
        return ColumnDecision(
            name=proposal.column, role=proposal.role, kind="number", hierarchy="age", unit="years", low=0, high=OLDEST,
            reason=proposal.reason,
        )  # fmt: skip
    needs = {"number": "low and high", "category": "values", "binary": "values"}.get(proposal.kind)
    dropped = proposal.role in {"ignore", "direct-identifier", "free-text"}
    if needs is not None and not dropped:
        cure = f"dropped as it stands; to keep it set role: {proposal.role} and give {needs}"
        return ColumnDecision(
            name=proposal.column, role="ignore", kind=proposal.kind, reason=f"{proposal.reason}; {cure}"
        )
    try:
        return ColumnDecision(
            name=proposal.column,
            role=proposal.role,
            kind=proposal.kind,
            hierarchy=proposal.hierarchy if proposal.role == "quasi-identifier" else None,
            reason=proposal.reason,
        )
    except ValueError:
        return ColumnDecision(
            name=proposal.column, role="ignore", kind="text", reason=f"{proposal.reason}; dropped as it stands"
        )


def _stricter(one: ColumnDecision, other: ColumnDecision) -> ColumnDecision:
    if (one.role, one.kind, one.hierarchy) == (other.role, other.kind, other.hierarchy):
        return one
    chosen = min(one, other, key=lambda decision: _STRICTNESS.index(decision.role))
    if one.role == other.role and one.kind != other.kind and one.role not in {"direct-identifier", "free-text"}:
        chosen = ColumnDecision(name=one.name, role="ignore", kind="text")
    return replace(chosen, reason=f"tables differ, the stricter role stands: {one.reason}; {other.reason}"[:300])


def _quasi_identifiers(columns: Sequence[ColumnDecision], policy: DeidPolicy) -> tuple[QuasiIdentifier, ...]:
    """Return the ladders of the policy and of the columns; a shifted date needs none, a dropped one takes none."""
    names = {column.name for column in columns}
    stated = {quasi.column: quasi for quasi in policy.quasi_identifiers if quasi.column in names}
    for column in columns:
        if column.role != "quasi-identifier" or column.hierarchy is None or column.name in stated:
            continue
        if column.hierarchy == "date" and policy.dates in {"shift", "drop"}:
            continue
        if policy.keep and column.name not in policy.keep:
            continue
        at_least = 1 if column.hierarchy == "address-cn" else 0
        stated[column.name] = QuasiIdentifier(column=column.name, hierarchy=column.hierarchy, at_least=at_least)
    return tuple(stated.values())


def _plain(decision: ColumnDecision) -> dict[str, object]:
    plain: dict[str, object] = {"name": decision.name, "role": decision.role, "kind": decision.kind}
    for fact in ("hierarchy", "unit", "low", "high"):
        value = getattr(decision, fact)
        if value is not None:
            plain[fact] = value
    return plain | {"reason": decision.reason}
