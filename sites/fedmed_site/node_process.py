"""The process of the site's SuperNode: gets its keys from the agent over a connection, and runs.

Why it exists: the process that faces the network is not the one that owns the data. It is a program of its
own, with nothing of the agent's memory, and gets what it needs and nothing else.

Rules:
    * Keys come over the connection to the agent, once: not in arguments, variables or files.
    * It ends when the agent does, however that ends.
    * It needs no file of the site: under a user of its own it can read none.

What it does not do: read the site's folder.
"""

import contextlib
import ctypes
import logging
import os
import pwd
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmed.crypto.unsealed import client_context
from fedmed.errors import IntegrityError, UsageError
from fedmed.quiet import hush
from fedmed_site.node_link import report, take_over

_PR_SET_PDEATHSIG: Final = 1
LONGEST_LINE: Final = 300
"""Characters of a line of Flower's log that the agent is told."""


def main() -> None:
    """Run, with the connection to the agent as standard input, until a signal ends the process or the agent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    work_for(socket.socket(fileno=0))


def work_apart(agent: Path) -> None:
    """Run under a user of its own, for the agent that listens at `agent`.

    Raises:
        UsageError: There is no agent, or it does not let this user in.
    """
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(str(agent))
    except OSError as error:
        link.close()
        raise UsageError(
            f"{agent}: expected the site's agent, could not connect ({error.strerror}); start it first:"
            " fedmed site start --node-socket PATH --node-user USER"
        ) from None
    try:
        work_for(link)
    except (IntegrityError, ConnectionError) as error:
        link.close()
        name = pwd.getpwuid(os.getuid()).pw_name
        raise UsageError(
            f"{agent}: the agent let no SuperNode in ({error}); it takes one at a time, of the user that its"
            f" --node-user names, and this one is {name}"
        ) from None


def work_for(link: socket.socket) -> None:
    """Run the SuperNode for the agent at the other end of `link`.

    Raises:
        IntegrityError: The agent does not hand over a start.
    """
    start, tasks = take_over(link)
    hush()
    os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="fedmed-node-"))
    from fedmed_site.node import NodeSettings, run_node  # noqa: PLC0415  after `hush`

    threading.Thread(target=_end_with, args=(link,), name="agent", daemon=True).start()
    reports = _Reports(link)
    logging.getLogger("flwr").addHandler(reports)
    run_node(
        NodeSettings(coordinator=start.coordinator, tasks=tasks),
        context=client_context(ca=start.authority, certificate=start.certificate, key=_key(start.tls_key)),
        node_key=_key(start.node_key),
        secret=start.secret,
        reports=reports,
    )


def _end_with(link: socket.socket) -> None:
    """End the process when the agent hangs up; it never says anything more."""
    with contextlib.suppress(OSError):
        link.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


class _Reports(logging.Handler):
    """Tells the agent what happens, and what Flower's log says of the link."""

    def __init__(self, link: socket.socket) -> None:
        super().__init__(logging.INFO)
        self._link = link
        self._guard = threading.Lock()

    def foreign(self, digest: str) -> None:
        """See `node.Reports`."""
        self._tell({"foreign-bundle": digest})

    def refused(self, status: int, date: str) -> None:
        """See `node.Reports`."""
        self._tell({"refused": status, "date": date})

    def proxy(self, answer: str) -> None:
        """See `node.Reports`."""
        self._tell({"proxy": answer})

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line of the log on."""
        self._tell({"log": record.getMessage()[:LONGEST_LINE]})

    def _tell(self, facts: dict[str, str | int]) -> None:
        with self._guard, contextlib.suppress(OSError):  # without an agent the process is about to end
            report(self._link, **facts)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("expected an elliptic-curve key")
    return key


if __name__ == "__main__":
    try:
        main()
    except (IntegrityError, ConnectionError):  # the agent ended before it had handed anything over
        sys.exit(2)
