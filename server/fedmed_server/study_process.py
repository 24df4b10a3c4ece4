"""The process that runs one study: wait until its sites are ready, run it, and say how it ended.

Why it exists: a study may take days, in which sites restart, links fail and processes are killed. This
process may be killed at any moment; the next one goes on from what is on disk.

Rules:
    * Before the first round as many sites must be ready as the launch asked for; why the others are not is shown.
    * A round that too few sites answered is no failure of the study: it waits, and goes on when they are back.
    * What can't be cured by waiting (state that does not verify, a plan that can't be run) ends the study as failed.
    * The key that signs plans is not here; the plan's signatures were made when it was launched. The one that signs
      receipts signs those of this study only.

What it does not do: choose which study runs (the coordinator does), or talk to people.
"""

import hashlib
import signal
import sys
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY
from fedmed.errors import FedMedError, IntegrityError, SiteFailureError
from fedmed.exchange import Failure, Task
from fedmed.files import write_atomic
from fedmed.quiet import hush
from fedmed.receipts import Signer, open_mandate
from fedmed.records import Plan, canonical_json, digest
from fedmed.secagg.roster import Roster
from fedmed.secagg.roster_file import open_roster
from fedmed.signed_plans import SignedPlan, signatures_to_text, verify
from fedmed_server.aggregators import NOT_IN_ROSTER
from fedmed_server.channel import Channel
from fedmed_server.coordinator_home import CoordinatorIdentity
from fedmed_server.studies import Studies, StudyFolder, StudyProgress, written

if TYPE_CHECKING:
    from fedmed.learning.ewc import Knowledge

LOOK_S: Final = 2.0
LOOK_AGAIN_S: Final = 0.01
"""Between looks for replies; each of them waits at the SuperLink until one has come."""
"""Seconds between questions to sites that are not ready."""
DESCRIBE_S: Final = 300.0
PATIENCE_S: Final = 24 * 3600.0
"""How long a study waits for sites before it ends as failed; it can be resumed."""
ROSTER: Final = "roster.json"
STUDIES: Final = "studies"
SOCKET: Final = Path("run") / "superlink.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What a study's process is told when it starts."""

    root: Path
    """The coordinator's folder."""
    study: str
    """The plan's digest."""
    secret: bytes = field(repr=False)
    """Shared with the SuperLink."""
    receipt_key: bytes = field(repr=False)
    """Signs this study's receipts, and nothing else."""
    patience_s: float = PATIENCE_S


def main(settings: StudySettings, identity: CoordinatorIdentity) -> int:
    """Run a study to its end and return the exit code: 0 finished, 2 failed."""
    hush()
    signal.signal(signal.SIGTERM, _leave)
    studies = Studies(settings.root / STUDIES)
    try:
        signed = studies.signed(settings.study)
        verify(
            signed.plan,
            signed.signatures,
            consortium=identity.consortium.ed25519(),
            coordinator=Ed25519PublicKey.from_public_bytes(identity.statement.plan_key),
        )
        roster = _roster(settings.root, identity) if signed.plan.aggregation.kind == "secure" else None
        signer = _signer(settings, studies.folder(settings.study), identity)
        _run(settings, studies, signed, roster, _knowledge(studies, signed.plan), signer=signer)
    except FedMedError as error:
        studies.change(settings.study, "failed", reason=str(error))
        return error.exit_code
    studies.change(settings.study, "finished")
    return 0


