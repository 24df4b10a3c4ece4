"""The doctor on its way to the coordinator: real sockets and real TLS on this machine, one thing wrong at a time."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from offices import COORDINATOR, SITE, Office, key_file

from fedmed.crypto.pki import make_authority
from fedmed.crypto.unsealed import server_context
from fedmed_server.coordinator_home import read_coordinator
from fedmed_site.doctor import Finding, Patient
from fedmed_site.doctor_network import network, proxy_for
from fedmed_site.home import SiteHome

HOST, PORT = "hub.example.org", 8443
Answer = Callable[[socket.socket], None]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Return a consortium of three days ago by the system's clock, which TLS looks at, with one site."""
    return Office(tmp_path, now=datetime.now(UTC) - timedelta(days=3)).founded().joined("north")


class Line:
    """A server on this machine that answers each connection in a thread, and what dials it for a name."""

    def __init__(self, answer: Answer) -> None:
        self.dialled: list[tuple[str, int]] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to this server, whatever the name."""
        self.dialled.append((host, port))
        return socket.create_connection(self._listener.getsockname(), timeout=timeout_s)

    def close(self) -> None:
        """End the server and its threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(timeout=20)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with connection, suppress(OSError):
            self._answer(connection)


@contextmanager
def line(answer: Answer) -> Iterator[Line]:
    """Open a server for the block."""
    server = Line(answer)
    try:
        yield server
    finally:
        server.close()


def coordinator(
    context: ssl.SSLContext, *, status: str = "200 OK", date: datetime | None = None, dated: bool = True
) -> Answer:
    """Return a coordinator that answers each request for its health."""

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            asked = b""
            while b"\r\n\r\n" not in asked:
                part = tls.recv(4096)
                if not part:
                    return
                asked += part
            assert asked.startswith(b"GET /health HTTP/1.1")
            when = f"Date: {format_datetime(date or datetime.now(UTC), usegmt=True)}\r\n" if dated else ""
            tls.sendall(f"HTTP/1.1 {status}\r\n{when}Content-Length: 0\r\n\r\n".encode())

    return answer


def own_context(office: Office) -> ssl.SSLContext:
    """Return the coordinator's side of mutual TLS."""
    return read_coordinator(office.coordinator, now=office.now).server_context(COORDINATOR)


def look(office: Office, server: Line | None = None, **change: object) -> dict[str, Finding]:
    """Return what the doctor finds on its way, by name; nothing of it leaves this machine."""

    def refuse(host: str, port: int, timeout_s: float) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    patient = Patient(
        home=SiteHome.open(office.home("north")),
        secret=SITE,
        environment={},
        connect=refuse if server is None else server.dial,
        resolve=lambda _: "192.0.2.7",
    )
    return {finding.name: finding for finding in network(replace(patient, **change))}  # type: ignore[arg-type]


def levels(found: dict[str, Finding]) -> dict[str, str]:
    """Return how bad each finding is."""
    return {name: finding.level for name, finding in found.items()}


GREEN = {"DNS": "ok", "TCP": "ok", "TLS": "ok", "mutual TLS": "ok", "clock": "ok"}


def test_a_good_way_is_green_at_every_step(office: Office):
    """Name, connection, chain, membership and clock are each said to be good."""
    with line(coordinator(own_context(office))) as server:
        found = look(office, server)
    assert levels(found) == GREEN
    assert set(server.dialled) == {(HOST, PORT)}


def test_a_name_without_address(office: Office):
    """Nothing after it is tried."""

    def lost(_: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    found = look(office, resolve=lost)
    assert levels(found) == {"DNS": "bad"}
    assert HOST in found["DNS"].found


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "Connection refused"), TimeoutError()])
def test_a_closed_way(office: Office, error: OSError):
    """A firewall that refuses or swallows is told apart by the words, and both have the address to ask for."""

    def fail(host: str, port: int, timeout_s: float) -> socket.socket:
        raise error

    found = look(office, connect=fail)
    assert levels(found) == {"DNS": "ok", "TCP": "bad"}
    assert f"{HOST} port {PORT}" in found["TCP"].cure
    assert ("no answer within" in found["TCP"].found) == isinstance(error, TimeoutError)


