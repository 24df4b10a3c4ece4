"""What the administrator's commands show, whoever answers them: the running agent, or the folder itself.

Why it exists: the same command works while the agent runs (through its socket) and while it doesn't (in the folder),
and prints the same.

Rules:
    * Every moment is text in UTC, as `approvals.written` gives it; None is not known.
    * Nothing here is private: names, counts and times of the site's own machines.

What it does not do: travel (see `control`), or know how to find anything out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from fedmed.audit import Scalar
from fedmed_site.approvals import Decision, Pause, StudyEntry

NodeState = Literal["starting", "connected", "unreachable", "stopped"]
"""The site's SuperNode: coming up, talking to the coordinator, trying to, or not running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The task that runs now."""

    study: str
    action: str
    round: int
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """When the last task was answered, and how: `answered`, or the code of a failure."""

    at: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """How the site is; `agent_since` is None while no agent runs."""

    site: str
    version: str
    agent_since: str | None
    node_state: NodeState
    node_since: str | None
    coordinator: str
    certificate_not_after: str | None
    current: Current | None
    last_exchange: Exchange | None
    tasks_done: int
    tasks_refused: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """The privacy budget of one data set; spent, left and cap may be infinite."""

    dataset: str
    spent_epsilon: float
    left_epsilon: float
    cap_epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One entry of the audit log, without the digests that chain it."""

    index: int
    kind: str
    body: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTail:
    """The last entries of the audit log, oldest first, and how many there are in all."""

    total: int
    entries: tuple[AuditLine, ...]


class Office(Protocol):
    """What only the running appliance knows and can do."""

    def status(self) -> SiteStatus:
        """Return how the site is; `paused` is filled in by whoever asks."""
        ...

    def stop(self) -> None:
        """Begin to end the agent after the task that runs; returns at once."""
        ...


class Desk(Protocol):
    """Where the administrator's commands go: to the agent, or to the folder."""

    def status(self) -> SiteStatus:
        """Return how the site is."""
        ...

    def studies(self) -> Sequence[StudyEntry]:
        """Return every plan that came."""
        ...

    def decide(self, which: str, decision: Decision) -> StudyEntry:
        """Approve or reject a study."""
        ...

    def pause(self, until: datetime | None) -> Pause:
        """Refuse every task from now on."""
        ...

    def resume(self) -> None:
        """Take part again."""
        ...

    def budget(self) -> Sequence[BudgetLine]:
        """Return the privacy budget of every data set."""
        ...

    def audit(self, last: int) -> AuditTail:
        """Return the last entries of the audit log."""
        ...


class Agent(Desk, Protocol):
    """A desk of an agent that runs, which can be told to end."""

    def stop(self) -> None:
        """Ask the agent to end after the task that runs; returns at once."""
        ...

    def ended(self, patience_s: float) -> bool:
        """Wait for the end of the agent's process, and return whether it came in time."""
        ...
