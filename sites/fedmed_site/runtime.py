"""The agent's side of the SuperNode: take a task, answer it with the installed client, hand the answer back.

Why it exists: Flower starts a new process for every message and runs whatever the bundle holds. Here one
long-lived process takes the tasks itself, and nothing of a bundle is opened.

Rules:
    * A task whose run has another bundle than the installed one is refused and reported.
    * One task at a time; what leaves is an answer or a sanitised failure, never an exception's text.
    * A task that was taken is kept alive by heartbeats while the site works on it.
    * Together with `node` the only room of a site that touches Flower's internals; a test pins their shape.

What it does not do: know what a task means.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedmed.bundle import FOREIGN, bundle_digest

LOOK_S: Final = 0.02
"""Seconds between looks for a task on the local socket; each of them waits there until there is one."""
ABSENT_S: Final = 1.0
"""Seconds between looks for a SuperNode that is not there."""
HEARTBEAT_S: Final = 15.0
"""Seconds between signs of life; Flower gives up a task after sixty."""
PARTS_S: Final = 10.0
"""How long the parts of a message may be missing at the SuperNode before its task is given back as failed."""
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"


_patched: Any = run_clientapp
_patched.pull_and_inflate_object_from_tree = partial(
    pull_and_inflate_object_from_tree, max_time=PARTS_S, initial_backoff=LOOK_S, backoff_cap=ABSENT_S
)  # a task is given out once all of its message is here; one of which parts are missing never gets them


class Reached(Protocol):
    """Told whether the SuperNode is there."""

    def __call__(self, *, there: bool) -> None:
        """Note it."""


class TaskLoop:
    """Takes tasks from a SuperNode until it is told to stop."""

    def __init__(
        self,
        socket: Path,
        secret: bytes,
        app: ClientApp,
        *,
        began: Callable[[Message, Context], None],
        ended: Callable[[Message, str], None],
        reached: Reached,
    ) -> None:
        """Prepare the loop.

        Args:
            socket: The SuperNode's runtime socket.
            secret: Shared with the SuperNode.
            app: The installed client.
            began: Told of each task that is taken.
            ended: Told of each task's end: `answered`, `refused-bundle`, `lost`, or the code of a failure.
            reached: Told whether the SuperNode was there, when that changes.
        """
        self._socket = socket
        self._secret = secret
        self._app = app
        self._began = began
        self._ended = ended
        self._reached = reached

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a SuperNode that is not there is waited for."""
        there: bool | None = None

        def note(*, now: bool) -> None:
            nonlocal there
            if there is not now:
                there = now
                self._reached(there=now)

        with _client(self._socket, SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods=frozenset({_ACQUIRE})
        )) as client:  # fmt: skip
            while not stop.is_set():
                try:
                    answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
                except (httpx.HTTPError, OSError):
                    note(now=False)
                    stop.wait(ABSENT_S)
                    continue
                note(now=True)
                if answer.HasField("task") and answer.token:
                    self._work(answer.token)
                else:
                    stop.wait(LOOK_S)

    def _work(self, token: str) -> None:
        """Do one task; a SuperNode that goes away meanwhile loses it, and the coordinator asks again."""
        with _client(self._socket, RuntimeTokenHttpInterceptor(token)) as client, _alive(client):
            try:
                message, context, run, _ = pull_task_input(client)
            except (httpx.HTTPError, OSError, RuntimeError, ValueError, ObjectPullError):
                return  # the SuperNode answers in its place when the task's signs of life end
            self._began(message, context)
            if run.fab_hash != bundle_digest() or run.fab_version == FOREIGN:
                reply, outcome = _refusal(message), "refused-bundle"
            else:
                reply = self._answer(message, context)
                outcome = _outcome_of(reply)
            try:
                push_message(client, reply, context)
                push_task_output(client, context, SubStatus.COMPLETED, "")
            except (httpx.HTTPError, OSError):
                outcome = "lost"
            self._ended(message, outcome)

    def _answer(self, message: Message, context: Context) -> Message:
        """Return the client's reply; what it does not know how to say is a failure without a text."""
        try:
            return self._app(message=message, context=context)
        except Exception:  # noqa: BLE001  its text would leave the site
            return _failure(message, "this site does not know the message; check that both run the same FedMed")


def _outcome_of(reply: Message) -> str:
    """Return `answered`, or the code of the failure that a reply is."""
    failure = reply.content.config_records.get("failure") if reply.has_content() else None
    return "answered" if failure is None else str(failure["code"])


def _refusal(message: Message) -> Message:
    return _failure(message, "this site runs only the FedMed that it has installed; the run came with another bundle")


def _failure(message: Message, reason: str) -> Message:
    content = ConfigRecord({"site": "", "code": "RefusedError", "reason": reason})
    return Message(RecordDict({"failure": content}), reply_to=message)


@contextmanager
def _client(socket: Path, *interceptors: Any) -> Iterator[RuntimeHttpClient]:
    """Yield Flower's client of the runtime interface, over the Unix socket."""
    client: Any = RuntimeHttpClient(
        "http://node",
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), *interceptors],
    )
    client._client.close()  # noqa: SLF001  the one way to another transport
    client._client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=30.0)  # noqa: SLF001
    try:
        yield client
    finally:
        client.close()


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
