"""The coordinator's folder: its TLS certificate, its plan-signing key, and the consortium's lists.

Why it exists: the coordinator starts unattended. All that it presents to sites, and all that it lets sites in
by, lies in one folder, is verified when it is read, and is renewed without a moment in which half of it is new.

Rules:
    * Private keys are made here and lie here sealed under the coordinator's own passphrase or key file.
    * The statement, the certificate and its key change together (see `fedmed.generations`).
    * The plan-signing key stays when the certificate is renewed.
    * Who is enrolled and who was revoked comes from the consortium's signed lists only; without them nobody gets in.

What it does not do: listen, or decide who is enrolled.
"""

import ssl
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.crypto.certificates import check_server
from fedmed.crypto.keyfiles import (
    CONSORTIUM,
    PLAN_SIGNING,
    TLS_SERVER,
    PublicKey,
    load_private_key,
    load_public_key,
)
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.unsealed import key_pem, server_context, unsealed_file
from fedmed.errors import IntegrityError, UsageError
from fedmed.kits import Coordinator, open_coordinator
from fedmed.members import Members, Revoked, read_members, read_revoked

TLS: Final = "tls"
TOGETHER: Final = ("coordinator.json", "server.pem", "server.key", "ca.pem")
"""Statement, certificate, sealed key and authority: links into the current generation."""
SIGNING: Final = "signing.key"
PUBLIC: Final = "consortium.pub.json"
MEMBERS: Final = "members.json"
REVOKED: Final = "revoked.json"
_STATEMENT, _CERTIFICATE, _KEY, _AUTHORITY = TOGETHER


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorIdentity:
    """A coordinator whose files were verified; keys are unsealed only by the methods.

    `server_key_path` and `signing_key_path` are sealed. `not_before`, `not_after`: those of the TLS certificate.
    """

    name: str
    hosts: tuple[str, ...]
    port: int
    statement: Coordinator
    consortium: PublicKey
    ca_path: Path
    server_cert_path: Path
    server_key_path: Path
    signing_key_path: Path
    members_path: Path
    revoked_path: Path
    not_before: datetime
    not_after: datetime

    def server_context(self, secret: Secret) -> ssl.SSLContext:
        """Return the coordinator's side of mutual TLS; the key touches no file system.

        Raises:
            UsageError: The secret is another one.
        """
        return server_context(
            ca=self.ca_path.read_bytes(), certificate=self.server_cert_path.read_bytes(), key=self._server_key(secret)
        )

    def unsealed_server_key(self, secret: Secret, *, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Return a block's file in memory with the TLS key as PEM, for programs that read a path.

        Raises:
            UsageError: The secret is another one, or there is no file system in memory.
        """
        return unsealed_file(key_pem(self._server_key(secret)), name="server.key", folder=folder)

    def plan_key(self, secret: Secret) -> Ed25519PrivateKey:
        """Return the key that signs plans.

        Raises:
            UsageError: The secret is another one.
        """
        return load_private_key(self.signing_key_path, purpose=PLAN_SIGNING).unseal_ed25519(secret)

    def members(self, *, least_edition: int = 1) -> Members:
        """Return who is enrolled, as carried here last.

        Raises:
            UsageError: There is no list.
            IntegrityError: It does not verify, or is older than `least_edition`.
        """
        return read_members(self.members_path, self.consortium, least_edition=least_edition)

    def revoked(self, *, least_edition: int = 1) -> Revoked:
        """Return what was revoked, as carried here last.

        Raises:
            UsageError: There is no list; nobody is let in without it.
            IntegrityError: It does not verify, or is older than `least_edition`.
        """
        return read_revoked(self.revoked_path, self.consortium, least_edition=least_edition)

    def _server_key(self, secret: Secret) -> ec.EllipticCurvePrivateKey:
        return load_private_key(self.server_key_path, purpose=TLS_SERVER).unseal_ecdsa(secret)


def read_coordinator(folder: Path, *, now: datetime) -> CoordinatorIdentity:
    """Return the coordinator in `folder` after every file of it was verified.

    Raises:
        UsageError: There is no coordinator, or one of its files is missing.
        IntegrityError: A file does not verify, or the certificate has expired; the message says what to do.
    """
    for path in (folder / PUBLIC, folder / SIGNING, *(folder / part for part in TOGETHER)):
        if not path.is_file():
            raise UsageError(
                f"{path}: expected a coordinator's file, found none; fedmed consortium coordinator makes it"
            )
    consortium = load_public_key(folder / PUBLIC, purpose=CONSORTIUM)
    statement = open_coordinator((folder / _STATEMENT).read_bytes(), consortium.ed25519(), now=now)
    authority = (folder / _AUTHORITY).read_bytes()
    if authority != statement.authority.encode():
        raise IntegrityError(f"{folder / _AUTHORITY}: expected the authority of the statement, got another; renew")
    leaf = check_server((folder / _CERTIFICATE).read_bytes(), authority=authority, hosts=statement.hosts, now=now)
    if load_private_key(folder / _KEY, purpose=TLS_SERVER).public.key != leaf.public_key:
        raise IntegrityError(f"{folder / _KEY}: expected the key of the certificate beside it, got another; renew")
    if load_private_key(folder / SIGNING, purpose=PLAN_SIGNING).public.key != statement.plan_key:
        raise IntegrityError(f"{folder / SIGNING}: expected the key that the statement names, got another; renew")
    return CoordinatorIdentity(
        name=statement.name,
        hosts=statement.hosts,
        port=statement.port,
        statement=statement,
        consortium=consortium,
        ca_path=folder / _AUTHORITY,
        server_cert_path=folder / _CERTIFICATE,
        server_key_path=folder / _KEY,
        signing_key_path=folder / SIGNING,
        members_path=folder / MEMBERS,
        revoked_path=folder / REVOKED,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
    )
