"""Key files: private keys sealed under a passphrase or a key file, public keys with a fingerprint to read out.

Why it exists: the consortium's key decides who takes part, so a stolen disk or
backup must not give it away, and two people on the telephone must be able to
tell that they hold the same public key. The keys of sites and of the coordinator
lie in the same envelope.

Rules:
    * A private key file is one JSON envelope: AES-256-GCM over PKCS#8, under a key that scrypt (RFC 7914) makes of a
      passphrase, or HKDF-SHA-256 (RFC 5869) of a key file's 32 random bytes. It follows from a fresh 32-byte salt per
      write, so the zero nonce never repeats.
    * All that stands in clear in the envelope (name, purpose, public key, what it is sealed under) is authenticated.
    * New envelopes have version 2; version 1, which knew passphrases only, is still read.
    * A private key file has mode 600 and never replaces another file; one that others can read is refused.
    * A public key file's fingerprint is checked against the key, and its purpose against what it is used for.

What it does not do: obtain passphrases (see `passphrases`), certificates, or guess what a key may sign.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedmed.crypto.passphrases import Secret, SecretKind, read_private
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
AUTHORITY: Final = "authority"
"""Purpose of the key that signs TLS certificates."""
PLAN_SIGNING: Final = "plan-signing"
"""Purpose of the key with which a coordinator signs plans."""
TLS_SERVER: Final = "tls-server"
TLS_CLIENT: Final = "tls-client"
SUPERNODE: Final = "supernode"
"""Purpose of the key with which a site's SuperNode shows Flower that it is registered."""
_LOG2_N_TAKEN: Final = (15, 20)
_MOST_BYTES: Final = 65536
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BLOCK: Final = 4

Kind = Literal["ed25519", "ecdsa-p256", "ecdsa-p384"]
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Entropy = Callable[[int], bytes]
Held = TypeVar("Held")
_LENGTHS: Final[Mapping[Kind, int]] = {"ed25519": 32, "ecdsa-p256": 65, "ecdsa-p384": 97}
_CURVES: Final[Mapping[str, Kind]] = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key and whose it is.

    `name`: the owner, as in the roster. `purpose`: what it is for, such as `CONSORTIUM` or
    `SITE_SIGNING`. `key`: 32 raw bytes (ed25519), or the uncompressed point (65 bytes on P-256, 97 on P-384).
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
        expected = _LENGTHS[self.kind]
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
    """A private key under its passphrase or key file, as it lies on disk; nothing here is secret without that.

    `log2_n`: scrypt's cost; 0 under a key file, which needs no stretching.
    """

    format: Literal["fedmed-private-key"]
    version: Literal[1, 2]
    public: PublicKey
    log2_n: int
    salt: bytes
    box: bytes
    under: SecretKind = "passphrase"

    def __post_init__(self) -> None:
        low, high = _LOG2_N_TAKEN
        if self.under == "key-file":
            require(self.version == 2, f"version must be 2 under a key file, got {self.version}")
            require(self.log2_n == 0, f"log2_n must be 0 under a key file, got {self.log2_n}")
        else:
            require(low <= self.log2_n <= high, f"log2_n must be in [{low}, {high}], got {self.log2_n}")
        require(len(self.salt) == SALT_BYTES, f"salt must have {SALT_BYTES} bytes")

    def unseal(self, secret: Secret) -> PrivateKey:
        """Return the private key.

        Raises:
            UsageError: The passphrase or key file is another one, or the file was changed; the two can't be told apart.
            IntegrityError: The envelope holds another key than it says.
        """
        if secret.kind != self.under:
            option = "--key-file" if self.under == "key-file" else "--passphrase-file, or the prompt"
            raise UsageError(
                f"private key of {self.public.name}: expected its {_word(self.under)}, got a {_word(secret.kind)}; "
                f"use {option}"
            )
        cipher = AESGCM(_stretch(secret, salt=self.salt, log2_n=self.log2_n))
        try:
            plain = cipher.decrypt(bytes(12), self.box, self._associated())
        except InvalidTag:
            raise UsageError(
                f"private key of {self.public.name}: expected the {_word(self.under)} that it was sealed under, got "
                "another (or the file was changed); try again, or take the file from a backup"
            ) from None
        key = serialization.load_der_private_key(plain, password=None)
        if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey) or public_bytes(key) != self.public.key:
            raise IntegrityError(
                f"private key of {self.public.name}: expected the key that the file names, got another"
            )
        return key

    def unseal_ed25519(self, secret: Secret) -> Ed25519PrivateKey:
        """Return the private key as one that signs with Ed25519.

        Raises:
            UsageError: As `unseal`, or the key is of another kind.
            IntegrityError: As `unseal`.
        """
        key = self.unseal(secret)
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"private key of {self.public.name}: expected an ed25519 key, got {self.public.kind}")
        return key

    def unseal_ecdsa(self, secret: Secret) -> ec.EllipticCurvePrivateKey:
        """Return the private key as one that signs with ECDSA.

        Raises:
            UsageError: As `unseal`, or the key is of another kind.
            IntegrityError: As `unseal`.
        """
        key = self.unseal(secret)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"private key of {self.public.name}: expected an ECDSA key, got {self.public.kind}")
        return key

    def _associated(self) -> bytes:
        return _associated(self.public, version=self.version, under=self.under, log2_n=self.log2_n, salt=self.salt)


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
    """Return the raw public key: 32 bytes (ed25519), or the uncompressed point (65 bytes on P-256, 97 on P-384)."""
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key().public_bytes_raw()
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def public_of(key: PrivateKey, *, name: str, purpose: str) -> PublicKey:
    """Return the public half of `key` with its owner and purpose.

    Raises:
        UsageError: The key is on another curve than P-256 and P-384, or name or purpose are not plain names.
    """
    kind: Kind | None = "ed25519" if isinstance(key, Ed25519PrivateKey) else _CURVES.get(key.curve.name)
    if kind is None:
        curve = "" if isinstance(key, Ed25519PrivateKey) else key.curve.name
        raise UsageError(f"private key of {name}: expected the curve P-256 or P-384, got {curve}")
    try:
        return PublicKey(name=name, purpose=purpose, kind=kind, key=public_bytes(key))
    except ValueError as error:
        raise UsageError(f"{error}; got {name!r} for {purpose!r}") from None


