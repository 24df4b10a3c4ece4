"""Behaviour of the site's SuperNode where it differs from Flower's, and the shape of what it stands on."""

import hashlib
import inspect
import ssl
from typing import Any

import httpx
import pytest
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message
from flwr.superlink.grid import http_grid
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.runtime import run_clientapp

from fedmed.bundle import bundle
from fedmed_site.node import IDLE_AFTER_S, IDLE_LOOK_S, LOOK_S, Pace, fleet_client

FOREIGN = b"PK\x05\x06 with code"


def client(response: Any, pace: Pace, foreign: list[str]) -> Any:
    """Return the node's client of a coordinator that always says `response`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made: Any = fleet_client(context, pace, foreign=foreign.append).from_server_address(
        "coordinator:443", insecure=False, root_certificates=None, interceptors=[]
    )
    answer = httpx.Response(200, content=response.SerializeToString())
    made._client.close()
    made._client = httpx.Client(transport=httpx.MockTransport(lambda _request: answer))
    return made


@pytest.mark.parametrize(("content", "foreign"), [(bundle(), False), (FOREIGN, True)])
def test_flower_never_gets_a_foreign_bundle(content: bytes, foreign: bool):  # noqa: FBT001  a case
    """Flower opens bundles to read their settings; it gets ours, and the foreign one's digest is reported."""
    seen: list[str] = []
    with client(GetFabResponse(fab=Fab(hash_str="x", content=content)), Pace(), seen) as fleet:
        assert fleet.GetFab(GetFabRequest()).fab.content == bundle()
    assert seen == ([hashlib.sha256(FOREIGN).hexdigest()] if foreign else [])


def test_it_looks_quickly_while_a_study_runs_and_seldom_otherwise():
    """A message makes the node look often for a minute."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.interval_s() == LOOK_S
    now[0] = IDLE_AFTER_S
    assert pace.interval_s() == IDLE_LOOK_S
    with client(PullMessagesResponse(), pace, []) as fleet:
        fleet.PullMessages(PullMessagesRequest())
        assert pace.interval_s() == IDLE_LOOK_S
    with client(PullMessagesResponse(messages_list=[Message()]), pace, []) as fleet:
        fleet.PullMessages(PullMessagesRequest())
    assert pace.interval_s() == LOOK_S


def test_flowers_loop_is_the_one_that_is_changed():
    """If Flower renames what is put in its place, the node would wait and connect as Flower does; this says so."""
    source = inspect.getsource(start_client_internal)
    assert source.count("time.sleep(") == 3
    assert "FleetHttpClient.from_server_address(" in inspect.getsource(fleet_http_connection.http_request_response)
    wanted = {"state_factory", "server_address", "node_config", "root_certificates", "insecure", "authentication_keys",
              "isolation", "runtime_api_address", "superexec_auth_secret", "runtime_dependency_install"}  # fmt: skip
    assert wanted <= inspect.signature(start_client_internal.start_client_internal).parameters.keys()


def test_what_the_task_loop_takes_from_flower_is_there():
    """The three calls with which Flower's own client process takes a message and answers it."""
    assert list(inspect.signature(run_clientapp.pull_task_input).parameters) == ["client"]
    assert list(inspect.signature(run_clientapp.push_message).parameters) == ["client", "message", "context"]
    assert list(inspect.signature(run_clientapp.push_task_output).parameters) == [
        "client", "context", "sub_status", "details",
    ]  # fmt: skip


def test_parts_of_a_message_are_looked_for_again_at_once():
    """The node's loop and the coordinator's grid take the function from where it is put."""
    for module in (start_client_internal, http_grid):
        assert "= pull_objects(" in inspect.getsource(module)
