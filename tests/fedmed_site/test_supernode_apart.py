"""A SuperNode of another user gets its keys at the agent's door, and nobody else does."""

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federation import build_consortium

from fedmed.errors import IntegrityError, UsageError
from fedmed_site import cli
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.node_link import LONGEST_REPORT, NodeStart, hand_over, report, reports_of, take_over, tasks_at
from fedmed_site.peer_gate import Peer
from fedmed_site.supernode import NODE_SOCKET, News
from fedmed_site.supernode_apart import SuperNodeApart, number_of

START = NodeStart(
    coordinator="coordinator.example:9092", authority=b"a", certificate=b"c", tls_key=b"t", node_key=b"n", secret=b"s"
)
NODE_USER = 4242


class Knocking:
    """A door, and who the kernel would say knocks at it."""

    def __init__(self, home: SiteHome, door: Path) -> None:
        self.home, self.path = home, door
        self.said: list[str] = []
        self.user = NODE_USER
        self.news = News(SiteAgent(home), self.said.append)
        self.starts: Callable[[], NodeStart] = lambda: START
        self.node = SuperNodeApart(
            home, self._start, self.news, door=door, user=NODE_USER, say=self.said.append,
            credentials=lambda _: Peer(pid=1, uid=self.user, gid=1),
        )  # fmt: skip

    def _start(self) -> NodeStart:
        return self.starts()

    def knock(self) -> socket.socket:
        """Connect as the SuperNode's process does."""
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(20.0)
        link.connect(str(self.path))
        return link


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Knocking]:
    """Return an open door of a site."""
    home = SiteHome.open(build_consortium(tmp_path, sites=1).homes[0])
    home.run.mkdir(exist_ok=True, mode=0o700)
    knocking = Knocking(home, tmp_path / "node.door")
    knocking.node.keep()
    yield knocking
    knocking.node.close()


def start_of(link: socket.socket) -> NodeStart:
    """Return what the agent hands over, and serve no tasks."""
    start, tasks = take_over(link)
    tasks.close()
    return start


def until(done: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_the_named_user_gets_the_start_and_serves_the_agents_tasks(door: Knocking):
    """The socket for tasks comes open, so that no path into the site's folder is needed."""
    with door.knock() as link:
        start, tasks = take_over(link)
        assert start == START
        with tasks, socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(door.home.run / NODE_SOCKET))
            agent.sendall(b"a task?")
            served, _ = tasks.accept()
            with served:
                assert served.recv(100) == b"a task?"
        report(link, log="Connection successful after 0.1 seconds")
        until(lambda: door.news.linked)
    until(lambda: not door.news.linked)


def test_where_the_agent_looks_for_tasks_nobody_else_can_connect(door: Knocking):
    """The socket and its folder are the agent's own."""
    with door.knock() as link:
        start_of(link)
        path = door.home.run / NODE_SOCKET
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_user_gets_nothing_and_is_named(door: Knocking):
    """Not a byte; and the lines do not grow with the number of knocks."""
    door.user = 77
    for _ in range(5):
        with door.knock() as link, pytest.raises(IntegrityError, match="closed the connection"):
            take_over(link)
    until(lambda: len(door.said) == 3)
    assert [line.rpartition(" ")[0].rpartition(", ")[2] for line in door.said] == ["1", "2", "4"]
    assert "asked for the SuperNode's keys and was turned away" in door.said[0]


def test_a_second_supernode_is_not_let_in_beside_the_first(door: Knocking):
    """Two would take each other's messages; after the first has ended another one may come."""
    with door.knock() as first:
        start_of(first)
        with door.knock() as second, pytest.raises(IntegrityError):
            take_over(second)
    until(lambda: door.node._link is None)
    with door.knock() as third:
        assert start_of(third) == START


def test_ending_it_hangs_up_and_the_next_gets_the_new_certificate(door: Knocking):
    """So a renewal reaches a process that the agent can't start."""
    with door.knock() as link:
        start_of(link)
        door.node.end()
        assert link.recv(1) == b""
    until(lambda: door.node._link is None)
    door.starts = lambda: NodeStart(
        coordinator="c:1", authority=b"a", certificate=b"renewed", tls_key=b"t", node_key=b"n", secret=b"s"
    )
    with door.knock() as link:
        assert start_of(link).certificate == b"renewed"


def hung_up(link: socket.socket) -> bool:
    """Say whether the agent ends the connection, before or after it has handed something over."""
    try:
        start_of(link)
        return link.recv(1) == b""
    except (IntegrityError, ConnectionError):
        return True


