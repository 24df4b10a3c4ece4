"""The administrator's commands: the same words and the same effect with the agent and without it."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.errors import UsageError
from fedmed.records import digest
from fedmed_site import admin_cli, cli, reach
from fedmed_site.admin_cli import audit_text, status_lines, until_of, watch
from fedmed_site.approvals import Approvals
from fedmed_site.control import ControlServer, socket_path
from fedmed_site.control_records import AuditLine, Current, Exchange, SiteStatus
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.policy import SitePolicy

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
PLAN = plan_of("stroke-1")
STATUS = SiteStatus(
    site="north",
    version="9.9",
    agent_since="2030-01-31T11:00:00Z",
    node_state="connected",
    node_since="2030-01-31T11:00:05Z",
    coordinator="hub.example:8443",
    certificate_not_after="2030-03-01T00:00:00Z",
    current=Current(study="stroke-1", action="train.mask", round=2, since="2030-01-31T11:59:00Z"),
    last_exchange=Exchange(at="2030-01-31T11:58:00Z", outcome="answered"),
    tasks_done=12,
    tasks_refused=1,
    paused=False,
)


class Appliance:
    """A running appliance that was told to stop or not."""

    stopped = False

    def status(self) -> SiteStatus:
        return STATUS

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    """Return a site where one study waits."""
    monkeypatch.delenv(reach.SOCKET_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    record = SiteRecord(name="north", policy=SitePolicy(cap_epsilon=8.0, delta=1e-5))
    home = SiteHome.create(tmp_path / "home", record, pseudonym_key=bytes(32))
    Approvals(home, ChainLog(home.audit_path)).note(PLAN, now=NOW)
    return home


Run = Callable[..., int]


@pytest.fixture(params=["agent", "folder"])
def run(request: pytest.FixtureRequest, home: SiteHome) -> Iterator[Run]:
    """Run a command, once with an agent that answers and once on the folder alone."""
    server: Any = ControlServer(home, Appliance()) if request.param == "agent" else nullcontext()
    with server:
        yield lambda *words: cli.site([*words, "--home", str(home.root)])


def kinds(home: SiteHome) -> list[str]:
    """Return what the audit log holds."""
    return [entry.kind for entry in ChainLog(home.audit_path).entries()]


def test_a_study_is_listed_and_approved(run: Run, home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """What it asks for is shown before and with the decision, and the log has who decided."""
    assert run("studies") == 0
    listed = capsys.readouterr().out
    assert all(
        word in listed for word in ("stroke-1", digest(PLAN)[:12], "heart: ill", "waits for you", "2", "approve")
    )
    assert run("approve", "stroke-1", "--yes") == 0
    shown = capsys.readouterr().out
    assert digest(PLAN) in shown
    assert "epsilon 2 at delta 1e-05; this site adds all of the noise itself" in shown
    assert "approved stroke-1" in shown
    entry = ChainLog(home.audit_path).entries()[-1]
    assert (entry.kind, entry.body["plan"]) == ("study-approved", digest(PLAN))
    assert run("studies") == 0
    assert "approved by" in capsys.readouterr().out


def test_approving_asks_first(run: Run, home: SiteHome):
    """Without a terminal and without --yes nothing is decided."""
    with pytest.raises(UsageError, match="--yes"):
        run("approve", "stroke-1")
    assert kinds(home) == ["study-seen"]


def test_rejecting_one_that_waits_needs_no_question(run: Run, home: SiteHome):
    """Saying no is never held up; taking back a yes is asked about, because it ends a study."""
    assert run("reject", digest(PLAN)[:8]) == 0
    assert run("approve", "stroke-1", "--yes") == 0
    with pytest.raises(UsageError, match="was approved, and may be running"):
        run("reject", "stroke-1")
    assert run("reject", "stroke-1", "--yes") == 0
    assert kinds(home) == ["study-seen", "study-rejected", "study-approved", "study-rejected"]


@pytest.mark.parametrize("which", ["nothing", "../../site.json", "/etc/passwd", "ab", digest(PLAN) + "0"])
def test_an_unknown_study_is_a_mistake(run: Run, home: SiteHome, which: str):
    """Nothing is decided about what never came, whatever it is called."""
    for decision in ("approve", "reject"):
        with pytest.raises(UsageError, match="means 0: none"):
            run(decision, which, "--yes")
    assert kinds(home) == ["study-seen"]


def test_a_study_is_shown_as_plain_text(run: Run, home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A coordinator can't colour, hide or link words on the administrator's terminal."""
    Approvals(home, ChainLog(home.audit_path)).note(plan_of("[bold red]x[/] [link=http://evil]y"), now=NOW)
    assert run("studies") == 0
    assert "[bold red]x[/] [link=http://evil]y" in capsys.readouterr().out


