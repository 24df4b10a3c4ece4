"""What breaks in a hospital: its line, its disk, its certificate, its clock, its place in the roster.

Each test breaks one thing of a consortium at work and looks at three people's desks: what the site's administrator
reads, what the study does meanwhile, and what the ledger of the site's patients says afterwards.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import pytest
from consortium_at_work import World, consortium_at_work, wait_until

from fedmed.audit import ChainLog
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.processes]

PRIVATE: Final = ("privacy=local", "plan.rounds=60", "secagg.round_timeout_s=12", "secagg.phase_timeout_s=12")
"""The noise pays for more rounds than these studies get to. A site that is gone is waited for twelve seconds."""
HUNDRED_DAYS_S: Final = 100 * 24 * 3600
ROUNDS: Final = 30
"""More than pass before a site is back, on however slow a machine; the study is stopped then."""
DISK_BYTES: Final = 64 << 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A consortium of four synthetic hospitals at work under privacy, and a fifth that could join."""
    with consortium_at_work(tmp_path_factory.mktemp("f"), *PRIVATE, spare=1) as world:
        yield world


def test_a_cut_network(world: World) -> None:
    """A site behind a proxy whose line is cut in the middle of a round drops out, says so, and comes back."""
    name, before = world.names[0], len(world.said(world.names[0]))
    with proxy() as line:
        world.deployment.stop(name)
        world.deployment.start_site(name, environment=line.environment)
        study = world.begin("cut network", rounds=ROUNDS)
        world.until(study, lambda now: now.round >= 1 and now.phase == "train.share")
        assert name in last_round(world, study)
        assert set(line.asked) == {coordinator_of(world)}
        line.swallow()
        until_round(world, study, lambda sites: name not in sites)
        line.refuse()
        until_said(world, name, before, "the proxy gives no way to the coordinator (503")
        own = ("--home", world.home(name), "--key-file", world.deployment.folder.key(name))
        doctor = world.tried("site", "doctor", *own, environment=line.environment)
        spent = spent_at(world, name)
        line.restore()
        until_said(world, name, before, "the coordinator is reached again")
        until_round(world, study, lambda sites: name in sites)
        stop(world, study)
        world.deployment.stop(name)
    world.deployment.start_site(name)
    assert doctor.returncode == 2
    assert "the proxy refused CONNECT with 503" in doctor.stdout
    assert "ask that the proxy allows CONNECT to" in doctor.stdout
    assert no_traceback(world, name)
    assert_never_less_than_spent(world, name, study, spent)


def test_a_full_disk(world: World) -> None:
    """A site that can't write refuses its tasks and says what to do; it comes back with room, and no charge is lost."""
    name, before = world.names[1], len(world.said(world.names[1]))
    home = world.home(name)
    world.deployment.stop(name)
    with small_disk(home):
        world.deployment.start_site(name)
        study = world.begin("full disk", rounds=ROUNDS)
        world.until(study, lambda now: now.round >= 1 and now.phase == "train.share")
        filler = home / "filler"
        until_round(world, study, lambda sites: name not in sites, meanwhile=lambda: fill(filler))
        until_said(world, name, before, f"the disk of {home} is full")
        doctor = world.tried("site", "doctor", "--home", home)
        status = world.tried("site", "status", "--home", home)
        spent = spent_at(world, name)
        fill(filler)
        pause = world.tried("site", "pause", "--home", home)
        filler.unlink()
        until_said(world, name, before, f"there is room again on the disk of {home}")
        until_round(world, study, lambda sites: name in sites)
        stop(world, study)
        world.deployment.stop(name)
    world.deployment.start_site(name)
    assert doctor.returncode == 2
    assert "make room: a site that can't write refuses every task" in doctor.stdout
    assert status.returncode == 0
    assert (pause.returncode, pause.stderr) == (
        2, f"fedmed: {home}: the disk has no room left; nothing was changed; make room and do it again\n"
    )  # fmt: skip
    assert any("disk is full" in str(entry["reason"]) for entry in failures(world, study, name))
    assert no_traceback(world, name)
    assert_never_less_than_spent(world, name, study, spent)


def test_a_certificate_that_has_expired(world: World, tmp_path: Path) -> None:
    """A hundred days later the agent does not start, and the doctor is red; both say how to renew it."""
    name = world.names[2]
    clock = Clock(tmp_path)
    clock.set(ahead_s=HUNDRED_DAYS_S)
    own = ("--home", world.home(name), "--key-file", world.deployment.folder.key(name))
    start = world.tried("site", "start", *own, python=clock.python)
    doctor = world.tried("site", "doctor", *own, python=clock.python)
    assert start.returncode == doctor.returncode == 2
    assert start.stderr.count("\n") == 1
    assert "this one expired at" in start.stderr
    assert "fedmed site renew" in start.stderr
    assert "or set the clock if it is wrong" in start.stderr
    assert "BAD   certificate  expired at" in doctor.stdout
    assert "cure: fedmed site renew" in doctor.stdout
    assert "Traceback" not in start.stderr + doctor.stderr


