"""To whom a command of the administrator goes: the agent that runs, or the folder itself.

Why it exists: nobody should have to know whether the agent is up to approve a study or to pause the site.

Rules:
    * A socket that was named, or that the environment names, is the only way then: its user may not enter the folder.
    * Else the agent is asked if one answers behind the folder's socket, and the folder if none does.

What it does not do: know a command.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fedmed.errors import UsageError
from fedmed_site.console import Parser, add_home, opened, user_name
from fedmed_site.control_records import Agent, Desk
from fedmed_site.folder_desk import FolderDesk

SOCKET_VARIABLE: Final = "FEDMED_CONTROL_SOCKET"


def add_reach(parser: Parser) -> None:
    """Add the options that say where the site is."""
    add_home(parser)
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="S",
        help=f"the agent's socket, where it isn't in the folder; else ${SOCKET_VARIABLE}",
    )


@contextmanager
def reached(parsed: argparse.Namespace) -> Iterator[Desk]:
    """Yield whoever does the administrator's commands.

    Raises:
        UsageError: There is no site, or nobody answers at a socket that was named.
    """
    named = _named(parsed)
    if named is not None:
        with _asked(named) as desk:
            yield desk
        return
    home = opened(parsed)
    socket = home.run / "control.sock"
    if socket.exists():
        from fedmed_site import control_client  # noqa: PLC0415  gRPC only where an agent runs

        if control_client.answers(socket):
            with control_client.connect(socket) as desk:
                yield desk
            return
    yield FolderDesk(home=home, by=user_name(os.getuid()))


@contextmanager
def agent_of(parsed: argparse.Namespace) -> Iterator[Agent]:
    """Yield the running agent.

    Raises:
        UsageError: None runs.
    """
    with _asked(_named(parsed) or opened(parsed).run / "control.sock") as desk:
        yield desk


@contextmanager
def _asked(path: Path) -> Iterator[Agent]:
    from fedmed_site import control_client  # noqa: PLC0415  gRPC only where an agent runs

    if not control_client.answers(path):
        raise UsageError(f"expected an agent that answers at {path}, found none; start it with fedmed site start")
    with control_client.connect(path) as desk:
        yield desk


def _named(parsed: argparse.Namespace) -> Path | None:
    if parsed.socket is not None:
        return Path(parsed.socket)
    if parsed.home is not None:
        return None
    named = os.environ.get(SOCKET_VARIABLE)
    return Path(named) if named else None