def seal_private_key(
    key: PrivateKey, *, name: str, purpose: str, secret: Secret, entropy: Entropy = os.urandom
) -> SealedKey:
    """Return `key` under `secret`.

    Args:
        key: The private key.
        name: Its owner, as in the roster.
        purpose: What it is for.
        secret: From `passphrases.obtain_secret`.
        entropy: Source of the salt.

    Raises:
        UsageError: As `public_of`, or there is not enough memory for scrypt.
    """
    public, salt = public_of(key, name=name, purpose=purpose), entropy(SALT_BYTES)
    plain = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    log2_n = LOG2_N if secret.kind == "passphrase" else 0
    cipher = AESGCM(_stretch(secret, salt=salt, log2_n=log2_n))
    associated = _associated(public, version=2, under=secret.kind, log2_n=log2_n, salt=salt)
    return SealedKey(
        format="fedmed-private-key",
        version=2,
        public=public,
        log2_n=log2_n,
        salt=salt,
        box=cipher.encrypt(bytes(12), plain, associated),
        under=secret.kind,
    )


def save_private_key(path: Path, sealed: SealedKey) -> None:
    """Write a private key file with mode 600; never over another file.

    Raises:
        UsageError: There is a file at `path` already.
        OSError: The disk is full or the folder is not writable; nothing is left behind.
    """
    _write_new(path, sealed_bytes(sealed), mode=0o600)


def sealed_bytes(sealed: SealedKey) -> bytes:
    """Return the content of a private key file, for whoever replaces files on purpose."""
    return canonical_json(sealed) + b"\n"


def load_private_key(path: Path, *, purpose: str) -> SealedKey:
    """Return the sealed private key at `path`; `unseal` it with its passphrase or key file.

    Raises:
        UsageError: There is no such file, others can read it, it is no private key file, or it
            serves another purpose.
        IntegrityError: The file is damaged.
    """
    data = read_private(path, what="a private key file", most_bytes=_MOST_BYTES)
    sealed = _parse(
        data, SealedKey, path=path, form="fedmed-private-key", what="a private key file of FedMed", newest=2
    )
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


def _parse(data: bytes, kind: type[Held], *, path: Path, form: str, what: str, newest: int = 1) -> Held:
    try:
        plain: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = None
    if not isinstance(plain, Mapping) or plain.get("format") != form:
        raise UsageError(f"{path}: expected {what}, got another file; check the path")
    if plain.get("version") not in range(1, newest + 1):
        raise UsageError(
            f"{path}: expected file version {newest} at most, got {plain.get('version')!r}; install a newer FedMed"
        )
    try:
        return build(plain, kind)
    except ConfigError as error:
        raise IntegrityError(f"{path}: expected an intact file; {error}; take it from a backup") from None


def _require_purpose(public: PublicKey, purpose: str, path: Path) -> None:
    if public.purpose != purpose:
        raise UsageError(f"{path}: expected a {purpose} key, got the {public.purpose} key of {public.name}")


def _associated(public: PublicKey, *, version: int, under: SecretKind, log2_n: int, salt: bytes) -> bytes:
    """Return what is authenticated beside the box; version 1 said nothing of what the key was sealed under."""
    plain = canonical_json(public).decode()
    if version == 1:
        return b"FedMed-key/v1\0" + canonical_json([plain, log2_n, salt])
    return b"FedMed-key/v2\0" + canonical_json([plain, under, log2_n, salt])


def _word(kind: SecretKind) -> str:
    return "key file" if kind == "key-file" else "passphrase"


def _stretch(secret: Secret, *, salt: bytes, log2_n: int) -> bytes:
    if secret.kind == "key-file":
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=b"FedMed-key/v2 key file").derive(
            secret.value
        )
    try:
        return Scrypt(salt=salt, length=32, n=2**log2_n, r=8, p=1).derive(secret.value)
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
