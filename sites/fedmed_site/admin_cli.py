"""`fedmed site status|studies|approve|reject|pause|resume|audit|stop|doctor|leave`: looking after a site day by day.

Why it exists: an administrator has a terminal and a few minutes. Each command is one step and says in plain words
what it found or did.

Rules:
    * The same command works while the agent runs and while it doesn't, but for `stop`.
    * What a coordinator named (studies) is printed as plain text, never as markup.

What it does not do: decide anything; see `reach` for who does what.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmed.errors import UsageError
from fedmed.exchange import ACTIONS
from fedmed_site.approvals import StudyEntry, moment, utc_now, written
from fedmed_site.console import Commands, add, agreed, say
from fedmed_site.control_records import AuditLine, Desk, SiteStatus
from fedmed_site.reach import add_reach, agent_of, reached

WATCH_EVERY_S: Final = 2.0
ENDING_S: Final = 60.0
"""How long a command waits for the agent's end."""
_DIGEST_SHOWN: Final = 12
_STATES: Final = {
    "waiting": "waits for you",
    "approved": "approved",
    "rejected": "rejected",
    "by-policy": "allowed by the policy",
}
_ORDER: Final = ("study", "plan", "dataset", "key", "before", "after", "rounds", "epsilon", "delta", "by", "at")
"""In which order an entry's facts are shown; others come first, by name."""
_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    status = add(commands, "status", "how the site is, and what it does now", _status)
    status.add_argument("--watch", action="store_true", help="show it again every two seconds, until Ctrl-C")
    status.add_argument("--json", action="store_true", help="as JSON, for machines")
    studies = add(commands, "studies", "the studies that came, what they ask for, and what was decided", _studies)
    studies.add_argument("--json", action="store_true", help="as JSON, for machines")
    approve = add(commands, "approve", "take part in a study, as its plan is now", _approve)
    reject = add(commands, "reject", "take no part in a study; also ends one that was approved", _reject)
    pause = add(commands, "pause", "refuse every task from now on; one that runs is finished", _pause)
    pause.add_argument("--until", metavar="WHEN", help="90m, 12h, 3d, or a moment like 2030-01-31T12:00:00Z")
    resume = add(commands, "resume", "take part again", _resume)
    audit = add(commands, "audit", "the last entries of the audit log", _audit)
    audit.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20)")
    stop = add(commands, "stop", "ask the running agent to end after the task that runs, and wait for it", _stop)
    stop.add_argument("--no-wait", action="store_true", help="don't wait for its end")
    for parser in (approve, reject):
        parser.add_argument("study", metavar="STUDY", help="its name, or the beginning of its plan's digest")
        parser.add_argument("--yes", action="store_true", help="don't ask")
    for parser in (status, studies, approve, reject, pause, resume, audit, stop):
        add_reach(parser)


def _status(parsed: argparse.Namespace) -> int:
    if parsed.watch and parsed.json:
        raise UsageError("expected --watch or --json, got both; leave one out")
    if parsed.watch:
        return watch(lambda: _lines(parsed), wait=time.sleep)
    with reached(parsed) as desk:
        if parsed.json:
            say(msgspec.json.encode(desk.status(), order="sorted").decode())
        else:
            say("\n".join(status_lines(desk.status(), _waiting(desk))))
    return 0


