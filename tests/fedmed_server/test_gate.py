"""Behaviour of the gate before the SuperLink."""

import asyncio
import base64
import inspect
from typing import Any

import pytest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedmed.errors import RefusedError
from fedmed_server.gate import CERTIFICATE_KEY, FLEET, NODE_KEY_HEADER, Gate

KEY = base64.b64encode(b"the member's key")


class Door:
    """Lets in whoever shows the good certificate."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes | None]] = []

    def admit(self, certificate: bytes, node_key: bytes | None) -> str:
        self.asked.append((certificate, node_key))
        if certificate != b"good":
            raise RefusedError("no member")
        return "north"


def ask(path: str, *, certificate: bytes = b"good", headers: Any = ((NODE_KEY_HEADER, KEY),), kind: str = "http"):
    """Send one request to a gate; return the status, what reached the SuperLink, and why it was refused."""
    reached: list[str] = []
    sent: list[dict[str, Any]] = []
    why: list[str] = []

    async def inner(scope: Any, _receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": kind, "path": path, "headers": list(headers), "state": {CERTIFICATE_KEY: certificate}}
    asyncio.run(Gate(inner, Door(), refused=why.append)(scope, receive, send))
    return sent[0].get("status"), reached, why


def test_a_member_reaches_the_fleet():
    """A site's SuperNode does its work."""
    assert ask("/v1/fleet/pull-messages") == (200, ["/v1/fleet/pull-messages"], [])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runtime/acquire-task", "/v1/control/start-run", "/v1/control/register-node", "/docs", "/openapi.json",
        "/", "/v1/fleetx", "/v1/fleet", "/v1/Fleet/pull-messages", "//v1/fleet/pull-messages", "/v1/responses",
        "/v1/fleet/../runtime/acquire-task", "/v1/fleet/register-node", "/v1/fleet/pull-messages/",
    ],
)  # fmt: skip
def test_all_else_is_closed_to_members_too(path: str):
    """A site that is a member can't start runs, take the server's tasks or read the list of nodes."""
    status, reached, why = ask(path)
    assert (status, reached) == (404, [])
    assert why


def test_the_routes_are_those_that_flowers_node_asks_for():
    """If Flower renames or adds one, sites stop working and this test says why; registering oneself stays closed."""
    source = inspect.getsource(FleetHttpClient)
    asked = {line.split('"')[1] for line in source.splitlines() if 'path="/v1/' in line}
    assert asked - FLEET == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert asked >= FLEET


def test_who_is_no_member_is_refused_without_a_reason():
    """The reason is for the own log only."""
    assert ask("/v1/fleet/pull-messages", certificate=b"") == (403, [], ["no member"])
    assert ask("/health", certificate=b"other") == (403, [], ["no member"])


@pytest.mark.parametrize(
    "headers", [[], [(NODE_KEY_HEADER, KEY), (NODE_KEY_HEADER, KEY)], [(NODE_KEY_HEADER, b"not base64!")]]
)
def test_a_request_shows_one_key_that_can_be_read(headers: Any):
    """None, two or garbage: nothing reaches the SuperLink."""
    status, reached, _ = ask("/v1/fleet/pull-messages", headers=headers)
    assert (status, reached) == (401, [])


def test_health_needs_a_member_but_no_node():
    """A site's doctor asks whether it is let in before there is a SuperNode."""
    assert ask("/health", headers=[])[0] == 200


def test_websockets_are_closed():
    """Nothing of a site speaks that."""
    status, reached, why = ask("/v1/fleet/pull-messages", kind="websocket")
    assert (status, reached) == (None, [])
    assert why


def test_the_header_is_flowers():
    """If Flower renames it, nobody gets in and this test says why."""
    assert FLEET_HTTP_PUBLIC_KEY_HEADER.encode() == NODE_KEY_HEADER
