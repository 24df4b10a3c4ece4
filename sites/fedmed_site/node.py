"""The site's SuperNode: Flower's own loop with mutual TLS, looks that wait for an answer, and no foreign bundle.

Why it exists: `flower-supernode` can't show a client certificate, waits three seconds between looks,
opens whatever bundle comes, and takes its keys from files. This room starts the same loop without that.

Rules:
    * The only process of a site that faces the network, and only outwards; it holds no data and no model, and under a
      user of its own it can reach none (`supernode_apart`).
    * Its runtime interface is a Unix socket that the site agent opened and hands over; the agent takes the tasks there
      (`runtime`).
    * No bundle is ever fetched: Flower gets the installed one. A run that names another is marked, its digest is
      reported, and the agent refuses its tasks.
    * Private keys come in memory, from the caller. Redirects are not followed, and nothing is unpacked.
    * A proxy that has no way to the coordinator now is waited for, like a line that is cut.
    * That the coordinator refuses this site is told to the agent, which says why; this process goes on trying.
    * What is touched of Flower is in this room and in `runtime`; a test pins its shape.

What it does not do: run anything that a coordinator sends.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Protocol, Self

import httpx
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from fedmed.bundle import FOREIGN, bundle, bundle_digest
from fedmed.longpoll import Application, Bell, LongPoll

LOOK_S: Final = 0.2
"""Seconds between looks for messages; each of them waits at the coordinator until there is one."""
AGENT_WAITS_S: Final = 1.0
"""How long the agent's look for a task waits here for one; the agent stops that late at most."""
FIRST_LOOK_S: Final = 0.05
"""A message is announced before all its parts are there; Flower would look again after 1, 2, 4 seconds."""
LONGEST_LOOK_S: Final = 1.0
REFUSED_REST_S: Final = 10.0
"""How long a site that is no member any more rests before it asks again."""
ENDED: Final = "the run has ended"
ACQUIRE: Final = "/v1/runtime/acquire-task"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Whom the SuperNode calls, and where the agent finds it."""

    coordinator: str
    """host:port"""
    tasks: socket.socket
    """Listens where the agent looks for tasks."""


class Reports(Protocol):
    """Told of what an administrator should know."""

    def foreign(self, digest: str) -> None:
        """A run came with a bundle that is not ours."""

    def refused(self, status: int, date: str) -> None:
        """The coordinator refused this site: 401 for its signature, 403 for its membership; `date` is its clock's."""

    def proxy(self, answer: str) -> None:
        """The proxy gave no way to the coordinator."""


