"""The consortium's folder: its root key and its TLS authority, made once, kept offline, sealed.

Why it exists: whoever holds the root key says which sites take part, which floors they keep and who
coordinates. It is not the coordinator's key, so that a coordinator alone cannot invite sites of its own making.

Rules:
    * The private keys never leave the folder that they were made in, and never lie there in clear.
    * Making a consortium never replaces one: a lost consortium key means a new consortium.
    * A folder is whole or absent: what fails half-way is removed.

What it does not do: need a network, or run on the coordinator's machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.audit import ChainLog
from fedmed.crypto import statements
from fedmed.crypto.certificates import MOST_YEARS
from fedmed.crypto.keyfiles import (
    AUTHORITY,
    CONSORTIUM,
    PublicKey,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
    seal_private_key,
)
from fedmed.crypto.passphrases import Secret
from fedmed.crypto.pki import Authority, make_authority
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import write_atomic
from fedmed.kits import moment
from fedmed.members import MEMBERS, REVOKED, Members, Revoked

PRIVATE_NAME: Final = "consortium.key"
PUBLIC_NAME: Final = "consortium.pub.json"
FOUNDED: Final = "founded"
"""Kind of the first entry of a register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsortiumFiles:
    """Where things lie in the consortium's folder.

    `private`, `public`: the two halves of the root key. `authority_key`, `authority`: those of the TLS authority.
    `members`, `revoked`: the lists for the coordinator. `coordinator`: the last statement about the coordinator.
    """

    private: Path
    public: Path
    authority_key: Path
    authority: Path
    register: Path
    members: Path
    revoked: Path
    coordinator: Path
    invitations: Path
    kits: Path


@dataclass(frozen=True, slots=True)
class OpenConsortium:
    """A consortium whose keys are unsealed, while one command runs."""

    files: ConsortiumFiles
    public: PublicKey
    root: Ed25519PrivateKey
    authority: Authority


def files_of(folder: Path) -> ConsortiumFiles:
    """Return the paths below `folder`."""
    return ConsortiumFiles(
        private=folder / PRIVATE_NAME,
        public=folder / PUBLIC_NAME,
        authority_key=folder / "authority.key",
        authority=folder / "authority.pem",
        register=folder / "register.jsonl",
        members=folder / "members.json",
        revoked=folder / "revoked.json",
        coordinator=folder / "coordinator.json",
        invitations=folder / "invitations",
        kits=folder / "kits",
    )


def require_no_key(folder: Path) -> None:
    """Raise before anybody types a passphrase if `folder` holds a consortium already.

    Raises:
        UsageError: One of its files exists, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder, found a file; give another --out")
    files = files_of(folder)
    for path in (files.private, files.public, files.authority_key, files.authority, files.register):
        if path.exists():
            raise UsageError(
                f"{path}: expected no consortium key yet, found one; nothing was overwritten, give another --out"
            )


def make_consortium(
    folder: Path,
    *,
    name: str,
    secret: Secret,
    now: datetime,
    years: int = MOST_YEARS,
    permit: Sequence[str] = (),
) -> PublicKey:
    """Make root key, TLS authority, register and two empty lists in `folder`; return the root's public half.

    Args:
        folder: Made with mode 700 if absent.
        name: The consortium's name, as sites will see it.
        secret: Seals both keys.
        now: The present time, with its time zone.
        years: How long the authority lives, at most 10.
        permit: See `fedmed.crypto.pki.make_authority`.

    Raises:
        UsageError: There is one already, or the name, the years or a permitted host don't fit.
        OSError: The disk is full or the folder is not writable; no part of it is left behind.
    """
    require_no_key(folder)
    root, authority = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    sealed = seal_private_key(root, name=name, purpose=CONSORTIUM, secret=secret)
    sealed_authority = seal_private_key(authority, name=name, purpose=AUTHORITY, secret=secret)
    certificate = make_authority(authority, name=name, now=now, years=years, permit=permit)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files, made = files_of(folder), moment(now)
    written = (files.public, files.authority_key, files.authority, files.register, files.members, files.revoked)
    save_private_key(files.private, sealed)
    try:
        save_public_key(files.public, sealed.public)
        save_private_key(files.authority_key, sealed_authority)
        write_atomic(files.authority, certificate, mode=0o644)
        ChainLog(files.register).append(FOUNDED, {"name": name, "fingerprint": sealed.public.fingerprint, "at": made})
        members = Members(edition=1, made_at=made, sites=())
        write_atomic(files.members, statements.sign(MEMBERS, members, root), mode=0o644)
        revoked = Revoked(edition=1, made_at=made, sites=())
        write_atomic(files.revoked, statements.sign(REVOKED, revoked, root), mode=0o644)
    except BaseException:
        for path in (*written, files.register.with_name("register.jsonl.lock")):
            path.unlink(missing_ok=True)
        files.private.unlink(missing_ok=True)  # nobody has seen its public half, so nothing was signed with it
        raise
    return sealed.public


def public_of_consortium(folder: Path) -> PublicKey:
    """Return the public half of the root key in `folder`.

    Raises:
        UsageError: There is none.
        IntegrityError: It is damaged.
    """
    return load_public_key(files_of(folder).public, purpose=CONSORTIUM)


def open_consortium(folder: Path, secret: Secret, *, now: datetime) -> OpenConsortium:
    """Return the consortium in `folder` with both of its keys unsealed.

    Raises:
        UsageError: It is no consortium's folder, or the secret is another one.
        IntegrityError: Its files don't belong together, or the authority is out of its dates.
    """
    files = files_of(folder)
    sealed = load_private_key(files.private, purpose=CONSORTIUM)
    sealed_authority = load_private_key(files.authority_key, purpose=AUTHORITY)
    public = public_of_consortium(folder)
    if sealed.public != public:
        raise IntegrityError(f"{folder}: expected both halves of one root key, got two keys; restore it from a backup")
    if not files.authority.is_file():
        raise UsageError(f"{files.authority}: expected the TLS authority, found no such file; restore it from a backup")
    root = sealed.unseal_ed25519(secret)
    authority = Authority.open(files.authority.read_bytes(), sealed_authority.unseal_ecdsa(secret), now=now)
    return OpenConsortium(files, public, root, authority)
