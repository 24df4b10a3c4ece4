"""What the agent and the SuperNode's process say to each other: a start, a socket for tasks, then reports.

Why it exists: the two may run under different users. A connection between them is all that they share: keys go over
it, the listening socket of the tasks goes over it, and when it ends the SuperNode ends.

Rules:
    * The agent opens the socket for tasks in its own folder and hands over the open descriptor: the SuperNode needs no
      path into that folder, and nobody else can serve tasks there.
    * What the SuperNode reports is a line of JSON, short, and the agent believes nothing of it.

What it does not do: decide who may connect (`supernode_apart` does), or speak Flower (`node` does).
Source: unix(7), SCM_RIGHTS.
"""

import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from fedmed.errors import IntegrityError

LONGEST_REPORT: Final = 2000
"""Bytes of a line; what is longer is nothing that a SuperNode says."""
LARGEST_START: Final = 1 << 20
_HEADER: Final = struct.Struct(">4sI")
_VERSION: Final = b"FMn1"
_BACKLOG: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStart:
    """What the agent hands over; PEM, and 32 bytes that both share."""

    coordinator: str
    authority: bytes
    certificate: bytes
    tls_key: bytes = field(repr=False)
    node_key: bytes = field(repr=False)
    secret: bytes = field(repr=False)


def tasks_at(path: Path) -> socket.socket:
    """Return a listening socket at `path` that this user alone can connect to, in place of what was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))  # its folder has mode 700
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def hand_over(link: socket.socket, start: NodeStart, tasks: socket.socket) -> None:
    """Send `start` and the socket for tasks.

    Raises:
        OSError: Nobody is there any more.
    """
    body = msgspec.msgpack.encode(start)
    socket.send_fds(link, [_HEADER.pack(_VERSION, len(body))], [tasks.fileno()])
    link.sendall(body)


def take_over(link: socket.socket) -> tuple[NodeStart, socket.socket]:
    """Return what `hand_over` sent.

    Raises:
        IntegrityError: Something else came, or nothing.
    """
    header, descriptors, _, _ = socket.recv_fds(link, _HEADER.size, 1)
    try:
        start = _start_of(link, header + _exactly(link, _HEADER.size - len(header)), descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return start, socket.socket(fileno=descriptors[0])


def _start_of(link: socket.socket, header: bytes, descriptors: list[int]) -> NodeStart:
    version, length = _HEADER.unpack(header)
    if version != _VERSION or length > LARGEST_START or len(descriptors) != 1:
        raise IntegrityError("expected an agent of this version of FedMed, got another answer; upgrade both")
    try:
        return msgspec.msgpack.decode(_exactly(link, length), type=NodeStart)
    except msgspec.MsgspecError:
        raise IntegrityError("expected an agent of this version of FedMed, got another start; upgrade both") from None


def _exactly(link: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = link.recv(length - len(data))
        if not more:
            raise IntegrityError("expected the site's agent to hand over a start, it closed the connection")
        data += more
    return data


def report(link: socket.socket, **facts: str | int) -> None:
    """Send one report."""
    link.sendall(json.dumps(facts).encode()[: LONGEST_REPORT - 1] + b"\n")


def reports_of(link: socket.socket) -> Iterator[str]:
    """Yield the lines that come until the other side ends, or says more than a SuperNode would."""
    with link.makefile("rb") as lines:
        while True:
            try:
                line = lines.readline(LONGEST_REPORT + 1)
            except OSError:
                return
            if not line.endswith(b"\n"):
                return
            yield line.decode(errors="replace").rstrip()
