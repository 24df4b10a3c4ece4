"""`fedmed site key rotate`: a new seal key for a site.

Why it exists: see `key_rotation`; this is its command.

What it does not do: take or print a key.
"""

import argparse
import os

from fedmed_site.console import Commands, add, add_home, agreed, opened, say, user_name


def add_commands(commands: Commands) -> None:
    """Add the command to `fedmed site`."""
    key = commands.add_parser("key", help="the key that guards the site's data keys", allow_abbrev=False)
    rotate = add(
        key.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "rotate",
        "replace the seal key and wrap everything under the new one; no item is touched",
        _rotate,
    )
    rotate.add_argument("--yes", action="store_true", help="don't ask")
    add_home(rotate)


def _rotate(parsed: argparse.Namespace) -> int:
    from fedmed_site.key_rotation import rotate  # noqa: PLC0415  other commands start without the engines

    home = opened(parsed, key_rotation=True)
    agreed("Replace the seal key of this site? Backups made before open only with the old key.", yes=parsed.yes)
    done = rotate(home, by=user_name(os.geteuid()))
    say(f"seal key {done.before} replaced by {done.after}: {done.wraps} data keys wrapped anew, no item touched")
    if done.missing:
        say(
            f"{done.missing} folders of items were not found where they were made; the site opens them, but their own "
            "keys/site.json names the old key until deidentify runs over them again"
        )
    say("make a new backup of the site's folder now, and destroy those with the old key if it was exposed")
    return 0
