"""Who may command the site: a Unix socket that asks the kernel who connects.

Why it exists: gRPC for Python can't read a peer's credentials. This listener stands in front of it: it asks the
kernel, turns others away, and carries bytes to gRPC's own socket, which nobody else can reach.

Rules:
    * Let in are root, the owner of the site's folder, and the members of one group if one was named.
    * The inner socket lies in a new folder of mode 700. The gate connects to it from a socket whose name holds the
      user's number, so the service learns from gRPC itself who calls; no message can claim to be somebody else.
    * A caller who is turned away gets nothing but a closed connection; the site's log has who it was.
    * One gate a folder: a second one finds the lock taken.

What it does not do: read what it carries.
Source: unix(7), SO_PEERCRED; the credentials are those of the moment of connect(2).
"""

import contextlib
import fcntl
import grp
import os
import pwd
import shutil
import socket
import stat
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedmed.errors import UsageError
from fedmed_site.console import user_name

MOST_CALLERS: Final = 32
"""Connections at one time."""
_CREDENTIALS: Final = struct.Struct("=iII")
_CHUNK: Final = 1 << 16
_BACKLOG: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who connected, as the kernel says."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Who may command: the owner of the site's folder, root, and a group's members."""

    owner: int
    group: str | None = None

    def allows(self, peer: Peer) -> bool:
        """Return whether `peer` may."""
        if peer.uid in (0, self.owner):
            return True
        if self.group is None:
            return False
        try:
            group = grp.getgrnam(self.group)
            user = pwd.getpwuid(peer.uid)
        except KeyError:
            return False
        return group.gr_gid in (peer.gid, user.pw_gid) or user.pw_name in group.gr_mem


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a Unix socket.

    Raises:
        OSError: It is no Unix socket.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return Peer(pid=pid, uid=uid, gid=gid)


class Gate:
    """A listener at a path that carries the bytes of those who may to an inner socket.

    `inner` is the address for gRPC to listen at.
    """

    def __init__(
        self,
        path: Path,
        admitted: Admitted,
        *,
        lock: Path,
        log: Callable[[str], None],
        credentials: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        """Take the lock and make the inner folder; nobody can connect yet.

        Args:
            path: Where the public socket will be; its folder must exist.
            admitted: Who may command.
            lock: Held for as long as the gate is there; one gate a lock.
            log: Gets a line about those who were turned away.
            credentials: Asks the kernel.

        Raises:
            UsageError: Another process listens there.
        """
        self.path = path
        self._admitted = admitted
        self._log = log
        self._credentials = credentials
        self._refused: Counter[int] = Counter()
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._callers = 0
        self._numbered = 0
        self._lock = _take(lock)
        self._inner = Path(tempfile.mkdtemp(prefix="inner-", dir=path.parent))  # mode 700
        self._folder = os.open(self._inner, os.O_PATH | os.O_DIRECTORY)
        self._public = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def inner(self) -> str:
        """The address for gRPC, short whatever the length of the folder's path (unix(7) allows 108 bytes)."""
        return f"unix:{_within(self._folder, 'service.sock')}"

    def open(self) -> None:
        """Listen, now that the service behind does."""
        name = _within(self._public, self.path.name)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # of a process that was killed: the lock is ours
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(name)
        self._hand_to_group()
        self._listener.listen(_BACKLOG)
        self._thread = threading.Thread(target=self._accept, name="control-gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, close every connection, and give the lock back."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.path.unlink(missing_ok=True)
        with self._guard:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
        shutil.rmtree(self._inner, ignore_errors=True)
        for descriptor in (self._folder, self._public, self._lock):
            os.close(descriptor)

    def _hand_to_group(self) -> None:
        self.path.chmod(0o600 if self._admitted.group is None else 0o660)
        if self._admitted.group is not None:
            try:
                os.chown(self.path, -1, grp.getgrnam(self._admitted.group).gr_gid)
            except (KeyError, PermissionError) as error:
                raise UsageError(
                    f"expected to hand the control socket to the group {self._admitted.group}, could not;"
                    " the group must exist and the agent's user be a member of it"
                ) from error

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                peer = self._credentials(connection)
                if self._may_enter(peer):
                    self._carry(connection, peer)
                    continue
            except OSError as error:  # a caller who is gone already, or a service that is going
                self._log(f"control socket: a connection was dropped: {error.strerror}")
            connection.close()

    def _may_enter(self, peer: Peer) -> bool:
        if not self._admitted.allows(peer):
            self._refused[peer.uid] += 1
            count = self._refused[peer.uid]
            if count & (count - 1) == 0:  # 1, 2, 4, 8 ...: nobody can fill the disk by knocking
                self._log(
                    f"control socket: user {user_name(peer.uid)} (process {peer.pid}) was turned away, {count} times"
                )
            return False
        return self._callers < MOST_CALLERS

    def _carry(self, connection: socket.socket, peer: Peer) -> None:
        """Connect a caller to the inner socket, from a name that says who he is."""
        self._numbered += 1
        name = f"{peer.uid}-{self._numbered}"
        service = socket.socket(socket.AF_UNIX)
        try:
            service.bind(_within(self._folder, name))
            service.connect(_within(self._folder, "service.sock"))
        except OSError:
            service.close()
            raise
        finally:
            (self._inner / name).unlink(missing_ok=True)
        with self._guard:
            self._callers += 1
            self._open |= {connection, service}
        pair = _Pair(connection, service, self._forget)
        for one, other in ((connection, service), (service, connection)):
            threading.Thread(target=pair.pump, args=(one, other), name="control-caller", daemon=True).start()

    def _forget(self, *ended: socket.socket) -> None:
        with self._guard:
            self._callers -= 1
            self._open -= set(ended)
            for one in ended:
                one.close()


class _Pair:
    """Two sockets of which each gets what the other sends, until both have ended."""

    def __init__(self, one: socket.socket, other: socket.socket, ended: Callable[..., None]) -> None:
        self._sockets = (one, other)
        self._ended = ended
        self._running = 2
        self._guard = threading.Lock()

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        """Carry bytes one way; a reset of either side ends both."""
        try:
            while data := source.recv(_CHUNK):
                target.sendall(data)
        except OSError:
            pass
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._guard:
            self._running -= 1
            last = self._running == 0
        if last:
            self._ended(*self._sockets)


def caller_of(peer: str) -> int:
    """Return the user behind gRPC's name of a connection that came through the gate.

    >>> caller_of("unix:/proc/self/fd/7/1000-3")
    1000

    Raises:
        ValueError: It did not come through the gate.
    """
    return int(peer.rpartition("/")[2].partition("-")[0])


def _take(path: Path) -> int:
    """Return a descriptor that holds the lock; the kernel frees it when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError("expected no agent on this folder, found one that runs; fedmed site status shows it") from None
    return descriptor


def _within(folder: int, name: str) -> str:
    """Return a short path to a name in an open folder."""
    return f"/proc/self/fd/{folder}/{name}"


def is_socket(path: Path) -> bool:
    """Return whether there is a socket at `path`."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
