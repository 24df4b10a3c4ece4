"""`fedmed consortium coordinator…|invite|enrol|renew|register|lists`: who may talk to whom, one step each.

Why it exists: a few people at an offline machine invite hospitals, compare fingerprints on the telephone and
hand out kits. Each command says what it did, what to carry where, and the register's head to keep.

Rules:
    * Nothing is overwritten but what `--renew` renews.
    * A fingerprint is shown before anything is signed.

What it does not do: decide anything; the rules are in `authority` and `coordinator_making`.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from fedmed.crypto import passphrases
from fedmed.crypto.certificates import normalised_host
from fedmed.crypto.fingerprints import confirm
from fedmed.crypto.passphrases import Secret
from fedmed.enrolment import open_request
from fedmed.errors import UsageError
from fedmed.kits import moment
from fedmed_server import authority
from fedmed_server import coordinator_making as making
from fedmed_server.authority import Answer
from fedmed_server.consortium import files_of
from fedmed_server.consortium_console import (
    KEY_FILE,
    PASSPHRASE,
    Commands,
    Parser,
    add,
    add_dir,
    add_secret,
    now,
    opened,
    read_file,
    require_absent,
    say,
    say_fingerprint,
    write_new,
)
from fedmed_server.coordinator_home import SIGNING, CoordinatorIdentity
from fedmed_server.register import Register, read_register

_PORT = 443
_LISTS = "members.json and revoked.json changed: carry both from {folder} to the coordinator's folder"


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed consortium`."""
    _add_coordinator(commands)
    invite = add(commands, "invite", "sign an invitation for a site, with a code that works once", _invite)
    invite.add_argument("site", metavar="SITE", help="the site's name: letters, digits, dashes, underscores")
    add_dir(invite)
    invite.add_argument("--coordinator", type=Path, metavar="FILE", help="coordinator.json; else the one in DIR")
    invite.add_argument("--out", type=Path, required=True, metavar="FILE", help="the invitation, to send to the site")
    invite.add_argument(
        "--policy", type=Path, metavar="FILE", help="a roster's draft; its floors are promised to the site"
    )
    invite.add_argument("--days", type=int, default=14, metavar="N", help="how long it may be answered (default 14)")
    add_secret(invite)
    enrol = add(commands, "enrol", "check a site's request, compare its fingerprint, and sign its kit", _enrol)
    enrol.add_argument("--fingerprint", metavar="TEXT", help="what the site read out; else you are asked")
    renew = add(commands, "renew", "answer an enrolled site's request with a new certificate", _renew)
    for parser in (enrol, renew):
        parser.add_argument("request", type=Path, metavar="REQUEST", help="the file that the site made")
        add_dir(parser)
        parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the kit, to send to the site")
        parser.add_argument("--roster", type=Path, metavar="FILE", help="a signed roster to put into the kit")
        add_secret(parser)
    register = add(commands, "register", "show who is enrolled, until when, and who was revoked", _register)
    add_dir(register)
    lists = add(commands, "lists", "sign members.json and revoked.json anew", _lists)
    add_dir(lists)
    add_secret(lists)


def _add_coordinator(commands: Commands) -> None:
    one = add(
        commands, "coordinator", "make or renew the coordinator where both folders are on one machine", _coordinator
    )
    add_dir(one)
    one.add_argument("--renew", action="store_true", help="a new certificate for the coordinator in COORD")
    add_secret(one)
    ask = add(
        commands, "coordinator-request", "make the coordinator's keys on its own machine, and a request", _request
    )
    ask.add_argument("--request", type=Path, required=True, metavar="FILE", help="where the request goes")
    for parser in (one, ask):
        _add_names(parser)
    certify = add(commands, "coordinator-certify", "compare a coordinator's fingerprint and sign its kit", _certify)
    certify.add_argument("request", type=Path, metavar="REQUEST", help="the file that the coordinator made")
    add_dir(certify)
    certify.add_argument("--out", type=Path, required=True, metavar="KIT", help="the kit, for the coordinator")
    add_secret(certify)
    install = add(commands, "coordinator-install", "put the kit into use on the coordinator's machine", _install)
    install.add_argument("kit", type=Path, metavar="KIT", help="the file that the consortium made")
    install.add_argument("--out", type=Path, required=True, metavar="COORD", help="the coordinator's folder")
    for parser in (certify, install):
        parser.add_argument("--fingerprint", metavar="TEXT", help="what the other side read out; else you are asked")


