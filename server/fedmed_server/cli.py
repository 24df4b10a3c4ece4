"""`fedmed consortium`: the consortium's keys, its sites and its rosters, from a terminal that may be offline.

Why it exists: a few people decide who takes part, rarely, on a machine of their own. Each
command is one step, shows what it means, and says what is wrong in one line.

Rules:
    * A passphrase comes from a file or a prompt; there is no option that takes one.
    * Nothing is overwritten but what was named as the previous one.
    * What was not verified says so.

What it does not do: decide anything; the rules are in `consortium`, `authority`, `roster_drafts` and `rosters`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedmed.crypto import keyfiles
from fedmed.crypto.certificates import MOST_YEARS
from fedmed_server import consortium as root
from fedmed_server import enrolment_cli, plan_cli, roster_cli
from fedmed_server.consortium_console import (
    FORM,
    Parser,
    add,
    add_secret,
    now,
    say,
    say_fingerprint,
    secret_of,
)

_ABOUT = """\
The consortium is the sites that train together. Its root key says who takes part, who
coordinates, and which floors every site keeps; its TLS authority certifies both sides.
They belong to the consortium, not to the coordinator; keep them offline, in a safe, with
their passphrase apart from them.

The usual order:
  fedmed consortium init --out DIR
  fedmed consortium coordinator --dir DIR --host hub.example.org --out COORD
  fedmed consortium invite SITE --dir DIR --out invitation.json     the site: fedmed site join
  fedmed consortium enrol REQUEST --dir DIR --out kit.json          the site: fedmed site join
  fedmed consortium roster sign draft.yaml --from-register DIR --out roster.json
"""


def consortium(arguments: Sequence[str]) -> int:
    """Run `fedmed consortium ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    parsed = _parser().parse_args(arguments)
    parsed.run(parsed)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="fedmed consortium", description=_ABOUT, formatter_class=FORM, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = add(commands, "init", "make the consortium: its root key, its TLS authority, its register", _init)
    init.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for it; made if absent")
    init.add_argument("--name", default="consortium", help="the consortium's name, as sites will see it")
    init.add_argument("--years", type=int, default=MOST_YEARS, metavar="N", help="life of the TLS authority (10)")
    init.add_argument(
        "--permit",
        action="append",
        default=[],
        metavar="HOST",
        help="DNS domain or IP address that coordinators may have, and no other; may be repeated",
    )
    add_secret(init)
    enrolment_cli.add_commands(commands)
    plan_cli.add_commands(commands)
    show = add(commands, "fingerprint", "show a public key's fingerprint, to compare by telephone", _fingerprint)
    show.add_argument("public", type=Path, metavar="PUB", help="a public key file, a site's or the consortium's")
    roster = commands.add_parser("roster", help="sign, show, verify or shorten the list of sites", allow_abbrev=False)
    roster_cli.add_commands(roster.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _init(parsed: argparse.Namespace) -> None:
    root.require_no_key(parsed.out)
    secret = secret_of(parsed, use="new key")
    public = root.make_consortium(
        parsed.out, name=parsed.name, secret=secret, now=now(), years=parsed.years, permit=parsed.permit
    )
    files, under = root.files_of(parsed.out), "key file" if secret.kind == "key-file" else "passphrase"
    say(f"private key  {files.private}  sealed under the {under}; keep it offline, with a copy elsewhere")
    say(f"public key   {files.public}  for every site")
    say_fingerprint(public)
    say("Read the fingerprint to each site on the telephone: it must see the same.")


def _fingerprint(parsed: argparse.Namespace) -> None:
    public = keyfiles.read_public_key(parsed.public)
    say(f"{public.purpose} key of {public.name} ({public.kind})")
    say_fingerprint(public)
