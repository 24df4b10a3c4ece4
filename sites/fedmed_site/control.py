"""The administrator's service of a running agent: gRPC on a Unix socket of this machine.

Why it exists: the agent owns the site's folder for months. What an administrator asks of it meanwhile is answered by
it, at once, also while it trains, and without a port that anybody could reach over the network.

Rules:
    * Only whom the gate lets in is heard, and the gate says who it is: that name stands in the audit log.
    * Requests are small; more of them than can be answered at one time are turned away.
    * An error of FedMed's own goes back in its words; anything else is a reference to the site's log.
    * All that the folder knows comes from `FolderDesk`, as it does without an agent.

What it does not do: decide anything, or take a task of the coordinator's.
"""

import contextlib
import secrets
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedmed.audit import ChainLog
from fedmed.errors import FedMedError, UsageError
from fedmed.files import append_durable, is_full
from fedmed_site.approvals import Decision, moment, utc_now
from fedmed_site.console import user_name
from fedmed_site.control_messages import audit_message, message_of
from fedmed_site.control_records import Office
from fedmed_site.folder_desk import FolderDesk
from fedmed_site.home import SiteHome
from fedmed_site.peer_gate import Admitted, Gate, Peer, caller_of, peer_of
from fedmed_site.protocol import METHODS, SERVICE
from fedmed_site.protocol import control_pb2 as wire

SOCKET_FILE: Final = "control.sock"
ERROR_KEY: Final = "fedmed-error"
NO_ROOM: Final = "the disk has no room left; nothing was changed; make room and do it again"
"""Trailing metadata: the name of the error's class."""
MOST_REQUEST_BYTES: Final = 1 << 16
_WORKERS: Final = 8
_MOST_CALLS: Final = 16
_GRACE_S: Final = 5.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
    ("grpc.max_metadata_size", 1 << 13),
    ("grpc.so_reuseport", 0),
)


def socket_path(home: SiteHome) -> Path:
    """Return where an agent's socket is, unless its start named another place."""
    return home.run / SOCKET_FILE


def lock_path(home: SiteHome) -> Path:
    """Return what an agent's service holds while it runs, wherever its socket is."""
    return home.run / f"{SOCKET_FILE}.lock"


