"""`fedmed site join|renew|roster`: how an administrator brings a site into a consortium and keeps it there.

Why it exists: joining is two visits to the same command, with a telephone call in between. Each visit says what
happened and what to do next.

Rules:
    * The consortium's fingerprint is compared before anything is made.
    * The file says itself what it is: an invitation or a kit.
    * No option takes a secret, and no private key leaves the site's folder.

What it does not do: decide anything; the rules are in `joining`.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from fedmed.crypto import passphrases
from fedmed.crypto.fingerprints import confirm, two_lines
from fedmed.crypto.keyfiles import PublicKey
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.statements import form_of
from fedmed.enrolment import REQUEST
from fedmed.errors import UsageError
from fedmed.files import write_atomic
from fedmed.kits import INVITATION, KIT, moment, open_invitation
from fedmed.secagg.roster_file import FORMAT as ROSTER
from fedmed_site import joining
from fedmed_site.console import Commands, Parser, add, add_home, home_path, say
from fedmed_site.identity import read_site_identity
from fedmed_site.joining import Requested
from fedmed_site.policy import SitePolicy

DEFAULT_CAP_EPSILON, DEFAULT_DELTA = 1.0, 1e-5
_JOIN = """\
First, with the invitation: compares the consortium's fingerprint with what it reads to you on
the telephone, makes this site's keys, and writes a request to send back. Then, with the kit
that comes back: verifies it and puts it into use.

  fedmed site join invitation.json --home HOME --out request.json
  fedmed site join kit.json --home HOME
"""


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    join = add(commands, "join", "join a consortium: its invitation first, then its kit", _join, after=_JOIN)
    join.add_argument("file", type=Path, metavar="INVITATION|KIT", help="what the consortium sent")
    join.add_argument("--fingerprint", metavar="TEXT", help="what the consortium read out; else you are asked")
    join.add_argument("--new-keys", action="store_true", help="make new keys, after a revocation or a loss")
    join.add_argument("--out", type=Path, metavar="FILE", help="the request to send back (default request-SITE.json)")
    renew = add(commands, "renew", "make a request for a new certificate, good for 90 days", _renew)
    renew.add_argument("--out", type=Path, metavar="FILE", help="the request to send (default request-SITE.json)")
    roster = add(commands, "roster", "take in the consortium's roster, or its next edition", _roster)
    roster.add_argument("file", type=Path, metavar="ROSTER", help="what the consortium sent")
    for parser in (join, renew, roster):
        add_home(parser)
    for parser in (join, renew):
        add_secret(parser)


def secret_of(parsed: argparse.Namespace, *, use: passphrases.Use) -> Secret:
    """Return what the site's keys are sealed under.

    Raises:
        UsageError: There is no source for it.
    """
    return passphrases.obtain_secret(passphrase_file=parsed.passphrase_file, key_file=parsed.key_file, use=use)


def add_secret(parser: Parser) -> None:
    """Add the options that name what the site's keys are sealed under."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="F",
        help=f"file with the passphrase of the site's keys, mode 600; else ${passphrases.VARIABLE}; else you are asked",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="F",
        help=f"file of 32 random bytes instead, mode 600; else ${passphrases.KEY_FILE_VARIABLE}",
    )


def _join(parsed: argparse.Namespace) -> int:
    data = _read(parsed.file, "an invitation or a kit")
    form = form_of(data)
    if form == INVITATION:
        return _accept(parsed, data)
    if form == KIT:
        return _install(parsed, data)
    cure = {
        ROSTER: "that is a roster: fedmed site roster FILE",
        REQUEST: "that is a request of a site; send it to the consortium",
    }.get(form, "check the path")
    raise UsageError(f"{parsed.file}: expected an invitation or a kit, got another file; {cure}")