def test_a_renewal_while_it_is_let_in_reaches_it_too(door: Knocking):
    """What is being handed over at that moment no longer holds, so this process may not stay; the next one may."""

    def renewed_meanwhile() -> NodeStart:
        door.node.end()
        return START

    door.starts = renewed_meanwhile
    with door.knock() as link:
        assert hung_up(link)
    until(lambda: door.node._link is None)
    door.starts = lambda: START
    with door.knock() as link:
        assert start_of(link) == START


def test_an_expired_certificate_hands_over_nothing_and_is_said(door: Knocking):
    """The SuperNode is turned away until there is a new one."""

    def expired() -> NodeStart:
        raise IntegrityError("the certificate expired; fedmed site renew")

    door.starts = expired
    with door.knock() as link, pytest.raises(IntegrityError):
        take_over(link)
    until(lambda: door.said == ["the SuperNode can't start: the certificate expired; fedmed site renew"])


def test_nobody_at_the_door_is_said_with_the_command(door: Knocking, monkeypatch: pytest.MonkeyPatch):
    """An administrator who started one of the two services only."""
    monkeypatch.setattr("fedmed_site.supernode_apart.PATIENCE_S", 0.0)
    door.node.keep()
    door.node.keep()
    assert len(door.said) == 1
    assert f"fedmed site node --agent {door.path}" in door.said[0]


def test_a_door_of_a_killed_agent_is_opened_again(tmp_path: Path):
    """What a dead process left there is no reason to stay away; a file of somebody's is."""
    home = SiteHome.open(build_consortium(tmp_path, sites=1).homes[0])
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    again = Knocking(home, left)
    again.node.keep()
    again.node.close()
    left.write_text("a letter")
    with pytest.raises(UsageError, match="expected a free name"):
        Knocking(home, left).node.keep()
    assert left.read_text() == "a letter"


def test_there_must_be_such_a_user():
    """It is said before anything starts."""
    assert number_of("root") == 0
    with pytest.raises(UsageError, match="there is no 'nobody-of-this-name'"):
        number_of("nobody-of-this-name")


@pytest.mark.parametrize("words", [["--node-socket", "/nowhere/x"], ["--node-user", "root"]])
def test_the_door_and_its_user_go_together(words: list[str]):
    """One without the other would be a door for nobody, or for anybody."""
    with pytest.raises(UsageError, match="expected --node-socket and --node-user together"):
        cli.site(["start", "--home", "/nowhere", *words])


def test_a_supernode_without_an_agent_says_what_to_start(tmp_path: Path):
    """In one line."""
    with pytest.raises(UsageError, match="start it first: fedmed site start --node-socket"):
        cli.site(["node", "--agent", str(tmp_path / "absent")])


def test_a_supernode_of_the_wrong_user_says_so(door: Knocking):
    """Who reads only the error message knows which user to take."""
    door.user = 77
    with pytest.raises(UsageError, match="of the user that its --node-user names"):
        cli.site(["node", "--agent", str(door.path)])


@pytest.mark.parametrize("header", [b"FMn0\0\0\0\1x", b"FMn1\0\0\0\1x", b"FMn1\xff\xff\xff\xffx", b"FM"])
def test_what_is_no_start_is_refused(header: bytes, tmp_path: Path):
    """Of another version, unreadable, too long, cut off; no descriptor stays open."""
    ours, theirs = socket.socketpair()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with theirs, tasks_at(tmp_path / "t") as tasks:
        with ours:
            socket.send_fds(ours, [header], [tasks.fileno()])
        with pytest.raises(IntegrityError):
            take_over(theirs)
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 2


def test_a_start_comes_back_as_it_was_sent(tmp_path: Path):
    """Also a long one, which does not come in one piece."""
    long = NodeStart(
        coordinator="c:1", authority=b"a" * 300_000, certificate=b"c", tls_key=b"t", node_key=b"n", secret=b"s"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, tasks_at(tmp_path / "t") as tasks:
        thread = threading.Thread(target=hand_over, args=(ours, long, tasks))
        thread.start()
        start, taken = take_over(theirs)
        thread.join()
        with taken:
            assert start == long


def test_a_supernode_that_floods_is_not_listened_to():
    """A line without an end is not kept in memory."""
    ours, theirs = socket.socketpair()
    with ours:
        thread = threading.Thread(target=_flood, args=(theirs,))
        thread.start()
        assert list(reports_of(ours)) == ['{"log": "good"}']
    thread.join()


def _flood(link: socket.socket) -> None:
    with link, contextlib.suppress(OSError):
        report(link, log="good")
        link.sendall(b"x" * 10 * LONGEST_REPORT)
