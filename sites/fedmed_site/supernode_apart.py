"""A SuperNode under a user of its own: it comes to the agent's door, and gets what it needs there.

Why it exists: the process that faces the network may be broken into. Under the agent's own user it could then read
what the agent reads. Under another one it has a connection to the agent, and nothing else of the site; and the agent
needs no network at all, so its service can be given none.

Rules:
    * The kernel says who knocks; one user is let in, and one process of it at a time.
    * It gets certificate, keys and the socket for tasks over the connection; when that ends, it ends.
    * Who is turned away is said, at most as often as the count doubles.

What it does not do: start the process; a supervisor does (docs/how-to/kits.md).
Source: unix(7), SO_PEERCRED.
"""

import contextlib
import pwd
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedmed.errors import FedMedError, UsageError
from fedmed_site.console import user_name
from fedmed_site.home import SiteHome
from fedmed_site.node_link import NodeStart, hand_over, tasks_at
from fedmed_site.peer_gate import Peer, is_socket, peer_of
from fedmed_site.supernode import NODE_SOCKET, News, listen

PATIENCE_S: Final = 15.0
"""How long nobody may come before that is said."""
_HANDING_S: Final = 10.0
_BACKLOG: Final = 4


def number_of(user: str) -> int:
    """Return the number of a user of this machine.

    Raises:
        UsageError: There is none of this name.
    """
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(
            f"--node-user: expected a user of this machine, there is no {user[:40]!r}; make one (useradd --system)"
        ) from None


class SuperNodeApart:
    """The door for the SuperNode's process of another user."""

    def __init__(
        self,
        home: SiteHome,
        start: Callable[[], NodeStart],
        news: News,
        *,
        door: Path,
        user: int,
        say: Callable[[str], None],
        credentials: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        """Prepare the door; nobody can come in yet.

        Args:
            home: The site's folder.
            start: What to hand over, as it is now.
            news: Gets what the SuperNode reports.
            door: Where to listen; the folder must exist, and its other users must not be able to write into it.
            user: The number of the one user that is let in.
            say: Tells people what happens.
            credentials: Asks the kernel.
        """
        self._home = home
        self._start = start
        self._news = news
        self._door = door
        self._user = user
        self._say = say
        self._credentials = credentials
        self._refused: Counter[int] = Counter()
        self._guard = threading.Lock()
        self._listener: socket.socket | None = None
        self._link: socket.socket | None = None
        self._alone_since = time.monotonic()

    def keep(self) -> None:
        """Open the door, and say when nobody comes through it.

        Raises:
            UsageError: The door can't be there.
        """
        if self._listener is None:
            self._listener = self._open()
            threading.Thread(target=self._receive, args=(self._listener,), name="node-door", daemon=True).start()
        elif self._link is None and time.monotonic() - self._alone_since > PATIENCE_S:
            self._news.tell(
                f"no SuperNode of user {user_name(self._user)} is at work; start it there:"
                f" fedmed site node --agent {self._door}"
            )

    def end(self) -> None:
        """Hang up, which ends the SuperNode; a supervisor starts it anew, and it gets what holds then."""
        with self._guard:
            if self._link is not None:
                with contextlib.suppress(OSError):
                    self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the door, and hang up."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._door.unlink(missing_ok=True)
        self.end()

    def _open(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        try:
            if is_socket(self._door):
                self._door.unlink()  # of a process that was killed: the site's lock is ours
            listener.bind(str(self._door))
            self._door.chmod(0o666)  # the kernel says who knocks, and one user is let in
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"--node-socket {self._door}: expected a free name in a folder of this user, could not listen there"
                f" ({error.strerror or error})"
            ) from None
        return listener

    def _receive(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                if self._may_enter(self._credentials(link)):
                    self._hand_over(link)
                    continue
            except (FedMedError, OSError) as error:
                self._news.tell(f"the SuperNode can't start: {error}")
            link.close()

    def _may_enter(self, peer: Peer) -> bool:
        if peer.uid != self._user:
            self._refused[peer.uid] += 1
            count = self._refused[peer.uid]
            if count & (count - 1) == 0:
                name = user_name(peer.uid)
                self._say(f"user {name} asked for the SuperNode's keys and was turned away, {count} times")
            return False
        return self._link is None

    def _hand_over(self, link: socket.socket) -> None:
        with self._guard:
            self._link = link  # from now on: who is given what no longer holds must be hung up on too
        try:
            link.settimeout(_HANDING_S)
            with tasks_at(self._home.run / NODE_SOCKET) as tasks:
                hand_over(link, self._start(), tasks)
            link.settimeout(None)
        except BaseException:
            with self._guard:
                self._link = None
            raise
        threading.Thread(target=self._hear, args=(link,), name="node-news", daemon=True).start()

    def _hear(self, link: socket.socket) -> None:
        listen(link, self._news)
        with self._guard:
            self._link = None
            self._alone_since = time.monotonic()
            link.close()
        self._news.gone()
