"""Who may come in from outside: members of the consortium, with their own keys, that were not revoked.

Why it exists: a certificate of the right authority says who somebody was when it was issued. The
consortium's lists say who is a member now.

Rules:
    * The lists are read again when their files change, verified each time, and never replaced by older editions.
    * Lists that can't be verified let nobody in.
    * A SuperNode key is good only together with a certificate of the same member.

What it does not do: refuse routes (`gate` does), or know Flower.
"""

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fedmed.crypto.certificates import check_client, serial_of, site_of
from fedmed.crypto.keyfiles import PublicKey
from fedmed.errors import RefusedError
from fedmed.files import write_atomic
from fedmed.members import Members, Revoked, read_members, read_revoked
from fedmed.records import canonical_json, decode

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Editions:
    """The latest editions of both lists that were ever read here."""

    members: int = 1
    revoked: int = 1


class MemberDoorkeeper:
    """A `gate.Doorkeeper` over the coordinator's folder."""

    def __init__(
        self,
        *,
        members: Path,
        revoked: Path,
        consortium: PublicKey,
        authority: bytes,
        now: Callable[[], datetime],
        editions: Path,
    ) -> None:
        """Read the lists once.

        Args:
            members: The signed list of who is enrolled.
            revoked: The signed list of revocations.
            consortium: Whose signature they bear.
            authority: The certificate authority, PEM.
            now: The clock.
            editions: Remembers the latest editions seen, over restarts.

        Raises:
            UsageError: A list is missing.
            IntegrityError: A list does not verify.
        """
        self._paths = members, revoked
        self._consortium = consortium
        self._authority = authority
        self._now = now
        self._lock = threading.Lock()
        self._stamps: tuple[_Stamp, _Stamp] | None = None
        self._editions = editions
        seen = decode(editions.read_bytes(), _Editions) if editions.is_file() else _Editions()
        self._members = read_members(members, consortium, least_edition=seen.members)
        self._revoked = read_revoked(revoked, consortium, least_edition=seen.revoked)

    def admit(self, certificate: bytes, node_key: bytes | None) -> str:
        """Return the member's name, or raise; see `gate.Doorkeeper`.

        Raises:
            RefusedError: No member, a revoked one, or another member's key.
            IntegrityError: The certificate or a list does not verify.
        """
        members, revoked = self._lists()
        site = site_of(certificate)
        shown = ssl.DER_cert_to_PEM_cert(certificate).encode()
        check_client(shown, authority=self._authority, site=site, now=self._now())
        serial = serial_of(certificate)
        revoked.require_good(tls_serial=serial)
        member = members.require_member(site, tls_serial=serial)
        revoked.require_good(supernode_key=member.supernode_key, signing_key=member.signing_key)
        if node_key is not None and _spki(node_key) != openssh_to_pem(member.supernode_key):
            raise RefusedError(f"site {site}: expected its own SuperNode key, got another; enrol the site again")
        return site

    def nodes(self) -> list[tuple[str, bytes]]:
        """Return names and SuperNode keys (PEM) of the members that were not revoked.

        Raises:
            IntegrityError: A list does not verify.
        """
        members, revoked = self._lists()
        lost = {one.supernode_key for one in revoked.sites}
        return [(one.site, openssh_to_pem(one.supernode_key)) for one in members.sites if one.supernode_key not in lost]

    def _lists(self) -> tuple[Members, Revoked]:
        with self._lock:
            members, revoked = self._paths
            stamps = _stamp(members), _stamp(revoked)
            if stamps != self._stamps:
                self._members = read_members(members, self._consortium, least_edition=self._members.edition)
                self._revoked = read_revoked(revoked, self._consortium, least_edition=self._revoked.edition)
                self._stamps = stamps
                latest = _Editions(members=self._members.edition, revoked=self._revoked.edition)
                write_atomic(self._editions, canonical_json(latest))
            return self._members, self._revoked


def openssh_to_pem(line: str) -> bytes:
    """Return a public key that OpenSSH wrote as PEM (SubjectPublicKeyInfo), as Flower compares keys."""
    return _pem(serialization.load_ssh_public_key(line.encode()))


def _spki(key: bytes) -> bytes:
    try:
        return _pem(serialization.load_pem_public_key(key))
    except (ValueError, UnsupportedAlgorithm):
        raise RefusedError("expected a SuperNode's public key in PEM, got something else") from None


def _pem(key: serialization.SSHPublicKeyTypes | object) -> bytes:
    public: serialization.SSHPublicKeyTypes = key  # type: ignore[assignment]  # both loaders return public keys
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a file is replaced or rewritten."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_size, found.st_mtime_ns