class ControlServer:
    """The service of one site, from `start` to `stop`; also a context manager."""

    def __init__(
        self,
        home: SiteHome,
        office: Office,
        *,
        now: Callable[[], datetime] = utc_now,
        audit: ChainLog | None = None,
        socket: Path | None = None,
        group: str | None = None,
        credentials: Callable[..., Peer] = peer_of,
    ) -> None:
        """Prepare the service; nobody can connect yet.

        Args:
            home: The site's folder.
            office: What only the running appliance knows and can do.
            now: The clock.
            audit: The agent's own log, which has verified most of it already.
            socket: Where to listen, if not in HOME/run: members of a group can't enter HOME.
            group: Whose members may command beside root and the folder's owner.
            credentials: Asks the kernel who connects.

        Raises:
            UsageError: An agent runs on this folder already.
        """
        home.run.mkdir(exist_ok=True, mode=0o700)
        path = socket or socket_path(home)
        self._home = home
        self._gate = Gate(
            path,
            Admitted(owner=home.root.stat().st_uid, group=group),
            lock=lock_path(home),
            log=lambda line: _log(home, line),
            credentials=credentials,
        )
        self._server = grpc.server(
            ThreadPoolExecutor(_WORKERS, thread_name_prefix="control"),
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._health = health.HealthServicer()
        desk = FolderDesk(home=home, by="", now=now, log=audit)
        self._server.add_generic_rpc_handlers((_Service(home, desk, office).handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: The socket can't be made.
            UsageError: It can't be handed to the group.
        """
        try:
            self._server.add_insecure_port(self._gate.inner)
            self._server.start()
            for name in ("", SERVICE):
                self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
            self._gate.open()
            self._point(self._gate.path)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Answer what was asked, then close the socket."""
        self._health.enter_graceful_shutdown()
        self._server.stop(_GRACE_S).wait()
        if socket_path(self._home).is_symlink():
            socket_path(self._home).unlink()
        self._gate.close()

    def _point(self, path: Path) -> None:
        """Let the folder's own commands find a socket that lies elsewhere."""
        usual = socket_path(self._home)
        if path != usual:
            usual.unlink(missing_ok=True)  # of a process that was killed: the lock is ours
            usual.symlink_to(path.absolute())

    def __enter__(self) -> "ControlServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Service:
    """The methods of the `.proto`, by their names in lower case; `desk` acts in the name of who called."""

    def __init__(self, home: SiteHome, desk: FolderDesk, office: Office) -> None:
        self._home = home
        self._desk = desk
        self._office = office

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return gRPC's table of the service."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._sanitised(getattr(self, method.name.lower())),
                    request_deserializer=method.request.FromString,
                    response_serializer=method.reply.SerializeToString,
                )
                for method in METHODS.values()
            },
        )

    def status(self, desk: FolderDesk, _request: wire.StatusRequest) -> wire.SiteStatus:
        return message_of(replace(self._office.status(), paused=desk.paused()), wire.SiteStatus)

    def studies(self, desk: FolderDesk, _request: wire.StudiesRequest) -> wire.StudyList:
        return wire.StudyList(studies=[message_of(entry, wire.Study) for entry in desk.studies()])

    def decide(self, desk: FolderDesk, request: wire.DecideRequest) -> wire.Study:
        return message_of(desk.decide(request.study, cast("Decision", request.decision)), wire.Study)

    def pause(self, desk: FolderDesk, request: wire.PauseRequest) -> wire.PauseReply:
        until = _moment(request.until) if request.HasField("until") else None
        return message_of(desk.pause(until), wire.PauseReply)

    def resume(self, desk: FolderDesk, _request: wire.ResumeRequest) -> wire.ResumeReply:
        desk.resume()
        return wire.ResumeReply()

    def budget(self, desk: FolderDesk, _request: wire.BudgetRequest) -> wire.BudgetReply:
        return wire.BudgetReply(lines=[message_of(line, wire.BudgetLine) for line in desk.budget()])

    def audit(self, desk: FolderDesk, request: wire.AuditRequest) -> wire.AuditReply:
        tail = desk.audit(request.last)
        return wire.AuditReply(total=tail.total, entries=[audit_message(line) for line in tail.entries])

    def stop(self, desk: FolderDesk, _request: wire.StopRequest) -> wire.StopReply:
        desk.note_stop()
        self._office.stop()
        return wire.StopReply()

    def _sanitised(
        self, method: Callable[[FolderDesk, Any], Message]
    ) -> Callable[[Any, grpc.ServicerContext], Message]:
        """Turn what a method raises into a status that tells the caller no more than it should."""

        def call(request: Any, context: grpc.ServicerContext) -> Message:
            try:
                return method(replace(self._desk, by=user_name(caller_of(context.peer()))), request)
            except FedMedError as error:
                _abort(context, grpc.StatusCode.FAILED_PRECONDITION, type(error).__name__, str(error))
            except Exception as error:  # noqa: BLE001  nothing unforeseen may show more than a reference
                if is_full(error):
                    _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "UsageError", f"{self._home.root}: {NO_ROOM}")
                reference = secrets.token_hex(4)
                _log(self._home, f"{reference} control {method.__name__}\n{traceback.format_exc()}")
                text = f"internal failure; the site's log has the details under {reference}"
                _abort(context, grpc.StatusCode.INTERNAL, "internal", text)

        return call


def _moment(text: str) -> datetime:
    try:
        return moment(text)
    except ValueError:
        raise UsageError("until: expected a moment in UTC like 2030-01-31T12:00:00Z") from None


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, name: str, text: str) -> NoReturn:
    context.set_trailing_metadata(((ERROR_KEY, name),))
    context.abort(code, text)


def _log(home: SiteHome, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end the service
        append_durable(home.log_path, f"--- {text}\n".encode())
