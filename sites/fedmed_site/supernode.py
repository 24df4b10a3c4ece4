"""The site's SuperNode as a process that the agent keeps: started again when it dies, and heard.

Why it exists: the process that faces the network fails in ways that only its own log tells. Here they become one line
each that an administrator can act on.

Rules:
    * It is started again, later each time; it gets what leads out of this machine, and nothing that leads to a key.
    * What keeps it from the coordinator is said once, with its cure, and once more when it is over.
    * What the coordinator or a proxy says is shown short and plain. What the SuperNode says is believed of itself only.

What it does not do: take tasks (`runtime` does), speak Flower (`node` does), or let in a SuperNode that runs under
another user (`supernode_apart` does).
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, Protocol

from fedmed.errors import FedMedError
from fedmed_site import clocks
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.node_link import NodeStart, hand_over, reports_of, tasks_at

FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
GOOD_AFTER_S: Final = 60.0
_HANDED_ON: Final = frozenset(
    name for proxy in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (proxy, proxy.upper())
) | {"PATH", "LANG", "LC_ALL", "TZ"}
"""What the SuperNode's process gets of the environment: ways out, and nothing that leads to a key."""
_LINKED: Final = ("Sent successfully", "Received successfully", "SuperNode ID", "Connection successful after")
"""What Flower's log says once the coordinator has answered."""
MOST_FOREIGN: Final = 100
"""Foreign bundles that go into the audit log from one start of the agent: nobody fills the disk with them."""
NODE_SOCKET: Final = "node.sock"
"""Where the agent looks for tasks, in the site's folder `run`."""
_TRYING: Final = "the SuperNode goes on trying; fedmed site doctor says where the way ends"


class Node(Protocol):
    """The site's SuperNode, however it is had."""

    def keep(self) -> None:
        """See to it that there is one, as far as this process can."""

    def end(self) -> None:
        """End it, so that the coordinator sees it at once; `keep` starts it anew, or its supervisor does."""

    def close(self) -> None:
        """End it for good."""


class News:
    """What is known of the SuperNode and of its link, and what of it people are told."""

    def __init__(self, agent: SiteAgent, say: Callable[[str], None]) -> None:
        self.linked = False
        """Whether the coordinator answers, as far as is known."""
        self.why = ""
        """Why it does not, where somebody said so."""
        self._agent = agent
        self._say = say
        self._said = ""
        self._foreign: set[str] = set()

    def heard(self, line: str) -> None:
        """A line of the SuperNode's report: a foreign bundle, why the coordinator is not reached, a line of its log."""
        try:
            report = json.loads(line)
            if "log" in report:
                self._logged(str(report["log"]))
            elif "foreign-bundle" in report:
                self._note_foreign(str(report["foreign-bundle"])[:64])
            elif "refused" in report:
                why = why_refused(int(report["refused"]), str(report["date"]), now=datetime.now(UTC))
                self._blocked(why, about=f"refused {report['refused']}")
            elif "proxy" in report:
                why = f"the proxy gives no way to the coordinator ({_plain(report['proxy'])}); {_TRYING}"
                self._blocked(why, about=why)
        except (ValueError, KeyError, TypeError):
            return

    def gone(self) -> None:
        """The process ended."""
        self.linked = False

    def tell(self, text: str, *, about: str | None = None) -> None:
        """Say something unless the last thing that was said was about the same: a clock is never twice as far off."""
        about = about or text
        if about != self._said:
            self._say(text)
        self._said = about

    def _logged(self, line: str) -> None:
        """A line of Flower's log: what it says of the link."""
        if any(words in line for words in _LINKED):
            if self._said:
                self.tell("the coordinator is reached again")
            self.linked, self.why, self._said = True, "", ""
        elif "Connection attempt failed" in line or "retrying" in line:
            if not self.why:
                self.tell(f"the coordinator can't be reached; {_TRYING}")
            self.linked = False

    def _note_foreign(self, digest: str) -> None:
        if digest not in self._foreign and len(self._foreign) < MOST_FOREIGN:
            self._foreign.add(digest)
            with contextlib.suppress(FedMedError, OSError):
                self._agent.audit.append("bundle-refused", {"bundle": digest})

    def _blocked(self, why: str, *, about: str) -> None:
        self.linked, self.why = False, why
        self.tell(why, about=about)


class SuperNode:
    """The SuperNode's process as a child of the agent, under the same user, started again when it dies."""

    def __init__(self, home: SiteHome, start: Callable[[], NodeStart], news: News) -> None:
        self._home = home
        self._start = start
        self._news = news
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._started = 0.0
        self._rest_s = 0.0
        self._not_before = 0.0

    def keep(self) -> None:
        """Start the process if it is not there and has rested enough."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            short = now - self._started < GOOD_AFTER_S
            self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S) if short else FIRST_REST_S
            self._not_before = now + self._rest_s
            if not self._news.why:  # what was said before is why
                self._news.tell(
                    f"the SuperNode ended (exit code {self._process.returncode}); it is started again;"
                    " if that goes on, fedmed site doctor"
                )
            self._forget()
        if now < self._not_before:
            return
        try:
            self._launch(self._start())
        except (FedMedError, OSError) as error:
            self._news.tell(f"the SuperNode can't start: {error}")
            self._rest_s = LONGEST_REST_S
            self._not_before = now + self._rest_s
            return
        self._started = now

    def end(self) -> None:
        """End the process, so that the coordinator sees it at once."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget()

    def close(self) -> None:
        """See `Node`."""
        self.end()

    def _forget(self) -> None:
        self._process = None
        self._news.gone()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _launch(self, start: NodeStart) -> None:
        self._link, theirs = socket.socketpair()
        with theirs, tasks_at(self._home.run / NODE_SOCKET) as tasks:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "fedmed_site.node_process",
                ],  # -P: imports nothing from where it is
                cwd=self._home.run,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={key: value for key, value in os.environ.items() if key in _HANDED_ON}
                | {"FLWR_HOME": str(self._home.run / "flower")},
            )
            with contextlib.suppress(ConnectionError):  # it has ended already, which `keep` sees
                hand_over(self._link, start, tasks)
        threading.Thread(target=listen, args=(self._link, self._news), name="node-news", daemon=True).start()


def listen(link: socket.socket, news: News) -> None:
    """Pass on what a SuperNode reports until it ends."""
    for line in reports_of(link):
        news.heard(line)


def why_refused(status: int, date: str, *, now: datetime) -> str:
    """Return why the coordinator refuses this site, as far as its answer tells, and the cure.

    Args:
        status: 401 for the SuperNode's signature, 403 for the membership.
        date: The time of the coordinator, as the header `Date` has it.
        now: The time here.
    """
    ahead = clocks.ahead_of(date, now)
    if ahead is not None and clocks.is_refused(ahead):
        return f"the coordinator refuses this site: the clock here is {clocks.shown(ahead)} its own; {clocks.CURE}"
    what = "this site's membership" if status == HTTPStatus.FORBIDDEN else "the signature of this site's SuperNode"
    return f"the coordinator refuses {what}; fedmed site doctor says what to do"


def _plain(text: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:100])
