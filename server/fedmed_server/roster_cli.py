"""`fedmed consortium roster`: sign, show, verify the list of sites, and take a site off it.

Why it exists: who trains together is signed rarely and read often. What is signed is shown as figures first.

Rules:
    * Nothing is overwritten but the roster that was named as the previous one.
    * What was not verified says so.
    * A revocation is recorded even where no roster can be signed without the site.

What it does not do: decide anything; the rules are in `roster_drafts`, `rosters` and `authority`.
"""

import argparse
from pathlib import Path

import msgspec

from fedmed.crypto import keyfiles
from fedmed.errors import ConfigError, UsageError
from fedmed.secagg.roster import sign_roster, verify_signature
from fedmed_server import authority
from fedmed_server.consortium import files_of
from fedmed_server.consortium_console import (
    Commands,
    add,
    add_dir,
    add_secret,
    now,
    opened,
    require_absent,
    say,
    say_fingerprint,
    secret_of,
)
from fedmed_server.register import read_register

_DRAFT = """\
DRAFT is YAML:
  serial: 1                       # grows with each edition
  valid_until: 2030-12-31         # optional; so is valid_from; days in UTC
  sites:
    - {name: north, key: keys/north.pub.json}   # a public key file, or the key as base64
    - {name: south, key: keys/south.pub.json}
    - {name: west, key: keys/west.pub.json}     # leave sites out with --from-register
  policy:
    n_min: 3                      # fewest sites that any sum may cover
    max_corrupt: 0                # sites that may side with the coordinator
    max_weight: 100000            # largest weight, such as a site's number of patients
    # segments: delta, aux and fisher by default; for half the bytes:
    # segments: [{name: delta, bits: 16}, {name: aux}, {name: fisher}]
"""


def add_commands(commands: Commands) -> None:
    """Add the commands of `fedmed consortium roster`."""
    sign = add(commands, "sign", "sign a roster from a draft, and show what its figures mean", _sign, after=_DRAFT)
    sign.add_argument("draft", type=Path, metavar="DRAFT", help="what you wrote; see below")
    sign.add_argument("--key", type=Path, help="the consortium's private key file (consortium.key)")
    sign.add_argument("--from-register", type=Path, metavar="DIR", help="take the sites that are enrolled in DIR")
    sign.add_argument("--out", type=Path, required=True, metavar="ROSTER", help="where the signed roster goes")
    sign.add_argument("--previous", type=Path, metavar="OLD", help="the edition before; shows what changes")
    add_secret(sign)
    show = add(commands, "show", "show a roster and what its figures mean", _show)
    show.add_argument("roster", type=Path, metavar="ROSTER")
    show.add_argument("--key", type=Path, metavar="PUB", help="the consortium's public key; checks the signature")
    show.add_argument("--json", action="store_true", help="the same as one JSON object")
    verify = add(commands, "verify", "check signature, serial and dates: one line, exit code 0 or 2", _verify)
    verify.add_argument("roster", type=Path, metavar="ROSTER")
    verify.add_argument("--key", type=Path, required=True, metavar="PUB", help="the consortium's public key file")
    verify.add_argument(
        "--least-serial", type=int, default=1, metavar="N", help="refuse editions before this one (default 1)"
    )
    revoke = add(commands, "revoke", "revoke a site's keys and certificates, and sign the roster without it", _revoke)
    revoke.add_argument("site", metavar="SITE")
    add_dir(revoke)
    revoke.add_argument("--reason", required=True, metavar="TEXT", help="one line, for the register")
    revoke.add_argument("--previous", type=Path, metavar="OLD", help="the roster that the site is to leave")
    revoke.add_argument("--out", type=Path, metavar="ROSTER", help="where the next edition goes; may be OLD itself")
    add_secret(revoke)


