"""What the entries of a privacy ledger are, and what they add up to.

Why it exists: the ledger's file is read by other releases and by auditors, so its records
stand apart from the writing of them.

Rules:
    * Charges count whether or not a reply ever left.
    * A stored history that the ledger's own rules would have refused is an integrity error.

What it does not do: read or write files, or decide what may be charged (see `ledger`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from fedmed.audit import Entry
from fedmed.errors import IntegrityError
from fedmed.privacy.plan import Accountant, Event, merge
from fedmed.records import require

LEDGER_VERSION = 1

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Body of the first entry; a cap of None is no cap."""

    dataset: str
    cap_epsilon: float | None
    delta: float
    ledger_version: int = LEDGER_VERSION

    def __post_init__(self) -> None:
        require(self.ledger_version == LEDGER_VERSION, f"ledger_version must be {LEDGER_VERSION}")
        require(bool(self.dataset) and self.dataset.isprintable(), "dataset must be a printable name")
        require(0 < self.delta < 1, f"delta must be in (0, 1), got {self.delta}")
        require(_is_cap(self.cap_epsilon), f"cap_epsilon must be at least 0, got {self.cap_epsilon}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """Body of a charge."""

    charge_id: str
    purpose: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    distance: float = 0.0

    def __post_init__(self) -> None:
        _require_names(self.charge_id, self.purpose)
        _ = self.event

    @property
    def event(self) -> Event:
        """What was charged."""
        return Event(
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps,
            distance=self.distance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected:
    """Body of a training without differential privacy."""

    charge_id: str
    purpose: str

    def __post_init__(self) -> None:
        _require_names(self.charge_id, self.purpose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Body of a release: this reply, and no other, left the site under this charge."""

    charge_id: str
    reply_digest: str

    def __post_init__(self) -> None:
        _require_names(self.charge_id, self.reply_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapSet:
    """Body of a change of the cap."""

    cap_epsilon: float | None

    def __post_init__(self) -> None:
        require(_is_cap(self.cap_epsilon), f"cap_epsilon must be at least 0, got {self.cap_epsilon}")


@dataclass(slots=True, kw_only=True)
class State:
    """What the entries add up to."""

    opened: Opened
    cap: float
    charges: dict[str, Charged | Unprotected] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """Every charged event, oldest first."""
        return [charge.event for charge in self.charges.values() if isinstance(charge, Charged)]

    def spent(self, accountant: Accountant, *more: Event) -> float:
        """Return the epsilon of all charges and `more`; infinite after an unprotected training."""
        if any(isinstance(charge, Unprotected) for charge in self.charges.values()):
            return math.inf
        history = merge([*self.events, *more])
        return accountant.epsilon(history, self.opened.delta) if history else 0.0


_BODIES: Mapping[str, type[Charged | Unprotected | Released | CapSet]] = {
    "charged": Charged,
    "unprotected": Unprotected,
    "released": Released,
    "cap": CapSet,
}


def replay(entries: Sequence[Entry]) -> State:
    """Add up verified entries; an entry that the ledger's own rules would have refused is an integrity error."""
    if not entries or entries[0].kind != "opened":
        raise IntegrityError("privacy ledger: entry 0 is bad: expected the opening of a ledger")
    opened = _decoded(entries[0], Opened)
    state = State(opened=opened, cap=_cap(opened.cap_epsilon))
    for entry in entries[1:]:
        kind = _BODIES.get(entry.kind)
        if kind is None:
            raise IntegrityError(f"privacy ledger: entry {entry.index} is bad: unknown kind {entry.kind!r}")
        body = _decoded(entry, kind)
        if isinstance(body, CapSet):
            state.cap = _cap(body.cap_epsilon)
        elif isinstance(body, Released):
            _require_order(entry, body.charge_id in state.charges and body.charge_id not in state.releases)
            state.releases[body.charge_id] = body.reply_digest
        else:
            _require_order(entry, body.charge_id not in state.charges)
            state.charges[body.charge_id] = body
    return state


def _decoded(entry: Entry, kind: type[Body]) -> Body:
    """Return the record in the body; quicker than `records.build`, for ledgers of thousands of entries."""
    try:
        record = msgspec.convert(entry.body, kind, strict=True)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"privacy ledger: entry {entry.index} is bad: {error}") from None
    if msgspec.to_builtins(record) != entry.body:
        raise IntegrityError(f"privacy ledger: entry {entry.index} is bad: unknown or missing fields")
    return record


def _require_order(entry: Entry, condition: bool) -> None:  # noqa: FBT001  a predicate reads best in place
    if not condition:
        raise IntegrityError(f"privacy ledger: entry {entry.index} is bad: its charge id is out of order")


def _require_names(*names: str) -> None:
    for name in names:
        require(bool(name) and name.isprintable(), "ids, purposes and digests must be printable and not empty")


def _is_cap(epsilon: float | None) -> bool:
    return epsilon is None or (math.isfinite(epsilon) and epsilon >= 0)


def _cap(stored: float | None) -> float:
    return math.inf if stored is None else stored
