"""The process of the site's SuperNode: gets its keys from the agent through a pipe, and runs.

Why it exists: the process that faces the network is not the one that owns the data. It is a program of its
own, with nothing of the agent's memory, and gets what it needs and nothing else.

Rules:
    * Keys come through standard input, once: not in arguments, variables or files.
    * It ends when the agent does, however that ends.

What it does not do: read the site's folder.
"""

import ctypes
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedmed.crypto.unsealed import client_context
from fedmed.quiet import hush

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStart:
    """What the agent hands over; PEM, and 32 bytes that both share."""

    coordinator: str
    socket: str
    authority: bytes
    certificate: bytes
    tls_key: bytes = field(repr=False)
    node_key: bytes = field(repr=False)
    secret: bytes = field(repr=False)


def hand_over(start: NodeStart, pipe: IO[bytes]) -> None:
    """Write `start` to the new process and close the pipe."""
    with pipe:
        pipe.write(msgspec.msgpack.encode(start))


def main() -> None:
    """Run until a signal ends the process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    start = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=NodeStart)
    hush()
    from fedmed_site.node import NodeSettings, run_node  # noqa: PLC0415  after `hush`

    run_node(
        NodeSettings(coordinator=start.coordinator, socket=Path(start.socket)),
        context=client_context(ca=start.authority, certificate=start.certificate, key=_key(start.tls_key)),
        node_key=_key(start.node_key),
        secret=start.secret,
        reports=_Reports(),
    )


class _Reports:
    """Tells the agent, which reads standard output: a line of JSON each."""

    def foreign(self, digest: str) -> None:
        """See `node.Reports`."""
        self._tell({"foreign-bundle": digest})

    def refused(self, status: int, date: str) -> None:
        """See `node.Reports`."""
        self._tell({"refused": status, "date": date})

    def proxy(self, answer: str) -> None:
        """See `node.Reports`."""
        self._tell({"proxy": answer})

    def _tell(self, report: dict[str, str | int]) -> None:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("expected an elliptic-curve key")
    return key


if __name__ == "__main__":
    main()
