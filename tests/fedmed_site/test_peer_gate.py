"""The gate lets in root, the owner and a group's members, by what the kernel says; others get a closed connection."""

import errno
import grp
import os
import pwd
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedmed.errors import UsageError
from fedmed_site import peer_gate as gates
from fedmed_site.console import user_name
from fedmed_site.peer_gate import Admitted, Gate, Peer, caller_of, peer_of

NOBODY = 65534
US = os.getuid()


class Echo:
    """A service behind the gate that sends back what it gets, after the name of its caller."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address.removeprefix("unix:"))
        self.listener.listen()

    def serve_one(self) -> int:
        """Answer one caller and return who the service thinks it was."""
        connection, _ = self.listener.accept()
        with connection:
            peer = connection.getpeername()
            connection.sendall(connection.recv(1 << 20))
        return caller_of(peer if isinstance(peer, str) else peer.decode())


class Site:
    """A gate with its echo, and what it logged."""

    def __init__(self, path: Path, peer: Peer | None) -> None:
        self.lines: list[str] = []
        self.closed = False
        seen = peer_of if peer is None else lambda _: peer
        self.gate = Gate(
            path, Admitted(owner=US), lock=path.with_name("s.sock.lock"), log=self.lines.append, credentials=seen
        )
        self.echo = Echo(self.gate.inner)
        self.gate.open()

    def close(self) -> None:
        """End both, once."""
        if not self.closed:
            self.closed = True
            self.gate.close()
            self.echo.listener.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


Opener = Callable[..., Site]


@pytest.fixture
def site_at() -> Iterator[Opener]:
    """Open gates that are closed at the end of the test, however it ends."""
    opened: list[Site] = []

    def site(path: Path, peer: Peer | None = None) -> Site:
        opened.append(Site(path, peer))
        return opened[-1]

    yield site
    for one in opened:
        one.close()


def knock(path: Path, data: bytes = b"hello") -> bytes:
    """Connect, send, and return what comes back."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(str(path))
        try:
            caller.sendall(data)
            return caller.recv(1 << 20)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_the_owner_is_let_in_under_his_own_number(place: Path, site_at: Opener):
    """Bytes go both ways, and the service learns from the socket itself who calls."""
    site = site_at(place / "s.sock")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(place / "s.sock"))
        caller.sendall(b"hello")
        assert site.echo.serve_one() == US
        assert caller.recv(100) == b"hello"


def test_another_user_is_turned_away_and_logged(place: Path, site_at: Opener):
    """A stranger gets nothing, and the site's log has his number; the socket's own mode isn't what stops him."""
    site = site_at(place / "s.sock", Peer(pid=7, uid=NOBODY - 1, gid=NOBODY - 1))
    assert knock(place / "s.sock") == b""
    site.close()
    assert len(site.lines) == 1
    assert "was turned away, 1 times" in site.lines[0]
    assert str(NOBODY - 1) in site.lines[0]


