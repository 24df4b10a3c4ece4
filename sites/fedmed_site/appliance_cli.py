"""`fedmed site start` and `fedmed site node`: their words; what they run is loaded when it is started.

What it does not do: anything else.
"""

import argparse
import sys
from pathlib import Path

from fedmed.errors import UsageError
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
    start.add_argument(
        "--node-socket", type=Path, metavar="PATH", help="let a SuperNode of another user come here; see --node-user"
    )
    start.add_argument("--node-user", metavar="USER", help="the user that fedmed site node runs under")
    node = add(commands, "node", "be the site's SuperNode, under a user that sees nothing of the site", _node)
    node.add_argument(
        "--agent",
        type=Path,
        required=True,
        metavar="PATH",
        help="what fedmed site start --node-socket named",
    )


def _run(parsed: argparse.Namespace) -> int:
    from fedmed_site.appliance import Appliance  # noqa: PLC0415  it imports what trains

    if (parsed.node_socket is None) != (parsed.node_user is None):
        raise UsageError("expected --node-socket and --node-user together, got one; see fedmed site start --help")
    apart = None if parsed.node_socket is None else (parsed.node_socket.absolute(), parsed.node_user)
    home, secret = opened(parsed), secret_of(parsed, use="existing key")
    appliance = Appliance(home, secret, say=_say_at_once, apart=apart)
    appliance.run(control_socket=parsed.control_socket, control_group=parsed.control_group)
    return 0


def _node(parsed: argparse.Namespace) -> int:
    from fedmed_site.node_process import work_apart  # noqa: PLC0415  it imports X.509

    work_apart(parsed.agent)
    return 0


def _say_at_once(text: str) -> None:
    say(text)
    sys.stdout.flush()