def _run(
    settings: StudySettings,
    studies: Studies,
    signed: SignedPlan,
    roster: Roster | None,
    knowledge: "Knowledge | None",
    *,
    signer: Signer,
) -> None:
    """Hold a Flower run for the study and go on until it is finished."""
    from fedmed_server.flower_run import hold_run  # noqa: PLC0415  after `hush`
    from fedmed_server.server_app import aggregator_for  # noqa: PLC0415  likewise
    from fedmed_server.strategy import GridChannel  # noqa: PLC0415  likewise
    from fedmed_server.study import StudyFolders, StudyRunner  # noqa: PLC0415  it imports torch

    plan, folder = signed.plan, studies.folder(settings.study)
    state = studies.change(settings.study, "running")
    config = {
        PLAN_KEY: canonical_json(plan).decode(),
        PLAN_DIGEST_KEY: digest(plan),
        PLAN_SIGNATURES_KEY: signatures_to_text(signed.signatures),
    }
    with hold_run(
        settings.root / SOCKET,
        settings.secret,
        config,
        before=state.run,
        started=lambda run: _started(studies, settings.study, run),
    ) as grid:
        channel = GridChannel(
            grid,
            poll_interval_s=LOOK_AGAIN_S,
            names=lambda: {node.node_id: node.name for node in grid.get_nodes()},
            pull=grid.each,
        )
        journal = Journal(folder, plan)
        wanted = state.sites_wanted
        while True:
            aggregator = aggregator_for(
                plan, roster=roster, state=folder.work, signer=signer, signed_roster=_text(settings.root / ROSTER)
            )
            wait_for_sites(
                channel, plan, journal, wanted=wanted, patience_s=settings.patience_s, members=aggregator.members
            )
            runner = StudyRunner(
                plan,
                StudyFolders(base=folder.base, state=folder.work),
                channel=channel,
                aggregator=aggregator,
                knowledge=knowledge,
                listener=journal,
            )
            try:
                runner.run()
            except SiteFailureError as error:
                journal.interrupted(str(error))
                wanted = plan.aggregation.min_sites
                time.sleep(LOOK_S)
                continue
            return


