"""Flower's simulation, run study after study in one process.

Why it exists: `flwr run` starts a detached SuperLink, and `run_simulation` is
deprecated, starts Ray anew each time and carries no run configuration. This room
drives the same pieces (in-memory link state and grid, the fleet's `run_api`, the
Ray backend) so that several studies share one Ray cluster and the plan travels in
the run's configuration as in production.

Rules:
    * Everything of Flower's internals that the simulation touches is in this file;
      a test pins their shape, so an upgrade breaks here and loudly.
    * `ray` runs sites in worker processes, `inprocess` in this one; nothing else differs.

What it does not do: know what a study is.
"""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.serverapp import ServerApp
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from fedmed_sim.settings import EngineKind

RunConfig = dict[str, str]
PARTITION_KEY = "partition-id"
LOOK_INTERVAL_S = 0.01
"""How long a message of the coordinator may wait for the simulated fleet; rounds of secure aggregation have many."""
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


class _StoppedError(BaseException):
    """The simulation was stopped while the coordinator was waiting for replies."""


class _Stop(threading.Event):
    """Ends the simulation; Flower's fleet waits on it between its looks for messages, here for less than its 0.1 s."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(LOOK_INTERVAL_S if timeout is None else min(timeout, LOOK_INTERVAL_S))


class _Grid(InMemoryGrid):
    """Flower's grid, which ends a waiting coordinator when the run stops, and shows what arrives."""

    def __init__(self, factory: LinkStateFactory, stop: threading.Event, tap: Callable[[bytes], None]) -> None:
        super().__init__(state_factory=factory)
        self._stop = stop
        self._tap = tap

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if self._stop.is_set():
            raise _StoppedError
        messages = list(super().pull_messages(message_ids))
        for message in messages:
            self._tap(message_to_proto(message).SerializeToString())
        return messages


class _InProcessBackend(Backend):
    """Runs every site in this process, one message at a time."""

    def __init__(self) -> None:
        self._app: Callable[[], ClientApp] | None = None

    @property
    def num_workers(self) -> int:
        return 1

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        self._app = app_fn

    def is_worker_idle(self) -> bool:
        return True

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        if self._app is None:
            raise RuntimeError("expected build() before process_message()")
        return self._app()(message=message, context=context), context

    def terminate(self) -> None:
        self._app = None


class Engine:
    """A simulation that stays up for several studies."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def run(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        *,
        nodes: int,
        run_config: RunConfig,
        tap: Callable[[bytes], None],
    ) -> None:
        """Run one ServerApp against `nodes` simulated SuperNodes, to its end.

        Args:
            server_app: The coordinator.
            client_app: Handles messages; its context's node configuration has `partition-id`.
            nodes: Number of sites.
            run_config: Reaches both apps in their context.
            tap: Sees the bytes of every message that reaches the coordinator.

        Raises:
            Exception: Whatever the coordinator raised.
        """
        factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
        run = _register_run(factory, run_config)
        mapping = vce_api._register_nodes(nodes, factory)  # noqa: SLF001  the one way to make simulated nodes
        stores = vce_api._register_node_info_stores(mapping, run)  # noqa: SLF001  and their contexts
        for store in stores.values():
            info = store.run_infos[run.run_id]
            info.initial_run_config = dict(run_config)
            info.context.run_config = dict(run_config)
        stop = _Stop()
        grid = _Grid(factory, stop, tap)
        grid.set_run(run)
        raised: list[BaseException] = []
        coordinator = threading.Thread(
            target=_serve, args=(server_app, grid, _context(run, run_config), stop, raised), daemon=True
        )
        coordinator.start()
        try:
            vce_api.run_api(lambda: client_app, lambda: self._backend, mapping, factory, stores, stop, VceMetrics())
        finally:
            stop.set()
        coordinator.join()
        if raised:
            raise raised[0]


def partition_of(context: Context) -> int:
    """Return the number of the simulated site that a context belongs to, from 0."""
    return int(context.node_config[PARTITION_KEY])


@contextmanager
def open_engine(kind: EngineKind, *, workers: int, card: bool = False) -> Iterator[Engine]:
    """Start an engine and stop it at the end of the block.

    Args:
        kind: `ray` for worker processes; otherwise this one, also for what a consortium of processes leaves to it.
        workers: Worker processes of the Ray engine.
        card: Whether they share a graphics card; without, Ray hides it from them.
    """
    os.environ.update(_QUIET)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    if kind != "ray":
        yield Engine(_InProcessBackend())
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    backend = _lasting_ray_backend(workers, share=1 / workers if card else 0.0)
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray puts its own in their place, which abort with a stack trace
    try:
        yield Engine(backend)
    finally:
        backend.shut_down()


def _lasting_ray_backend(workers: int, *, share: float) -> Any:
    """Return Flower's Ray backend with a pool that outlives one run (Ray is imported only here)."""
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend  # noqa: PLC0415  it imports Ray

    class LastingRayBackend(RayBackend):
        def build(self, app_fn: Callable[[], ClientApp]) -> None:
            if self.pool is None:
                super().build(app_fn)
            self.app_fn = app_fn

        def terminate(self) -> None:
            """Keep the pool for the next study."""

        def shut_down(self) -> None:
            super().terminate()

    return LastingRayBackend(
        {
            "init_args": {"num_cpus": workers, "log_to_driver": False, "logging_level": logging.ERROR},
            "client_resources": {"num_cpus": 1, "num_gpus": share},
        }
    )


def _register_run(factory: LinkStateFactory, run_config: RunConfig) -> Run:
    run = Run.create_empty(run_id=secrets.randbits(62) | 1)
    run.primary_task_id = secrets.randbits(62) | 1
    run.federation_id = NOOP_FEDERATION_ID
    run.override_config = dict(run_config)
    state: Any = factory.state()
    state.run_ids[run.run_id] = RunRecord(run=run)
    state.task_store[run.primary_task_id] = Task(task_id=run.primary_task_id, run_id=run.run_id)
    TaskIdentity.task_id = run.primary_task_id
    TaskIdentity.run_id = run.run_id
    TaskIdentity.node_id = 1
    return run


def _context(run: Run, run_config: RunConfig) -> Context:
    return Context(run_id=run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config))


def _serve(
    server_app: ServerApp, grid: InMemoryGrid, context: Context, stop: threading.Event, raised: list[BaseException]
) -> None:
    try:
        server_app(grid=grid, context=context)
    except _StoppedError:
        pass
    except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
        raised.append(error)
    finally:
        stop.set()