def knock_as(user: int, path: Path) -> bytes:
    """Connect from a process that has given up root, and return what it read, or the error's number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            caller = socket.socket(socket.AF_UNIX)
            caller.connect(str(path))
            os.write(writer, b"read:" + caller.recv(9))
        except OSError as error:
            os.write(writer, f"error:{error.errno}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()


@pytest.mark.skipif(US != 0, reason="needs root to become another user")
def test_a_real_process_of_another_user_is_turned_away(place: Path, site_at: Opener):
    """The kernel's word counts: a process that gave up root can't get in, even past a socket that all may write to."""
    site = site_at(place / "s.sock")
    assert knock_as(NOBODY, place / "s.sock") == f"error:{errno.EACCES}".encode()  # the socket's mode
    (place / "s.sock").chmod(0o777)
    assert knock_as(NOBODY, place / "s.sock") == b"read:"  # the gate
    assert user_name(NOBODY) in site.lines[0]


def test_knocking_does_not_fill_the_log(place: Path, site_at: Opener):
    """Of many refusals of one user only the first, second, fourth, eighth ... are written."""
    site = site_at(place / "s.sock", Peer(pid=7, uid=NOBODY, gid=NOBODY))
    for _ in range(20):
        knock(place / "s.sock")
    site.close()
    assert len(site.lines) == 5


def test_a_member_of_the_group_is_let_in_and_others_are_not():
    """By the group of the process, by the user's own, and by the group's list; without a group only the owner."""
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    stranger = NOBODY - 7
    owned = Admitted(owner=stranger + 1, group=group.gr_name)
    assert owned.allows(Peer(pid=1, uid=user.pw_uid, gid=group.gr_gid))
    assert Admitted(owner=stranger, group=grp.getgrgid(user.pw_gid).gr_name).allows(Peer(pid=1, uid=user.pw_uid, gid=9))
    assert not owned.allows(Peer(pid=1, uid=stranger, gid=group.gr_gid))  # a user without an entry
    assert not Admitted(owner=stranger, group="no-such-group").allows(Peer(pid=1, uid=user.pw_uid, gid=9))
    assert not Admitted(owner=stranger).allows(Peer(pid=1, uid=stranger + 1, gid=group.gr_gid))
    assert owned.allows(Peer(pid=1, uid=0, gid=0))


def test_two_agents_on_one_folder_are_one_too_many(place: Path, site_at: Opener):
    """The second one is told so, and the first goes on."""
    site = site_at(place / "s.sock")
    with pytest.raises(UsageError, match="found one that runs"):
        Gate(place / "other.sock", Admitted(owner=US), lock=place / "s.sock.lock", log=site.lines.append)
    assert gates.is_socket(place / "s.sock")


def test_a_socket_that_a_kill_left_behind_is_replaced(place: Path, site_at: Opener):
    """After kill -9 the next start finds the old socket and takes its place."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(place / "s.sock"))
    left.close()
    site_at(place / "s.sock")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(place / "s.sock"))


def test_closing_leaves_nothing(place: Path, site_at: Opener):
    """Socket, inner folder and connections are gone; the lock file stays, unlocked."""
    site = site_at(place / "s.sock")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(str(place / "s.sock"))
        site.close()
        with suppress(ConnectionResetError):  # it was not accepted yet
            assert caller.recv(1) == b""
    assert [path.name for path in place.iterdir()] == ["s.sock.lock"]
    site_at(place / "s.sock")


def test_the_inner_socket_is_out_of_reach(place: Path, site_at: Opener):
    """Nobody but the agent's user can enter the folder of the service behind the gate."""
    site_at(place / "s.sock")
    (inner,) = place.glob("inner-*")
    assert inner.stat().st_mode & 0o777 == 0o700
    assert (place / "s.sock").stat().st_mode & 0o777 == 0o600


def test_a_long_path_works(tmp_path: Path, site_at: Opener):
    """A site's folder may lie deeper than the 108 bytes of a socket's address."""
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    site_at(folder / "s.sock")
    assert gates.is_socket(folder / "s.sock")


def test_callers_are_bounded(place: Path, site_at: Opener, monkeypatch: pytest.MonkeyPatch):
    """One more connection than the gate carries is closed at once; when one ends there is room again."""
    monkeypatch.setattr(gates, "MOST_CALLERS", 1)
    site = site_at(place / "s.sock")
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(place / "s.sock"))
    first.sendall(b"x")
    assert knock(place / "s.sock") == b""
    assert site.echo.serve_one() == US
    assert first.recv(1) == b"x"
    first.close()


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:80", "unix:", "unix:/x/y", ""])
def test_a_connection_past_the_gate_has_no_caller(peer: str):
    """A name that the gate didn't give is nobody's, so nothing can be done in it."""
    with pytest.raises(ValueError, match="invalid literal"):
        caller_of(peer)
