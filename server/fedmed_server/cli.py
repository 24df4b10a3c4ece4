"""`fedmed consortium`: the consortium's key and its rosters, from a terminal that may be offline.

Why it exists: a few people sign who takes part, rarely, on a machine of their own. Each
command is one step, shows what it means, and says what is wrong in one line.

Rules:
    * A passphrase comes from a file or a prompt; there is no option that takes one.
    * Nothing is overwritten but the roster that was named as the previous one.
    * What was not verified says so.

What it does not do: decide anything; the rules are in `consortium`, `roster_drafts` and `rosters`.
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

import msgspec

from fedmed.crypto import keyfiles, passphrases
from fedmed.errors import UsageError
from fedmed.secagg.roster import sign_roster, verify_signature
from fedmed_server import consortium as root
from fedmed_server import rosters
from fedmed_server.roster_drafts import read_draft
from fedmed_server.roster_table import table, two_lines

_ABOUT = """\
The consortium is the sites that train together. Its key signs the roster: which sites
take part, with which signing keys, and which floors every site keeps. The key belongs
to the consortium, not to the coordinator; keep it offline, in a safe, with its passphrase
apart from it.

The usual order:
  fedmed consortium init --out KEYS
  fedmed consortium roster sign draft.yaml --key KEYS/consortium.key --out roster.json
  fedmed consortium roster verify roster.json --key KEYS/consortium.pub.json
"""
_DRAFT = """\
DRAFT is YAML:
  serial: 1                       # grows with each edition
  valid_until: 2030-12-31         # optional; so is valid_from; days in UTC
  sites:
    - {name: north, key: keys/north.pub.json}   # a public key file, or the key as base64
    - {name: south, key: keys/south.pub.json}
    - {name: west, key: keys/west.pub.json}
  policy:
    n_min: 3                      # fewest sites that any sum may cover
    max_corrupt: 0                # sites that may side with the coordinator
    max_weight: 100000            # largest weight, such as a site's number of patients
    # segments: delta, aux and fisher by default; for half the bytes:
    # segments: [{name: delta, bits: 16}, {name: aux}, {name: fisher}]
