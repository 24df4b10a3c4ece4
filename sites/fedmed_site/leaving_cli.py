"""`fedmed site leave`: end this site's part in its consortium.

What it does not do: remove anything by itself; see `leaving`.
"""

import argparse
import os
from pathlib import Path

from fedmed.errors import UsageError
from fedmed_site import leaving
from fedmed_site.approvals import utc_now
from fedmed_site.console import Commands, add, add_home, agreed, opened, say, user_name

_AFTER = """\
Everything that belongs to the consortium is sealed into one archive in HOME/left, under the site's own key, and then
removed: certificate, keys, the state of secure aggregation, stored answers, roster. Data, ledgers, audit log, decisions
and models stay. Tell the consortium: it revokes the site on its side.

  fedmed site leave
  fedmed site leave --open HOME/left/20300131T120000Z.sealed --to archive.tar
"""


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    leave = add(
        commands, "leave", "leave the consortium: seal what belongs to it, and remove its keys", _leave, after=_AFTER
    )
    leave.add_argument("--yes", action="store_true", help="don't ask")
    leave.add_argument("--open", type=Path, metavar="ARCHIVE", help="don't leave: open a sealed archive")
    leave.add_argument("--to", type=Path, metavar="FILE", help="with --open: the readable tar file, which holds keys")
    add_home(leave)


def _leave(parsed: argparse.Namespace) -> int:
    home = opened(parsed)
    if (parsed.open is None) != (parsed.to is None):
        raise UsageError("expected --open ARCHIVE and --to FILE together, got one of them; give both, or none")
    if parsed.open is not None:
        leaving.open_archive(home, parsed.open, parsed.to)
        say(f"opened into {parsed.to}: it holds keys; remove it when you have looked")
        return 0
    leaving.require_member(home)
    name = home.record().name
    say(f"{name} in {home.root} leaves its consortium: its certificate and keys are removed, running studies end here")
    say("kept: data, privacy ledgers, audit log, decisions, models, evaluations")
    agreed("Leave?", yes=parsed.yes)
    left = leaving.leave(home, by=user_name(os.getuid()), now=utc_now())
    say(f"sealed {left.files} files into {left.archive}, sha256 {left.sha256}")
    say(f"tell the consortium: it revokes {name} on its side, so that its old certificate opens nothing")
    return 0
