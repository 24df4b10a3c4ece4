"""One attempt as the coordinator sees it: phases, events, the state, and what comes out.

Why it exists: the records stand apart from the table that moves them (`server`).

Rules:
    * A state is never changed; a step makes the next one.
    * Nothing here is secret from the coordinator, and nothing here is more than it may know.

What it does not do: verify or decide.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from fedmed.secagg.masking import Ring
from fedmed.secagg.messages import (
    Advert,
    Box,
    Certificate,
    CoordinatorMessage,
    Header,
    Offer,
    SiteMessage,
    Unmasked,
    Upload,
)
from fedmed.secagg.roster import Roster


class Phase(enum.Enum):
    """What the coordinator waits for; the value is the name in messages and diagrams."""

    ADVERTISING = "advertising"
    SHARING = "sharing"
    MASKING = "masking"
    CERTIFYING = "certifying"
    UNMASKING = "unmasking"
    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Event: the time of the current phase is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message and the site it goes to."""

    site: str
    message: CoordinatorMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A site that left an attempt other than by silence, and why, in one line."""

    site: str
    phase: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServerState:
    """One attempt as the coordinator sees it; replies by site, in order of site once a phase is over.

    `totals`: the running sum per segment. `out`: sites that refused or were at fault. `early`:
    adverts for the next round. `sums`: the unmasked sums per segment.
    """

    roster: Roster
    offer: Offer
    pipeline: bool
    phase: Phase = Phase.ADVERTISING
    adverts: Mapping[str, Advert] = field(default_factory=dict)
    headers: Mapping[str, Header] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    unmasked: Mapping[str, Unmasked] = field(default_factory=dict)
    early: Mapping[str, Advert] = field(default_factory=dict)
    totals: tuple[Ring, ...] = ()
    sums: tuple[Ring, ...] = ()
    h1: bytes = b""
    h2: bytes = b""
    h3: bytes = b""
    out: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aggregate:
    """What the coordinator learns: the decoded sum of each segment of this round, and over whom.

    `sums`: segment -> float64 (sum of w~ x) or int64, shape (length,). `sites`: U3. `early`: adverts
    that came with the unmasking, for the next round's `begin`.
    """

    sums: Mapping[str, NDArray[Any]]
    sites: tuple[str, ...]
    dropped: tuple[str, ...]
    faults: tuple[Fault, ...]
    early: Mapping[str, Advert]


Event = SiteMessage | Deadline