def test_another_authority_in_between(office: Office, tmp_path: Path):
    """A box that inspects TLS shows a certificate of its own authority: red, and the cure names that cause."""
    other = Office(tmp_path / "other", now=office.now, name="other-net")
    (tmp_path / "other").mkdir()
    other.founded()
    context = read_coordinator(other.coordinator, now=other.now).server_context(COORDINATOR)
    with line(coordinator(context)) as server:
        found = look(office, server)
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "bad"}
    assert "inspects TLS" in found["TLS"].cure


@pytest.mark.parametrize(
    ("host", "later", "days", "words"),
    [
        ("other.example.org", 0, 90, "is not for hub.example.org"),
        (HOST, 0, 1, "has expired"),
        (HOST, 9, 90, "not yet valid"),
    ],
)
def test_a_certificate_that_does_not_hold(office: Office, host: str, later: int, days: int, words: str):
    """Another host's, an old one and one of the future are each called what they are; clocks are named as a cause."""
    authority, key = office.opened().authority, ec.generate_private_key(ec.SECP256R1())
    issued = office.now + timedelta(days=later)
    certificate = authority.issue_server(key.public_key(), hosts=(host,), now=issued, days=days)
    context = server_context(ca=office_ca(office), certificate=certificate, key=key)
    with line(coordinator(context)) as server:
        found = look(office, server)
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "bad"}
    assert words in found["TLS"].found
    assert ("clock" in found["TLS"].cure) == (host == HOST)


def office_ca(office: Office) -> bytes:
    """Return the consortium's TLS authority."""
    return read_coordinator(office.coordinator, now=office.now).ca_path.read_bytes()


def test_something_that_is_no_tls(office: Office):
    """A captive portal answers in plain HTTP."""
    with line(lambda connection: connection.sendall(b"HTTP/1.1 302 Found\r\n\r\n")) as server:
        found = look(office, server)
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "bad"}


def test_a_revoked_site(office: Office):
    """The coordinator answers that it is no member; the clock is compared all the same."""
    with line(coordinator(own_context(office), status="403 Forbidden")) as server:
        found = look(office, server)
    assert levels(found) == {**GREEN, "mutual TLS": "bad"}
    assert "revoked" in found["mutual TLS"].cure


def test_a_coordinator_in_trouble(office: Office):
    """Any other answer is red, and whose trouble it is is said."""
    with line(coordinator(own_context(office), status="503 Service Unavailable")) as server:
        found = look(office, server)
    assert "503" in found["mutual TLS"].found
    assert found["mutual TLS"].cure == "tell the coordinator's administrator"


def test_a_coordinator_that_takes_another_authority_only(office: Office, tmp_path: Path):
    """A server that doesn't accept the site's certificate ends the handshake: red, with the renewal as its cure."""
    coordinator_home = read_coordinator(office.coordinator, now=office.now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    with coordinator_home.unsealed_server_key(COORDINATOR) as key:
        context.load_cert_chain(coordinator_home.server_cert_path, key)
    stranger = make_authority(ec.generate_private_key(ec.SECP256R1()), name="stranger", now=office.now)
    context.load_verify_locations(cadata=stranger.decode())
    with line(coordinator(context)) as server:
        found = look(office, server)
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "ok", "mutual TLS": "bad"}


def test_without_the_secret_the_keys_stay_sealed(office: Office):
    """Everything up to the membership is looked at; that isn't, and the line says what to give."""
    with line(coordinator(own_context(office))) as server:
        found = look(office, server, secret=None)
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "ok", "mutual TLS": "warn"}
    assert "--key-file" in found["mutual TLS"].cure


def test_another_secret_is_said_to_be_wrong(office: Office):
    """A wrong key file is the administrator's mistake; what was found before it stays."""
    with line(coordinator(own_context(office))) as server:
        found = look(office, server, secret=key_file(99))
    assert levels(found) == {"DNS": "ok", "TCP": "ok", "TLS": "ok", "mutual TLS": "bad"}


@pytest.mark.parametrize(("behind", "level"), [(0, "ok"), (120, "warn"), (360, "bad"), (-20, "bad")])
def test_clocks_are_compared(office: Office, behind: int, level: str):
    """As the coordinator's SuperLink does: minutes behind are forgiven, a few seconds ahead are not."""
    there = datetime.now(UTC) + timedelta(seconds=behind)
    with line(coordinator(own_context(office), date=there)) as server:
        assert look(office, server)["clock"].level == level


