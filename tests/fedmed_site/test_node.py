"""Behaviour of the site's SuperNode where it differs from Flower's, and the shape of what it stands on."""

import inspect
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.runtime import run_clientapp

from fedmed.bundle import FOREIGN, bundle, bundle_digest
from fedmed_site.node import REFUSED_REST_S, Owed, fleet_client, parts_of_a_message


class Reported:
    """What an administrator would be told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def foreign(self, digest: str) -> None:
        self.told.append(("foreign", digest))

    def refused(self, status: int, date: str) -> None:
        self.told.append(("refused", status, date))

    def proxy(self, answer: str) -> None:
        self.told.append(("proxy", answer))


def over(answer: Callable[[httpx.Request], httpx.Response], reported: Reported, **more: Any) -> Any:
    """Return the node's client of a coordinator that answers like this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings = {"received": bool, "answered": bool, "reports": reported} | more
    made: Any = fleet_client(context, **settings).from_server_address(
        "coordinator:443", insecure=False, root_certificates=None, interceptors=[]
    )
    made._client.close()
    made._client = httpx.Client(transport=httpx.MockTransport(answer))
    return made


def client(response: Any, reported: Reported, **more: Any) -> Any:
    """Return the node's client of a coordinator that always says `response`."""
    return over(lambda _request: httpx.Response(200, content=response.SerializeToString()), reported, **more)


@pytest.mark.parametrize("ours", [True, False])
def test_flower_never_gets_a_foreign_bundle(ours: bool) -> None:  # noqa: FBT001  a case
    """Flower opens bundles to read their settings; it gets ours, and a run with another is marked and reported."""
    seen = Reported()
    run = Run(fab_hash=bundle_digest() if ours else "ab" * 32, fab_version="0.1")
    with client(GetRunResponse(run=run), seen) as fleet:
        got = fleet.GetRun(GetRunRequest()).run
    assert got.fab_hash == bundle_digest()
    assert got.fab_version == ("0.1" if ours else FOREIGN)
    assert seen.told == ([] if ours else [("foreign", "ab" * 32)])


def test_no_bundle_is_fetched() -> None:
    """The coordinator is not even asked for one."""

    def asked(_request: httpx.Request) -> httpx.Response:
        raise AssertionError

    with over(asked, Reported()) as fleet:
        fab = fleet.GetFab(GetFabRequest(hash_str="x")).fab
    assert (fab.hash_str, fab.content) == (bundle_digest(), bundle())


def test_the_agent_is_told_of_a_message_once_all_of_it_is_here():
    """Its look for a task waits for that, so it never finds half a message."""
    told: list[str] = []
    with client(ConfirmMessageReceivedResponse(), Reported(), received=told.append) as fleet:
        fleet.ConfirmMessageReceived(ConfirmMessageReceivedRequest(message_object_id="m"))
    assert told == ["m"]


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
    """The node's loop takes the function from where it is put."""
    assert "= pull_objects(" in inspect.getsource(start_client_internal)
    assert "= pull_and_inflate_object_from_tree(" in inspect.getsource(run_clientapp.pull_task_input)


def test_a_run_that_ends_while_a_message_comes_leaves_no_task_behind():
    """Flower's exception passes by the code that drops the task; the agent would wait an hour for the message."""

    def ended(_part: str) -> bytes:
        raise RunNotRunningException

    with pytest.raises(ConnectionAbortedError, match="the run has ended"):
        parts_of_a_message(["part"], ended)
    assert "except Exception as err" in inspect.getsource(start_client_internal._pull_and_store_message)
    assert not issubclass(RunNotRunningException, Exception)

    def over_now(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, content=b'{"code": 2007}')

    told: list[str] = []
    with over(over_now, Reported(), received=told.append) as fleet, pytest.raises(ConnectionAbortedError):
        fleet.ConfirmMessageReceived(ConfirmMessageReceivedRequest(message_object_id="m"))
    assert told == []


def test_an_old_answer_does_not_stand_for_the_one_that_is_waited_for():
    """After a run that was stopped, its last answer would be sent, and the new message's would never be."""
    told: list[bool] = []
    owed = Owed(lambda: told.append(True))
    waiting = iter(["old", "new"])
    answers = []

    def push(**_arguments: object) -> None:  # Flower's: takes the first answer there is, whatever it answers
        answers.append(next(waiting))
        owed.answered(answers[-1])

    owed.received("new")
    owed.until_answered(push)
    assert answers == ["old", "new"]
    assert told == [True]
    assert "_push_messages(\n" in inspect.getsource(start_client_internal.start_client_internal)
    assert list(inspect.signature(start_client_internal._push_messages).parameters) == [
        "state", "object_store", "send", "push_object",
    ]  # fmt: skip


DATE = "Tue, 01 Jan 2030 12:00:00 GMT"


@pytest.mark.parametrize(
    ("status", "body", "told", "rests"),
    [
        (401, b"", [("refused", 401, DATE)], []),  # a clock that is off, or another key: Flower ends the process
        (403, b"", [("refused", 403, DATE)], [REFUSED_REST_S]),  # the gate's: no member any more
        (403, b'{"code": 1}', [], []),  # Flower's own: the run has ended
        (503, b"", [], []),  # a look that found nothing
    ],
)
def test_a_refusal_is_told_with_the_coordinators_time(status: int, body: bytes, told: list[object], rests: list[float]):
    """Flower ends or goes on without a word that an administrator could act on; the agent is told and says why."""
    reported, rested = Reported(), list[float]()
    answer = httpx.Response(status, content=body, headers={"date": DATE})
    with (
        over(lambda _request: answer, reported, rest=rested.append) as fleet,
        pytest.raises(httpx.HTTPStatusError),
    ):
        fleet.PullMessages(PullMessagesRequest())
    assert reported.told == told
    assert rested == rests


def test_a_proxy_without_a_way_is_waited_for_like_a_cut_line():
    """Flower tries again after a failed connection, and ends after a proxy's refusal."""

    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ProxyError("503 Service Unavailable")

    reported = Reported()
    with over(refuse, reported) as fleet, pytest.raises(httpx.ConnectError):
        fleet.PullMessages(PullMessagesRequest())
    assert reported.told == [("proxy", "503 Service Unavailable")]
