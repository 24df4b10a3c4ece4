"""Which studies the administrator approved, and whether the site is paused.

Why it exists: a policy says what a study may ask for; a person says whether this hospital takes part in it. A
coordinator can send plans at any time, so each is remembered when it first comes, and waits.

Rules:
    * A plan that nobody decided on is refused, unless the policy approves whatever is within it; so is any plan of a
      site that is paused. The refusal may leave the site.
    * A decision is about one digest: a plan that differs in one character waits anew.
    * Every plan that came and every decision is in the audit log before it takes effect, with who decided.
    * What a coordinator can make a site remember is bounded.

What it does not do: judge a plan (the policy does), or know who may decide (`peer_gate` and the folder's owner do).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from fedmed.audit import ChainLog
from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.records import Plan, canonical_json, decode, digest, require, require_digest
from fedmed_site.home import SiteHome

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
"""How a moment is stored and shown: UTC, whole seconds."""
MOST_WAITING: Final = 100
"""Studies that may wait for a decision at one time; a coordinator can't fill the disk."""
MOST_PLAN_BYTES: Final = 1 << 18
"""A plan has a few thousand bytes; its cohorts and its name could be made long."""
LEAST_PREFIX: Final = 6

Decision = Literal["approved", "rejected"]
State = Literal["waiting", "approved", "rejected", "by-policy"]
KINDS: Final = {"approved": "study-approved", "rejected": "study-rejected"}

