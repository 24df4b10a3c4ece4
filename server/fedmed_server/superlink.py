"""The coordinator's SuperLink: Flower's own, behind a gate, with its control and runtime on a local socket only.

Why it exists: `flower-superlink` opens all that it has on one port, without client certificates. This
room starts the same application twice: for the sites behind mutual TLS and the gate, and for the
coordinator's own processes on a Unix socket that nobody else can open.

Rules:
    * Everything of Flower's server internals is in this room and in `flower_run`; a test pins their shape.
    * Private keys stay in this process's memory; the database and the object store are on disk.
    * Nodes are registered from the consortium's list of members, never by themselves.
    * A SuperNode's look for messages waits until the studies sent some, a study's look for replies until one came.
    * Telemetry, update checks and the installation of dependencies are off.

What it does not do: run studies, or hold the key that signs plans.
"""

import asyncio
import logging
import math
import ssl
import time
from asyncio import constants
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.supercore.constant import NodeStatus
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from fedmed.errors import RefusedError
from fedmed.longpoll import Application, Bell, LongPoll, Receive, Scope, Send
from fedmed_server.gate import (
    NODE_KEY_HEADER,
    Doorkeeper,
    Gate,
    certified_protocol,
    node_key_of,
)

ACTIVATE: Final = "/v1/fleet/activate-node"
KEEP_ALIVE_S: Final = 75
"""How long an idle connection of a site stays open: longer than a proxy's usual minute."""


HANDSHAKE_S: Final = 10.0
MOST_REQUESTS: Final = 512
"""At one time, of all sites together."""
SITE_WAITS_S: Final = 20.0
"""How long a SuperNode's look for messages waits for one: less than a proxy's usual half minute, and than Flower's."""
STUDY_WAITS_S: Final = 1.0
"""How long a study's look for replies waits for one; its deadlines are that late at most."""
ENDING_S: Final = 2
"""How long requests may go on once the SuperLink is to end; sites' looks for messages would wait for longer."""
SEARCH_S: Final = 1.0
RUNTIME_TOKEN_HEADER: Final = b"flwr-task-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLinkSettings:
    """Where the SuperLink listens and keeps its state."""

    host: str
    port: int
    socket: Path
    """The Unix socket of control and runtime, for the coordinator's own processes."""
    database: Path
    health: str | None = None
    """Address of the gRPC health service, such as 127.0.0.1:9091 or unix:/run/fedmed/health.sock."""


def serve(
    settings: SuperLinkSettings,
    *,
    context: ssl.SSLContext,
    secret: bytes,
    doorkeeper: Doorkeeper,
    members: Callable[[], Iterable[tuple[str, bytes]]],
    refused: Callable[[str], None],
    listening: Callable[[], None],
) -> None:
    """Run until a signal ends it.

    Args:
        settings: Addresses and paths.
        context: The server side of mutual TLS.
        secret: Shared with the coordinator's own processes, which take their tasks with it.
        doorkeeper: Who may come in from outside.
        members: Names and SuperNode public keys (PEM) of those enrolled; asked again every few seconds.
        refused: Told why somebody was not let in.
        listening: Told once sites are served.
    """
    _make_places(settings)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    app = create_app(_lifespan_config(settings, secret), SuperLinkLifespan)
    _unburden(app.state.linkstate_factory.state())
    fleet, local = _with_bells(app)
    door = Gate(_Takeover(fleet, app.state.linkstate_factory), doorkeeper, refused=refused)
    outside = _outside(settings, door, context, certified_protocol(doorkeeper, refused))
    inside = uvicorn.Config(
        local,
        uds=str(settings.socket),
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=ENDING_S,
    )
    registry = _Registry(app.state.linkstate_factory, members, refused)
    constants.__dict__["SSL_HANDSHAKE_TIMEOUT"] = HANDSHAKE_S  # asyncio has no other way, and uvicorn hands none on
    asyncio.run(_serve(inside, outside, registry, settings.socket, listening))


def _make_places(settings: SuperLinkSettings) -> None:
    """Make the folders of database and socket, for the owner alone, and take an old socket away."""
    settings.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.socket.parent.chmod(0o700)  # uvicorn opens the socket to everybody for a moment
    settings.socket.unlink(missing_ok=True)


def _with_bells(app: Application) -> tuple[LongPoll, LongPoll]:
    """Return Flower's application for the sites and for the coordinator's own, each woken by what the other brings."""
    messages, replies = Bell(), Bell()
    fleet = LongPoll(
        app,
        waits={"/v1/fleet/pull-messages": messages},
        rings={"/v1/fleet/push-messages": replies.ring, "/v1/fleet/push-object": replies.ring},
        caller_header=NODE_KEY_HEADER,
        longest_s=SITE_WAITS_S,
    )
    local = LongPoll(
        app,
        waits={"/v1/runtime/pull-messages": replies},
        rings={"/v1/runtime/push-messages": messages.ring},
        caller_header=RUNTIME_TOKEN_HEADER,
        longest_s=STUDY_WAITS_S,
    )
    return fleet, local


