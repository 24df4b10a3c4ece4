"""The coordinator's process: keeps the SuperLink up, runs one study at a time, and survives what it runs.

Why it exists: a study goes on over restarts of everything. Somebody has to notice that a process
died, start it again, and do the next study when one is over; nobody may need to look.

Rules:
    * The process that faces the network is given the TLS key and no other, studies none; all run as one user, so this
      limits mistakes, not somebody who has broken in (docs/explanation/threat-model.md).
    * Keys are unsealed once, here, and reach the SuperLink by fork(2), never by a file, argument or variable. Of the
      plan-signing key only what receipt keys follow from is kept, and a study gets the one of its own plan.
    * A process that dies is started again, later each time; a study that says it ended is not.
    * One coordinator per folder: a second one is refused.
    * Children end with this process, however it ends.

What it does not do: sign plans, or know Flower.
"""

import contextlib
import ctypes
import multiprocessing
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import Final

from fedmed.audit import ChainLog
from fedmed.crypto.passphrases import Secret
from fedmed.errors import UsageError
from fedmed.files import held_alone, require_short
from fedmed.quiet import hush
from fedmed.receipts import receipt_key, receipts_seed
from fedmed_server.coordinator_home import CoordinatorIdentity, read_coordinator
from fedmed_server.doorkeeper import MemberDoorkeeper
from fedmed_server.studies import Studies, StudyState, written
from fedmed_server.study_process import PATIENCE_S, SOCKET, STUDIES, StudySettings
from fedmed_server.study_process import main as run_study

AUDIT: Final = "audit.jsonl"
DATABASE: Final = Path("superlink") / "state.db"
LOOK_S: Final = 0.5
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
GOOD_AFTER_S: Final = 60.0
"""A process that ran this long starts with a short rest again."""
ENDING_S: Final = 15.0
"""How long a child may take to end before it is killed."""
REFUSALS_APART_S: Final = 60.0
"""The same refusal is noted at most once in this time, so that a stranger can't fill the disk."""
PATIENCE_LOCK_S: Final = 3.0
"""The children of a coordinator that was killed end within this time."""
_PR_SET_PDEATHSIG: Final = 1

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """How the coordinator is started."""

    root: Path
    listen: str = "0.0.0.0"  # noqa: S104  sites come from outside; only the gate's routes are open to them
    health: str | None = None
    patience_s: float = PATIENCE_S


class Coordinator:
    """Keeps a SuperLink and, where there is one to run, a study."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        identity: CoordinatorIdentity,
        secret: Secret,
        *,
        say: Callable[[str], None],
    ) -> None:
        """Unseal what is needed.

        Args:
            settings: How it is started.
            identity: The coordinator's verified files.
            secret: What its keys are sealed under.
            say: Tells people what happens, a line each.

        Raises:
            UsageError: The secret is another one, or a list is missing.
            IntegrityError: A list does not verify.
        """
        self._settings = settings
        self._identity = identity
        self._say = say
        self._context = identity.server_context(secret)
        self._receipts_seed = receipts_seed(identity.plan_key(secret))  # the plan-signing key itself is not kept
        self._secret = secrets.token_bytes(32)
        self._doorkeeper = MemberDoorkeeper(
            members=identity.members_path,
            revoked=identity.revoked_path,
            consortium=identity.consortium,
            authority=identity.ca_path.read_bytes(),
            now=lambda: datetime.now(UTC),
            editions=settings.root / "editions.json",
        )
        self._studies = Studies(settings.root / STUDIES)
        self._audit = ChainLog(settings.root / AUDIT)
        self._superlink = _Kept("SuperLink", self._serve, say)
        self._study: _Kept | None = None
        self._running = ""
        self._over = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            UsageError: Another coordinator runs on this folder, its path is too long, or the port is taken.
        """
        with _alone(self._settings.root):
            require_short(self._settings.root, SOCKET)
            _require_free(self._settings.listen, self._identity.port)
            before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
            identity = self._identity
            until = written(identity.not_after)
            self._audit.append(
                "coordinator-started", {"name": identity.name, "port": identity.port, "certificate_until": until}
            )
            try:
                while not self._over:
                    self._superlink.keep()
                    self._mind_studies()
                    time.sleep(LOOK_S)
            finally:
                for child in (self._study, self._superlink):
                    if child is not None:
                        child.end()
                self._audit.append("coordinator-ended", {})
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _mind_studies(self) -> None:
        """Start the study whose turn it is; end the one that is over or was stopped."""
        states = self._studies.all()
        current = next((state for state in states if state.digest == self._running), None)
        if self._study is not None and (current is None or current.state not in {"queued", "running"}):
            self._study.end()
            if current is not None:
                self._note(current)
            self._study, self._running = None, ""
        if self._study is None:
            waiting = [state for state in states if state.state in {"running", "queued"}]
            if not waiting:
                return
            first = min(waiting, key=lambda state: state.state != "running")
            self._running = first.digest
            self._study = _Kept(first.study, lambda: self._run_study(first.digest), self._say)
            self._note(first)
        self._study.keep()

    def _note(self, state: StudyState) -> None:
        reason = f": {state.reason}" if state.reason else ""
        self._say(f"{state.study} is {state.state}{reason}")
        self._audit.append(f"study-{state.state}", {"plan": state.digest, "study": state.study, "reason": state.reason})

    def _serve(self) -> None:
        """Be the SuperLink: in a child of its own, which forgets what receipts are signed with."""
        del self._receipts_seed
        hush()
        from fedmed_server.superlink import SuperLinkSettings, serve  # noqa: PLC0415  after `hush`

        settings = self._settings
        serve(
            SuperLinkSettings(
                host=settings.listen,
                port=self._identity.port,
                socket=settings.root / SOCKET,
                database=settings.root / DATABASE,
                health=settings.health,
            ),
            context=self._context,
            secret=self._secret,
            doorkeeper=self._doorkeeper,
            members=self._doorkeeper.nodes,
            refused=_Refusals(self._audit, self._say),
            listening=self._listening,
        )

    def _listening(self) -> None:
        identity = self._identity
        self._say(
            f"{identity.name} listens on {self._settings.listen}:{identity.port} for members of"
            f" {identity.consortium.name}; certificate until {written(identity.not_after)}"
        )

    def _run_study(self, study: str) -> None:
        """Be a study: in a child of its own, which forgets the TLS key and the receipt keys of other plans."""
        del self._context
        own = receipt_key(self._receipts_seed, study).private_bytes_raw()
        del self._receipts_seed
        settings = StudySettings(
            root=self._settings.root,
            study=study,
            secret=self._secret,
            receipt_key=own,
            patience_s=self._settings.patience_s,
        )
        raise SystemExit(run_study(settings, self._identity))

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._over = True


