"""`fedmed site start`: the one long-lived process of a site, and the SuperNode that it keeps.

Why it exists: the agent owns data, model, keys, ledger, policy and the protocol's state, and answers tasks
for weeks. Around it everything may restart: the SuperNode, the link, the coordinator.

Rules:
    * One appliance a folder. The SuperNode is a process of its own, started again when it dies.
    * The agent's process has no connection to the network; its tasks come over a local socket.
    * The certificate is read again at each start of the SuperNode, and it is started anew after a renewal.
    * A signal ends it after the task at hand, or at once if that takes long: everything is durable.

What it does not do: know what a task means (the agent does), or speak Flower (`runtime` and `node` do).
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from fedmed import __version__
from fedmed.bundle import PLAN_KEY
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.unsealed import key_pem
from fedmed.errors import FedMedError, IntegrityError, UsageError
from fedmed.files import held_alone
from fedmed.quiet import hush
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import written
from fedmed_site.control import ControlServer
from fedmed_site.control_records import Current, Exchange, NodeState, SiteStatus
from fedmed_site.home import SiteHome
from fedmed_site.identity import read_site_identity
from fedmed_site.node_process import NodeStart, hand_over

if TYPE_CHECKING:
    from flwr.app import Context, Message

NODE_SOCKET: Final = "node.sock"
LONGEST_SOCKET: Final = 100
"""Bytes of a Unix socket's path (unix(7) allows 108)."""
LOOK_S: Final = 0.5
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
GOOD_AFTER_S: Final = 60.0
_HANDED_ON: Final = frozenset(
    name for proxy in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (proxy, proxy.upper())
) | {"PATH", "LANG", "LC_ALL", "TZ"}
"""What the SuperNode's process gets of the environment: ways out, and nothing that leads to a key."""
ENDING_S: Final = 30.0
"""How long a task at hand may take before the appliance ends all the same."""


class Appliance:
    """A site at work: an `Office` for its administrator's commands."""

    def __init__(self, home: SiteHome, secret: Secret, *, say: Callable[[str], None]) -> None:
        """Prepare the site.

        Args:
            home: The site's folder.
            secret: What its TLS and SuperNode keys are sealed under.
            say: Tells people what happens, a line each.

        Raises:
            UsageError: The site was not enrolled, or the secret is another one.
            IntegrityError: Something of it does not verify, such as an expired certificate.
        """
        self._home = home
        self._secret = secret
        self._say = say
        self._agent = SiteAgent(home)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._node = _Node(home, self._start_of_node, self._agent, say)
        self._socket = home.run / NODE_SOCKET
        self._shared = secrets.token_bytes(32)
        self._since = datetime.now(UTC)
        self._connected: bool | None = None
        self._connected_since: datetime | None = None
        self._current: Current | None = None
        self._last: Exchange | None = None
        self._done = self._refused = 0
        if len(bytes(self._socket)) > LONGEST_SOCKET:
            raise UsageError(f"{home.root}: expected a path of at most {LONGEST_SOCKET - 14} bytes; move the folder")
        self._identity = read_site_identity(home.root, now=self._since)
        self._start_of_node()

    def run(self, *, control_socket: Path | None = None, control_group: str | None = None) -> None:
        """Work until a signal comes or `stop` is called.

        Args:
            control_socket: Where the administrator's commands connect, if not in the site's folder.
            control_group: Whose members may command, beside the folder's owner and root.

        Raises:
            UsageError: Another appliance is at work in this folder.
        """
        self._home.run.mkdir(exist_ok=True, mode=0o700)
        with held_alone(self._home.run / "appliance.lock", patience_s=3.0) as held:
            if not held:
                raise UsageError(f"{self._home.root}: expected no agent at work here, found one; stop that one first")
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
            self._agent.audit.append("agent-started", {"version": __version__})
            coordinator = f"{self._identity.coordinator_host}:{self._identity.coordinator_port}"
            self._say(f"{self._agent.name} works for {self._identity.consortium.name} at {coordinator};"
                      f" certificate until {written(self._identity.not_after)}")  # fmt: skip
            worker = threading.Thread(target=self._work, name="tasks", daemon=True)
            try:
                with ControlServer(
                    self._home, self, audit=self._agent.audit, socket=control_socket, group=control_group
                ):
                    self._node.keep()
                    worker.start()
                    while not self._stop.wait(LOOK_S):
                        self._node.keep()
                        self._renewed()
                    worker.join(ENDING_S)
            finally:
                self._node.end()
                self._agent.audit.append("agent-ended", {})

    def status(self) -> SiteStatus:
        """See `control_records.Office`."""
        with self._lock:
            return SiteStatus(
                site=self._agent.name,
                version=__version__,
                agent_since=written(self._since),
                node_state=self._node_state(),
                node_since=None if self._connected_since is None else written(self._connected_since),
                coordinator=f"{self._identity.coordinator_host}:{self._identity.coordinator_port}",
                certificate_not_after=written(self._identity.not_after),
                current=self._current,
                last_exchange=self._last,
                tasks_done=self._done,
                tasks_refused=self._refused,
                paused=False,
            )

    def stop(self) -> None:
        """See `control_records.Office`."""
        self._stop.set()

    def _node_state(self) -> NodeState:
        if self._stop.is_set():
            return "stopped"
        if not self._connected:
            return "starting"
        return "connected" if self._node.linked else "unreachable"

    def _start_of_node(self) -> NodeStart:
        """Return what the SuperNode needs now: the certificate may have been renewed.

        Raises:
            UsageError: The secret is another one.
            IntegrityError: The certificate has expired, or something does not verify.
        """
        self._identity = identity = read_site_identity(self._home.root, now=datetime.now(UTC))
        return NodeStart(
            coordinator=f"{identity.coordinator_host}:{identity.coordinator_port}",
            socket=str(self._socket),
            authority=identity.ca_path.read_bytes(),
            certificate=identity.tls_cert_path.read_bytes(),
            tls_key=key_pem(identity.tls_key(self._secret)),
            node_key=key_pem(identity.supernode_key(self._secret)),
            secret=self._shared,
        )

    def _renewed(self) -> None:
        """Start the SuperNode anew when there is a new certificate."""
        with contextlib.suppress(FedMedError, OSError):
            if read_site_identity(self._home.root, now=datetime.now(UTC)).tls_serial != self._identity.tls_serial:
                self._say("a new certificate is there: the SuperNode starts anew")
                self._node.end()

    def _work(self) -> None:
        """Take tasks until it is time to stop."""
        hush()
        from fedmed_site.client_app import build_client_app  # noqa: PLC0415  after `hush`
        from fedmed_site.runtime import TaskLoop  # noqa: PLC0415  likewise

        app = build_client_app(lambda _context: self._home.root)
        loop = TaskLoop(self._socket, self._shared, app, began=self._began, ended=self._ended, reached=self._reached)
        while not self._stop.is_set():
            try:
                loop.run(self._stop)
            except Exception as error:  # noqa: BLE001  the agent lives on; the kind of error says enough here
                self._say(f"taking tasks failed ({type(error).__name__}); trying again")
                self._stop.wait(FIRST_REST_S)

    def _began(self, message: "Message", context: "Context") -> None:
        with self._lock:
            self._node.linked = True
            self._current = Current(
                study=_study_of(context.run_config.get(PLAN_KEY)),
                action=message.metadata.message_type,
                round=_round_of(message),
                since=written(datetime.now(UTC)),
            )

    def _ended(self, _message: "Message", outcome: str) -> None:
        with self._lock:
            self._current = None
            self._last = Exchange(at=written(datetime.now(UTC)), outcome=outcome)
            if outcome == "answered":
                self._done += 1
            else:
                self._refused += 1
        if outcome == "refused-bundle":
            self._agent.audit.append("bundle-refused", {})
            self._say("refused a task: its run came with a bundle that is not the installed FedMed's")

    def _reached(self, *, there: bool) -> None:
        with self._lock:
            self._connected = there
            self._connected_since = datetime.now(UTC) if there else None


