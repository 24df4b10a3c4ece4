"""The consortium's two lists: signed, of growing editions, and exact."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.crypto import statements
from fedmed.crypto.keyfiles import CONSORTIUM, public_of
from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.members import (
    MEMBERS,
    REVOKED,
    Certified,
    Member,
    Members,
    Revoked,
    RevokedSite,
    read_members,
    read_revoked,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
PUBLIC = public_of(KEY, name="heart-net", purpose=CONSORTIUM)
AT = "2030-01-01T12:00:00Z"
NORTH = Member(
    site="north",
    signing_key=bytes(32),
    supernode_key="ecdsa n",
    certificates=(Certified(serial="ab", not_after=AT), Certified(serial="cd", not_after=AT)),
)
GONE = RevokedSite(
    site="south", revoked_at=AT, signing_key=b"\x01" * 32, supernode_key="ecdsa s", tls_serials=("12", "34")
)
LISTED = Members(edition=7, made_at=AT, sites=(NORTH,))
DENIED = Revoked(edition=7, made_at=AT, sites=(GONE,))


def written(path: Path, form: str, body: object, key: Ed25519PrivateKey = KEY) -> Path:
    """Write a list."""
    path.write_bytes(statements.sign(form, body, key))
    return path


def test_lists_come_back(tmp_path: Path):
    """What the consortium signed is what the coordinator reads."""
    assert read_members(written(tmp_path / "members.json", MEMBERS, LISTED), PUBLIC) == LISTED
    assert read_revoked(written(tmp_path / "revoked.json", REVOKED, DENIED), PUBLIC, least_edition=7) == DENIED


def test_a_missing_an_older_or_a_foreign_list_is_refused(tmp_path: Path):
    """Without the list nobody is let in; an edition before one that was seen, or of another key, is no list."""
    with pytest.raises(UsageError, match="carry it here from its folder"):
        read_revoked(tmp_path / "revoked.json", PUBLIC)
    path = written(tmp_path / "revoked.json", REVOKED, DENIED)
    with pytest.raises(IntegrityError, match="expected edition 8 or later, got 7"):
        read_revoked(path, PUBLIC, least_edition=8)
    with pytest.raises(IntegrityError, match="expected a fedmed-members file, got fedmed-revoked"):
        read_members(path, PUBLIC)
    other = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
    with pytest.raises(IntegrityError, match="signature is not its"):
        read_revoked(written(path, REVOKED, DENIED, other), PUBLIC)


def test_a_member_is_known_by_its_own_certificate():
    """Every certificate of a member counts, before and after a renewal; another site's or a stranger's does not."""
    assert LISTED.require_member("north", tls_serial="ab") == LISTED.require_member("north", tls_serial="cd") == NORTH
    for site, serial in (("north", "ef"), ("north", ""), ("south", "ab"), ("", "ab")):
        with pytest.raises(RefusedError, match="expected a certificate on the consortium's list"):
            LISTED.require_member(site, tls_serial=serial)


def test_what_was_revoked_is_refused_by_any_of_its_marks():
    """Serial, SuperNode key or signing key: each alone is enough; what is not there is not compared."""
    DENIED.require_good(tls_serial="ab", supernode_key="ecdsa n", signing_key=bytes(32))
    DENIED.require_good()
    for marks in ({"tls_serial": "34"}, {"supernode_key": "ecdsa s"}, {"signing_key": b"\x01" * 32}):
        with pytest.raises(RefusedError, match=f"revoked at {AT}"):
            DENIED.require_good(**marks)  # type: ignore[arg-type]  one of three