WAITS = "this study waits for this site's approval"
REJECTED = "this study was rejected by this site"
PAUSED = "this site is paused"
TOO_LONG = f"this site remembers plans of at most {MOST_PLAN_BYTES} bytes; the plan is longer"
FULL = "too many studies wait for this site's approval; ask its administrator to decide on them"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEntry:
    """One plan that came, what it asks for, and what was decided: the content of `state.json`.

    `by` and `decided` are None until somebody did. What the plan asks for is kept here too, so that a later version
    of FedMed, which may read plans differently, still shows what was decided on.
    """

    digest: str
    study: str
    state: State
    seen: str
    decided: str | None = None
    by: str | None = None
    rounds: int
    epsilon: float | None
    delta: float
    dataset: str
    target: str
    model_family: str
    trust_model: str
    base_digest: str
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require_digest("digest", self.digest)
        require_digest("base_digest", self.base_digest)
        require((self.decided is None) == (self.by is None), "decided and by are set together")
        decided = self.state in get_args(Decision)
        require((self.by is not None) == decided, "decided and by are set once somebody decided")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Since when the site takes no part, by whose order, and until when; None is until somebody resumes it."""

    since: str
    by: str
    until: str | None = None
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(self.until is None or moment(self.until) is not None, "until must be a moment in UTC")


class Approvals:
    """What the administrator of one site decided."""

    def __init__(self, home: SiteHome, audit: ChainLog) -> None:
        self._home = home
        self._audit = audit

    def knows(self, plan_digest: str) -> bool:
        """Return whether a plan came before and is remembered."""
        return self._state_path(plan_digest).is_file()

    def note(self, plan: Plan, *, now: datetime) -> None:
        """Remember a plan that came, if it is the first time.

        Raises:
            RefusedError: Too many plans wait already, or this one is too long.
            OSError: The disk is full; nothing is remembered.
        """
        name, data = digest(plan), canonical_json(plan)
        if self.knows(name):
            return
        if len(data) > MOST_PLAN_BYTES:
            raise RefusedError(TOO_LONG)
        with self._locked():
            if self.knows(name):
                return
            by_policy = self._home.record().policy.approval == "policy"
            if not by_policy and sum(state.state == "waiting" for state in self._states()) >= MOST_WAITING:
                raise RefusedError(FULL)
            folder = self._home.studies / name
            folder.mkdir(exist_ok=True, mode=0o700)
            write_atomic(folder / "plan.json", data)
            entry = _entry(name, plan, now)
            self._audit.append("study-seen", _facts(entry))
            self._write(entry)

    def require(self, plan_digest: str, *, now: datetime) -> None:
        """Raise unless this site takes part in the study now.

        Raises:
            RefusedError: It is paused, or the study waits for approval, or was rejected; fit to leave the site.
            IntegrityError: What is stored does not verify.
        """
        if self.paused(now=now) is not None:
            raise RefusedError(PAUSED)
        path = self._state_path(plan_digest)
        state = self._read(path).state if path.is_file() else "waiting"
        if state == "rejected":
            raise RefusedError(REJECTED)
        if state == "waiting" and self._home.record().policy.approval != "policy":
            raise RefusedError(WAITS)

    def decide(self, which: str, decision: Decision, *, by: str, now: datetime) -> StudyEntry:
        """Approve or reject a study; the last decision is the one that counts.

        Args:
            which: The study's name if one plan has it, or the beginning of the digest of one plan.
            decision: What the administrator decided.
            by: Who did, as the operating system knows him.
            now: The present time.

        Raises:
            UsageError: No plan that came is meant, or several are.
        """
        if decision not in get_args(Decision):
            raise UsageError(f"expected approved or rejected, got {decision!r}; say one of them")
        with self._locked():
            entry = replace(self._find(which), state=decision, decided=written(now), by=by)
            self._audit.append(KINDS[decision], {**_facts(entry), "by": by, "at": written(now)})
            self._write(entry)
            return entry

    def entries(self) -> tuple[StudyEntry, ...]:
        """Return every plan that came, in the order in which they did.

        Raises:
            IntegrityError: A stored decision does not verify.
        """
        by_policy = self._home.record().policy.approval == "policy"
        found = [
            replace(entry, state="by-policy") if by_policy and entry.state == "waiting" else entry
            for entry in self._states()
        ]
        return tuple(sorted(found, key=lambda entry: (entry.seen, entry.digest)))

    def plan(self, plan_digest: str) -> Plan:
        """Return a plan that came.

        Raises:
            IntegrityError: It is missing or changed, or this version of FedMed can't read it.
        """
        require_digest("plan", plan_digest)
        try:
            data = (self._home.studies / plan_digest / "plan.json").read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != plan_digest:
            raise IntegrityError(f"studies/{plan_digest[:12]}: expected the plan that came; remove the folder")
        return decode(data, Plan)

    def pause(self, *, by: str, now: datetime, until: datetime | None = None) -> Pause:
        """Refuse every task from now on; a task that runs is finished.

        Raises:
            UsageError: `until` has passed already.
        """
        if until is not None and until <= now:
            raise UsageError(f"expected a time to come, got {written(until)}; it is {written(now)}")
        pause = Pause(since=written(now), by=by, until=None if until is None else written(until))
        with self._locked():
            self._audit.append("paused", {"by": by, "at": pause.since, "until": pause.until})
            write_atomic(self._pause_path, canonical_json(pause))
        return pause

    def resume(self, *, by: str, now: datetime) -> None:
        """Take part again.

        Raises:
            UsageError: The site is not paused.
        """
        with self._locked():
            if not self._pause_path.is_file():
                raise UsageError("this site is not paused; there is nothing to resume")
            self._audit.append("resumed", {"by": by, "at": written(now)})
            self._pause_path.unlink()

    def paused(self, *, now: datetime) -> Pause | None:
        """Return the pause that holds now, or None."""
        try:
            pause = decode(self._pause_path.read_bytes(), Pause)
        except FileNotFoundError:
            return None
        over = None if pause.until is None else moment(pause.until)
        return None if over is not None and over <= now else pause

    # --- files -----------------------------------------------------------------------------

    def _find(self, which: str) -> StudyEntry:
        """Return the one plan that is meant; `which` is only compared, never a path."""
        prefix = which.lower() if re.fullmatch(f"[0-9a-fA-F]{{{LEAST_PREFIX},64}}", which) else None
        found = [
            entry
            for entry in self._states()
            if entry.study == which or (prefix is not None and entry.digest.startswith(prefix))
        ]
        if len(found) > 1:
            digests = _short([entry.digest for entry in found])
            raise UsageError(f"{which[:80]!r} is {len(found)} plans; give the beginning of a digest: {digests}")
        if not found:
            raise UsageError(
                f"expected a study that came to this site, got {which[:80]!r}; fedmed site studies lists them"
            )
        return found[0]

    def _states(self) -> Iterator[StudyEntry]:
        for path in sorted(self._home.studies.glob("*/state.json")):
            yield self._read(path)

    def _read(self, path: Path) -> StudyEntry:
        entry = decode(path.read_bytes(), StudyEntry)
        if entry.digest != path.parent.name:
            raise IntegrityError(f"studies/{path.parent.name[:12]}: the decision is about another plan; remove it")
        return entry

    def _write(self, entry: StudyEntry) -> None:
        write_atomic(self._state_path(entry.digest), canonical_json(entry))

    def _state_path(self, name: str) -> Path:
        require_digest("plan", name)
        return self._home.studies / name / "state.json"

    @property
    def _pause_path(self) -> Path:
        return self._home.studies / "paused.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other deciders out; not the agent's own lock, which is held for as long as a task runs."""
        self._home.studies.mkdir(exist_ok=True, mode=0o700)
        with locked(self._home.studies / "decisions.lock"):
            yield


def moment(text: str) -> datetime:
    """Return a moment as it was written.

    >>> moment("2030-01-31T12:00:00Z").hour
    12

    Raises:
        ValueError: It is not written as `TIME_FORMAT`.
    """
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def written(time: datetime) -> str:
    """Return a moment as it is stored and shown, in UTC."""
    return time.astimezone(UTC).strftime(TIME_FORMAT)


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def _entry(name: str, plan: Plan, now: datetime) -> StudyEntry:
    return StudyEntry(
        digest=name,
        study=plan.study,
        state="waiting",
        seen=written(now),
        rounds=plan.training.rounds,
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        dataset=plan.data.schema,
        target=plan.data.target,
        model_family=plan.model.family,
        trust_model=plan.privacy.trust_model,
        base_digest=plan.base_digest,
    )


def _facts(entry: StudyEntry) -> dict[str, str | float | None]:
    """Return what the audit log says about a plan."""
    return {
        "plan": entry.digest,
        "study": entry.study,
        "dataset": entry.dataset,
        "rounds": entry.rounds,
        "epsilon": entry.epsilon,
        "delta": entry.delta,
    }


def _short(names: list[str]) -> str:
    """Return digests, each as short as still tells them apart."""
    length = LEAST_PREFIX
    while len({name[:length] for name in names}) < len(names):
        length += 2
    return ", ".join(name[:length] for name in names)