def test_pause_and_resume(run: Run, home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """Both say what holds now, and the status shows it."""
    assert run("pause", "--until", "90m") == 0
    assert "until 20" in capsys.readouterr().out
    assert run("status") == 0
    assert "paused       yes" in capsys.readouterr().out
    assert run("resume") == 0
    assert run("pause") == 0
    assert "until somebody says" in capsys.readouterr().out
    assert kinds(home) == ["study-seen", "paused", "resumed", "paused"]


def test_the_log_is_shown_for_people(run: Run, capsys: pytest.CaptureFixture[str]):
    """Digests are short, and the whole log's length is said."""
    assert run("audit", "--last", "1") == 0
    shown = capsys.readouterr().out
    assert f"study stroke-1, plan {digest(PLAN)[:12]}, dataset heart" in shown
    assert "1 of 1 entries" in shown
    with pytest.raises(UsageError, match=r"entries, got|at least 1 entry"):
        run("audit", "--last", "0")


def test_status_counts_what_waits(run: Run, capsys: pytest.CaptureFixture[str]):
    """An administrator sees that he is asked for something."""
    assert run("status") == 0
    assert "waiting      1 for your decision" in capsys.readouterr().out
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["site"] == "north"
    assert run("studies", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["study"] == "stroke-1"


def test_only_an_agent_can_be_stopped(home: SiteHome):
    """Without one the command says so; with one it is told."""
    with pytest.raises(UsageError, match="expected an agent that answers"):
        cli.site(["stop", "--home", str(home.root)])
    office = Appliance()
    with ControlServer(home, office):
        assert cli.site(["stop", "--no-wait", "--home", str(home.root)]) == 0
    assert office.stopped


OFFICE_APART = """
import sys, threading
from fedmed_site.control import ControlServer
from fedmed_site.home import SiteHome
told = threading.Event()
class Office:
    def stop(self): told.set()
with ControlServer(SiteHome.open(__import__("pathlib").Path(sys.argv[1])), Office()):
    print("up", flush=True)
    told.wait()
"""


def test_stop_waits_until_the_agents_process_is_gone(home: SiteHome, capsys: pytest.CaptureFixture[str]):
    """A backup that follows finds nobody at work."""
    with subprocess.Popen(  # noqa: S603  our own program
        [sys.executable, "-c", OFFICE_APART, str(home.root)], stdout=subprocess.PIPE
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"up\n"
        assert cli.site(["stop", "--home", str(home.root)]) == 0
        assert "the agent has ended" in capsys.readouterr().out
        assert agent.wait(timeout=1) == 0


def test_a_named_socket_needs_no_folder(home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A member of the administrators' group has no access to the folder, only to the socket."""
    place = tmp_path / "admins.sock"
    with ControlServer(home, Appliance(), socket=place):
        assert cli.site(["approve", "stroke-1", "--yes", "--socket", str(place)]) == 0
        monkeypatch.setenv(reach.SOCKET_VARIABLE, str(place))
        assert cli.site(["reject", "stroke-1", "--yes"]) == 0
    with pytest.raises(UsageError, match="expected an agent that answers"):
        cli.site(["studies"])


def test_a_socket_left_behind_is_no_agent(home: SiteHome):
    """After a kill the commands act on the folder."""
    server = ControlServer(home, Appliance())
    server.start()
    os.link(socket_path(home), home.run / "left.sock")
    server.stop()
    (home.run / "left.sock").rename(socket_path(home))
    assert cli.site(["approve", "stroke-1", "--yes", "--home", str(home.root)]) == 0


def test_somebody_elses_folder_is_left_alone(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """Root would leave files there that the agent can't read; the complaint has the cure."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(UsageError, match="sudo -u"):
        cli.site(["pause", "--home", str(home.root)])
    assert kinds(home) == ["study-seen"]


def test_a_terminal_is_asked(home: SiteHome, monkeypatch: pytest.MonkeyPatch):
    """At a terminal the question needs a yes, and anything else changes nothing."""
    for answer, expected in ((b"no\n", ["study-seen"]), (b"yes\n", ["study-seen", "study-approved"])):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        with os.fdopen(theirs, "r", closefd=True) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            if answer == b"yes\n":
                assert cli.site(["approve", "stroke-1", "--home", str(home.root)]) == 0
            else:
                with pytest.raises(UsageError, match="nothing was changed"):
                    cli.site(["approve", "stroke-1", "--home", str(home.root)])
        os.close(ours)
        assert kinds(home) == expected


def test_watching_ends_with_ctrl_c(capsys: pytest.CaptureFixture[str]):
    """The status is shown again and again until somebody has seen enough."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    assert watch(lambda: [f"look {len(waits)}"], wait=wait) == 0
    shown = capsys.readouterr().out
    assert all(f"look {number}" in shown for number in range(3))
    assert waits == [admin_cli.WATCH_EVERY_S] * 3


def test_watching_and_json_exclude_each_other(home: SiteHome):
    """A machine reads once."""
    with pytest.raises(UsageError, match="--watch or --json"):
        cli.site(["status", "--watch", "--json", "--home", str(home.root)])


def test_the_status_in_words():
    """Every fact has a line; rounds are counted from one, as people do."""
    text = "\n".join(status_lines(STATUS, waiting=0))
    expected = ("runs since 2030-01-31T11:00:00Z", "connected since", "good until 2030-03-01", "answered at")
    for words in (*expected, "stroke-1: train.mask, round 3", "12 done, 1 refused", "no study"):
        assert words in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", NOW + timedelta(minutes=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("3d", NOW + timedelta(days=3)),
        ("2030-02-01T00:00:00Z", datetime(2030, 2, 1, tzinfo=UTC)),
    ],
)
def test_when_a_pause_ends(text: str, expected: datetime):
    """Durations and moments are both understood."""
    assert until_of(text, now=NOW) == expected


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "1.5h", "999999h", "tomorrow", "2030-02-01", "²h"])
def test_what_is_no_time_is_a_mistake(text: str):
    """Nothing is guessed."""
    with pytest.raises(UsageError, match="--until: expected"):
        until_of(text, now=NOW)


def test_an_entry_can_not_move_the_cursor():
    """Whatever stands in the log, the terminal shows it as text."""
    line = AuditLine(index=1, kind="x", body={"a": "\x1b[2Jgone\n", "b": 0.5})
    assert audit_text(line) == "     1  x                  a ?[2Jgone?, b 0.5"
