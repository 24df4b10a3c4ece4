"""The data keys of a site: one per de-identified folder, data set and quarantine, wrapped by the site's own key.

Why it exists: whoever receives a folder gets the key of that folder alone, never that of another or of what is
in quarantine.

Rules:
    * A data key comes from the operating system and is written once, wrapped under `keys/seal.key` (RFC 3394).
    * A folder holds the wraps of its key beside its items: `keys/site.json`, and one for each recipient.
    * A recipient is an RSA public key of 4096 bits or more, in PEM.

What it does not do: seal anything (see `fedmed.crypto.seal`).
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from fedmed.crypto.passphrases import obtain
from fedmed.crypto.seal import (
    DataKey,
    WrappedKey,
    unwrap_by_recipient,
    unwrap_by_site,
    wrap_for_recipient,
    wrap_for_site,
)
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.records import canonical_json, decode
from fedmed_site.home import SiteHome
from fedmed_site.manifest import KEYS_FOLDER

QUARANTINE = "quarantine"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class DataKeys:
    """The data keys in one site's folder."""

    home: SiteHome

    def of_batch(self, batch: str, *, dry_run: bool = False) -> DataKey:
        """Return the key of a folder, made when first asked for; a dry run writes none.

        Raises:
            IntegrityError: The stored wrap does not open under the site's key.
        """
        return self._of(batch, dry_run=dry_run)

    def of_quarantine(self, *, dry_run: bool = False) -> DataKey:
        """Return the key of the site's quarantine; see `of_batch`."""
        return self._of(QUARANTINE, dry_run=dry_run)

    def of_dataset(self, name: str, *, dry_run: bool = False) -> DataKey:
        """Return the key of a data set that was prepared from a table; see `of_batch`."""
        return self._of(f"dataset-{name}", dry_run=dry_run)

    def write_wraps(self, out: Path, batch: str, *, recipient: Path | None = None) -> None:
        """Write the wraps of a folder's key beside its items.

        Raises:
            UsageError: The recipient's file is no RSA public key of 4096 bits or more.
        """
        folder = out / KEYS_FOLDER
        wraps = {"site": self._read(self._path(batch))}
        if recipient is not None:
            public_key = read_recipient(recipient)
            name = recipient.stem
            wraps[f"recipient-{name}"] = wrap_for_recipient(self.of_batch(batch), recipient=name, public_key=public_key)
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, wrapped in wraps.items():
            path = folder / f"{name}.json"
            if name == "site" or not path.is_file() or not _same_recipient(path, wrapped):
                write_atomic(path, canonical_json(wrapped), mode=0o644)

    def _of(self, name: str, *, dry_run: bool) -> DataKey:
        path = self._path(name)
        if not path.is_file() and dry_run:
            return DataKey.generate()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with locked(path.parent / LOCK):  # a rotation of the seal key holds it too
            seal_key = self.home.seal_key_path.read_bytes()
            if not path.is_file():
                wrapped = wrap_for_site(DataKey.generate(), site=self.home.record().name, site_key=seal_key)
                write_atomic(path, canonical_json(wrapped))
            return unwrap_by_site(self._read(path), site_key=seal_key)

    def _path(self, name: str) -> Path:
        return self.home.keys / "data" / f"{name}.json"

    def _read(self, path: Path) -> WrappedKey:
        return decode(path.read_bytes(), WrappedKey)


def read_recipient(path: Path) -> RSAPublicKey:
    """Return the RSA public key of a PEM file.

    Raises:
        UsageError: The file is missing or holds something else.
    """
    if not path.is_file():
        raise UsageError(f"no recipient's key at {path}; expected an RSA public key in PEM")
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{path.name}: expected an RSA public key in PEM, got something else") from None
    if not isinstance(key, RSAPublicKey):
        raise UsageError(f"{path.name}: expected an RSA public key, got one of another kind")
    return key


def open_by_recipient(out: Path, key_file: Path, passphrase_file: Path | None) -> DataKey:
    """Return the key of a folder for the owner of an RSA private key.

    Raises:
        UsageError: The private key cannot be read, or the folder is not wrapped for it.
    """
    private_key = _private_key(key_file, passphrase_file)
    for path in sorted((out / KEYS_FOLDER).glob("recipient-*.json")):
        try:
            return unwrap_by_recipient(decode(path.read_bytes(), WrappedKey), private_key=private_key)
        except IntegrityError:
            continue
    raise UsageError("this folder is not wrapped for that key; ask the site for a folder made with --recipient")


def _private_key(path: Path, passphrase_file: Path | None) -> RSAPrivateKey:
    if not path.is_file():
        raise UsageError(f"no private key at {path}; expected an RSA private key in PEM")
    data = path.read_bytes()
    encrypted = b"ENCRYPTED" in data
    password = obtain(passphrase_file, use="existing key") if encrypted else None
    try:
        key = serialization.load_pem_private_key(data, password=password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"{path.name}: expected an RSA private key in PEM and its passphrase") from None
    if not isinstance(key, RSAPrivateKey):
        raise UsageError(f"{path.name}: expected an RSA private key, got one of another kind")
    return key


def _same_recipient(path: Path, wrapped: WrappedKey) -> bool:
    """Tell whether a wrap for this key is there already: OAEP draws anew, and a resumed run must change nothing."""
    held = decode(path.read_bytes(), WrappedKey)
    return (held.key_id, held.recipient_key_id) == (wrapped.key_id, wrapped.recipient_key_id)
