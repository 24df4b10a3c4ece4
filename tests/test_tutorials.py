"""Two tutorials and the backup page, typed from the first command to the last: real processes, TLS, a terminal.

How a page is followed:
    * Blocks marked `bash` are typed in order, each page in a terminal of its own (variables and folder stay).
    * A line that begins with **Now** names sections of other pages; they are done there and then.
    * A block marked `text` shows what the block before prints: each of its lines must appear, in that order.
      `…` stands for anything. Moments, digests and fingerprints vary from run to run; everything else is as shown.
    * `Type yes: yes` in what is shown is typed at a terminal.
    * What only looks (status, studies, log, ...) is typed again until it shows what the page shows.
    * A block whose last shown line begins with `fedmed: ` must fail with exit code 2, every other one must not fail.
    * The port of the pages is replaced by one that is free.
"""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
START = ROOT / "docs/tutorials/consortium-coordinator.md"
PAGES = (START, ROOT / "docs/tutorials/site-administrator.md", ROOT / "docs/how-to/back-up-a-site.md")
PORT = "8443"
BASH = shutil.which("bash") or "/bin/bash"
LOOKS = (
    "fedmed site status",
    "fedmed site studies",
    "fedmed site doctor",
    "fedmed coordinator status",
    "fedmed coordinator studies",
    "fedmed coordinator log",
    "cat coordinator.log",
)
"""Commands that change nothing, which a reader types again until they show what the page shows."""
PATIENCE_S = 180.0
LONGEST_S = 600.0
ANSWER = "Type yes: "
_FENCE = re.compile(r"^```(\w*)$")
_HEADING = re.compile(r"^## (.+)$")
_THERE = re.compile(r"\]\(([^)#]+\.md)(?:#([\w-]+))?\)")
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"), "<moment>"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "<day>"),
    (re.compile(r"\b(?:[0-9a-f]{4} ){7}[0-9a-f]{4}\b"), "<fingerprint>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<digest>"),
)


@dataclass(frozen=True)
class Block:
    """What is typed, what it shows, and where it stands."""

    page: Path
    line: int
    typed: str
    shown: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def fails(self) -> bool:
        """Whether the page shows a refusal."""
        return bool(self.shown) and self.shown[-1].startswith("fedmed: ")

    @property
    def looks(self) -> bool:
        """Whether it changes nothing."""
        lines = self.typed.strip().splitlines()
        return len(lines) == 1 and lines[0].startswith(LOOKS)


@dataclass(frozen=True)
class Visit:
    """Another section that is done now; `anchor` is empty for a whole page."""

    page: Path
    anchor: str


@dataclass
class Section:
    """A heading and what is done below it, in order."""

    page: Path
    anchor: str
    steps: list[Block | Visit] = field(default_factory=list)


def sections(page: Path) -> list[Section]:
    """Return what a page has its reader do."""
    found, lines, at = [Section(page, "")], page.read_text().splitlines(), 0
    now = ""
    while at < len(lines):
        heading, fence = _HEADING.match(lines[at]), _FENCE.match(lines[at])
        now = lines[at] if lines[at].startswith("**Now**") else f"{now} {lines[at]}" if now and lines[at] else ""
        if now and (at + 1 == len(lines) or not lines[at + 1]):
            visits = [Visit((page.parent / name).resolve(), anchor) for name, anchor in _THERE.findall(now)]
            assert visits, f"{page.name}:{at + 1}: **Now** names no section"
            found[-1].steps += visits
        if heading:
            found.append(Section(page, _anchor(heading[1])))
        if fence:
            end = lines.index("```", at + 1)
            _take(found[-1], fence[1], lines[at + 1 : end], line=at + 2)
            at = end
        at += 1
    return found


def _take(section: Section, language: str, body: list[str], *, line: int) -> None:
    assert language in {"bash", "text"}, f"{section.page.name}:{line}: a block that is neither typed nor shown"
    if language == "bash":
        section.steps.append(Block(section.page, line, "\n".join(body) + "\n", ()))
        return
    last = section.steps.pop()
    assert isinstance(last, Block), f"{section.page.name}:{line}: shown, but nothing was typed before"
    section.steps.append(Block(last.page, last.line, last.typed, tuple(body)))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def missing(shown: tuple[str, ...], seen: str) -> str | None:
    """Return the first line of what a page shows that was not seen, in that order; None if all were."""
    left = iter([_plain(line) for line in seen.splitlines()])
    for line in shown:
        if line.strip() in {"", "…"}:
            continue
        wanted = re.compile(".*".join(re.escape(part) for part in _plain(line).split("…")))
        if not any(wanted.fullmatch(candidate) for candidate in left):
            return line
    return None