"""
_PASSPHRASE = (
    f"file that holds the passphrase on one line, mode 600; else the file that {passphrases.VARIABLE} names; "
    "else you are asked"
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of FedMed: one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # noqa: SLF001  argparse has no public name for it
_Run = Callable[[argparse.Namespace], None]


def consortium(arguments: Sequence[str]) -> int:
    """Run `fedmed consortium ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    parsed = _parser().parse_args(arguments)
    parsed.run(parsed)
    return 0


def _parser() -> _Parser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="fedmed consortium", description=_ABOUT, formatter_class=form, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    init = _add(commands, "init", "make the consortium's key: a private and a public file, and a fingerprint", _init)
    init.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the two files; made if absent")
    init.add_argument("--name", default="consortium", help="the consortium's name, as sites will see it")
    init.add_argument("--passphrase-file", type=Path, metavar="F", help=_PASSPHRASE)
    show = _add(commands, "fingerprint", "show a public key's fingerprint, to compare by telephone", _fingerprint)
    show.add_argument("public", type=Path, metavar="PUB", help="a public key file, a site's or the consortium's")
    roster = commands.add_parser("roster", help="sign, show or verify the list of sites", allow_abbrev=False)
    _add_roster_commands(roster.add_subparsers(title="commands", metavar="COMMAND", required=True))
    return parser


def _add_roster_commands(commands: _Commands) -> None:
    sign = _add(commands, "sign", "sign a roster from a draft, and show what its figures mean", _sign, after=_DRAFT)
    sign.add_argument("draft", type=Path, metavar="DRAFT", help="what you wrote; see below")
    sign.add_argument("--key", type=Path, required=True, help="the consortium's private key file (consortium.key)")
    sign.add_argument("--out", type=Path, required=True, metavar="ROSTER", help="where the signed roster goes")
    sign.add_argument("--previous", type=Path, metavar="OLD", help="the edition before; shows what changes")
    sign.add_argument("--passphrase-file", type=Path, metavar="F", help=_PASSPHRASE)
    show = _add(commands, "show", "show a roster and what its figures mean", _show)
    show.add_argument("roster", type=Path, metavar="ROSTER")
    show.add_argument("--key", type=Path, metavar="PUB", help="the consortium's public key; checks the signature")
    show.add_argument("--json", action="store_true", help="the same as one JSON object")
    verify = _add(commands, "verify", "check signature, serial and dates: one line, exit code 0 or 2", _verify)
    verify.add_argument("roster", type=Path, metavar="ROSTER")
    verify.add_argument("--key", type=Path, required=True, metavar="PUB", help="the consortium's public key file")
    verify.add_argument(
        "--least-serial", type=int, default=1, metavar="N", help="refuse editions before this one (default 1)"
    )


def _add(commands: _Commands, name: str, about: str, run: _Run, *, after: str = "") -> _Parser:
    form = argparse.RawDescriptionHelpFormatter
    sentence = f"{about[0].upper()}{about[1:]}."
    parser = commands.add_parser(
        name, help=about, description=sentence, epilog=after, formatter_class=form, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _init(parsed: argparse.Namespace) -> None:
    root.require_no_key(parsed.out)
    passphrase = passphrases.obtain(parsed.passphrase_file, use="new key")
    public = root.make_key(parsed.out, name=parsed.name, passphrase=passphrase)
    files = root.files_of(parsed.out)
    _say(f"private key  {files.private}  sealed under the passphrase; keep it offline, with a copy elsewhere")
    _say(f"public key   {files.public}  for every site")
    _say_fingerprint(public)
    _say("Read the fingerprint to each site on the telephone: it must see the same.")


def _fingerprint(parsed: argparse.Namespace) -> None:
    public = keyfiles.read_public_key(parsed.public)
    _say(f"{public.purpose} key of {public.name} ({public.kind})")
    _say_fingerprint(public)


def _sign(parsed: argparse.Namespace) -> None:
    roster = read_draft(parsed.draft)
    if parsed.out.exists() and (parsed.previous is None or not parsed.out.samefile(parsed.previous)):
        raise UsageError(
            f"{parsed.out}: expected no roster yet, found a file; name it as --previous too, or give another --out"
        )
    sealed = keyfiles.load_private_key(parsed.key, purpose=keyfiles.CONSORTIUM)
    rosters.require_signable(roster, sealed.public.key, now=_now())
    changed: tuple[str, ...] = ()
    if parsed.previous is not None:
        before = rosters.require_successor(roster, rosters.read_signed(parsed.previous), sealed.public.ed25519())
        changed = ("", f"Changed since serial {before.serial}:", *rosters.changes(before, roster))
    key = sealed.unseal_ed25519(passphrases.obtain(parsed.passphrase_file, use="existing key"))
    rosters.save_roster(parsed.out, sign_roster(roster, key))
    _say("\n".join([table(rosters.describe(roster)), *changed]))
    _say(f"\nSigned by {sealed.public.name}: {parsed.out}")


def _show(parsed: argparse.Namespace) -> None:
    signed = rosters.read_signed(parsed.roster)
    facts = rosters.describe(signed.roster)
    public = None if parsed.key is None else keyfiles.load_public_key(parsed.key, purpose=keyfiles.CONSORTIUM)
    if public is not None:
        verify_signature(signed, public.ed25519())
    if parsed.json:
        plain = {**msgspec.to_builtins(facts), "signed_by": public and public.fingerprint}
        _say(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
        return
    _say(table(facts))
    if public is None:
        _say("\nSignature NOT checked: give --key with the consortium's public key file.")
        return
    _say(f"\nSignature good, by the key of {public.name}; whether it is in force now: fedmed consortium roster verify")
    _say_fingerprint(public)


def _verify(parsed: argparse.Namespace) -> None:
    public = keyfiles.load_public_key(parsed.key, purpose=keyfiles.CONSORTIUM)
    roster = rosters.load_roster(
        parsed.roster, consortium_key=public.ed25519(), least_serial=parsed.least_serial, now=_now()
    )
    until = f"until {roster.valid_until}" if roster.valid_until else "without an end"
    _say(f"good: {parsed.roster}: serial {roster.serial}, {len(roster.sites)} sites, in force {until}")


def _say_fingerprint(public: keyfiles.PublicKey) -> None:
    first, second = two_lines(public.fingerprint)
    _say(f"fingerprint  {first}\n             {second}")


def _now() -> datetime:
    return datetime.now(UTC)


def _say(text: str) -> None:
    print(text)  # noqa: T201  the command's output
