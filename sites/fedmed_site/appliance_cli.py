"""`fedmed site start`: its words; the appliance itself is loaded when it is started.

What it does not do: anything else.
"""

import argparse
import sys
from pathlib import Path

from fedmed_site.console import Commands, add, add_home, opened, say
from fedmed_site.join_cli import add_secret, secret_of


def add_commands(commands: Commands) -> None:
    """Add `fedmed site start`."""
    start = add(commands, "start", "work for the consortium until stopped; in the foreground, for systemd too", _run)
    add_home(start)
    add_secret(start)
    start.add_argument("--control-socket", type=Path, metavar="PATH", help="where the commands of others connect")
    start.add_argument(
        "--control-group", metavar="GROUP", help="whose members may command it, beside its owner and root"
    )


def _run(parsed: argparse.Namespace) -> int:
    from fedmed_site.appliance import Appliance  # noqa: PLC0415  it imports what trains

    home, secret = opened(parsed), secret_of(parsed, use="existing key")
    appliance = Appliance(home, secret, say=_say_at_once)
    appliance.run(control_socket=parsed.control_socket, control_group=parsed.control_group)
    return 0


def _say_at_once(text: str) -> None:
    say(text)
    sys.stdout.flush()