def _accept(parsed: argparse.Namespace, data: bytes) -> int:
    now, root = _now(), home_path(parsed)
    invitation = open_invitation(data, now=now)
    joining.require_acceptable(root, invitation, new_keys=parsed.new_keys)
    out = _out(parsed, invitation.site)
    say(f"invitation of {invitation.consortium.name} for {invitation.site}, until {invitation.valid_until}")
    if invitation.floors is not None:
        floors = invitation.floors
        say(f"promised     sums over at least {floors.n_min} sites, at most {floors.max_corrupt} of them colluding")
    _say_fingerprint(invitation.consortium)
    confirm(invitation.consortium.fingerprint, given=parsed.fingerprint, whose=invitation.consortium.name)
    known = (root / "keys" / "supernode.key").is_file() and not parsed.new_keys
    secret = secret_of(parsed, use="existing key" if known else "new key")
    policy = SitePolicy(cap_epsilon=DEFAULT_CAP_EPSILON, delta=DEFAULT_DELTA)
    requested = joining.accept(
        root, invitation, data, secret=secret, policy=policy, new_keys=parsed.new_keys, now=_now()
    )
    _hand_out(requested, out)
    say("Read this site's fingerprint to the consortium on the telephone: it must see the same.")
    say(f"When its kit comes: fedmed site join KIT --home {root}")
    return 0


def _install(parsed: argparse.Namespace, data: bytes) -> int:
    root = home_path(parsed)
    opened = joining.install(root, data, now=_now())
    identity = read_site_identity(root, now=_now())
    coordinator = identity.coordinator
    until = moment(identity.not_after)
    say(f"{identity.name} belongs to {identity.consortium.name}; its certificate is good until {until}")
    say(f"coordinator  {coordinator.name}, at {', '.join(coordinator.hosts)}, port {coordinator.port}")
    say(f"SuperNode    {identity.supernode_public_path}  is its public key; the kit's maker has it too")
    if opened.roster is not None:
        say(f"roster       serial {opened.roster.serial}, {len(opened.roster.sites)} sites")
    elif not (root / "consortium" / "roster.json").is_file():
        say("The roster comes when all sites are enrolled: fedmed site roster FILE")
    return 0


def _renew(parsed: argparse.Namespace) -> int:
    root = home_path(parsed)
    name = joining.site_name(root)
    out = _out(parsed, name)
    requested = joining.renew(root, secret=secret_of(parsed, use="existing key"), now=_now())
    _hand_out(requested, out)
    say(f"When the kit comes: fedmed site join KIT --home {root}; until then the present certificate stays in use")
    return 0


def _roster(parsed: argparse.Namespace) -> int:
    root = home_path(parsed)
    roster = joining.take_roster(root, _read(parsed.file, "a signed roster"), now=_now())
    until = f"until {roster.valid_until}" if roster.valid_until else "without an end"
    say(f"roster       serial {roster.serial}, {len(roster.sites)} sites, in force {until}")
    return 0


def _hand_out(requested: Requested, out: Path) -> None:
    write_atomic(out, requested.data, mode=0o644)
    again = "" if requested.fresh else " (the one that waits already)"
    say(f"request      {out}  to send to the consortium{again}; no secret is in it")
    _say_fingerprint(requested.request.public_key)


def _out(parsed: argparse.Namespace, site: str) -> Path:
    """Return where the request goes; an earlier request of the same site may be replaced, nothing else."""
    out: Path = parsed.out or Path(f"request-{site}.json")
    if out.exists() and (not out.is_file() or form_of(out.read_bytes()) != REQUEST):
        raise UsageError(f"{out}: expected no such file yet, found one; nothing was overwritten, give another --out")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: expected a folder for it, found none; make the folder, or give another --out")
    return out


def _read(path: Path, what: str) -> bytes:
    if not path.is_file():
        raise UsageError(f"{path}: expected {what}, found no such file; check the path")
    return path.read_bytes()


def _say_fingerprint(public: PublicKey) -> None:
    first, second = two_lines(public.fingerprint)
    say(f"fingerprint  {first}\n             {second}")


def _now() -> datetime:
    return datetime.now(UTC)