def test_a_coordinator_without_a_clock(office: Office):
    """Where no time comes back nothing is claimed."""
    with line(coordinator(own_context(office), dated=False)) as server:
        assert look(office, server)["clock"].level == "warn"


# --- through a proxy -------------------------------------------------------------------------


def proxy(target: Line, *, status: str = "200 Connection established", seen: list[bytes] | None = None) -> Answer:
    """Return a proxy that leads every tunnel to `target`."""

    def answer(connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(1)
        if seen is not None:
            seen.append(asked)
        connection.sendall(f"HTTP/1.1 {status}\r\nVia: proxy\r\n\r\n".encode())
        if "200" not in status:
            return
        with target.dial(HOST, PORT, 20) as onward:
            back = threading.Thread(target=carry, args=(onward, connection), daemon=True)
            back.start()
            carry(connection, onward)
            back.join()

    return answer


def carry(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until their end."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_the_way_through_a_proxy(office: Office):
    """Every step goes through it, with its login; the name is looked up for the proxy alone."""
    seen: list[bytes] = []
    asked: list[str] = []

    def resolve(host: str) -> str:
        asked.append(host)
        return "192.0.2.1"

    with line(coordinator(own_context(office))) as server, line(proxy(server, seen=seen)) as middle:
        environment = {"HTTPS_PROXY": "http://site:p%40ss@proxy.hospital:3128"}
        found = look(office, middle, environment=environment, resolve=resolve)
    assert levels(found) == GREEN
    assert "through the proxy proxy.hospital:3128" in found["TCP"].found
    assert "p@ss" not in str(found)
    assert asked == ["proxy.hospital"]
    assert set(middle.dialled) == {("proxy.hospital", 3128)}
    assert seen[0].startswith(f"CONNECT {HOST}:{PORT} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic c2l0ZTpwQHNz\r\n" in seen[0]


def test_a_proxy_that_refuses(office: Office):
    """Its code is shown, and what to ask for."""
    with line(coordinator(own_context(office))) as server, line(proxy(server, status="407 Login")) as middle:
        found = look(office, middle, environment={"https_proxy": "proxy.hospital:3128"})
    assert levels(found) == {"DNS": "ok", "TCP": "bad"}
    assert "407" in found["TCP"].found
    assert f"CONNECT to {HOST}:{PORT}" in found["TCP"].cure


def test_a_proxy_that_says_nothing(office: Office):
    """A connection that ends without an answer is the proxy's refusal too."""
    with line(lambda connection: connection.close()) as middle:
        found = look(office, middle, environment={"https_proxy": "http://proxy.hospital:3128"})
    assert "TCP" in found
    assert found["TCP"].level == "bad"


@pytest.mark.parametrize(
    ("environment", "direct"),
    [
        ({}, True),
        ({"HTTPS_PROXY": "http://p:1"}, False),
        ({"https_proxy": "p:1"}, False),
        ({"ALL_PROXY": "http://p:1"}, False),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org"}, True),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.org, .example.org"}, True),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}, True),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.org"}, False),
        ({"HTTP_PROXY": "http://p:1"}, True),
    ],
)
def test_which_proxy_leads_there(office: Office, environment: dict[str, str], direct: bool):  # noqa: FBT001
    """As the environment of the agent says, in either spelling, with its exceptions."""
    patient = Patient(home=SiteHome.open(office.home("north")), environment=environment)
    assert (proxy_for(HOST, patient) is None) == direct


@pytest.mark.parametrize("text", ["socks5://p:1", "http://", "http://p:port"])
def test_a_proxy_that_is_no_address(office: Office, text: str):
    """A mistake in the environment is its own finding."""
    assert levels(look(office, environment={"HTTPS_PROXY": text})) == {"proxy": "bad"}


def test_a_site_without_a_consortium_has_no_way(tmp_path: Path, office: Office):
    """There is nobody to call yet: yellow."""
    home = SiteHome.create(tmp_path / "new", SiteHome.open(office.home("north")).record(), pseudonym_key=bytes(32))
    (found,) = network(Patient(home=home))
    assert found.level == "warn"