class _Node:
    """The SuperNode's process, started again when it dies."""

    def __init__(
        self, home: SiteHome, start: Callable[[], NodeStart], agent: SiteAgent, say: Callable[[str], None]
    ) -> None:
        self._home = home
        self.linked = False
        """Whether the coordinator answers, as far as is known."""
        self._start = start
        self._agent = agent
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._rest_s = 0.0
        self._not_before = 0.0
        self._said = ""

    def keep(self) -> None:
        """Start the process if it is not there and has rested enough."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            short = now - self._started < GOOD_AFTER_S
            self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S) if short else FIRST_REST_S
            self._not_before = now + self._rest_s
            self._tell(f"the SuperNode ended (exit code {self._process.returncode}); it is started again")
            self._process, self.linked = None, False
        if now < self._not_before:
            return
        try:
            start = self._start()
        except (FedMedError, OSError) as error:
            self._tell(f"the SuperNode can't start: {error}")
            self._rest_s = LONGEST_REST_S
            self._not_before = now + self._rest_s
            return
        self._launch(start)
        self._started = now

    def end(self) -> None:
        """End the process, so that the coordinator sees it at once."""
        process, self._process, self.linked = self._process, None, False
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self, start: NodeStart) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedmed_site.node_process"],  # -P: nothing is imported from where it starts
            cwd=self._home.run,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if key in _HANDED_ON}
            | {"FLWR_HOME": str(self._home.run / "flower")},
        )
        with contextlib.suppress(BrokenPipeError):
            hand_over(start, _there(self._process.stdin))
        for pipe, listen in ((self._process.stdout, self._heard), (self._process.stderr, self._logged)):
            threading.Thread(target=_read, args=(_there(pipe), listen), daemon=True).start()

    def _heard(self, line: str) -> None:
        """A line of the process's report: a foreign bundle."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            digest = json.loads(line)["foreign-bundle"]
            self._agent.audit.append("bundle-refused", {"bundle": str(digest)[:64]})

    def _logged(self, line: str) -> None:
        """A line of Flower's log: what it says of the link."""
        if "Sent successfully" in line or "Received successfully" in line or "SuperNode ID" in line:
            self.linked = True
        elif "Connection attempt failed" in line or "retrying" in line:
            if self.linked or not self._said:
                self._tell("the coordinator can't be reached; the SuperNode goes on trying")
            self.linked = False

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text


def _read(pipe: IO[bytes], listen: Callable[[str], None]) -> None:
    for line in pipe:
        listen(line.decode(errors="replace").rstrip())


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise IntegrityError("expected a pipe to the SuperNode, got none")
    return pipe


def _study_of(plan_json: Any) -> str:
    """Return the name of the study in a plan that nobody has verified yet; empty where there is none."""
    try:
        name = msgspec.json.decode(str(plan_json).encode(), type=dict[str, Any])["study"]
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return ""
    return str(name)[:64] if str(name).isprintable() else ""


def _round_of(message: "Message") -> int:
    try:
        return int(str(message.content.config_records["task"]["round"]))
    except (KeyError, ValueError):
        return 0