def test_a_clock_that_is_wrong(world: World, tmp_path: Path) -> None:
    """Ahead, nothing that the site signs is taken; agent and doctor name the clock. Set right, the site is back."""
    name, before = world.names[2], len(world.said(world.names[2]))
    clock = Clock(tmp_path)
    world.deployment.stop(name)
    world.start_as(name, clock.python)
    study = world.begin("wrong clock", rounds=ROUNDS)
    world.until(study, lambda now: now.round >= 1)
    clock.set(ahead_s=20 * 60)
    until_said(world, name, before, "the coordinator refuses this site: the clock here is 12")
    own = ("--home", world.home(name), "--key-file", world.deployment.folder.key(name))
    doctor = world.tried("site", "doctor", *own, python=clock.python)
    spent = spent_at(world, name)
    clock.set(ahead_s=HUNDRED_DAYS_S)
    until_said(world, name, before, "this site can't take part: ")
    clock.set(ahead_s=0)
    until_said(world, name, before, "the coordinator is reached again")
    until_round(world, study, lambda sites: name in sites)
    stop(world, study)
    assert doctor.returncode == 2
    assert re.search(r"BAD   clock        12\d\d s ahead of the coordinator's", doctor.stdout)
    assert "cure: set this machine's clock" in doctor.stdout
    assert world.said(name)[before:].count("the coordinator refuses this site") == 1
    assert "s ahead of its own; set this machine's clock: chronyc makestep" in world.said(name)[before:]
    assert re.search(r"this site can't take part: .*this one expired at .*fedmed site renew", world.said(name)[before:])
    assert no_traceback(world, name)
    assert_never_less_than_spent(world, name, study, spent)


def test_a_stranger(world: World) -> None:
    """A site that was enrolled and stands in no roster is left out, by name; the study has its rounds without it."""
    name = next(iter(world.spare))
    home = world.enrol_stranger(name)
    study = world.begin("stranger", rounds=1)
    wait_until(lambda: bool(list(home.glob("studies/*/state.json"))), lambda: "the study did not reach the stranger")
    world.command("site", "approve", study, "--home", home, "--yes")
    world.finish(study)
    roster = world.tried("site", "roster", world.deployment.folder.mail / "roster.json", "--home", home)
    world.deployment.stop(name)
    assert roster.returncode == 2
    assert "ask the consortium for the edition that follows its enrolment" in roster.stderr
    assert world.rounds(study) == [0]
    assert last_round(world, study) == list(world.names)
    told = [*world.log(study, "waits"), *world.log(study, "site-failed")]
    assert any(entry["site"] == name and "signed roster" in str(entry["reason"]) for entry in told)
    assert not ChainLog(ledger_path(home)).entries()[1:]


# --- what the desks show --------------------------------------------------------------------


def last_round(world: World, study: str) -> list[str]:
    """Return the sites whose sum the last finished round was."""
    return summed(world, study)[-1]


def summed(world: World, study: str) -> list[list[str]]:
    """Return the sites of each finished round's sum."""
    return [
        [str(site) for site in cast("list[object]", entry["sites"])] for entry in world.log(study, "round-finished")
    ]


def until_round(
    world: World, study: str, seen: Callable[[list[str]], bool], *, meanwhile: Callable[[], object] = bool
) -> None:
    """Wait for a round that finishes from now on with such sites."""
    first = len(world.rounds(study))

    def there() -> bool:
        meanwhile()
        over = world.studies.find(study).state != "running"
        found = any(map(seen, summed(world, study)[first:]))
        assert found or not over, f"the study has ended; {summed(world, study)}"
        return found

    wait_until(there, lambda: f"no such round; {summed(world, study)}")


def stop(world: World, study: str) -> None:
    """Stop a study that has shown what it should, after rounds one after the other."""
    world.command("coordinator", "stop", study, "--home", world.deployment.folder.coordinator)
    assert world.rounds(study) == [*range(len(world.rounds(study)))]


def until_said(world: World, name: str, since: int, text: str) -> None:
    """Wait until a site's process has said this."""
    wait_until(lambda: text in world.said(name)[since:], lambda: f"not said: {text}\n{world.said(name)[since:]}")


def no_traceback(world: World, name: str) -> bool:
    """Say that a site's process printed lines for people only."""
    return "Traceback" not in world.said(name) and "Error:" not in world.said(name)


