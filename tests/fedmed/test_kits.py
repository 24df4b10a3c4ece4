"""Invitations, requests and kits: whatever is changed in any of them, or shown to somebody else, is refused."""

import base64
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from offices import DAY, FLOORS, NOW, Office

from fedmed.crypto import statements
from fedmed.enrolment import REQUEST, SiteRequest, make_request, open_request, require_answers, require_code
from fedmed.errors import IntegrityError
from fedmed.kits import KIT, Floors, Invitation, Kit, open_coordinator, open_invitation, open_kit, require_in_roster
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed_server.consortium import files_of


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Return a consortium with its coordinator; these tests change nothing in it but the register."""
    return Office(tmp_path_factory.mktemp("kits")).founded()


@pytest.fixture(scope="module")
def invitation(office: Office) -> bytes:
    """Return an invitation for north."""
    return office.invitation("north")


@pytest.fixture(scope="module")
def request_file(office: Office, invitation: bytes) -> bytes:
    """Return north's answer to it."""
    return office.accepted("north", invitation).data


@pytest.fixture(scope="module")
def kit(office: Office, request_file: bytes) -> bytes:
    """Return the kit that answers it."""
    return office.enrolled(request_file)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every scalar in a JSON value."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, (*path, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, index))
    else:
        yield path


def changed(value: Any) -> Iterator[Any]:
    """Yield values of the same kind that are near: what an attacker would try."""
    if isinstance(value, str):
        yield value[:-1]
        yield value + "A"
        yield (chr(ord(value[0]) ^ 1) + value[1:]) if value else "x"
        yield value[: len(value) // 2] + "B" + value[len(value) // 2 + 1 :]
    elif isinstance(value, bool) or value is None:
        yield "x"
    else:
        yield value + 1
        yield -value - 1


def tampered(data: bytes) -> Iterator[bytes]:
    """Yield the file with each of its scalars changed in several ways, and with each key removed or added."""
    plain = json.loads(data)
    for path in leaves(plain):
        for value in changed(_at(plain, path)):
            other = copy.deepcopy(plain)
            _at(other, path[:-1])[path[-1]] = value
            if other != plain:
                yield json.dumps(other).encode()
    for name in plain["body"]:
        other = copy.deepcopy(plain)
        del other["body"][name]
        yield json.dumps(other).encode()
    yield json.dumps({**plain, "body": {**plain["body"], "more": 1}}).encode()


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def same_bytes(data: bytes, other: bytes) -> bool:
    """Tell whether two files mean the same, because base64 has several spellings of the last bits."""

    def decoded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: decoded(part) for name, part in value.items()}
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except ValueError:
                return value
        return value

    return bool(decoded(json.loads(data)) == decoded(json.loads(other)))


def test_everything_untouched_is_good(office: Office, invitation: bytes, request_file: bytes, kit: bytes):
    """Without a change each file opens, so each refusal below is that of its change."""
    opened = open_invitation(invitation, now=NOW)
    assert (opened.site, opened.floors) == ("north", FLOORS)
    require_code(open_request(request_file, now=NOW), opened)
    held = open_kit(kit, office.opened().public.ed25519(), now=NOW)
    assert (held.kit.site, held.coordinator.port, held.roster) == ("north", 8443, None)


def test_an_invitation_is_tampered_in_each_field(invitation: bytes):
    """Every field of an invitation, its coordinator's statement and its signature included."""
    for data in tampered(invitation):
        if not same_bytes(data, invitation):
            with pytest.raises(IntegrityError):
                open_invitation(data, now=NOW)


def test_a_request_is_tampered_in_each_field(request_file: bytes):
    """Every field of a request, the proofs and the signing request included."""
    for data in tampered(request_file):
        if not same_bytes(data, request_file):
            with pytest.raises(IntegrityError):
                open_request(data, now=NOW)


def test_a_kit_is_tampered_in_each_field(office: Office, kit: bytes):
    """Every field of a kit, the certificate and the statement included."""
    key = office.opened().public.ed25519()
    for data in tampered(kit):
        if not same_bytes(data, kit):
            with pytest.raises(IntegrityError):
                open_kit(data, key, now=NOW)


def test_a_statement_is_tampered_in_each_field(office: Office):
    """Every field of the coordinator's statement."""
    data, key = files_of(office.dir).coordinator.read_bytes(), office.opened().public.ed25519()
    for other in tampered(data):
        if not same_bytes(other, data):
            with pytest.raises(IntegrityError):
                open_coordinator(other, key, now=NOW)


