"""The studies of a coordinator, each a folder that says where it stands.

Why it exists: commands, the coordinator's process and whoever takes over from it need one truth about
what was launched, what runs and how each study ended; it is in files, so nothing is lost with a process.

Layout of `studies/DIGEST/`:
    plan.json       the plan with both signatures
    mandate.json    the coordinator's word for the key that signs this study's receipts
    base/           the public base that it stands on
    state.json      where it stands, replaced atomically
    progress.json   what it does right now, for people; may be lost
    log.jsonl       what happened, a line each, chained
    work/           the study's own checkpoint, attempts and result

Rules:
    * A study is named by its plan's digest; launching the same plan twice is one study.
    * Only these changes are possible; any other raises: queued -> running -> finished or failed;
      queued or running -> stopped; stopped or failed -> queued.

What it does not do: run a study, or sign one.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from fedmed.errors import IntegrityError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.records import canonical_json, decode, digest, require
from fedmed.signed_plans import SignedPlan, load_signed_plan, save_signed_plan
from fedmed_server import study_log

State = Literal["queued", "running", "finished", "failed", "stopped"]
NEXT: Final[dict[State, tuple[State, ...]]] = {
    "queued": ("running", "stopped"),
    "running": ("finished", "failed", "stopped"),
    "finished": (),
    "failed": ("queued",),
    "stopped": ("queued",),
}
"""Every change that a study can make."""
LEAST_PREFIX: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyState:
    """The content of `state.json`.

    `sites_wanted`: how many sites must be ready before the first round. `run`: Flower's number of the last run.
    """

    digest: str
    study: str
    state: State
    sites_wanted: int
    launched: str
    changed: str
    reason: str = ""
    run: int | None = None
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")
        require(self.sites_wanted >= 1, f"sites_wanted must be at least 1, got {self.sites_wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """What a study does now, for `status`; `waiting` says why sites are not ready, by site."""

    phase: str
    round: int
    rounds: int
    sites: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    waiting: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    at: str = ""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Where things are in one study's folder."""

    root: Path

    @property
    def plan(self) -> Path:
        """The plan with both signatures."""
        return self.root / "plan.json"

    @property
    def mandate(self) -> Path:
        """The coordinator's word for the key that signs receipts."""
        return self.root / "mandate.json"

    @property
    def base(self) -> Path:
        """The public base model."""
        return self.root / "base"

    @property
    def state(self) -> Path:
        """Where the study stands."""
        return self.root / "state.json"

    @property
    def progress(self) -> Path:
        """What it does right now."""
        return self.root / "progress.json"

    @property
    def log(self) -> Path:
        """What happened."""
        return self.root / "log.jsonl"

    @property
    def work(self) -> Path:
        """The study's own checkpoint and result."""
        return self.root / "work"

    def note(self, event: str, **facts: str | float | Sequence[str] | Mapping[str, float]) -> None:
        """Append a line to the log: it names the digest of the line before, and has its own."""
        with locked(self.log.with_name("log.lock")):
            study_log.append(self.log, {"at": written(datetime.now(UTC)), "event": event, **facts})


class Studies:
    """The folder of all studies."""

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._root = root
        self._now = now

    def add(self, signed: SignedPlan, base: Path, *, sites_wanted: int, mandate: bytes) -> StudyState:
        """Launch a study: it is queued, and runs when its turn comes.

        Args:
            signed: The plan with both signatures.
            base: The folder of its public base, which is copied.
            sites_wanted: How many sites must be ready before the first round.
            mandate: The coordinator's word for the key that signs receipts, as `fedmed.receipts` makes it.

        Raises:
            UsageError: It was launched before, or another study of that name is not over.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = digest(signed.plan)
        with locked(self._root / "lock"):
            target = self.folder(name)
            if target.state.is_file():
                raise UsageError(
                    f"{signed.plan.study} was launched before; see fedmed coordinator studies, or resume it"
                )
            moment = written(self._now())
            state = StudyState(
                digest=name,
                study=signed.plan.study,
                state="queued",
                sites_wanted=sites_wanted,
                launched=moment,
                changed=moment,
            )
            stage = self._root / f".{name}"
            shutil.rmtree(stage, ignore_errors=True)
            shutil.copytree(base, stage / "base")
            save_signed_plan(StudyFolder(stage).plan, signed)
            write_atomic(StudyFolder(stage).mandate, mandate, mode=0o644)
            write_atomic(StudyFolder(stage).state, canonical_json(state))
            stage.rename(target.root)
        target.note("launched", study=signed.plan.study)
        return state

    def all(self) -> tuple[StudyState, ...]:
        """Return every study, in the order in which they were launched.

        Raises:
            IntegrityError: A state does not verify.
        """
        found = [self._read(path.parent) for path in self._root.glob("*/state.json") if path.parent.name[0] != "."]
        return tuple(sorted(found, key=lambda state: (state.launched, state.digest)))

    def find(self, which: str) -> StudyState:
        """Return the study that is meant: by name if one has it, or by the beginning of its digest.

        Raises:
            UsageError: None is meant, or several are.
        """
        found = [one for one in self.all() if one.study == which]
        if not found and len(which) >= LEAST_PREFIX:
            found = [one for one in self.all() if one.digest.startswith(which)]
        if len(found) != 1:
            came = "several are" if found else "none is"
            raise UsageError(f"expected one study called {which!r}, {came}; see fedmed coordinator studies")
        return found[0]

    def change(self, name: str, state: State, *, reason: str = "", run: int | None = None) -> StudyState:
        """Move a study to another state.

        Raises:
            UsageError: It can't go there from where it is.
        """
        with locked(self._root / "lock"):
            before = self._read(self.folder(name).root)
            if state != before.state and state not in NEXT[before.state]:
                raise UsageError(f"{before.study} is {before.state}: expected a study that can be {state}")
            after = replace(
                before,
                state=state,
                reason=reason,
                run=before.run if run is None else run,
                changed=written(self._now()),
            )
            write_atomic(self.folder(name).state, canonical_json(after))
        if state != before.state:
            self.folder(name).note(state, reason=reason)
        return after

    def folder(self, name: str) -> StudyFolder:
        """Return where the study with this digest is."""
        return StudyFolder(self._root / name)

    def signed(self, name: str) -> SignedPlan:
        """Return a study's plan.

        Raises:
            IntegrityError: The file holds another plan.
        """
        signed = load_signed_plan(self.folder(name).plan)
        if digest(signed.plan) != name:
            raise IntegrityError(f"{self.folder(name).plan}: expected the plan {name[:12]}, got another")
        return signed

    def progress(self, name: str) -> StudyProgress | None:
        """Return what a study does now, if it has said so."""
        path = self.folder(name).progress
        try:
            return decode(path.read_bytes(), StudyProgress)
        except (OSError, IntegrityError):
            return None

    def _read(self, folder: Path) -> StudyState:
        path = StudyFolder(folder).state
        try:
            return decode(path.read_bytes(), StudyState)
        except OSError:
            raise UsageError(f"expected a study in {folder}, found none; see fedmed coordinator studies") from None


def written(moment: datetime) -> str:
    """Return a moment as files have it: UTC, with milliseconds, so that order is kept."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