def _add_names(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="COORD", help="the coordinator's folder")
    parser.add_argument("--name", default="coordinator", help="the coordinator's name, as sites will see it")
    parser.add_argument(
        "--host", action="append", default=[], help="DNS name or IP address by which sites reach it; may be repeated"
    )
    parser.add_argument("--port", type=int, metavar="N", help="where it listens for sites (default 443)")
    parser.add_argument("--coordinator-passphrase-file", type=Path, metavar="F", help=f"of COORD's keys: {PASSPHRASE}")
    parser.add_argument("--coordinator-key-file", type=Path, metavar="F", help=f"of COORD's keys: {KEY_FILE}")


def _coordinator(parsed: argparse.Namespace) -> None:
    if not parsed.renew and not parsed.host:
        raise UsageError("coordinator: expected a name or address by which sites reach it; give --host")
    for host in parsed.host:
        normalised_host(host)
    use: passphrases.Use = "existing key" if parsed.renew else "new key"
    secret = _coordinator_secret(parsed, use=use, environment={})  # the environment's is that of the consortium's keys
    consortium, at = opened(parsed), now()
    if parsed.renew:
        made = making.renew_coordinator(
            consortium, parsed.out, hosts=parsed.host, port=parsed.port, secret=secret, now=at
        )
    else:
        port = parsed.port or _PORT
        made = making.make_coordinator(
            consortium, parsed.out, name=parsed.name, hosts=parsed.host, port=port, secret=secret, now=at
        )
    _say_coordinator(made, parsed.out)
    _say_head(read_register(parsed.dir))


def _request(parsed: argparse.Namespace) -> None:
    require_absent(parsed.request)
    known = making.pinned_consortium(parsed.out) is not None
    before = making.present_statement(parsed.out) if known else None
    hosts = parsed.host or (before.hosts if before else ())
    port = parsed.port or (before.port if before else _PORT)
    for host in hosts:
        normalised_host(host)
    there = (parsed.out / SIGNING).exists()
    secret = _coordinator_secret(parsed, use="existing key" if there else "new key", environment=os.environ)
    data = making.request_coordinator(parsed.out, name=parsed.name, hosts=hosts, port=port, secret=secret, now=now())
    write_new(parsed.request, data)
    say(f"request      {parsed.request}  to carry to the consortium; no secret is in it")
    say_fingerprint(making.open_coordinator_request(data, now=now()).public_key)


def _certify(parsed: argparse.Namespace) -> None:
    require_absent(parsed.out)
    data = read_file(parsed.request, what="a coordinator's request")
    request = making.open_coordinator_request(data, now=now())
    say(f"request of the coordinator {request.name}, at {', '.join(request.hosts)}, port {request.port}")
    say_fingerprint(request.public_key)
    confirm(request.public_key.fingerprint, given=parsed.fingerprint, whose=request.name)
    consortium = opened(parsed)
    write_new(parsed.out, making.certify_coordinator(consortium, data, now=now()))
    say(f"kit          {parsed.out}  to carry to the coordinator; nothing in it is secret")
    say_fingerprint(consortium.public)
    _say_head(read_register(parsed.dir))


