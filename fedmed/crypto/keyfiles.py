"""Key files: private keys sealed under a passphrase, public keys with a fingerprint to read out.

Why it exists: the consortium's key decides who takes part, so a stolen disk or
backup must not give it away, and two people on the telephone must be able to
tell that they hold the same public key.

Rules:
    * A private key file is one JSON envelope: scrypt (RFC 7914), then AES-256-GCM over PKCS#8. The key of the
      envelope follows from a fresh 32-byte salt per write, so the zero nonce never repeats.
    * All that stands in clear in the envelope (name, purpose, public key, cost) is authenticated.
    * A private key file has mode 600 and never replaces another file; one that others can read is refused.
    * A public key file's fingerprint is checked against the key, and its purpose against what it is used for.

What it does not do: obtain passphrases (see `passphrases`), certificates, or guess what a key may sign.
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedmed.crypto.passphrases import read_private
from fedmed.errors import ConfigError, IntegrityError, UsageError
from fedmed.files import write_atomic
from fedmed.records import build, canonical_json, require

LOG2_N: Final = 17
"""scrypt's cost for new files: N = 2^17, r = 8, p = 1 takes 128 MiB."""
SALT_BYTES: Final = 32
CONSORTIUM: Final = "consortium"
"""Purpose of the key that signs rosters."""
SITE_SIGNING: Final = "site-signing"
"""Purpose of the key that a site signs its messages with; it stands in the roster."""
_LOG2_N_TAKEN: Final = (15, 20)
_MOST_BYTES: Final = 65536
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BLOCK: Final = 4

Kind = Literal["ed25519", "ecdsa-p256"]
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Entropy = Callable[[int], bytes]
Held = TypeVar("Held")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key and whose it is.

    `name`: the owner, as in the roster. `purpose`: what it is for, such as `CONSORTIUM` or
    `SITE_SIGNING`. `key`: 32 raw bytes (ed25519), or the 65-byte uncompressed point (ecdsa-p256).
    """

    name: str
    purpose: str
    kind: Kind
    key: bytes

    def __post_init__(self) -> None:
        for field in ("name", "purpose"):
            require(
                _NAME.fullmatch(getattr(self, field)) is not None,
                f"{field} must be 1 to 64 letters, digits, dots, dashes or underscores",
            )
        expected = 32 if self.kind == "ed25519" else 65
        require(len(self.key) == expected, f"key must have {expected} bytes for {self.kind}, got {len(self.key)}")

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint; see `fingerprint`."""
        return fingerprint(self.key)

    def ed25519(self) -> Ed25519PublicKey:
        """Return the key that verifies signatures.

        Raises:
            UsageError: It is of another kind.
        """
        if self.kind != "ed25519":
            raise UsageError(f"public key of {self.name}: expected an ed25519 key, got {self.kind}")
        return Ed25519PublicKey.from_public_bytes(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """A private key under its passphrase, as it lies on disk; nothing here is secret without it."""

    format: Literal["fedmed-private-key"]
    version: Literal[1]
    public: PublicKey
    log2_n: int
    salt: bytes
    box: bytes

    def __post_init__(self) -> None:
        low, high = _LOG2_N_TAKEN
        require(low <= self.log2_n <= high, f"log2_n must be in [{low}, {high}], got {self.log2_n}")
        require(len(self.salt) == SALT_BYTES, f"salt must have {SALT_BYTES} bytes")

    def unseal(self, passphrase: bytes) -> PrivateKey:
        """Return the private key.

        Raises:
            UsageError: The passphrase is another one, or the file was changed; the two can't be told apart.
            IntegrityError: The envelope holds another key than it says.
        """
        cipher = AESGCM(_stretch(passphrase, salt=self.salt, log2_n=self.log2_n))
        try:
            plain = cipher.decrypt(bytes(12), self.box, _associated(self.public, self.log2_n, self.salt))
        except InvalidTag:
            raise UsageError(
                f"private key of {self.public.name}: expected the passphrase that it was sealed under, got another "
                "(or the file was changed); try again, or take the file from a backup"
            ) from None
        key = serialization.load_der_private_key(plain, password=None)
        if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey) or public_bytes(key) != self.public.key:
            raise IntegrityError(
                f"private key of {self.public.name}: expected the key that the file names, got another"
            )
        return key

    def unseal_ed25519(self, passphrase: bytes) -> Ed25519PrivateKey:
        """Return the private key as one that signs with Ed25519.

        Raises:
            UsageError: As `unseal`, or the key is of another kind.
            IntegrityError: As `unseal`.
        """
        key = self.unseal(passphrase)
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"private key of {self.public.name}: expected an ed25519 key, got {self.public.kind}")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class _PublicFile:
    """What a public key file holds; the fingerprint is there for people, and checked."""

    format: Literal["fedmed-public-key"]
    version: Literal[1]
    public: PublicKey
    fingerprint: str


