"""The gate before the SuperLink: who may come in from outside, and how far.

Why it exists: Flower's SuperLink serves sites, its own control and the running of apps on one port,
asks nobody for a client certificate, and its nodes sign only a moment in time. This gate stands
between the network and that.

Rules:
    * Only the routes that a site's SuperNode needs are reachable from outside, each by its very name; all else is 404.
    * A caller has a certificate of the consortium's authority (the TLS layer sees to that), it is a member's
      and not revoked, and the SuperNode key it shows is that same member's.
    * Membership is looked up anew on every request, so a revocation holds from the next one on.
    * Who is no member gets no further than the handshake; headers and bodies are bounded, in size and in time.
    * A refusal says nothing but its number; the reason goes to the listener.

What it does not do: terminate TLS, or decide who is a member.

Source: the ASGI specification 3.0.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedmed.errors import FedMedError
from fedmed.longpoll import Application, Receive, Scope, Send

FLEET: Final = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node", "deactivate-node", "send-node-heartbeat", "get-run", "get-fab", "pull-messages",
        "push-messages", "pull-object", "push-object", "confirm-message-received",
    )
)  # fmt: skip
"""What a SuperNode asks for. Nodes don't register themselves: the coordinator does that, from the list of members."""
HEALTH: Final = "/health"
MOST_HEAD: Final = 64 * 1024
"""Bytes of a request's headers."""
SLOWEST_HEAD_S: Final = 20.0
MOST_BODY: Final = {"/v1/fleet/push-object": 32 << 20, "/v1/fleet/push-messages": 4 << 20}
"""Bytes of a request's body; Flower cuts objects into pieces of 5 MB."""
MOST_OTHER_BODY: Final = 64 * 1024
NODE_KEY_HEADER: Final = b"flwr-public-key"
CERTIFICATE_KEY: Final = "fedmed.client-certificate"


class Doorkeeper(Protocol):
    """Knows who may come in."""

    def admit(self, certificate: bytes, node_key: bytes | None) -> str:
        """Return the member's name.

        Args:
            certificate: What the caller showed in the TLS handshake, DER.
            node_key: The public key that its SuperNode signs with, as the request has it; None where it has none.

        Raises:
            FedMedError: No member, a revoked one, or another member's key; the message is for the own log.
        """


def certified_protocol(doorkeeper: Doorkeeper, refused: Callable[[str], None]) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, which lets only members begin a request and passes on their certificate.

    Args:
        doorkeeper: Who may come in; asked once a connection, before anything is read, and again at each request.
        refused: Told why somebody was not let in.
    """

    class Certified(HttpToolsProtocol):
        _held = 0
        _slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            tls = transport.get_extra_info("ssl_object")
            certificate = (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""
            self.app_state = {**self.app_state, CERTIFICATE_KEY: certificate}
            try:
                doorkeeper.admit(certificate, None)
            except (FedMedError, ValueError) as error:
                refused(str(error))
                transport.abort()

        def on_message_begin(self) -> None:
            self._held = 0
            self._slow = self.loop.call_later(SLOWEST_HEAD_S, self.transport.abort)
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            self._held += len(name) + len(value)
            if self._held > MOST_HEAD:
                self.transport.abort()
                return
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._slow is not None:
                self._slow.cancel()
            super().on_headers_complete()

    return Certified


class Gate:
    """An ASGI application in front of another."""

    def __init__(self, inner: Application, doorkeeper: Doorkeeper, *, refused: Callable[[str], None]) -> None:
        """Guard `inner`.

        Args:
            inner: The SuperLink.
            doorkeeper: Who may come in.
            refused: Told why somebody was not let in.
        """
        self._inner = inner
        self._doorkeeper = doorkeeper
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        status = self._check(scope)
        if status is None:
            await self._inner(scope, _bounded(receive, _most_body(scope)), send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": status.value, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _check(self, scope: Scope) -> HTTPStatus | None:
        """Return why a request is refused, or None."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or path not in {HEALTH, *FLEET}:
            self._refused("asked for a route that is closed to sites")
            return HTTPStatus.NOT_FOUND
        try:
            key = node_key_of(scope)
            if key is None and path != HEALTH:
                self._refused("asked for the fleet without a SuperNode key")
                return HTTPStatus.UNAUTHORIZED
            self._doorkeeper.admit(scope.get("state", {}).get(CERTIFICATE_KEY, b""), key)
        except FedMedError as error:
            self._refused(str(error))
            return HTTPStatus.FORBIDDEN
        except (ValueError, binascii.Error):
            self._refused("showed a SuperNode key that can't be read")
            return HTTPStatus.UNAUTHORIZED
        return None


def _most_body(scope: Scope) -> int:
    """Return how long a request's body may be."""
    return next((most for path, most in MOST_BODY.items() if scope["path"] == path), MOST_OTHER_BODY)


def _bounded(receive: Receive, most: int) -> Receive:
    """Return a `receive` that ends the connection of who sends more than `most` bytes."""
    held = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal held
        message = await receive()
        held += len(message.get("body", b""))
        return message if held <= most else {"type": "http.disconnect"}

    return bounded


def node_key_of(scope: Scope) -> bytes | None:
    """Return the public key (PEM) that a request shows, or None; the SuperLink checks that it signs with it.

    Raises:
        ValueError: It shows several, or none that can be read.
    """
    found = [value for name, value in scope["headers"] if name == NODE_KEY_HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError("expected one SuperNode key")
    return base64.b64decode(found[0], validate=True)
