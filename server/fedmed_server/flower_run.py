"""One Flower run, from the coordinator's side: start it, hold it, and reach the sites through it.

Why it exists: Flower would start a process for the server app from the bundle, and would not start it again.
The coordinator's own process takes that task itself, over the SuperLink's local socket, and a process that
comes after it begins a new run for the same study, which goes on from the study's own checkpoint.

Rules:
    * The bundle is ours and holds no code; the plan travels in the run's configuration.
    * The run before, if there was one, is stopped first, so that sites drop what they still had of it.
    * Together with `superlink` the only room of the coordinator that touches Flower's internals.

What it does not do: know what a study is, or keep its state.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
from flwr.app import Message
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedmed.bundle import bundle, bundle_digest
from fedmed.errors import SiteFailureError

HEARTBEAT_S: Final = 15.0
"""Seconds between signs of life; Flower gives up a run after sixty."""
TIMEOUT_S: Final = 60.0
FIRST_LOOK_S: Final = 0.05
"""A reply is announced before all its parts are there; Flower would look again after a second, then two, then four."""
LONGEST_LOOK_S: Final = 1.0
LONGEST_PARTS_S: Final = 60.0
"""How long after a message's end its last parts may come."""
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"


@contextmanager
def hold_run(
    socket: Path, secret: bytes, config: Mapping[str, str], *, before: int | None, started: Callable[[int], None]
) -> Iterator["LocalGrid"]:
    """Start a run, yield the grid that reaches its sites, and end the run with the block.

    Args:
        socket: The SuperLink's local socket.
        secret: Shared with the SuperLink.
        config: The run's configuration: plan, digest, signatures.
        before: The study's run before this one, to be stopped.
        started: Told the new run's number before anything is sent.

    Raises:
        SiteFailureError: The SuperLink is not there, or gave the run to somebody else.
    """
    token = _begin(socket, secret, config, before=before, started=started)
    grid = LocalGrid(socket, token)
    client: RuntimeHttpClient = grid.client
    with _alive(client):
        response = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = response.task_id, response.run.run_id
        TaskIdentity.node_id = response.context.node_id
        grid.set_run(run_from_proto(response.run))
        status = SubStatus.FAILED
        try:
            yield grid
            status = SubStatus.COMPLETED
        finally:
            with suppress(httpx.HTTPError, OSError):
                client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
            grid.close()


def _begin(
    socket: Path, secret: bytes, config: Mapping[str, str], *, before: int | None, started: Callable[[int], None]
) -> str:
    """Start a run and take its task; return the token that speaks for it."""
    try:
        with _local(ControlHttpClient, socket) as control:
            if before is not None:
                with suppress(httpx.HTTPStatusError):  # it had ended
                    control.StopRun(StopRunRequest(run_id=before))
            fab = Fab(hash_str=bundle_digest(), content=bundle(), verifications={})
            answer = control.StartRun(
                StartRunRequest(
                    fab=fab_to_proto(fab),
                    override_config=user_config_to_proto(dict(config)),
                    federation=NOOP_FEDERATION_ID,
                )
            )
        started(answer.run_id)
        guard = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
        with _local(RuntimeHttpClient, socket, guard) as runtime:
            task = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            while task.token and task.task.run_id != answer.run_id:  # of a coordinator that was killed in between
                task = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
    except (httpx.HTTPError, OSError) as error:
        raise SiteFailureError(
            f"the SuperLink did not answer ({type(error).__name__}); it is started by fedmed coordinator start"
        ) from None
    if not task.token:
        raise SiteFailureError("the SuperLink did not give out the run that was just started; start the study again")
    return str(task.token)


class LocalGrid(HttpGrid):
    """Flower's grid over the SuperLink's local socket, which hands out replies one by one."""

    def __init__(self, socket: Path, token: str) -> None:
        super().__init__(insecure=True, token=token)
        self._socket = socket
        self._arriving: dict[str, ObjectTree] = {}
        self._connect()

    @property
    def client(self) -> RuntimeHttpClient:
        """The client of the runtime interface."""
        return self._runtime_client

    def each(self, identifiers: Collection[str]) -> Iterator[tuple[str, Message | None]]:
        """Look once for replies to messages; yield each with the message that it answers as it is put together.

        A reply whose parts are still on their way is yielded at a later look; the others need not wait for it.
        One that can't be put together is None: its sender made one that is none.
        """
        self._arriving = {answered: tree for answered, tree in self._arriving.items() if answered in identifiers}
        wanted = [identifier for identifier in identifiers if identifier not in self._arriving]
        found = self.client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
        for outline, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            if outline.metadata.reply_to_message_id in wanted:
                self._arriving[outline.metadata.reply_to_message_id] = tree
        for answered, tree in list(self._arriving.items()):
            pull = make_pull_object_fn_protobuf(self.client.PullObject, self.node, self.run.run_id)
            try:
                pull(tree.object_id)  # the message itself, which is sent after its parts
            except ObjectUnavailableError:
                continue
            except ObjectPullError:
                del self._arriving[answered]
                yield answered, None
                continue
            del self._arriving[answered]
            yield answered, self._whole(tree, pull)

    def _whole(self, tree: ObjectTree, pull: Callable[[str], bytes]) -> Message | None:
        """Fetch the parts of a reply and put it together."""
        name = tree.object_id
        try:
            parts = pull_objects(
                [part.object_id for part in iterate_object_tree(tree)],
                pull_object_fn=pull,
                max_time=LONGEST_PARTS_S,
                initial_backoff=FIRST_LOOK_S,
                backoff_cap=LONGEST_LOOK_S,
            )
            self.client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self.node, run_id=self.run.run_id, message_object_id=name)
            )
            message = inflate_object_from_contents(name, parts)
        except (ObjectPullError, AttributeError, TypeError, ValueError, KeyError, MemoryError):
            return None
        if not isinstance(message, Message):
            return None
        message.metadata.__dict__["_message_id"] = name
        return message

    def _connect(self) -> None:
        self._client = _over(
            RuntimeHttpClient(
                "http://superlink",
                interceptors=[
                    RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
                    RuntimeTokenHttpInterceptor(token=self._token),
                ],
                retry_invoker=make_simple_http_retry_invoker(),
            ),
            self._socket,
        )


@contextmanager
def _local(kind: type[Any], socket: Path, *interceptors: Any) -> Iterator[Any]:
    """Yield one of Flower's clients over the SuperLink's local socket."""
    version = RuntimeVersionHttpInterceptor(component_name="flwr-cli")
    client = _over(kind("http://superlink", interceptors=[version, *interceptors]), socket)
    try:
        yield client
    finally:
        client.close()


def _over(client: Any, socket: Path) -> Any:
    """Give a client a transport over the socket."""
    if not isinstance(client, ProtobufClient):
        raise TypeError("expected one of Flower's HTTP clients")
    inner: Any = client
    inner._client.close()  # noqa: SLF001  the one way to another transport
    inner._client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=TIMEOUT_S)  # noqa: SLF001
    return client


@contextmanager
def _alive(client: RuntimeHttpClient) -> Iterator[None]:
    """Send signs of life while the block runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with suppress(httpx.HTTPError, OSError):
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