def fingerprint(key: bytes) -> str:
    """Return the SHA-256 of the raw public key as 16 blocks of four hexadecimal digits.

    >>> fingerprint(bytes(32))[:24]
    '6668 7aad f862 bd77 6c8f'
    """
    digits = hashlib.sha256(key).hexdigest()
    return " ".join(digits[start : start + _BLOCK] for start in range(0, len(digits), _BLOCK))


def public_bytes(key: PrivateKey) -> bytes:
    """Return the raw public key: 32 bytes (ed25519), or the 65-byte uncompressed point (ecdsa-p256)."""
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key().public_bytes_raw()
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def public_of(key: PrivateKey, *, name: str, purpose: str) -> PublicKey:
    """Return the public half of `key` with its owner and purpose.

    Raises:
        UsageError: The key is on another curve than P-256, or name or purpose are not plain names.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"private key of {name}: expected the curve P-256, got {key.curve.name}")
    kind: Kind = "ed25519" if isinstance(key, Ed25519PrivateKey) else "ecdsa-p256"
    try:
        return PublicKey(name=name, purpose=purpose, kind=kind, key=public_bytes(key))
    except ValueError as error:
        raise UsageError(f"{error}; got {name!r} for {purpose!r}") from None


def seal_private_key(
    key: PrivateKey, *, name: str, purpose: str, passphrase: bytes, entropy: Entropy = os.urandom
) -> SealedKey:
    """Return `key` under `passphrase`.

    Args:
        key: The private key.
        name: Its owner, as in the roster.
        purpose: What it is for.
        passphrase: Bytes from `passphrases.obtain`.
        entropy: Source of the salt.

    Raises:
        UsageError: As `public_of`, or there is not enough memory for scrypt.
    """
    public, salt = public_of(key, name=name, purpose=purpose), entropy(SALT_BYTES)
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cipher = AESGCM(_stretch(passphrase, salt=salt, log2_n=LOG2_N))
    box = cipher.encrypt(bytes(12), plain, _associated(public, LOG2_N, salt))
    return SealedKey(format="fedmed-private-key", version=1, public=public, log2_n=LOG2_N, salt=salt, box=box)


def save_private_key(path: Path, sealed: SealedKey) -> None:
    """Write a private key file with mode 600; never over another file.

    Raises:
        UsageError: There is a file at `path` already.
        OSError: The disk is full or the folder is not writable; nothing is left behind.
    """
    _write_new(path, canonical_json(sealed) + b"\n", mode=0o600)


def load_private_key(path: Path, *, purpose: str) -> SealedKey:
    """Return the sealed private key at `path`; `unseal` it with its passphrase.

    Raises:
        UsageError: There is no such file, others can read it, it is no private key file, or it
            serves another purpose.
        IntegrityError: The file is damaged.
    """
    data = read_private(path, what="a private key file", most_bytes=_MOST_BYTES)
    sealed = _parse(data, SealedKey, path=path, form="fedmed-private-key", what="a private key file of FedMed")
    _require_purpose(sealed.public, purpose, path)
    return sealed


def save_public_key(path: Path, public: PublicKey) -> None:
    """Write a public key file that anybody may read; never over another file.

    Raises:
        UsageError: There is a file at `path` already.
        OSError: The disk is full or the folder is not writable; nothing is left behind.
    """
    held = _PublicFile(format="fedmed-public-key", version=1, public=public, fingerprint=public.fingerprint)
    _write_new(path, msgspec.json.format(canonical_json(held), indent=2) + b"\n", mode=0o644)


def load_public_key(path: Path, *, purpose: str) -> PublicKey:
    """Return the public key at `path`.

    Raises:
        UsageError: There is no such file, it is no public key file, or it serves another purpose.
        IntegrityError: The file is damaged, or its fingerprint is not the key's.
    """
    public = read_public_key(path)
    _require_purpose(public, purpose, path)
    return public


def read_public_key(path: Path) -> PublicKey:
    """Return the public key at `path`, whatever its purpose: to show it, not to trust it.

    Raises:
        UsageError: There is no such file, or it is no public key file.
        IntegrityError: The file is damaged, or its fingerprint is not the key's.
    """
    if not path.is_file():
        raise UsageError(f"{path}: expected a public key file, found no such file; check the path")
    data = path.read_bytes()
    held = _parse(data, _PublicFile, path=path, form="fedmed-public-key", what="a public key file of FedMed")
    if held.fingerprint != held.public.fingerprint:
        raise IntegrityError(f"{path}: expected the fingerprint of the key in it, got another; fetch the file again")
    return held.public


def decode_public_key(text: str) -> bytes:
    """Return the 32 raw bytes of an Ed25519 public key written as base64 (44 characters) or hexadecimal (64).

    Raises:
        ValueError: It is neither.

    >>> decode_public_key("00" * 32) == decode_public_key("A" * 43 + "=") == bytes(32)
    True
    """
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    if re.fullmatch("[A-Za-z0-9+/]{43}=", text):
        return base64.b64decode(text, validate=True)
    raise ValueError("key must be 32 bytes as base64 (44 characters) or hexadecimal (64 digits)")


def _parse(data: bytes, kind: type[Held], *, path: Path, form: str, what: str) -> Held:
    try:
        plain: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = None
    if not isinstance(plain, Mapping) or plain.get("format") != form:
        raise UsageError(f"{path}: expected {what}, got another file; check the path")
    if plain.get("version") != 1:
        raise UsageError(f"{path}: expected file version 1, got {plain.get('version')!r}; install a newer FedMed")
    try:
        return build(plain, kind)
    except ConfigError as error:
        raise IntegrityError(f"{path}: expected an intact file; {error}; take it from a backup") from None


def _require_purpose(public: PublicKey, purpose: str, path: Path) -> None:
    if public.purpose != purpose:
        raise UsageError(f"{path}: expected a {purpose} key, got the {public.purpose} key of {public.name}")


def _associated(public: PublicKey, log2_n: int, salt: bytes) -> bytes:
    return b"FedMed-key/v1\0" + canonical_json([canonical_json(public).decode(), log2_n, salt])


def _stretch(passphrase: bytes, *, salt: bytes, log2_n: int) -> bytes:
    try:
        return Scrypt(salt=salt, length=32, n=2**log2_n, r=8, p=1).derive(passphrase)
    except MemoryError:
        need = 2**log2_n // 1024
        raise UsageError(
            f"private key: expected {need} MiB of free memory to unlock it; close other programs"
        ) from None


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write `path` whole, and only if nothing is there: the name is taken first, exclusively."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except FileExistsError:
        raise UsageError(
            f"{path}: expected no such file, found one; nothing was overwritten, name another place"
        ) from None
    try:
        write_atomic(path, data, mode=mode)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