def failures(world: World, study: str, name: str) -> list[dict[str, object]]:
    """Return what the study's log has of a site that failed."""
    return [entry for entry in world.log(study, "site-failed") if entry["site"] == name]


def coordinator_of(world: World) -> str:
    """Return what a site's SuperNode calls."""
    found = re.search(r" at (\S+);", world.said(world.names[0]))
    assert found is not None
    return found[1]


def ledger_path(home: Path) -> Path:
    """Return where a site keeps the ledger of its data set."""
    return home / "ledger" / "synthetic.jsonl"


def spent_at(world: World, name: str) -> float:
    """Return the epsilon that the patients of a site were charged so far."""
    return Ledger.open(ledger_path(world.home(name)), PrvAccountant()).spent()


def assert_never_less_than_spent(world: World, name: str, study: str, before: float) -> None:
    """Every sum that a site stands in was charged before it left, once; and nothing that was charged is forgotten."""
    assert spent_at(world, name) >= before > 0
    places: dict[str, dict[str, int]] = {"charged": {}, "released": {}}
    for entry in ChainLog(ledger_path(world.home(name))).entries():
        if entry.kind in places:
            charge = str(entry.body["charge_id"])
            assert charge not in places[entry.kind]
            places[entry.kind][charge] = entry.index
    taken = [number for number, sites in enumerate(summed(world, study)) if name in sites]
    assert taken
    assert {f"{study}/train.fit/{number}" for number in taken} <= places["released"].keys()
    assert all(places["charged"][charge] < index for charge, index in places["released"].items())
    verified = world.tried("site", "budget", "verify", "--home", world.home(name))
    assert verified.returncode == 0, verified.stderr


# --- what breaks -----------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that knows CONNECT only (RFC 9110, 9.3.6), on a line that can be cut."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._way: str = "open"
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What leads a process through it."""
        address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        return {"HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": "", "no_proxy": ""}

    def swallow(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._way = "swallow"

    def refuse(self) -> None:
        """From now on there is no way to the coordinator, and the proxy says so."""
        self._way = "refuse"
        self._hang_up()

    def restore(self) -> None:
        """Let everything through again; what was begun before is lost."""
        self._way = "open"
        self._hang_up()

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        self._hold(caller)
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += caller.recv(4096) or b"\r\n\r\n"
            if self._way == "refuse":
                caller.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                caller.close()
            elif self._way == "open":
                target = head.split()[1].decode()
                self.asked.append(target)
                host, _, port = target.rpartition(":")
                called = socket.create_connection((host, int(port)))
                self._hold(called)
                caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                threading.Thread(target=self._pump, args=(called, caller), daemon=True).start()
                self._pump(caller, called)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._way == "open":
                    target.sendall(data)
            if self._way == "open":
                target.shutdown(socket.SHUT_WR)

    def _hold(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.append(one)


@contextmanager
def proxy() -> Iterator[Proxy]:
    """Run a proxy for the block."""
    line = Proxy()
    try:
        yield line
    finally:
        line.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a folder on a disk of its own for the block; what it holds moves there and back."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(  # noqa: S603  what the test itself says
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)],  # noqa: S607
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    if mounted.returncode:
        folder.rmdir()
        aside.rename(folder)
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))
        yield
        shutil.rmtree(aside)
        shutil.copytree(folder, aside, symlinks=True, ignore=shutil.ignore_patterns("run"))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607
        folder.rmdir()
        aside.rename(folder)


def fill(filler: Path) -> None:
    """Take what room is left."""
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 20)):
            pass


class Clock:
    """A clock that a test sets, and how processes are started that go by it, and those that they start."""

    def __init__(self, folder: Path) -> None:
        self._ahead = folder / "ahead"
        program = folder / "off.py"
        program.write_text(OFF)
        self.python = (str(program), str(self._ahead), "fedmed")

    def set(self, *, ahead_s: int) -> None:
        """Set it so far ahead of the real one."""
        self._ahead.write_text(str(ahead_s))


OFF = """
import datetime, runpy, subprocess, sys

ahead, module = sys.argv[1:3]
real = datetime.datetime


def shift():
    try:
        return datetime.timedelta(seconds=int(open(ahead).read()))
    except (OSError, ValueError):
        return datetime.timedelta()


class Kind(type):
    def __instancecheck__(cls, one):
        return isinstance(one, real)


class Off(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + shift()


class Popen(subprocess.Popen):
    def __init__(self, words, **more):
        if words[1:] == ["-P", "-m", "fedmed_site.node_process"]:
            words = [words[0], "-P", __file__, ahead, words[-1]]
        super().__init__(words, **more)


datetime.datetime, subprocess.Popen = Off, Popen
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__")
"""
