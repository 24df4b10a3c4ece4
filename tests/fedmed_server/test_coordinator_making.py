"""A coordinator on a machine of its own: its keys stay there, and the kit answers its own request only."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from offices import COORDINATOR, DAY, NOW, Office, key_file, tree

from fedmed.crypto import statements
from fedmed.crypto.fingerprints import require_same
from fedmed.errors import IntegrityError, UsageError
from fedmed_server import coordinator_making as making
from fedmed_server.coordinator_home import read_coordinator
from fedmed_server.coordinator_making import certify_coordinator, install_coordinator, request_coordinator
from fedmed_server.register import read_register


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Return a consortium, with a coordinator that these tests leave alone."""
    return Office(tmp_path).founded()


def requested(folder: Path, *, host: str = "new.example.org", port: int = 443) -> bytes:
    """Return a request of the coordinator in `folder`."""
    return request_coordinator(folder, name="second", hosts=(host,), port=port, secret=COORDINATOR, now=NOW)


def test_the_coordinators_keys_stay_on_its_machine(office: Office, tmp_path: Path):
    """Three steps on two machines give a coordinator that reads, and neither file to carry has a private key."""
    own = tmp_path / "own"
    request = requested(own)
    kit = certify_coordinator(office.opened(), request, now=NOW)
    require_same(making.consortium_of(kit).fingerprint, office.opened().public.fingerprint, whose="heart-net")
    made = install_coordinator(own, kit, consortium=office.opened().public, now=NOW)
    assert made == read_coordinator(own, now=NOW)
    assert (made.name, made.hosts, made.port) == ("second", ("new.example.org",), 443)
    assert made.members().edition == read_register(office.dir).edition
    plan = made.plan_key(COORDINATOR).private_bytes_raw()
    for data in (request, kit, *tree(office.dir).values()):
        assert plan not in data
        assert b"PRIVATE" not in data
    assert not (own / "tls.next.key").exists()


def test_a_renewal_on_two_machines_keeps_the_plan_key(office: Office, tmp_path: Path):
    """Another request from the same folder: a new certificate, the same plan-signing key."""
    own, public = tmp_path / "own", office.opened().public
    first = install_coordinator(
        own, certify_coordinator(office.opened(), requested(own), now=NOW), consortium=public, now=NOW
    )
    second = install_coordinator(
        own, certify_coordinator(office.opened(), requested(own, port=8443), now=NOW), consortium=public, now=NOW
    )
    assert second.statement.plan_key == first.statement.plan_key
    assert (second.port, second.statement.serial) == (8443, first.statement.serial + 1)


def test_a_kit_for_another_request_changes_nothing(office: Office, tmp_path: Path):
    """An older kit, another coordinator's, another consortium's, a changed one, or one too many."""
    own, public = tmp_path / "own", office.opened().public
    old = certify_coordinator(office.opened(), requested(own), now=NOW)
    other = Office(tmp_path / "other").founded()
    request = requested(own)
    good = certify_coordinator(office.opened(), request, now=NOW)
    theirs = certify_coordinator(office.opened(), requested(tmp_path / "third"), now=NOW)
    claim = statements.parse(good, making.KIT, making.CoordinatorKit).claim
    renamed = statements.sign(making.KIT, replace(claim, request="0" * 64), office.opened().root)
    before = tree(own)
    for data, text in (
        (renamed, "expected the answer to the request that waits"),
        (old, "expected the answer to the request that waits"),
        (theirs, "expected the answer to the request that waits"),
        (certify_coordinator(other.opened(), request, now=NOW), "ask the consortium for the kit again"),
        (good.replace(b"new.example.org", b"evil.example.org"), "ask the consortium for the kit again"),
        (request, "expected a fedmed-coordinator-kit file"),
    ):
        with pytest.raises(IntegrityError, match=text):
            install_coordinator(own, data, consortium=public, now=NOW)
        assert tree(own) == before
    install_coordinator(own, good, consortium=public, now=NOW)
    with pytest.raises(UsageError, match="expected a request that waits for its kit, found none"):
        install_coordinator(own, good, consortium=public, now=NOW)
    requested(own)
    kit = certify_coordinator(other.opened(), requested(own), now=NOW)
    with pytest.raises(IntegrityError, match="expected a coordinator of this consortium, got another's"):
        install_coordinator(own, kit, consortium=making.consortium_of(kit), now=NOW)


def test_a_request_is_the_plan_keys_own_and_young(office: Office, tmp_path: Path):
    """A changed host, another signer, or a request of last month is not certified."""
    data = requested(tmp_path / "own")
    with pytest.raises(IntegrityError, match="signature is not its"):
        certify_coordinator(office.opened(), data.replace(b"new.example.org", b"evil.example.org"), now=NOW)
    held = statements.parse(data, making.REQUEST, making.CoordinatorRequest).claim
    other = statements.sign(making.REQUEST, held, Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError, match="signature is not its"):
        certify_coordinator(office.opened(), other, now=NOW)
    with pytest.raises(IntegrityError, match="the coordinator's request: expected one in force"):
        making.open_coordinator_request(data, now=NOW + 31 * DAY)


def test_a_wrong_secret_makes_no_request(tmp_path: Path):
    """The next TLS key is never sealed under another secret than the plan-signing key."""
    requested(tmp_path / "own")
    before = tree(tmp_path / "own")
    with pytest.raises(UsageError, match="expected the key file that it was sealed under"):
        request_coordinator(tmp_path / "own", name="x", hosts=("a.example",), port=443, secret=key_file(9), now=NOW)
    assert tree(tmp_path / "own") == before


@pytest.mark.parametrize(("host", "port"), [("a b", 443), ("a.example", 0), ("a.example", 65536)])
def test_hosts_and_ports_are_checked_before_keys_are_made(tmp_path: Path, host: str, port: int):
    """A mistake in an address leaves no folder."""
    with pytest.raises(UsageError, match="expected"):
        requested(tmp_path / "own", host=host, port=port)
    assert not (tmp_path / "own").exists()