def _sign(parsed: argparse.Namespace) -> None:
    from fedmed_server import rosters  # noqa: PLC0415  other commands start without numpy
    from fedmed_server.roster_drafts import SiteDraft, read_draft  # noqa: PLC0415  likewise
    from fedmed_server.roster_table import table  # noqa: PLC0415  likewise

    folder: Path | None = parsed.from_register
    key_path = parsed.key or (None if folder is None else files_of(folder).private)
    if key_path is None:
        raise UsageError("roster sign: expected the consortium's private key; give --key, or --from-register DIR")
    sites = None if folder is None else tuple(SiteDraft(name=name, key=key) for name, key in _enrolled(folder))
    roster = read_draft(parsed.draft, sites=sites)
    if parsed.out.exists() and (parsed.previous is None or not parsed.out.samefile(parsed.previous)):
        raise UsageError(
            f"{parsed.out}: expected no roster yet, found a file; name it as --previous too, or give another --out"
        )
    sealed = keyfiles.load_private_key(key_path, purpose=keyfiles.CONSORTIUM)
    rosters.require_signable(roster, sealed.public.key, now=now())
    changed: tuple[str, ...] = ()
    if parsed.previous is not None:
        before = rosters.require_successor(roster, rosters.read_signed(parsed.previous), sealed.public.ed25519())
        changed = ("", f"Changed since serial {before.serial}:", *rosters.changes(before, roster))
    key = sealed.unseal_ed25519(secret_of(parsed, use="existing key"))
    rosters.save_roster(parsed.out, sign_roster(roster, key))
    say("\n".join([table(rosters.describe(roster)), *changed]))
    say(f"\nSigned by {sealed.public.name}: {parsed.out}")


def _show(parsed: argparse.Namespace) -> None:
    from fedmed_server import rosters  # noqa: PLC0415  other commands start without numpy
    from fedmed_server.roster_table import table  # noqa: PLC0415  likewise

    signed = rosters.read_signed(parsed.roster)
    facts = rosters.describe(signed.roster)
    public = None if parsed.key is None else keyfiles.load_public_key(parsed.key, purpose=keyfiles.CONSORTIUM)
    if public is not None:
        verify_signature(signed, public.ed25519())
    if parsed.json:
        plain = {**msgspec.to_builtins(facts), "signed_by": public and public.fingerprint}
        say(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
        return
    say(table(facts))
    if public is None:
        say("\nSignature NOT checked: give --key with the consortium's public key file.")
        return
    say(f"\nSignature good, by the key of {public.name}; whether it is in force now: fedmed consortium roster verify")
    say_fingerprint(public)


def _verify(parsed: argparse.Namespace) -> None:
    from fedmed_server import rosters  # noqa: PLC0415  other commands start without numpy

    public = keyfiles.load_public_key(parsed.key, purpose=keyfiles.CONSORTIUM)
    roster = rosters.load_roster(
        parsed.roster, consortium_key=public.ed25519(), least_serial=parsed.least_serial, now=now()
    )
    until = f"until {roster.valid_until}" if roster.valid_until else "without an end"
    say(f"good: {parsed.roster}: serial {roster.serial}, {len(roster.sites)} sites, in force {until}")


def _revoke(parsed: argparse.Namespace) -> None:
    from fedmed_server import rosters  # noqa: PLC0415  other commands start without numpy

    if (parsed.previous is None) != (parsed.out is None):
        raise UsageError("roster revoke: expected --previous and --out together, got one; give both, or neither")
    before = None if parsed.previous is None else rosters.read_signed(parsed.previous)
    if before is not None and parsed.out.exists() and not parsed.out.samefile(parsed.previous):
        require_absent(parsed.out)
    consortium = opened(parsed)
    if before is not None:
        verify_signature(before, consortium.public.ed25519())
    register = authority.revoke(consortium, parsed.site, reason=parsed.reason, now=now())
    say(f"revoked {parsed.site}: its certificates, SuperNode key and signing key are worth nothing from now on")
    say(f"carry at once to the coordinator's folder: {consortium.files.revoked} and {consortium.files.members}")
    say(f"register     {register.edition} entries, head {register.head}")
    if before is None:
        say("No roster was signed: if the site stands in one, sign the next edition without it.")
        return
    try:
        after = rosters.without(before, parsed.site, consortium.root, now=now())
    except ConfigError as error:
        raise ConfigError(f"{parsed.site} is revoked, but no roster was signed: {error}") from None
    rosters.save_roster(parsed.out, after)
    say(
        "\n".join(
            [f"roster       {parsed.out}: serial {after.roster.serial}", *rosters.changes(before.roster, after.roster)]
        )
    )
    say("Send it to the coordinator and to every site; there: fedmed site roster FILE")


def _enrolled(folder: Path) -> tuple[tuple[str, str], ...]:
    """Return name and signing key, in hexadecimal, of each site in the register."""
    members = read_register(folder).members
    if not members:
        raise UsageError(f"{folder}: expected enrolled sites in the register, found none; enrol them first")
    return tuple((one.site, one.signing_key.hex()) for one in members)
