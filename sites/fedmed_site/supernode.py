"""The site's SuperNode as a process that the agent keeps: started again when it dies, and heard.

Why it exists: the process that faces the network fails in ways that only its own log tells. Here they become one line
each that an administrator can act on.

Rules:
    * It is started again, later each time; it gets what leads out of this machine, and nothing that leads to a key.
    * What keeps it from the coordinator is said once, with its cure, and once more when it is over.
    * What the coordinator or a proxy says is shown short and plain.

What it does not do: take tasks (`runtime` does), or speak Flower (`node` does).
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import IO, Final

from fedmed.errors import FedMedError, IntegrityError
from fedmed_site import clocks
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome
from fedmed_site.node_process import NodeStart, hand_over

FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
GOOD_AFTER_S: Final = 60.0
_HANDED_ON: Final = frozenset(
    name for proxy in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (proxy, proxy.upper())
) | {"PATH", "LANG", "LC_ALL", "TZ"}
"""What the SuperNode's process gets of the environment: ways out, and nothing that leads to a key."""
_LINKED: Final = ("Sent successfully", "Received successfully", "SuperNode ID", "Connection successful after")
"""What Flower's log says once the coordinator has answered."""
_TRYING: Final = "the SuperNode goes on trying; fedmed site doctor says where the way ends"


class SuperNode:
    """The SuperNode's process, started again when it dies."""

    def __init__(
        self, home: SiteHome, start: Callable[[], NodeStart], agent: SiteAgent, say: Callable[[str], None]
    ) -> None:
        self._home = home
        self.linked = False
        """Whether the coordinator answers, as far as is known."""
        self._why = ""
        """Why it does not, where somebody said so."""
        self._start = start
        self._agent = agent
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._rest_s = 0.0
        self._not_before = 0.0
        self._said = ""

    def keep(self) -> None:
        """Start the process if it is not there and has rested enough."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            short = now - self._started < GOOD_AFTER_S
            self._rest_s = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S) if short else FIRST_REST_S
            self._not_before = now + self._rest_s
            if not self._why:  # what was said before is why
                self._tell(
                    f"the SuperNode ended (exit code {self._process.returncode}); it is started again;"
                    " if that goes on, fedmed site doctor"
                )
            self._process, self.linked = None, False
        if now < self._not_before:
            return
        try:
            start = self._start()
        except (FedMedError, OSError) as error:
            self._tell(f"the SuperNode can't start: {error}")
            self._rest_s = LONGEST_REST_S
            self._not_before = now + self._rest_s
            return
        self._launch(start)
        self._started = now

    def end(self) -> None:
        """End the process, so that the coordinator sees it at once."""
        process, self._process, self.linked = self._process, None, False
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _launch(self, start: NodeStart) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedmed_site.node_process"],  # -P: nothing is imported from where it starts
            cwd=self._home.run,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if key in _HANDED_ON}
            | {"FLWR_HOME": str(self._home.run / "flower")},
        )
        with contextlib.suppress(BrokenPipeError):
            hand_over(start, _there(self._process.stdin))
        for pipe, listen in ((self._process.stdout, self.heard), (self._process.stderr, self.logged)):
            threading.Thread(target=_read, args=(_there(pipe), listen), daemon=True).start()

    def heard(self, line: str) -> None:
        """A line of the process's report: a foreign bundle, or why the coordinator is not reached."""
        try:
            report = json.loads(line)
            if "foreign-bundle" in report:
                with contextlib.suppress(FedMedError, OSError):
                    self._agent.audit.append("bundle-refused", {"bundle": str(report["foreign-bundle"])[:64]})
            elif "refused" in report:
                why = why_refused(report["refused"], report["date"], now=datetime.now(UTC))
                self._blocked(why, about=f"refused {report['refused']}")
            elif "proxy" in report:
                why = f"the proxy gives no way to the coordinator ({_plain(report['proxy'])}); {_TRYING}"
                self._blocked(why, about=why)
        except (ValueError, KeyError, TypeError):
            return

    def logged(self, line: str) -> None:
        """A line of Flower's log: what it says of the link."""
        if any(words in line for words in _LINKED):
            if self._said:
                self._tell("the coordinator is reached again")
            self.linked, self._why, self._said = True, "", ""
        elif "Connection attempt failed" in line or "retrying" in line:
            if not self._why:
                self._tell(f"the coordinator can't be reached; {_TRYING}")
            self.linked = False

    def _blocked(self, why: str, *, about: str) -> None:
        self.linked, self._why = False, why
        self._tell(why, about=about)

    def _tell(self, text: str, *, about: str | None = None) -> None:
        """Say something unless the last thing that was said was about the same: a clock is never twice as far off."""
        about = about or text
        if about != self._said:
            self._say(text)
        self._said = about


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


def _read(pipe: IO[bytes], listen: Callable[[str], None]) -> None:
    for line in pipe:
        listen(line.decode(errors="replace").rstrip())


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise IntegrityError("expected a pipe to the SuperNode, got none")
    return pipe
