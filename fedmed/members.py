"""Who is enrolled and who was revoked, as the consortium tells the coordinator.

Why it exists: the consortium's register stays on its offline machine. The coordinator gets two signed
lists of it, which it loads before it lets anybody in, and which a coordinator alone cannot extend.

Rules:
    * Both lists are signed by the consortium; each edition has a higher number than the one before.
    * Whoever loads a list says which edition it has seen; an older one is refused.
    * A revoked certificate, SuperNode key or signing key stays revoked, even where its site joins again with new ones.

What it does not do: say how old a list may be; whoever revokes carries the list to the coordinator.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fedmed.crypto import statements
from fedmed.crypto.keyfiles import PublicKey
from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.records import require
from fedmed.secagg.roster import require_moment

MEMBERS: Final = "fedmed-members"
REVOKED: Final = "fedmed-revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """One TLS certificate of a site: its serial number in lower-case hexadecimal, and its last moment."""

    serial: str
    not_after: str

    def __post_init__(self) -> None:
        require_moment("not_after", self.not_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site that is enrolled now: its keys, and every certificate that was issued for them.

    `signing_key`: 32 raw bytes (Ed25519). `supernode_key`: one line as OpenSSH writes it, for `flwr supernode`.
    """

    site: str
    signing_key: bytes
    supernode_key: str
    certificates: tuple[Certified, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The sites that are enrolled, in order of name."""

    edition: int
    made_at: str
    sites: tuple[Member, ...]

    def __post_init__(self) -> None:
        require(self.edition >= 1, f"edition must be at least 1, got {self.edition}")
        require_moment("made_at", self.made_at)

    def require_member(self, site: str, *, tls_serial: str) -> Member:
        """Return the member that this TLS certificate was issued to.

        Raises:
            RefusedError: The site is not enrolled, or the certificate is not one of its own.
        """
        member = next((one for one in self.sites if one.site == site), None)
        if member is None or all(one.serial != tls_serial for one in member.certificates):
            raise RefusedError(
                f"site {site}: expected a certificate on the consortium's list (edition {self.edition}), got another; "
                "carry the current members.json to the coordinator, or renew at the site"
            )
        return member


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSite:
    """What a site held when it was revoked; none of it is accepted again."""

    site: str
    revoked_at: str
    signing_key: bytes
    supernode_key: str
    tls_serials: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """Every revocation there ever was, in order."""

    edition: int
    made_at: str
    sites: tuple[RevokedSite, ...]

    def __post_init__(self) -> None:
        require(self.edition >= 1, f"edition must be at least 1, got {self.edition}")
        require_moment("made_at", self.made_at)

    def require_good(self, *, tls_serial: str = "", supernode_key: str = "", signing_key: bytes = b"") -> None:
        """Raise if the certificate or a key was revoked; give what there is to check.

        Raises:
            RefusedError: It was; the message names the site and when.
        """
        for one in self.sites:
            if (
                (bool(tls_serial) and tls_serial in one.tls_serials)
                or (bool(supernode_key) and supernode_key == one.supernode_key)
                or (bool(signing_key) and signing_key == one.signing_key)
            ):
                raise RefusedError(
                    f"site {one.site}: expected keys in force, but these were revoked at {one.revoked_at}; "
                    "ask the consortium for a new invitation"
                )


Listed = TypeVar("Listed", Members, Revoked)


def read_members(path: Path, consortium: PublicKey, *, least_edition: int = 1) -> Members:
    """Return the list of enrolled sites at `path`.

    Args:
        path: `members.json`.
        consortium: The consortium's public key.
        least_edition: The latest edition that this machine has seen, or 1.

    Raises:
        UsageError: There is no such file.
        IntegrityError: The consortium did not sign it, or it is an older edition.
    """
    return _read(path, MEMBERS, Members, consortium, least_edition)


def read_revoked(path: Path, consortium: PublicKey, *, least_edition: int = 1) -> Revoked:
    """Return the list of revocations at `path`.

    Args:
        path: `revoked.json`; a consortium that has revoked nobody has an empty one.
        consortium: The consortium's public key.
        least_edition: The latest edition that this machine has seen, or 1.

    Raises:
        UsageError: There is no such file; nobody is let in without it.
        IntegrityError: The consortium did not sign it, or it is an older edition.
    """
    return _read(path, REVOKED, Revoked, consortium, least_edition)


def _read(path: Path, form: str, kind: type[Listed], consortium: PublicKey, least_edition: int) -> Listed:
    if not path.is_file():
        raise UsageError(f"{path}: expected the consortium's list, found no such file; carry it here from its folder")
    signed = statements.parse(path.read_bytes(), form, kind)
    listed = signed.verify(consortium.ed25519(), cure=f"carry {path.name} here again from the consortium's folder")
    if listed.edition < least_edition:
        raise IntegrityError(
            f"{path.name}: expected edition {least_edition} or later, got {listed.edition}; carry the current one here"
        )
    return listed