def open_coordinator_process(
    settings: CoordinatorSettings, secret: Secret, *, say: Callable[[str], None]
) -> Coordinator:
    """Return the coordinator of a folder after all its files were verified.

    Raises:
        UsageError: Something is missing, or the secret is another one.
        IntegrityError: Something does not verify.
    """
    identity = read_coordinator(settings.root, now=datetime.now(UTC))
    return Coordinator(settings, identity, secret, say=say)


class _Refusals:
    """Notes who was not let in, each reason at most once a minute."""

    def __init__(self, audit: ChainLog, say: Callable[[str], None]) -> None:
        self._audit = audit
        self._say = say
        self._last: dict[str, float] = {}

    def __call__(self, reason: str) -> None:
        now = time.monotonic()
        self._last = {text: at for text, at in self._last.items() if now - at < REFUSALS_APART_S}
        if reason in self._last or len(self._last) >= 100:
            return
        self._last[reason] = now
        self._say(f"refused: {reason}")
        with contextlib.suppress(OSError):
            self._audit.append("caller-refused", {"reason": reason})


class _Kept:
    """A child process that is started again when it dies."""

    def __init__(self, name: str, work: Callable[[], None], say: Callable[[str], None]) -> None:
        self._name = name
        self._work = work
        self._say = say
        self._process: ForkProcess | None = None
        self._started = 0.0
        self._rest_s = 0.0
        self._not_before = 0.0

    def keep(self) -> None:
        """Start the child if it is not there and has rested enough."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.is_alive():
                return
            code = self._process.exitcode
            self._process.join()
            self._process = None
            short = now - self._started < GOOD_AFTER_S
            self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S) if short else FIRST_REST_S
            self._not_before = now + self._rest_s
            if code not in {0, 2}:
                self._say(f"{self._name} ended (exit code {code}); it is started again in {self._rest_s:g} s")
        if now >= self._not_before:
            self._process = _FORK.Process(target=_child, args=(self._work,), name=self._name)
            self._process.start()
            self._started = now

    def end(self) -> None:
        """End the child and wait for it."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(ENDING_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None


def _child(work: Callable[[], None]) -> None:
    """Run `work` with a child's own signals, and end when the parent does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # the parent died before that
        return
    work()


def _require_free(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise UsageError(
            f"expected to listen at {host} port {port}, could not ({error.strerror}); another program may hold it:"
            " ss -ltnp shows which"
        ) from None


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        UsageError: Another coordinator holds it.
    """
    with held_alone(root / "coordinator.lock", patience_s=PATIENCE_LOCK_S) as held:
        if not held:
            raise UsageError(
                f"{root}: expected no coordinator at work here, found one; stop it before starting another"
            )
        yield
