"""`fedmed site start`: the one long-lived process of a site, and the SuperNode that it keeps.

Why it exists: the agent owns data, model, keys, ledger, policy and the protocol's state, and answers tasks
for weeks. Around it everything may restart: the SuperNode, the link, the coordinator.

Rules:
    * One appliance a folder. The SuperNode is a process of its own: a child, started again when it dies, or one of
      another user that comes to the door.
    * The agent's process has no connection to the network; its tasks come over a local socket.
    * The certificate is read again at each start of the SuperNode, and it is started anew after a renewal.
    * A signal ends it after the task at hand, or at once if that takes long: everything is durable.
    * What keeps the site from taking part is said once, with its cure, and that it is over as well.

What it does not do: know what a task means (the agent does), or speak Flower (`runtime` and `node` do).
"""

import contextlib
import secrets
import shutil
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fedmed import __version__
from fedmed.bundle import PLAN_KEY
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.unsealed import key_pem
from fedmed.errors import FedMedError, UsageError
from fedmed.files import held_alone, is_full, require_short
from fedmed.quiet import hush
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import written
from fedmed_site.control import ControlServer
from fedmed_site.control_records import Current, Exchange, NodeState, SiteStatus
from fedmed_site.home import SiteHome
from fedmed_site.identity import read_site_identity
from fedmed_site.node_link import NodeStart
from fedmed_site.supernode import FIRST_REST_S, NODE_SOCKET, News, Node, SuperNode
from fedmed_site.supernode_apart import SuperNodeApart, number_of

if TYPE_CHECKING:
    from flwr.app import Context, Message

LOOK_S: Final = 0.5
LEAST_ROOM_BYTES: Final = 16 << 20
"""With less than this on the disk what the site must keep of a task may not fit."""
ENDING_S: Final = 30.0
"""How long a task at hand may take before the appliance ends all the same."""


class Appliance:
    """A site at work: an `Office` for its administrator's commands."""

    def __init__(
        self, home: SiteHome, secret: Secret, *, say: Callable[[str], None], apart: tuple[Path, str] | None = None
    ) -> None:
        """Prepare the site.

        Args:
            home: The site's folder.
            secret: What its TLS and SuperNode keys are sealed under.
            say: Tells people what happens, a line each.
            apart: The socket for a SuperNode that is started under another user, and that user; else it is a child.

        Raises:
            UsageError: The site was not enrolled, the secret is another one, or there is no such user.
            IntegrityError: Something of it does not verify, such as an expired certificate.
        """
        self._home = home
        self._secret = secret
        self._say = say
        self._agent = SiteAgent(home)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._news = News(self._agent, say)
        self._node = self._supernode(apart)
        self._socket = home.run / NODE_SOCKET
        self._shared = secrets.token_bytes(32)
        self._since = datetime.now(UTC)
        self._connected: bool | None = None
        self._connected_since: datetime | None = None
        self._current: Current | None = None
        self._last: Exchange | None = None
        self._done = self._refused = 0
        require_short(home.root, self._socket.relative_to(home.root))
        self._crowded = False
        self._invalid = ""
        self._identity = read_site_identity(home.root, now=self._since)
        self._start_of_node()

    def _supernode(self, apart: tuple[Path, str] | None) -> Node:
        if apart is None:
            return SuperNode(self._home, self._start_of_node, self._news)
        door, user = apart
        return SuperNodeApart(
            self._home, self._start_of_node, self._news, door=door, user=number_of(user), say=self._say
        )

    def run(self, *, control_socket: Path | None = None, control_group: str | None = None) -> None:
        """Work until a signal comes or `stop` is called.

        Args:
            control_socket: Where the administrator's commands connect, if not in the site's folder.
            control_group: Whose members may command, beside the folder's owner and root.

        Raises:
            UsageError: Another appliance is at work in this folder, or its disk is full.
        """
        self._home.run.mkdir(exist_ok=True, mode=0o700)
        with held_alone(self._home.run / "appliance.lock", patience_s=3.0) as held:
            if not held:
                raise UsageError(f"{self._home.root}: expected no agent at work here, found one; stop that one first")
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
            self._note_start()
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
                        self._mind_certificate()
                        self._mind_room()
                    worker.join(ENDING_S)
            finally:
                self._node.close()
                with contextlib.suppress(OSError):  # a full disk must not turn an end into a failure
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
        return "connected" if self._news.linked else "unreachable"

    def _start_of_node(self) -> NodeStart:
        """Return what the SuperNode needs now: the certificate may have been renewed.

        Raises:
            UsageError: The secret is another one.
            IntegrityError: The certificate has expired, or something does not verify.
        """
        self._identity = identity = read_site_identity(self._home.root, now=datetime.now(UTC))
        return NodeStart(
            coordinator=f"{identity.coordinator_host}:{identity.coordinator_port}",
            authority=identity.ca_path.read_bytes(),
            certificate=identity.tls_cert_path.read_bytes(),
            tls_key=key_pem(identity.tls_key(self._secret)),
            node_key=key_pem(identity.supernode_key(self._secret)),
            secret=self._shared,
        )

    def _note_start(self) -> None:
        try:
            self._agent.audit.append("agent-started", {"version": __version__})
        except OSError as error:
            if is_full(error):
                raise UsageError(f"{self._home.root}: expected room on its disk, found none; make room") from None
            raise

    def _mind_certificate(self) -> None:
        """Start the SuperNode anew when there is a new certificate, and say when this one does not hold any more."""
        try:
            serial = read_site_identity(self._home.root, now=datetime.now(UTC)).tls_serial
        except FedMedError as error:
            if str(error) != self._invalid:
                self._invalid = str(error)
                self._say(f"this site can't take part: {error}")
            return
        except OSError:
            return
        self._invalid = ""
        if serial != self._identity.tls_serial:
            self._say("a new certificate is there: the SuperNode starts anew")
            self._node.end()

    def _mind_room(self) -> None:
        """Say when the disk gets full, and when there is room again."""
        try:
            free = shutil.disk_usage(self._home.root).free
        except OSError:
            return
        if free < LEAST_ROOM_BYTES and not self._crowded:
            self._crowded = True
            self._say(
                f"the disk of {self._home.root} is full: {free >> 20} MiB are left, and a site that can't write refuses"
                " its tasks; make room, and it takes part again by itself"
            )
        elif free >= 2 * LEAST_ROOM_BYTES and self._crowded:
            self._crowded = False
            self._say(f"there is room again on the disk of {self._home.root}")

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
