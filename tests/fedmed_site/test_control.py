"""The control service: what the administrator asks of a running agent, and what a hostile caller gets."""

import math
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.errors import FedMedError, IntegrityError, UsageError
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.ledger import Ledger
from fedmed.records import digest
from fedmed_site.approvals import Approvals
from fedmed_site.console import user_name
from fedmed_site.control import MOST_REQUEST_BYTES, ControlServer, socket_path
from fedmed_site.control_client import RemoteDesk, answers, connect
from fedmed_site.control_records import Current, Exchange, SiteStatus
from fedmed_site.folder_desk import FolderDesk
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.peer_gate import Peer
from fedmed_site.policy import SitePolicy

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
STATUS = SiteStatus(
    site="north",
    version="9.9",
    agent_since="2030-01-31T11:00:00Z",
    node_state="connected",
    node_since=None,
    coordinator="hub.example:9443",
    certificate_not_after="2030-03-01T00:00:00Z",
    current=Current(study="stroke-1", action="train.mask", round=2, since="2030-01-31T11:59:00Z"),
    last_exchange=Exchange(at="2030-01-31T11:58:00Z", outcome="answered"),
    tasks_done=12,
    tasks_refused=1,
    paused=False,
)


class Appliance:
    """An office whose status is set by the test."""

    def __init__(self) -> None:
        self.state = STATUS
        self.stopped = threading.Event()
        self.fault: Exception | None = None

    def status(self) -> SiteStatus:
        if self.fault is not None:
            raise self.fault
        return self.state

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a site where one study waits."""
    record = SiteRecord(name="north", policy=SitePolicy(cap_epsilon=8.0, delta=1e-5))
    home = SiteHome.create(tmp_path / ("long" * 25) / "home", record, pseudonym_key=bytes(32))
    Approvals(home, ChainLog(home.audit_path)).note(plan_of("stroke-1"), now=NOW)
    return home


@pytest.fixture
def office() -> Appliance:
    """Return the running appliance."""
    return Appliance()


@pytest.fixture
def desk(home: SiteHome, office: Appliance) -> Iterator[RemoteDesk]:
    """Return a client of a running service."""
    with ControlServer(home, office, now=lambda: NOW), connect(socket_path(home)) as desk:
        yield desk


def test_status_comes_as_it_is(desk: RemoteDesk, office: Appliance):
    """Every field survives the wire, those that are not known too."""
    assert desk.status() == STATUS
    office.state = replace(STATUS, agent_since=None, current=None, last_exchange=None, certificate_not_after=None)
    assert desk.status() == office.state


def test_a_study_is_approved_in_the_callers_name(desk: RemoteDesk, home: SiteHome):
    """The name in the log is the kernel's, not one that a message gave."""
    entry = desk.decide("stroke-1", "approved")
    user = user_name(home.root.stat().st_uid)
    assert (entry.state, entry.by, entry.decided) == ("approved", user, "2030-01-31T12:00:00Z")
    assert desk.studies() == (entry,)
    assert ChainLog(home.audit_path).entries()[-1].body["by"] == user


def test_an_admitted_member_acts_under_his_own_name(home: SiteHome, office: Appliance):
    """Two administrators of one site are told apart in the log."""
    root = Peer(pid=1, uid=0, gid=0)
    with (
        ControlServer(home, office, now=lambda: NOW, credentials=lambda _: root),
        connect(socket_path(home)) as desk,
    ):
        assert desk.decide("stroke-1", "approved").by == "root"


def test_pausing_shows_in_the_status(desk: RemoteDesk, home: SiteHome):
    """The folder says whether the site is paused, whatever the appliance thinks."""
    assert desk.pause(None).until is None
    assert desk.status().paused
    desk.resume()
    assert not desk.status().paused
    assert desk.pause(NOW + timedelta(hours=2)).until == "2030-01-31T14:00:00Z"
    with pytest.raises(UsageError, match="a time to come"):
        desk.pause(NOW)


def test_the_budget_and_the_log_are_those_of_the_folder(desk: RemoteDesk, home: SiteHome):
    """The socket shows what the folder shows, an unlimited cap too."""
    assert desk.budget() == ()
    for name, cap in (("heart", 3.0), ("stroke", math.inf)):
        path = home.ledgers / f"{name}.jsonl"
        Ledger.create(path, dataset=name, cap_epsilon=cap, delta=1e-5, accountant=PrvAccountant())
    local = FolderDesk(home=home, by="x", now=lambda: NOW)
    assert desk.budget() == local.budget()
    assert [line.cap_epsilon for line in desk.budget()] == [3.0, math.inf]
    assert desk.audit(10) == local.audit(10)
    assert desk.audit(10).entries[0].kind == "study-seen"


def test_stopping_is_asked_once_and_logged(desk: RemoteDesk, office: Appliance, home: SiteHome):
    """The agent is told, and the log says who asked."""
    desk.stop()
    assert office.stopped.is_set()
    assert ChainLog(home.audit_path).entries()[-1].kind == "stop-asked"


def test_errors_come_back_as_they_were(desk: RemoteDesk, home: SiteHome):
    """A mistake of the administrator and a damaged folder read the same through the socket as without it."""
    with pytest.raises(UsageError, match=r"expected a study that came to this site, got '\.\./\.\./site\.json'"):
        desk.decide("../../site.json", "approved")
    with pytest.raises(UsageError, match="not paused"):
        desk.resume()
    home.audit_path.write_text("garbage\n")
    with pytest.raises(IntegrityError, match="entry 0 is bad"):
        desk.audit(5)