def test_each_is_in_force_for_its_time_only(office: Office, invitation: bytes, request_file: bytes, kit: bytes):
    """Too late, and much too early, each file names the moment and the clock."""
    key = office.opened().public.ed25519()
    for late, reader, data in (
        (15 * DAY, lambda data, now: open_invitation(data, now=now), invitation),
        (31 * DAY, lambda data, now: open_request(data, now=now), request_file),
        (90 * DAY, lambda data, now: open_kit(data, key, now=now), kit),
        (
            367 * DAY,
            lambda data, now: open_coordinator(data, key, now=now),
            files_of(office.dir).coordinator.read_bytes(),
        ),
    ):
        reader(data, NOW + late - 2 * DAY)
        reader(data, NOW - timedelta(minutes=55))
        with pytest.raises(IntegrityError, match=r"expired at .* clock says"):
            reader(data, NOW + late)
        with pytest.raises(IntegrityError, match=r"starts at .* clock says"):
            reader(data, NOW - timedelta(hours=2))


def test_a_statement_of_another_consortium_in_an_invitation_is_refused(office: Office, tmp_path: Path):
    """An attacker's own invitation around the real coordinator's statement, or the other way round, does not open."""
    other = Office(tmp_path).founded()
    mine = files_of(office.dir).coordinator.read_text()
    theirs = open_invitation(other.invitation("north"), now=NOW)
    data = statements.sign("fedmed-invitation", replace(theirs, coordinator=mine), other.opened().root)
    with pytest.raises(IntegrityError, match=r"fetch coordinator\.json again"):
        open_invitation(data, now=NOW)


KEYS: dict[str, Any] = {
    "signing": Ed25519PrivateKey.generate(),
    "supernode": ec.generate_private_key(ec.SECP384R1()),
    "tls": ec.generate_private_key(ec.SECP256R1()),
}


def asked(invitation: bytes, **changes: Any) -> bytes:
    """Return a request of somebody who read the invitation, with own keys and these changes."""
    held = open_invitation(invitation, now=NOW)
    base: dict[str, Any] = {"site": "north", "consortium_key": held.consortium.key, "code": held.code, "now": NOW}
    return make_request(**{**base, **KEYS, **changes})


def test_each_key_must_be_held(invitation: bytes):
    """Somebody else's SuperNode key or signing request cannot be put into an own request."""
    one, other = KEYS["signing"], Ed25519PrivateKey.generate()
    theirs = open_request(asked(invitation, signing=other, supernode=ec.generate_private_key(ec.SECP384R1())), now=NOW)
    mine = open_request(asked(invitation), now=NOW)
    stolen = replace(mine, supernode_key=theirs.supernode_key)
    with pytest.raises(IntegrityError, match="expected a signature of the SuperNode's key"):
        open_request(statements.sign(REQUEST, stolen, one), now=NOW)
    with pytest.raises(IntegrityError, match="expected a signature of the SuperNode's key"):
        open_request(statements.sign(REQUEST, replace(mine, signing_key=theirs.signing_key), other), now=NOW)
    with pytest.raises(IntegrityError, match="signature is not its"):
        open_request(statements.sign(REQUEST, mine, other), now=NOW)


def test_the_code_must_be_known(invitation: bytes, office: Office):
    """A guessed code, or the code's public name with a made-up proof, is not the code."""
    held = open_invitation(invitation, now=NOW)
    require_code(open_request(asked(invitation), now=NOW), held)
    guess = open_request(asked(invitation, code=bytes(16)), now=NOW)
    for request in (
        guess,
        replace(guess, code_id=open_request(asked(invitation), now=NOW).code_id),
        open_request(asked(invitation, site="south"), now=NOW),
        open_request(asked(invitation, consortium_key=bytes(32)), now=NOW),
        open_request(asked(invitation, code=None), now=NOW),
    ):
        with pytest.raises(IntegrityError, match="invite the site anew"):
            require_code(request, held)


def test_a_proof_does_not_move_to_other_keys(invitation: bytes):
    """Who saw a request cannot take its proof of the code for keys of his own."""
    seen = open_request(asked(invitation), now=NOW)
    other = Ed25519PrivateKey.generate()
    mine = open_request(asked(invitation, code=bytes(16), signing=other), now=NOW)
    moved = replace(mine, code_id=seen.code_id, code_proof=seen.code_proof)
    with pytest.raises(IntegrityError, match="the code of its invitation"):
        require_code(moved, open_invitation(invitation, now=NOW))