class _Clock:
    """What Flower's loop has for `time`: its sleeps are short, and end when the agent has answered."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def wake(self) -> None:
        """End the sleep that lasts, or the next one."""
        self._woken.set()

    def sleep(self, seconds: float) -> None:
        self._woken.wait(min(seconds, LOOK_S))
        self._woken.clear()


def fleet_client(
    context: ssl.SSLContext,
    *,
    received: Callable[[str], None],
    answered: Callable[[str], None],
    reports: Reports,
    rest: Callable[[float], None] = time.sleep,
) -> type[FleetHttpClient]:
    """Return Flower's client of the coordinator with mutual TLS, which opens no foreign bundle.

    Args:
        context: The site's side of mutual TLS.
        received: Told of each message, by its name, once all of it is here.
        answered: Told of each message that is answered, by its name, before the answer goes out.
        reports: Told of foreign bundles and refusals.
        rest: Waits, after a refusal that nothing here can cure.
    """
    hooks_of_it = _Hooks(context=context, received=received, answered=answered, reports=reports, rest=rest)

    class Bound(_Client):
        hooks = hooks_of_it

    return Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hooks:
    """What `fleet_client` was given."""

    context: ssl.SSLContext
    received: Callable[[str], None]
    answered: Callable[[str], None]
    reports: Reports
    rest: Callable[[float], None]


class _Client(FleetHttpClient):
    """Flower's client, told what it may not do and whom to tell of what comes."""

    hooks: ClassVar[_Hooks]

    @classmethod
    def from_server_address(
        cls,
        server_address: str,
        insecure: bool,  # noqa: ARG003, FBT001  Flower's signature
        root_certificates: bytes | str | None,  # noqa: ARG003  likewise
        interceptors: Sequence[ProtobufClientInterceptor],
        *,
        retry_invoker: RetryInvoker | None = None,
    ) -> Self:
        client = cls(
            f"https://{server_address}",
            interceptors=interceptors,
            verify=cls.hooks.context,
            retry_invoker=retry_invoker,
        )
        inner: Any = client._client
        inner.follow_redirects = False  # a coordinator could send requests into the hospital's own network
        inner.headers["accept-encoding"] = "identity"  # nothing grows when it is unpacked
        return client

    def _unary_unary(self, **call: Any) -> Any:
        try:
            return super()._unary_unary(**call)
        except httpx.ProxyError as error:  # Flower would end for it
            self.hooks.reports.proxy(str(error)[:100])
            raise httpx.ConnectError("the proxy gave no way") from error
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == httpx.codes.UNAUTHORIZED or (
                status == httpx.codes.FORBIDDEN and not error.response.content  # the gate's; Flower gives reasons
            ):
                self.hooks.reports.refused(status, error.response.headers.get("date", ""))
            if status == httpx.codes.FORBIDDEN and not error.response.content:
                self.hooks.rest(REFUSED_REST_S)
            raise

    def ConfirmMessageReceived(  # noqa: N802  Flower's name
        self, request: ConfirmMessageReceivedRequest
    ) -> ConfirmMessageReceivedResponse:
        try:
            response = super().ConfirmMessageReceived(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.FORBIDDEN and error.response.content:
                raise ConnectionAbortedError(ENDED) from None
            raise
        self.hooks.received(request.message_object_id)
        return response

    def PushMessages(self, request: PushMessagesRequest) -> PushMessagesResponse:  # noqa: N802  Flower's name
        for message in request.messages_list:
            self.hooks.answered(message.metadata.reply_to_message_id)
        return super().PushMessages(request)

    def GetRun(self, request: GetRunRequest) -> GetRunResponse:  # noqa: N802  Flower's name
        response = super().GetRun(request)
        response.run.primary_task_type = TaskType.SERVER_APP  # any other makes tasks that nobody here takes
        if response.run.fab_hash != bundle_digest():
            self.hooks.reports.foreign(response.run.fab_hash)
            response.run.fab_hash = bundle_digest()
            response.run.fab_version = FOREIGN  # what the agent refuses
        return response

    def GetFab(self, request: GetFabRequest) -> GetFabResponse:  # noqa: ARG002, N802  Flower's name
        """Return the installed bundle; none is ever asked for."""
        return GetFabResponse(fab=Fab(hash_str=bundle_digest(), content=bundle()))


def parts_of_a_message(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
    """Pull a message's parts as Flower does, but look soon for those that aren't there yet.

    Raises:
        ConnectionAbortedError: The run has ended meanwhile. Flower's own exception would leave a task behind whose
            message never comes, and the agent would wait for it for an hour; this one makes it drop the task.
    """
    try:
        return pull_objects(object_ids, pull_object_fn, initial_backoff=FIRST_LOOK_S, backoff_cap=LONGEST_LOOK_S)
    except RunNotRunningException:
        raise ConnectionAbortedError(ENDED) from None


class Owed:
    """The message that the agent has yet to answer.

    Flower's loop takes the first answer that it finds for the one that it waits for. After a run that was stopped it
    may find one to that run's last message, and would look for new messages while the true answer lies there for ever.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._message = ""

    def received(self, message: str) -> None:
        """Note a message that is here in full."""
        self._message = message
        self._tell()

    def answered(self, message: str) -> None:
        """Note that an answer to a message goes out."""
        if message == self._message:
            self._message = ""

    def until_answered(self, push: Callable[..., None], **arguments: Any) -> None:
        """Call Flower's `push`, which waits for answers and sends them, until the right one went out."""
        push(**arguments)
        while self._message:
            push(**arguments)


def run_node(
    settings: NodeSettings,
    *,
    context: ssl.SSLContext,
    node_key: ec.EllipticCurvePrivateKey,
    secret: bytes,
    reports: Reports,
) -> None:
    """Run the SuperNode until a signal ends the process.

    Args:
        settings: Addresses.
        context: The site's side of mutual TLS.
        node_key: The P-384 key that the SuperNode signs its requests with.
        secret: Shared with the agent, which takes tasks with it.
        reports: Told of foreign bundles and refusals.
    """
    logging.getLogger("flwr").setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tasks, clock = Bell(), _Clock()
    owed = Owed(tasks.ring)
    patched: Any = start_client_internal
    patched.time = clock
    patched.pull_objects = parts_of_a_message
    patched._push_messages = partial(owed.until_answered, start_client_internal._push_messages)  # noqa: SLF001  likewise
    connection: Any = fleet_http_connection
    connection.FleetHttpClient = fleet_client(context, received=owed.received, answered=owed.answered, reports=reports)
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    runtime = LongPoll(
        create_app(state_factory=factory, superexec_auth_secret=secret),
        waits={ACQUIRE: tasks},
        rings={"/v1/runtime/push-task-output": clock.wake},
        caller_header=b"",  # there is one agent
        longest_s=AGENT_WAITS_S,
    )
    _serve_runtime(runtime, settings.tasks)
    start_client_internal.start_client_internal(
        state_factory=factory,
        server_address=settings.coordinator,
        node_config={},
        root_certificates=None,
        insecure=False,
        authentication_keys=(node_key, node_key.public_key()),
        isolation="process",
        runtime_api_address=str(settings.tasks.getsockname()),
        superexec_auth_secret=secret,
        runtime_dependency_install=False,
    )


def _serve_runtime(app: Application, tasks: socket.socket) -> None:
    """Serve the runtime interface on the socket, in a thread that ends with the process."""
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([tasks],), name="runtime", daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.02)
    if not server.started:
        raise SystemExit("the SuperNode could not serve its tasks")
