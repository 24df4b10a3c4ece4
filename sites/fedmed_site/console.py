"""What the commands of a site share: one-line complaints, the option --home, a progress bar, and printing.

Why it exists: every command of a site finds the site in the same way and says what is wrong in the same way.

What it does not do: know a command.
"""

import argparse
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedmed.errors import UsageError
from fedmed_site.home import SiteHome

HOME_VARIABLE = "FEDMED_SITE_HOME"


FORM = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of FedMed: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line shows as one line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001  argparse has no public name for it
Run = Callable[[argparse.Namespace], int]


def add(commands: Commands, name: str, about: str, run: Run, *, after: str = "") -> Parser:
    """Add a command and return its parser; `about` is one phrase without a full stop."""
    sentence = f"{about[0].upper()}{about[1:]}."
    parser = commands.add_parser(
        name, help=about, description=sentence, epilog=after, formatter_class=FORM, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_home(parser: Parser) -> None:
    """Add the option that names the site's folder."""
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help=f"the site's folder; else ${HOME_VARIABLE}, else ~/.local/share/fedmed"
    )


def home_path(parsed: argparse.Namespace) -> Path:
    """Return where the site's folder is or is to be."""
    if parsed.home is not None:
        return Path(parsed.home)
    named = os.environ.get(HOME_VARIABLE)
    return Path(named) if named else Path.home() / ".local" / "share" / "fedmed"


def opened(parsed: argparse.Namespace, *, key_rotation: bool = False) -> SiteHome:
    """Return the site that a command is about; only the rotation of its seal key opens it between keys.

    Raises:
        UsageError: There is none, or it belongs to another user: what root writes there, the agent can't read.
    """
    path = home_path(parsed).absolute()  # the node's process works elsewhere
    try:
        owner = path.stat().st_uid
        found = (path / "site.json").is_file()
    except PermissionError:
        raise UsageError(f"{path}: this user may not look into it; run the command as the folder's owner") from None
    except OSError:
        found, owner = False, os.geteuid()
    if not found:
        raise UsageError(f"expected a site in {path}, found no site.json; fedmed site init --home {path} --name NAME")
    if owner != os.geteuid():
        name = user_name(owner)
        raise UsageError(
            f"{path} belongs to {name}, and this is {user_name(os.geteuid())}; run it with: sudo -u {name}"
        )
    return SiteHome.open(path, key_rotation=key_rotation)


def user_name(uid: int) -> str:
    """Return a user's name, or the number of one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def agreed(question: str, *, yes: bool) -> None:
    """Return if the person at the terminal agrees, or has said so already with --yes.

    Raises:
        UsageError: He doesn't, or nobody sits at a terminal.
    """
    if yes:
        return
    if not (sys.stdin is not None and sys.stdin.isatty()):
        raise UsageError(f"{question} expected a terminal to ask at, found none; give --yes if that is meant")
    if input(f"{question} Type yes: ").strip().lower() != "yes":
        raise UsageError("nothing was changed: that was no yes")


class ProgressBar:
    """A progress bar on standard error."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, files: int) -> None:
        """Begin to count."""
        self._task = self._progress.add_task("files", total=files)

    def advance(self) -> None:
        """Count one file."""
        if self._task is not None:
            self._progress.advance(self._task)


def say(text: str) -> None:
    """Print one line of the command's output."""
    print(text)  # noqa: T201  the command's output