def _plain(line: str) -> str:
    for pattern, name in _VARIES:
        line = pattern.sub(name, line)
    return " ".join(line.split())


class Terminal:
    """A shell in which a page is typed: what is exported, defined and entered stays from block to block."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        self._state = folder / f".{name}.state"
        self._state.write_text(f"cd {folder}\n")
        self._environment = environment

    def type(self, text: str, *, answers: int, timeout_s: float = LONGEST_S) -> tuple[int, str]:
        """Type a block, answer yes as often as said, and return the exit code and what was seen."""
        script = self._state.with_suffix(".sh")
        script.write_text(
            f". {self._state}\nset -e\n{text}\nset +e\n"
            f"{{ echo \"cd '$PWD'\"; export -p; declare -f; }} > {self._state}\nexit 0\n"
        )
        if answers:
            return self._at_a_terminal(script, answers, timeout_s)
        done = subprocess.run(  # noqa: S603  what our own pages say
            [BASH, str(script)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        return done.returncode, done.stdout

    def _at_a_terminal(self, script: Path, answers: int, timeout_s: float) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        program = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('bash', sys.argv)"
        child = subprocess.Popen(  # noqa: S603  likewise
            [sys.executable, "-c", program, str(script)],
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        late = threading.Timer(timeout_s, child.kill)
        late.start()
        seen = ""
        try:
            while True:
                try:
                    part = os.read(ours, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
                if not part:
                    break
                seen += part
                if answers and seen.endswith(ANSWER):
                    os.write(ours, b"yes\n")
                    answers -= 1
        finally:
            late.cancel()
            os.close(ours)
        return child.wait(), seen.replace("\r", "")


class Reader:
    """Whoever follows the pages."""

    def __init__(self, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDMED_")}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "COLUMNS": "160",
            "FEDMED_TRIAL": str(folder),
        }
        self._port = _free_port()
        self._terminals = {page: Terminal(folder, page.stem, environment) for page in PAGES[:2]}
        self._terminals[PAGES[2]] = self._terminals[PAGES[1]]  # the hospital's
        self._sections = {(one.page, one.anchor): one for page in PAGES for one in sections(page)}
        self.typed: list[Block] = []

    def follow(self, page: Path, anchor: str = "") -> None:
        """Do a whole page, or one section of it."""
        chosen = [one for key, one in self._sections.items() if key[0] == page and anchor in ("", key[1])]
        assert chosen, f"{page.name} has no section {anchor}"
        for section in chosen:
            for step in section.steps:
                if isinstance(step, Visit):
                    self.follow(step.page, step.anchor)
                else:
                    self._type(step)

    def _type(self, block: Block) -> None:
        assert block not in self.typed, f"{block}: typed twice"
        self.typed.append(block)
        answers = sum(line.endswith(f"{ANSWER}yes") for line in block.shown)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            code, seen = self._terminals[block.page].type(block.typed.replace(PORT, self._port), answers=answers)
            lacks = missing(block.shown, seen.replace(self._port, PORT))
            good = lacks is None and code == (2 if block.fails else 0)
            if good or not block.looks or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert code == (2 if block.fails else 0), f"{block}: exit code {code}\n{block.typed}\n{seen}"
        assert lacks is None, f"{block}: not shown: {lacks}\n{block.typed}\n{seen}"


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def no_process_stays(folder: Path) -> Iterator[None]:
    """End what was started for the trial in a folder, however the block ends: with a signal first."""
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = [one for one in psutil.process_iter() if _is_of(one, folder)]
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(number)
            psutil.wait_procs(left, timeout=45)


def _is_of(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return process.pid != os.getpid() and str(folder) in process.environ().get("FEDMED_TRIAL", "")
    return False


@pytest.mark.slow
@pytest.mark.processes
def test_a_reader_gets_through(tmp_path: Path) -> None:
    """Every command of the tutorials and of the backup page does what the page says, in the pages' order."""
    reader = Reader(tmp_path)
    with no_process_stays(tmp_path):
        reader.follow(START)
    every = [step for page in PAGES for one in sections(page) for step in one.steps if isinstance(step, Block)]
    assert [str(block) for block in every if block not in reader.typed] == []