def _outside(
    settings: SuperLinkSettings, door: Application, context: ssl.SSLContext, protocol: type[asyncio.Protocol]
) -> uvicorn.Config:
    """Return how sites are served."""
    return uvicorn.Config(
        door,
        host=settings.host,
        port=settings.port,
        http=protocol,
        limit_concurrency=MOST_REQUESTS,
        ws="none",
        ssl_context_factory=lambda _config, _default: context,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        date_header=True,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=ENDING_S,
    )


async def _serve(
    inside: uvicorn.Config,
    outside: uvicorn.Config,
    registry: "_Registry",
    socket: Path,
    listening: Callable[[], None],
) -> None:
    """Run both servers; the local one first, because it owns what they share."""
    local, public = uvicorn.Server(inside), _Follower(outside)
    running = asyncio.create_task(local.serve())
    while not local.started and not running.done():
        await asyncio.sleep(0.02)
    if running.done():
        await running
        return
    socket.chmod(0o600)
    registry.refresh()
    following = asyncio.create_task(public.serve())
    keeping = asyncio.create_task(registry.keep())
    while not public.started and not following.done():
        await asyncio.sleep(0.02)
    if public.started:
        listening()
    await running
    public.should_exit = True
    keeping.cancel()
    await asyncio.gather(following, keeping, return_exceptions=True)


class _Follower(uvicorn.Server):
    """A server that leaves signals to the one that it goes with."""

    def capture_signals(self) -> Any:
        """Take none."""
        import contextlib  # noqa: PLC0415  one word of it

        return contextlib.nullcontext()


class _Takeover:
    """Lets a SuperNode that was killed come back at once: the new one ends what is left of the old one.

    Flower refuses a node that it believes to be online, for up to a minute. The gate lets only the key's own
    site get this far.
    """

    def __init__(self, inner: Application, factory: Any) -> None:
        self._inner = inner
        self._state = factory.state()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == ACTIVATE:
            key = node_key_of(scope)
            node = None if key is None else await asyncio.to_thread(self._state.get_node_id_by_public_key, key)
            if node is not None:
                await asyncio.to_thread(self._state.deactivate_node, node)
        await self._inner(scope, receive, send)


class _Registry:
    """Keeps the SuperLink's nodes the same as the list of members."""

    INTERVAL_S: Final = 5.0

    def __init__(
        self, factory: Any, members: Callable[[], Iterable[tuple[str, bytes]]], say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._state = factory.state()
        self._members = members

    def refresh(self) -> None:
        """Register who is new and remove who is no member any more."""
        wanted = {_canonical(key): name for name, key in self._members()}
        for key, name in wanted.items():
            if self._state.get_node_id_by_public_key(key) is None:
                self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name)
        for node in self._state.get_node_info(owner_aids=[NOOP_FLWR_AID]):
            if node.public_key not in wanted and node.status != NodeStatus.UNREGISTERED:
                self._state.delete_node(NOOP_FLWR_AID, node.node_id)

    async def keep(self) -> None:
        """Refresh every few seconds."""
        while True:
            await asyncio.sleep(self.INTERVAL_S)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # noqa: BLE001  a list that is just being copied, a busy database: look again
                self._say(f"the list of members could not be taken over ({type(error).__name__}); trying again")


def _unburden(state: Any, clock: Callable[[], float] = time.monotonic) -> None:
    """Spare the database two writes at every request: a search for dead tasks, and a count that nobody reads.

    Dead tasks are searched for once a second; what travels is counted by the study (`channel.Traffic`).
    """
    search = state._cleanup_expired_task_tokens  # noqa: SLF001  Flower has no other way
    last = -math.inf

    def search_seldom() -> None:
        nonlocal last
        if clock() - last >= SEARCH_S:
            last = clock()
            search()

    state._cleanup_expired_task_tokens = search_seldom  # noqa: SLF001  likewise
    state.store_traffic = lambda _run, *, bytes_sent, bytes_recv: None  # noqa: ARG005  Flower's signature


def _lifespan_config(settings: SuperLinkSettings, secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=settings.health,
        host=settings.host,
        port=settings.port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(settings.database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


def _canonical(key: bytes) -> bytes:
    """Return a SuperNode's public key in the form in which Flower compares keys.

    Raises:
        RefusedError: It is no public key.
    """
    try:
        loaded = serialization.load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        raise RefusedError("expected a SuperNode's public key in PEM, got something else") from None
    return loaded.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