def watch(lines: Callable[[], list[str]], *, wait: Callable[[float], None]) -> int:
    """Show lines again and again, until somebody presses Ctrl-C.

    Args:
        lines: What to show now.
        wait: Waits a number of seconds.
    """
    console = Console()
    try:
        while True:
            shown = lines()
            console.clear()
            console.print(Text("\n".join(shown)))
            wait(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return 0


def _lines(parsed: argparse.Namespace) -> list[str]:
    with reached(parsed) as desk:
        return status_lines(desk.status(), _waiting(desk))


def _waiting(desk: Desk) -> int:
    return sum(entry.state == "waiting" for entry in desk.studies())


def status_lines(status: SiteStatus, waiting: int) -> list[str]:
    """Return a site's status as lines for people.

    Args:
        status: What the agent, or the folder, said.
        waiting: How many studies wait for a decision.
    """
    agent = f"runs since {status.agent_since}" if status.agent_since else "does not run; fedmed site start"
    node = status.node_state + (f" since {status.node_since}" if status.node_since else "")
    facts = {
        "site": f"{status.site}, fedmed {status.version}",
        "agent": agent,
        "coordinator": status.coordinator,
        "node": node,
        "certificate": f"good until {status.certificate_not_after}" if status.certificate_not_after else "none",
        "now": "nothing",
        "last": "nothing yet",
        "tasks": f"{status.tasks_done} done, {status.tasks_refused} refused since the agent's start",
        "paused": "yes; fedmed site resume" if status.paused else "no",
        "waiting": f"{waiting} for your decision; fedmed site studies" if waiting else "no study",
    }
    if status.current is not None:
        now = status.current
        action = now.action if now.action in ACTIONS else "something unknown"
        facts["now"] = f"{now.study}: {action}, round {now.round + 1}, since {now.since}"
    if status.last_exchange is not None:
        facts["last"] = f"{status.last_exchange.outcome} at {status.last_exchange.at}"
    return [f"{name:<12} {value}" for name, value in facts.items()]


def _studies(parsed: argparse.Namespace) -> int:
    with reached(parsed) as desk:
        entries = desk.studies()
    if parsed.json:
        say(msgspec.json.encode(entries, order="sorted").decode())
        return 0
    if not entries:
        say("no study has come to this site yet")
        return 0
    table = Table()
    for heading in ("study", "plan", "data", "model", "rounds", "epsilon", "delta", "came", "state"):
        table.add_column(heading, justify="right" if heading in {"rounds", "epsilon", "delta"} else "left")
    for entry in entries:
        table.add_row(*(Text(cell) for cell in _row(entry)))
    Console().print(table)
    waiting = [entry for entry in entries if entry.state == "waiting"]
    for entry in waiting:
        say(f"to decide: fedmed site approve {entry.digest[:_DIGEST_SHOWN]}   or: reject")
    return 0


def _row(entry: StudyEntry) -> Iterator[str]:
    yield from (entry.study, entry.digest[:_DIGEST_SHOWN], f"{entry.dataset}: {entry.target}", entry.model_family)
    yield from (str(entry.rounds), _epsilon(entry), f"{entry.delta:g}", entry.seen)
    decided = f" by {entry.by} at {entry.decided}" if entry.by else ""
    yield _STATES[entry.state] + decided


def _epsilon(entry: StudyEntry) -> str:
    return "no protection" if entry.epsilon is None else f"{entry.epsilon:g}"


def _approve(parsed: argparse.Namespace) -> int:
    with reached(parsed) as desk:
        entry = _meant(desk, parsed.study)
        for line in _asks_for(entry):
            say(line)
        agreed("Take part in this study?", yes=parsed.yes)
        decided = desk.decide(entry.digest, "approved")
    say(f"approved {decided.study} ({decided.digest[:_DIGEST_SHOWN]}) by {decided.by}; the audit log says so")
    return 0


def _reject(parsed: argparse.Namespace) -> int:
    with reached(parsed) as desk:
        entry = _meant(desk, parsed.study)
        if entry.state == "approved":
            agreed(f"{entry.study!r} was approved, and may be running; end it here?", yes=parsed.yes)
        decided = desk.decide(entry.digest, "rejected")
    say(f"rejected {decided.study} ({decided.digest[:_DIGEST_SHOWN]}) by {decided.by}; the audit log says so")
    return 0


def _meant(desk: Desk, which: str) -> StudyEntry:
    """Return the plan that is meant, so that what is shown is what is decided, whatever comes in between."""
    found = [one for one in desk.studies() if one.study == which or _is_prefix(which, one.digest)]
    if len(found) != 1:
        digests = ", ".join(one.digest[:_DIGEST_SHOWN] for one in found) or "none"
        raise UsageError(
            f"expected one study that came, {which[:80]!r} means {len(found)}: {digests}; fedmed site studies"
        )
    return found[0]


def _is_prefix(which: str, digest: str) -> bool:
    return len(which) >= 6 and digest.startswith(which.lower())


_SHARED = "the sites share the noise: only sums are protected, if no more sites side with the coordinator than agreed"


def _asks_for(entry: StudyEntry) -> Iterator[str]:
    yield f"study        {entry.study}"
    yield f"plan         {entry.digest}"
    yield f"data         {entry.dataset}, to learn {entry.target}"
    yield f"model        {entry.model_family}, {entry.rounds} rounds, base {entry.base_digest[:_DIGEST_SHOWN]}"
    trust = {"local": "this site adds all of the noise itself", "distributed": _SHARED}
    if entry.epsilon is None:
        yield "privacy      none: what is learned from these records can leak"
    else:
        yield f"privacy      epsilon {entry.epsilon:g} at delta {entry.delta:g}; {trust.get(entry.trust_model, '')}"


def _pause(parsed: argparse.Namespace) -> int:
    until = None if parsed.until is None else until_of(parsed.until, now=utc_now())
    with reached(parsed) as desk:
        pause = desk.pause(until)
    end = f"until {pause.until}" if pause.until else "until somebody says: fedmed site resume"
    say(f"paused by {pause.by}, {end}; a task that runs is finished")
    return 0


def until_of(text: str, *, now: datetime) -> datetime:
    """Return the moment that somebody means.

    >>> until_of("12h", now=datetime.fromisoformat("2030-01-31T00:00:00+00:00")).hour
    12

    Raises:
        UsageError: It is neither a duration nor a moment.
    """
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isascii() and number.isdigit() and len(number) < 6:
        return now + int(number) * _UNITS[unit]
    try:
        return moment(text)
    except ValueError:
        raise UsageError(f"--until: expected 90m, 12h, 3d or a moment like {written(now)}, got {text[:40]!r}") from None


def _resume(parsed: argparse.Namespace) -> int:
    with reached(parsed) as desk:
        desk.resume()
    say("this site takes part again")
    return 0


def _audit(parsed: argparse.Namespace) -> int:
    with reached(parsed) as desk:
        tail = desk.audit(parsed.last)
    for line in tail.entries:
        say(audit_text(line))
    say(f"{len(tail.entries)} of {tail.total} entries; fedmed audit verify checks them all")
    return 0


def audit_text(line: AuditLine) -> str:
    """Return one entry of the audit log for people; digests are shortened.

    >>> audit_text(AuditLine(index=3, kind="paused", body={"by": "ann", "until": None}))
    '     3  paused             by ann'
    """
    names = sorted(line.body, key=lambda name: (_ORDER.index(name) if name in _ORDER else -1, name))
    facts = ", ".join(f"{name} {_shown(line.body[name])}" for name in names if line.body[name] is not None)
    return f"{line.index:>6}  {line.kind:<18} {facts}".rstrip()


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    hexadecimal = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
    return text[:_DIGEST_SHOWN] if hexadecimal else "".join(letter if letter.isprintable() else "?" for letter in text)


def _stop(parsed: argparse.Namespace) -> int:
    with agent_of(parsed) as agent:
        agent.stop()
        if not parsed.no_wait and agent.ended(ENDING_S):
            say("the agent has ended; a supervisor may start it again")
            return 0
    say("the agent ends after the task that runs; fedmed site status shows when it has")
    return 0