def wait_for_sites(
    channel: Channel,
    plan: Plan,
    journal: "Journal",
    *,
    wanted: int,
    patience_s: float,
    members: Container[str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return when `wanted` sites have said that they take part.

    Args:
        channel: Reaches those that are connected.
        plan: The study's.
        journal: Told why the others are not ready.
        wanted: How many sites.
        patience_s: How long.
        members: Who counts; None for everybody.
        sleep: Waits between looks.
        clock: Seconds.

    Raises:
        SiteFailureError: They were not ready in time; the message says why.
    """
    task = Task(action="query.describe", plan_digest=digest(plan))
    ready: dict[int, str] = {}
    deadline = clock() + patience_s
    while True:
        connected = set(channel.addresses())
        ready = {address: site for address, site in ready.items() if address in connected}
        waiting: dict[str, str] = {}
        asked = dict.fromkeys(sorted(connected - ready.keys()), task)
        for address, reply in channel.ask(asked, timeout_s=DESCRIBE_S):
            if isinstance(reply, Failure):
                waiting[reply.site or f"node {address}"] = reply.reason
            elif members is not None and reply.site not in members:
                waiting[reply.site] = NOT_IN_ROSTER
            else:
                ready[address] = reply.site
        journal.waiting(tuple(sorted(ready.values())), waiting, wanted=wanted)
        if len(ready) >= wanted:
            return
        if clock() >= deadline:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(waiting.items())) or "no other connected"
            raise SiteFailureError(f"expected {wanted} sites to be ready, {len(ready)} were; {reasons}")
        sleep(LOOK_S)


class Journal:
    """A `study.Listener` that writes what people want to know: progress now, and a log."""

    def __init__(self, folder: StudyFolder, plan: Plan, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._began = clock()
        self._marks: dict[str, float] = {}
        self._now = StudyProgress(phase="starting", round=0, rounds=plan.training.rounds)
        self._said: dict[str, str] = {}

    def waiting(self, ready: tuple[str, ...], why: dict[str, str], *, wanted: int) -> None:
        """Sites are being waited for; the log has each reason once."""
        for site, reason in sorted(why.items()):
            if self._said.get(site) != reason:
                self._folder.note("waits", site=site, reason=reason)
        self._said = dict(why)
        phase = "ready" if len(ready) >= wanted else f"waiting for {wanted - len(ready)} more sites"
        self._write(replace(self._now, phase=phase, sites=ready, waiting=why, answered=()))

    def interrupted(self, reason: str) -> None:
        """Too few sites answered; the study waits and goes on."""
        self._folder.note("interrupted", reason=reason)
        self._write(replace(self._now, phase=f"interrupted: {reason}"))

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None:
        """See `study.Listener`."""
        self._began, self._marks = self._clock(), {}
        self._folder.note("study-started", round=first_round, sites=list(sites), plan=digest(plan))
        self._write(replace(self._now, phase="running", round=first_round, sites=sites, waiting={}))

    def site_answered(self, _plan: Plan, task: Task, site: str) -> None:
        """See `study.Listener`."""
        action = task.action
        self._marks[action] = self._clock()
        answered = (*self._now.answered, site) if self._now.phase == action else (site,)
        self._write(replace(self._now, phase=action, answered=tuple(sorted(set(answered)))))

    def round_finished(self, _plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:
        """See `study.Listener`."""
        self._folder.note(
            "round-finished", round=number, sites=list(sites), seconds=round(seconds, 3), phases=self._phases()
        )
        self._write(replace(self._now, round=number + 1, seconds=self._now.seconds + seconds, answered=()))

    def site_failed(self, _plan: Plan, failure: Failure) -> None:
        """See `study.Listener`."""
        self._folder.note("site-failed", site=failure.site, code=failure.code, reason=failure.reason)

    def study_finished(self, _plan: Plan) -> None:
        """See `study.Listener`."""
        self._write(replace(self._now, phase="finished", answered=()))

    def _phases(self) -> dict[str, float]:
        """Return how long each phase of the round took, to its last answer, and begin the next round."""
        taken, since = {}, self._began
        for action, at in sorted(self._marks.items(), key=lambda mark: mark[1]):
            taken[action], since = round(at - since, 3), at
        self._began, self._marks = self._clock(), {}
        return taken

    def _write(self, progress: StudyProgress) -> None:
        self._now = replace(progress, at=written(datetime.now(UTC)))
        write_atomic(self._folder.progress, canonical_json(self._now), mode=0o644)


def _started(studies: Studies, study: str, run: int) -> None:
    studies.change(study, "running", run=run)


def _roster(root: Path, identity: CoordinatorIdentity) -> Roster:
    """Return the roster in force.

    Raises:
        IntegrityError: There is none, or it does not verify.
    """
    path = root / ROSTER
    if not path.is_file():
        raise IntegrityError(f"{path}: expected the consortium's signed roster, found none; carry it here")
    key = identity.consortium.ed25519()
    return open_roster(path.read_bytes(), consortium_key=key, least_serial=1, now=datetime.now(UTC))


def _signer(settings: StudySettings, folder: StudyFolder, identity: CoordinatorIdentity) -> Signer:
    """Return what signs the study's receipts.

    Raises:
        IntegrityError: The mandate is missing, or of another coordinator, plan or key.
    """
    key = Ed25519PrivateKey.from_private_bytes(settings.receipt_key)
    plan_key = Ed25519PublicKey.from_public_bytes(identity.statement.plan_key)
    if not folder.mandate.is_file():
        raise IntegrityError(f"{folder.mandate}: expected the mandate for receipts, found none; launch a new study")
    mandate = open_mandate(folder.mandate.read_bytes(), plan_key, plan=settings.study)
    if mandate.key != key.public_key().public_bytes_raw():
        raise IntegrityError(f"{folder.mandate}: expected a mandate for this coordinator's key, got another's")
    return Signer(key, folder.mandate.read_text(), mandate.coordinator)


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _knowledge(studies: Studies, plan: Plan) -> "Knowledge | None":
    """Return what the earlier study left behind that the plan names by digest.

    Raises:
        IntegrityError: No finished study here left that.
    """
    from fedmed.learning.ewc import knowledge_from_bytes  # noqa: PLC0415  it imports torch

    wanted = plan.continual.knowledge_digest
    if wanted is None:
        return None
    for state in studies.all():
        path = studies.folder(state.digest).work / "result" / "knowledge.tensors"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted:
            return knowledge_from_bytes(path.read_bytes())
    raise IntegrityError(
        f"the plan goes on from knowledge {wanted[:12]}, which no finished study here left; launch that study first"
    )


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