def test_a_kit_answers_one_request_only(office: Office, request_file: bytes, kit: bytes):
    """Site, kind, digest and all three keys must be those of the request; each alone is enough to refuse."""
    request = open_request(request_file, now=NOW)
    held = open_kit(kit, office.opened().public.ed25519(), now=NOW)
    tls_key = held.leaf.public_key
    require_answers(held.kit, request, tls_key=tls_key, leaf=held.leaf)
    for name, value in (
        ("request", "0" * 64),
        ("kind", "renew"),
        ("signing_key", bytes(32)),
        ("supernode_key", "ecdsa-sha2-nistp384 AAAA"),
        ("site", "south"),
    ):
        with pytest.raises(IntegrityError, match="kit"):
            require_answers(replace(held.kit, **{name: value}), request, tls_key=tls_key, leaf=held.leaf)
    other = bytes([4]) + bytes(64)
    with pytest.raises(IntegrityError, match="got one for other keys"):
        require_answers(held.kit, request, tls_key=other, leaf=held.leaf)
    with pytest.raises(IntegrityError, match="got one for other keys"):
        require_answers(held.kit, request, tls_key=tls_key, leaf=replace(held.leaf, public_key=other))


@pytest.mark.parametrize(
    ("field", "value"),
    [("site", "a b"), ("site", "a.b"), ("code_id", "../../etc/passwd"), ("code_id", ""), ("made_at", "yesterday")],
)
def test_a_request_with_a_field_out_of_form_does_not_exist(invitation: bytes, field: str, value: str):
    """Names of files follow from a request's fields, so they have a form before they are looked at."""
    held = open_request(asked(invitation), now=NOW)
    with pytest.raises(ValueError, match=r"must be|expected a name"):
        replace(held, **{field: value})


def roster(*names: str, n_min: int = 3, max_corrupt: int = 0) -> Roster:
    """Return a roster of made-up keys."""
    segment = Segment(name="delta", bits=32, kind="signed", clip=4.0, fraction_bits=20, max_length=8)
    policy = Policy(n_min=n_min, max_corrupt=max_corrupt, max_weight=10.0, segments=(segment,))
    sites = tuple(RosterEntry(site=name, signing_key=name.encode().ljust(32, b"\0")) for name in sorted(names))
    return Roster(serial=1, sites=sites, policy=policy)


def test_the_floors_of_the_invitation_are_kept():
    """A roster may be stricter than what the site was invited to, never laxer."""
    floors = Floors(n_min=4, max_corrupt=1, max_weight=10.0)
    floors.require_kept(roster("a", "b", "c", "d", n_min=4, max_corrupt=1).policy)
    floors.require_kept(roster("a", "b", "c", "d", "e", n_min=5, max_corrupt=2).policy)
    for lax in (roster("a", "b", "c", n_min=3, max_corrupt=1), roster("a", "b", "c", "d", n_min=4)):
        with pytest.raises(IntegrityError, match="as this site was invited to"):
            floors.require_kept(lax.policy)


def test_a_site_stands_in_its_roster_under_its_own_key():
    """Absent, or under another key: both are refused, and told apart."""
    held = roster("a", "b", "c")
    require_in_roster(held, site="a", signing_key=b"a".ljust(32, b"\0"))
    with pytest.raises(IntegrityError, match="does not have it"):
        require_in_roster(held, site="d", signing_key=bytes(32))
    with pytest.raises(IntegrityError, match="another key of it"):
        require_in_roster(held, site="a", signing_key=bytes(32))


def test_the_records_refuse_what_cannot_be(invitation: bytes, request_file: bytes, kit: bytes):
    """Ports, codes, dates and keys out of their range make no record."""
    asked_in = statements.parse(invitation, "fedmed-invitation", Invitation).claim
    sent, given = (
        statements.parse(request_file, REQUEST, SiteRequest).claim,
        statements.parse(kit, KIT, Kit).claim,
    )
    for record, changes in (
        (asked_in, {"code": bytes(15)}),
        (asked_in, {"valid_until": asked_in.made_at}),
        (asked_in, {"consortium": replace(asked_in.consortium, purpose="site-signing")}),
        (sent, {"signing_key": bytes(31)}),
        (sent, {"kind": "renew"}),
        (given, {"request": "x"}),
        (given, {"site": "../north"}),
    ):
        with pytest.raises(ValueError, match=r"must|expected"):
            replace(record, **changes)