def test_nothing_unforeseen_is_shown(desk: RemoteDesk, office: Appliance, home: SiteHome):
    """A fault inside is a reference for the caller and a traceback in the site's log."""
    office.fault = RuntimeError("record of Planted Person")
    with pytest.raises(FedMedError, match="internal failure") as failed:
        desk.status()
    assert "Planted" not in str(failed.value)
    reference = str(failed.value).split()[-1]
    log = home.log_path.read_text()
    assert reference in log
    assert "Planted Person" in log


def test_health_is_the_standard_service(desk: RemoteDesk, home: SiteHome):
    """A supervisor that knows gRPC's health protocol can ask."""
    stub = health_pb2_grpc.HealthStub(desk._channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_a_stranger_gets_nothing(home: SiteHome, office: Appliance):
    """Another user's process is turned away before a byte of it is read, and nothing is decided."""
    stranger = Peer(pid=1, uid=home.root.stat().st_uid + 54321, gid=54321)
    with (
        ControlServer(home, office, now=lambda: NOW, credentials=lambda _: stranger),
        connect(socket_path(home)) as desk,
        pytest.raises(UsageError, match="this user may not command it"),
    ):
        desk.decide("stroke-1", "approved")
    assert "was turned away" in home.log_path.read_text()
    assert Approvals(home, ChainLog(home.audit_path)).entries()[0].state == "waiting"


@pytest.mark.parametrize(
    "garbage", [b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 9999]
)
def test_garbage_ends_its_own_connection_only(desk: RemoteDesk, home: SiteHome, garbage: bytes):
    """Bytes that are no gRPC are answered by a closed connection; the service goes on."""
    folder = socket_path(home).parent
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        descriptor = os.open(folder, os.O_PATH)
        caller.connect(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
        caller.sendall(garbage)
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(1 << 16):
            pass
    assert desk.status() == STATUS


def test_an_oversized_request_is_refused(desk: RemoteDesk):
    """A study's name of a megabyte doesn't reach the service; the next request does."""
    with pytest.raises(UsageError, match="no request of that size"):
        desk.decide("x" * (MOST_REQUEST_BYTES + 1), "approved")
    assert desk.status() == STATUS


def raw(desk: RemoteDesk, method: str, data: bytes) -> grpc.StatusCode:
    """Send bytes as a request and return the status code."""
    call = desk._channel.unary_unary(f"/fedmed.site.v1.SiteControl/{method}")
    with pytest.raises(grpc.RpcError) as failed:
        call(data, timeout=10)
    code = failed.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_a_message_that_does_not_parse_changes_nothing(desk: RemoteDesk):
    """Garbage inside a proper call, an unknown method, and a decision that is none are errors."""
    assert raw(desk, "Decide", b"\xff\xff\xff") is grpc.StatusCode.INTERNAL
    assert raw(desk, "Nothing", b"") is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(UsageError, match="approved or rejected"):
        desk.decide("stroke-1", "owned")  # type: ignore[arg-type]
    assert desk.studies()[0].state == "waiting"


def test_requests_side_by_side_are_all_answered(desk: RemoteDesk):
    """Several administrators' terminals at one time don't get in each other's way."""
    found: list[SiteStatus] = []
    threads = [threading.Thread(target=lambda: found.append(desk.status())) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [STATUS] * 12


def test_without_an_agent_nobody_answers(home: SiteHome, office: Appliance):
    """A folder whose agent ended, or was killed and left its socket, is told from one that runs."""
    assert not answers(socket_path(home))
    server = ControlServer(home, office)
    server.start()
    assert answers(socket_path(home))
    server.stop()
    assert not answers(socket_path(home))
    with socket.socket(socket.AF_UNIX) as left:
        descriptor = os.open(home.run, os.O_PATH)
        left.bind(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
    assert not answers(socket_path(home))


def test_a_second_agent_is_refused(desk: RemoteDesk, home: SiteHome, office: Appliance):
    """One folder has one agent."""
    with pytest.raises(UsageError, match="found one that runs"):
        ControlServer(home, office)
    assert desk.status() == STATUS


def test_a_decision_reaches_the_agents_own_approvals(desk: RemoteDesk, home: SiteHome):
    """What is approved through the socket is what the agent reads for its next task."""
    desk.decide("stroke-1", "approved")
    Approvals(home, ChainLog(home.audit_path)).require(digest(plan_of("stroke-1")), now=NOW)


def test_a_socket_elsewhere_is_found_from_the_folder(home: SiteHome, office: Appliance, tmp_path: Path):
    """The folder's own commands reach an agent whose socket is outside, and a second one is refused there too."""
    place = tmp_path / "admins.sock"
    with ControlServer(home, office, socket=place):
        assert answers(socket_path(home))
        with connect(socket_path(home)) as desk:
            assert desk.status() == STATUS
        with pytest.raises(UsageError, match="found one that runs"):
            ControlServer(home, office)
    assert not answers(socket_path(home))
    assert not answers(place)
    with ControlServer(home, office):
        assert answers(socket_path(home))