def _install(parsed: argparse.Namespace) -> None:
    data = read_file(parsed.kit, what="the coordinator's kit")
    consortium = making.pinned_consortium(parsed.out)
    if consortium is None:
        consortium = making.consortium_of(data)
        say(f"kit of {consortium.name}")
        say_fingerprint(consortium)
        confirm(consortium.fingerprint, given=parsed.fingerprint, whose=consortium.name)
    _say_coordinator(making.install_coordinator(parsed.out, data, consortium=consortium, now=now()), parsed.out)


def _say_coordinator(made: CoordinatorIdentity, folder: Path) -> None:
    say(f"coordinator  {made.name}, at {', '.join(made.hosts)}, port {made.port}")
    say(f"certificate  until {moment(made.not_after)}; renew it from day 60 on")
    say(f"statement    {folder / 'coordinator.json'}  for invitations and kits; the consortium's folder has it too")


def _coordinator_secret(parsed: argparse.Namespace, *, use: passphrases.Use, environment: Mapping[str, str]) -> Secret:
    return passphrases.obtain_secret(
        passphrase_file=parsed.coordinator_passphrase_file,
        key_file=parsed.coordinator_key_file,
        use=use,
        what="the coordinator's keys",
        environment=environment,
    )


def _invite(parsed: argparse.Namespace) -> None:
    from fedmed_server.roster_drafts import read_floors  # noqa: PLC0415  other commands start without numpy

    require_absent(parsed.out)
    floors = None if parsed.policy is None else read_floors(parsed.policy)
    path = parsed.coordinator or files_of(parsed.dir).coordinator
    statement = read_file(path, what="the coordinator's statement")
    consortium = opened(parsed)
    data = authority.invite(consortium, parsed.site, coordinator=statement, floors=floors, now=now(), days=parsed.days)
    write_new(parsed.out, data)
    say(f"invitation   {parsed.out}  for {parsed.site}, {parsed.days} days; send it, it works once")
    say_fingerprint(consortium.public)
    say("Read the fingerprint to the site on the telephone when it joins: it must see the same.")


def _enrol(parsed: argparse.Namespace) -> None:
    require_absent(parsed.out)
    data = read_file(parsed.request, what="a site's request")
    roster = None if parsed.roster is None else read_file(parsed.roster, what="a signed roster")
    public = open_request(data, now=now()).public_key
    say(f"request of {public.name}")
    say_fingerprint(public)
    confirm(public.fingerprint, given=parsed.fingerprint, whose=public.name)
    answer = authority.enrol(opened(parsed), data, now=now(), roster=roster)
    _hand_out(parsed, answer, done=f"enrolled {public.name}")


def _renew(parsed: argparse.Namespace) -> None:
    require_absent(parsed.out)
    data = read_file(parsed.request, what="a site's request")
    roster = None if parsed.roster is None else read_file(parsed.roster, what="a signed roster")
    answer = authority.renew(opened(parsed), data, now=now(), roster=roster)
    _hand_out(parsed, answer, done="renewed")


def _hand_out(parsed: argparse.Namespace, answer: Answer, *, done: str) -> None:
    write_new(parsed.out, answer.kit)
    say(f"{done}: its certificate is good until {moment(answer.not_after)}")
    say(f"kit          {parsed.out}  to send to the site; nothing in it is secret")
    say(_LISTS.format(folder=parsed.dir))
    _say_head(answer.register)


def _register(parsed: argparse.Namespace) -> None:
    register = read_register(parsed.dir)
    for one in register.members:
        until = max((part.not_after for part in one.certificates), default="none")
        say(f"{one.site:<24}  enrolled, certificate until {until}")
    for gone in register.revoked:
        say(f"{gone.site:<24}  revoked at {gone.revoked_at}")
    if not register.members and not register.revoked:
        say("nobody is enrolled yet")
    _say_head(register)


def _lists(parsed: argparse.Namespace) -> None:
    register = authority.publish(opened(parsed), now=now())
    say(_LISTS.format(folder=parsed.dir))
    _say_head(register)


def _say_head(register: Register) -> None:
    say(f"register     {register.edition} entries, head {register.head}")
