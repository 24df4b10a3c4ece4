"""The administrator's commands done in the site's folder itself.

Why it exists: the folder holds all that they need, so they work while the agent is stopped; and the running agent's
socket answers with the same code.

Rules:
    * Whoever acts here is named by the caller, who knows him from the operating system.
    * No lock that a running task holds is waited for: an administrator can pause a site that trains.

What it does not do: speak a transport, or decide who may act.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from fedmed import __version__
from fedmed.audit import ChainLog
from fedmed.errors import FedMedError, UsageError
from fedmed_site import budget as budgeting
from fedmed_site.approvals import Approvals, Decision, Pause, StudyEntry, utc_now, written
from fedmed_site.control_records import AuditLine, AuditTail, BudgetLine, SiteStatus
from fedmed_site.home import SiteHome

MOST_ENTRIES: Final = 1000
NOT_JOINED: Final = "none: this site has joined no consortium"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDesk:
    """A `Desk` over a site's folder.

    `by`: who acts. `log`: the audit log; the agent passes its own, which has verified most of it already.
    """

    home: SiteHome
    by: str
    now: Callable[[], datetime] = utc_now
    log: ChainLog | None = field(default=None)

    def status(self) -> SiteStatus:
        """Return what the folder knows: no agent, no node."""
        coordinator, not_after = _connection(self.home, self.now())
        return SiteStatus(
            site=self.home.record().name,
            version=__version__,
            agent_since=None,
            node_state="stopped",
            node_since=None,
            coordinator=coordinator,
            certificate_not_after=not_after,
            current=None,
            last_exchange=None,
            tasks_done=0,
            tasks_refused=0,
            paused=self.paused(),
        )

    def paused(self) -> bool:
        """Return whether the site is paused now."""
        return self._approvals().paused(now=self.now()) is not None

    def studies(self) -> Sequence[StudyEntry]:
        """Return every plan that came."""
        return self._approvals().entries()

    def decide(self, which: str, decision: Decision) -> StudyEntry:
        """Approve or reject a study.

        Raises:
            UsageError: No plan that came is meant, or several are.
        """
        return self._approvals().decide(which, decision, by=self.by, now=self.now())

    def pause(self, until: datetime | None) -> Pause:
        """Refuse every task from now on.

        Raises:
            UsageError: `until` has passed already.
        """
        return self._approvals().pause(by=self.by, now=self.now(), until=until)

    def resume(self) -> None:
        """Take part again.

        Raises:
            UsageError: The site is not paused.
        """
        self._approvals().resume(by=self.by, now=self.now())

    def note_stop(self) -> None:
        """Write into the audit log that somebody asked the agent to end."""
        self._audit().append("stop-asked", {"by": self.by, "at": written(self.now())})

    def budget(self) -> Sequence[BudgetLine]:
        """Return the privacy budget of every data set; none if no ledger was begun.

        Raises:
            IntegrityError: A ledger does not verify.
        """
        from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch

        if not any(self.home.ledgers.glob("*.jsonl")):
            return ()
        return tuple(
            BudgetLine(
                dataset=one.dataset,
                spent_epsilon=one.spent_epsilon,
                left_epsilon=one.left_epsilon,
                cap_epsilon=one.cap_epsilon,
                delta=one.delta,
            )
            for one in budgeting.budgets(self.home, PrvAccountant())
        )

    def audit(self, last: int) -> AuditTail:
        """Return the last entries of the audit log.

        Raises:
            UsageError: `last` is not between 1 and `MOST_ENTRIES`.
            IntegrityError: The log does not verify.
        """
        if not 1 <= last <= MOST_ENTRIES:
            raise UsageError(f"expected 1 to {MOST_ENTRIES} entries, got {last}; the whole log is audit.jsonl")
        entries = self._audit().entries()
        return AuditTail(
            total=len(entries),
            entries=tuple(AuditLine(index=entry.index, kind=entry.kind, body=entry.body) for entry in entries[-last:]),
        )

    def _approvals(self) -> Approvals:
        return Approvals(self.home, self._audit())

    def _audit(self) -> ChainLog:
        return self.log or ChainLog(self.home.audit_path)


def _connection(home: SiteHome, now: datetime) -> tuple[str, str | None]:
    """Return the coordinator's address and the end of the site's certificate, as far as the site has joined."""
    from fedmed_site.identity import read_site_identity  # noqa: PLC0415  other commands start without X.509

    if not (home.root / "tls" / "current").exists():
        return NOT_JOINED, None
    try:
        identity = read_site_identity(home.root, now=now)
    except FedMedError as error:
        return f"unknown: {error}", None
    return f"{identity.coordinator_host}:{identity.coordinator_port}", written(identity.not_after)
