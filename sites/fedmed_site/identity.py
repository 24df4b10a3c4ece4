"""Who this site is towards the coordinator: its certificate, its keys, and whom it talks to.

Why it exists: the tunnel, the SuperNode and the doctor all need the same files, and none of them may use one
that was not verified. They read them here.

Rules:
    * Everything is verified each time it is read: the kit under the pinned key, the certificate, its dates, its key.
    * Private keys stay sealed until a method is given what they are sealed under.
    * Certificate, key, statement and authority change together (see `fedmed.generations`).

What it does not do: join, renew, or talk to anybody.
"""

import ssl
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.crypto.keyfiles import CONSORTIUM, SUPERNODE, TLS_CLIENT, PublicKey, load_private_key, load_public_key
from fedmed.crypto.openssh import supernode_public
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.unsealed import client_context, key_openssh, key_pem, unsealed_file
from fedmed.errors import IntegrityError, UsageError
from fedmed.generations import CURRENT
from fedmed.kits import Coordinator, OpenedKit, open_kit
from fedmed_site.home import SiteHome

KIT_FILE: Final = "kit.json"
STATEMENT_FILE: Final = "coordinator.json"
AUTHORITY_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "client.pem"
KEY_FILE: Final = "client.key"


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where the files of this site's identity lie; see the reference of keys and certificates."""

    home: SiteHome

    @property
    def tls(self) -> Path:
        """Generations of certificate, key, kit and statement."""
        return self.home.root / "tls"

    @property
    def current(self) -> Path:
        """The generation in use."""
        return self.tls / CURRENT

    @property
    def next_key(self) -> Path:
        """The sealed TLS key of a request that waits for its kit."""
        return self.home.keys / "tls.next.key"

    @property
    def supernode_key(self) -> Path:
        """The sealed P-384 key of the SuperNode."""
        return self.home.keys / "supernode.key"

    @property
    def supernode_public(self) -> Path:
        """Its public half, one line as OpenSSH writes it."""
        return self.home.keys / "supernode.pub"

    @property
    def pinned(self) -> Path:
        """The consortium's public key, 32 raw bytes; what `Membership` believes."""
        return self.home.consortium / "consortium.key"

    @property
    def public(self) -> Path:
        """The same key with the consortium's name and fingerprint, for people."""
        return self.home.consortium / "consortium.pub.json"

    @property
    def invitation(self) -> Path:
        """The invitation that this site accepted last."""
        return self.home.consortium / "invitation.json"

    @property
    def request(self) -> Path:
        """The request that waits for its kit."""
        return self.home.consortium / "request.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteIdentity:
    """A site whose files were verified; `tls_key_path` and `supernode_key_path` are sealed.

    `tls_serial`: lower-case hexadecimal. `not_before`, `not_after`, `renew_from`: of the TLS certificate.
    """

    name: str
    consortium: PublicKey
    coordinator: Coordinator
    ca_path: Path
    tls_cert_path: Path
    tls_key_path: Path
    supernode_key_path: Path
    supernode_public_path: Path
    tls_serial: str
    not_before: datetime
    not_after: datetime
    renew_from: datetime

    @property
    def coordinator_hosts(self) -> tuple[str, ...]:
        """Every name and address of the coordinator."""
        return self.coordinator.hosts

    @property
    def coordinator_host(self) -> str:
        """The first of them."""
        return self.coordinator.hosts[0]

    @property
    def coordinator_port(self) -> int:
        """Where the coordinator listens for sites."""
        return self.coordinator.port

    def tls_key(self, secret: Secret) -> ec.EllipticCurvePrivateKey:
        """Return the unsealed TLS key.

        Raises:
            UsageError: The secret is another one.
        """
        return load_private_key(self.tls_key_path, purpose=TLS_CLIENT).unseal_ecdsa(secret)

    def supernode_key(self, secret: Secret) -> ec.EllipticCurvePrivateKey:
        """Return the unsealed key of the SuperNode.

        Raises:
            UsageError: The secret is another one.
        """
        return load_private_key(self.supernode_key_path, purpose=SUPERNODE).unseal_ecdsa(secret)

    def tls_context(self, secret: Secret) -> ssl.SSLContext:
        """Return the site's side of mutual TLS; the key touches no file system.

        Raises:
            UsageError: The secret is another one.
        """
        return client_context(
            ca=self.ca_path.read_bytes(), certificate=self.tls_cert_path.read_bytes(), key=self.tls_key(secret)
        )

    def unsealed_tls_key(self, secret: Secret, *, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Return a block's file in memory with the TLS key as PEM.

        Raises:
            UsageError: The secret is another one, or there is no file system in memory.
        """
        return unsealed_file(key_pem(self.tls_key(secret)), name="client.key", folder=folder)

    def unsealed_supernode_key(self, secret: Secret, *, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Return a block's file in memory with the SuperNode's key as `flower-supernode` reads it.

        Raises:
            UsageError: The secret is another one, or there is no file system in memory.
        """
        return unsealed_file(key_openssh(self.supernode_key(secret)), name="supernode", folder=folder)


def read_site_identity(root: Path, *, now: datetime) -> SiteIdentity:
    """Return the identity of the site in `root`, verified.

    Args:
        root: The site's folder.
        now: The present time, with its time zone.

    Raises:
        UsageError: There is no site, or it was not enrolled yet.
        IntegrityError: Something does not verify, or the certificate has expired; the message says what to do.
    """
    home = SiteHome.open(root)
    files = IdentityFiles(home)
    if not files.current.is_symlink():
        raise UsageError(f"{root}: expected an enrolled site, found no kit in it; fedmed site join KIT")
    folder = files.tls / files.current.readlink()  # one generation, even if it is renewed meanwhile
    consortium = pinned_consortium(files)
    kit = open_kit((folder / KIT_FILE).read_bytes(), consortium.ed25519(), now=now)
    name = home.record().name
    _require_own(files, folder, kit, name)
    return SiteIdentity(
        name=name,
        consortium=consortium,
        coordinator=kit.coordinator,
        ca_path=folder / AUTHORITY_FILE,
        tls_cert_path=folder / CERTIFICATE_FILE,
        tls_key_path=folder / KEY_FILE,
        supernode_key_path=files.supernode_key,
        supernode_public_path=files.supernode_public,
        tls_serial=kit.leaf.serial,
        not_before=kit.leaf.not_before,
        not_after=kit.leaf.not_after,
        renew_from=kit.leaf.renew_from,
    )


def pinned_consortium(files: IdentityFiles) -> PublicKey:
    """Return the consortium's key that this site pinned, with its name.

    Raises:
        UsageError: The site has pinned none.
        IntegrityError: The two files of it differ.
    """
    if not files.pinned.is_file() or not files.public.is_file():
        raise UsageError(
            f"{files.home.root}: expected a site with a consortium, found none; fedmed site join INVITATION"
        )
    public = load_public_key(files.public, purpose=CONSORTIUM)
    if public.key != files.pinned.read_bytes():
        raise IntegrityError(f"{files.public}: expected the key that this site pinned, got another; restore a backup")
    return public


def signing_public(home: SiteHome) -> bytes:
    """Return the raw public half of the site's signing key, 32 bytes."""
    key = Ed25519PrivateKey.from_private_bytes(home.signing_key_path.read_bytes())
    return key.public_key().public_bytes_raw()


def _require_own(files: IdentityFiles, folder: Path, opened: OpenedKit, name: str) -> None:
    kit = opened.kit
    beside = {
        AUTHORITY_FILE: opened.coordinator.authority,
        CERTIFICATE_FILE: kit.certificate,
        STATEMENT_FILE: kit.coordinator,
    }
    for file, text in beside.items():
        if (folder / file).read_bytes() != text.encode():
            raise IntegrityError(f"{folder / file}: expected what the kit says, got something else; join the kit again")
    sealed = load_private_key(folder / KEY_FILE, purpose=TLS_CLIENT)
    supernode = load_private_key(files.supernode_key, purpose=SUPERNODE)
    own = (
        kit.site == name
        and sealed.public.key == opened.leaf.public_key
        and kit.signing_key == signing_public(files.home)
        and supernode.public.key == _point(kit.supernode_key)
        and files.supernode_public.read_text().strip() == kit.supernode_key
    )
    if not own:
        raise IntegrityError(
            f"{folder}: expected a kit for this site's own keys, but a key or a name differs; restore the keys from a "
            "backup, or join anew"
        )


def _point(line: str) -> bytes:
    numbers = supernode_public(line).public_numbers()
    return b"\4" + numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
