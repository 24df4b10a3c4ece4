"""The administrator's side of the control socket.

Why it exists: a command of a terminal reaches the agent that runs, and prints what a command on the folder would.

Rules:
    * An error of the agent's is raised here as the same error, in the same words.
    * An agent that doesn't answer in time is an error, never a silent retry: the caller may have been heard.

What it does not do: fall back to the folder (see `reach`), or keep a connection.
"""

import json
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from fedmed import errors
from fedmed.errors import FedMedError, ProtocolError, UsageError
from fedmed_site.approvals import Decision, Pause, StudyEntry, written
from fedmed_site.control_messages import audit_line, record_of
from fedmed_site.control_records import AuditTail, BudgetLine, SiteStatus
from fedmed_site.peer_gate import peer_of
from fedmed_site.protocol import SERVICE
from fedmed_site.protocol import control_pb2 as wire

TIMEOUT_S: Final = 15.0
BUDGET_TIMEOUT_S: Final = 120.0
"""The first budget that an agent shows makes it load its accountant."""
_MOST_REPLY_BYTES: Final = 1 << 24
_OPTIONS: Final = (("grpc.max_receive_message_length", _MOST_REPLY_BYTES), ("grpc.enable_http_proxy", 0))

Reply = TypeVar("Reply", bound=Message)
Record = TypeVar("Record")


@contextmanager
def connect(path: Path) -> Iterator["RemoteDesk"]:
    """Yield a desk whose commands the agent behind the socket at `path` does.

    Raises:
        UsageError: Nobody listens there, or this user may not connect.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"  # unix(7) allows 108 bytes, whatever the folder's path
        with (
            _process_of(_knock(short, path)) as process,
            grpc.insecure_channel(f"unix:{short}", options=_OPTIONS) as channel,
        ):
            yield RemoteDesk(channel, process)
    finally:
        os.close(folder)


def answers(path: Path) -> bool:
    """Return whether somebody listens at `path`; a socket that a killed agent left behind is nobody.

    Raises:
        UsageError: This user may not connect.
    """
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        _knock(f"/proc/self/fd/{folder}/{path.name}", path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    finally:
        os.close(folder)
    return True


class RemoteDesk:
    """A `Desk` that asks the running agent."""

    def __init__(self, channel: grpc.Channel, process: int | None) -> None:
        self._channel = channel
        self._process = process

    def status(self) -> SiteStatus:
        """Return how the site is."""
        return _record(self._call("Status", wire.StatusRequest(), wire.SiteStatus), SiteStatus)

    def studies(self) -> Sequence[StudyEntry]:
        """Return every plan that came."""
        reply = self._call("Studies", wire.StudiesRequest(), wire.StudyList)
        return tuple(_record(entry, StudyEntry) for entry in reply.studies)

    def decide(self, which: str, decision: Decision) -> StudyEntry:
        """Approve or reject a study.

        Raises:
            UsageError: No plan that came is meant, or several are.
        """
        request = wire.DecideRequest(study=which, decision=decision)
        return _record(self._call("Decide", request, wire.Study), StudyEntry)

    def pause(self, until: datetime | None) -> Pause:
        """Refuse every task from now on.

        Raises:
            UsageError: `until` has passed already.
        """
        request = wire.PauseRequest() if until is None else wire.PauseRequest(until=written(until))
        return _record(self._call("Pause", request, wire.PauseReply), Pause)

    def resume(self) -> None:
        """Take part again.

        Raises:
            UsageError: The site is not paused.
        """
        self._call("Resume", wire.ResumeRequest(), wire.ResumeReply)

    def budget(self) -> Sequence[BudgetLine]:
        """Return the privacy budget of every data set."""
        reply = self._call("Budget", wire.BudgetRequest(), wire.BudgetReply, timeout_s=BUDGET_TIMEOUT_S)
        return tuple(_record(line, BudgetLine) for line in reply.lines)

    def audit(self, last: int) -> AuditTail:
        """Return the last entries of the audit log.

        Raises:
            UsageError: `last` is out of range.
        """
        if last < 1:
            raise UsageError(f"expected at least 1 entry, got {last}")
        reply = self._call("Audit", wire.AuditRequest(last=last), wire.AuditReply)
        try:
            return AuditTail(total=reply.total, entries=tuple(audit_line(entry) for entry in reply.entries))
        except json.JSONDecodeError:
            raise _strange() from None

    def stop(self) -> None:
        """Ask the agent to end after the task that runs; returns at once."""
        self._call("Stop", wire.StopRequest(), wire.StopReply)

    def ended(self, patience_s: float) -> bool:
        """Wait for the end of the agent's process, and return whether it came in time."""
        if self._process is None:
            return False
        return bool(select.select([self._process], [], [], patience_s)[0])

    def _call(self, name: str, request: Message, kind: type[Reply], *, timeout_s: float = TIMEOUT_S) -> Reply:
        call = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=kind.FromString,
        )
        try:
            return call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _error_of(error) from None


def _error_of(error: grpc.RpcError) -> FedMedError:
    """Return the error that the agent had, or what is wrong with the connection."""
    call = cast("grpc.Call", error)
    trailing = {key: value for key, value in call.trailing_metadata() or ()}  # noqa: C416  pairs of gRPC's own kind
    kind = getattr(errors, str(trailing.get("fedmed-error", "")), None)
    text = call.details() or ""
    if isinstance(kind, type) and issubclass(kind, FedMedError):
        return kind(text)
    if call.code() is grpc.StatusCode.INTERNAL and text.startswith("internal failure"):
        return FedMedError(f"the agent had an {text}")
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UsageError("the agent did not answer in time; look at fedmed site status and at its log, then try again")
    if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return UsageError("the agent takes no request of that size, or has too many at one time; shorten it, or wait")
    if call.code() is grpc.StatusCode.UNIMPLEMENTED:
        return UsageError("the running agent has another version of FedMed and doesn't know this command; restart it")
    return UsageError("the agent closed the connection; it may be ending, or this user may not command it")


def _record(message: Message, kind: type[Record]) -> Record:
    try:
        return record_of(message, kind)
    except ValueError:
        raise _strange() from None


def _strange() -> ProtocolError:
    return ProtocolError("expected an answer of this version of FedMed, got another; restart the agent")


@contextmanager
def _process_of(number: int) -> Iterator[int | None]:
    """Yield a descriptor of a process, which gets readable when it ends; none if it can't be seen from here."""
    try:
        descriptor = os.pidfd_open(number)
    except (OSError, ValueError):  # gone already, or of a container's own numbering
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _knock(short: str, path: Path) -> int:
    """Connect once, and return the number of the process that listens.

    A refusal of the kernel is said plainly, which gRPC would retry.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(short)
            return peer_of(probe).pid
        except PermissionError:
            raise UsageError(
                f"this user may not connect to {path}; do it as the folder's owner, or as a member of the agent's group"
            ) from None
