"""Items sealed at rest under a site data key, and that key wrapped for whoever may open them.

Why it exists: a stolen disk or back-up must hold nothing that can be read, and a key must
be replaceable without touching a terabyte of images.

Rules:
    * Each item has a key of its own (HKDF-SHA256 with a fresh 256-bit salt, RFC 5869), so no nonce ever repeats.
    * An item is AES-256-GCM in chunks of 1 MiB in the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizar
      2015): the nonce holds the chunk's number and whether it is the last, so that a cut, swapped, doubled or
      foreign chunk is found. Header and the item's name are associated data of every chunk.
    * The data key is wrapped by RSA-OAEP-SHA256 (4096 bits or more) for a named recipient, or by a site key
      (AES key wrap, RFC 3394). Rotation wraps it anew; the items stay as they are.
    * Whatever does not verify raises `IntegrityError`. A file appears only after its last chunk has verified.
    * Salts and keys come from the operating system here: a caller who chose them could repeat one.

What it does not do: store keys, hide sizes, or notice that an item was replaced by an older one of its name.
"""

import hashlib
import hmac
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from fedmed.errors import IntegrityError, UsageError
from fedmed.files import replacing
from fedmed.records import require

SEAL_VERSION = 1
KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
MIN_RSA_BITS = 4096
SEALED_SUFFIX = ".sealed"

_KEY_ID_BYTES = 8
_SALT_BYTES = 32
_TAG_BYTES = 16
_HEADER_BYTES = 1 + _KEY_ID_BYTES + _SALT_BYTES
_COUNTER_BYTES = 11
_INFO = b"fedmed seal 1 "
_CUT = "the end is missing or was changed"

WrapMethod = Literal["rsa-oaep-sha256", "aes-kw"]


class DataKey:
    """The key that items are sealed under. Its bytes show nowhere; `key_id` names it.

    >>> DataKey(bytes(32))
    DataKey(key_id='09927484cad35894')
    """

    __slots__ = ("_secret", "key_id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise UsageError(f"a data key must have {KEY_BYTES} bytes, got {len(secret)}")
        self._secret = secret
        self.key_id = _derive(secret, salt=None, purpose=b"key id")[:_KEY_ID_BYTES].hex()

    def __repr__(self) -> str:
        return f"DataKey(key_id={self.key_id!r})"

    @classmethod
    def generate(cls) -> "DataKey":
        """Return a new key from the operating system."""
        return cls(os.urandom(KEY_BYTES))

    def item_key(self, salt: bytes) -> AESGCM:
        """Return the cipher of the item with this salt."""
        return AESGCM(_derive(self._secret, salt=salt, purpose=b"item"))

    def wrap(self, kek: bytes) -> bytes:
        """Return the key wrapped under `kek` by RFC 3394."""
        return aes_key_wrap(kek, self._secret)

    def encrypt_to(self, public_key: RSAPublicKey, label: bytes) -> bytes:
        """Return the key encrypted to an RSA key by OAEP."""
        return public_key.encrypt(self._secret, _oaep(label))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A data key that only its recipient can take out; public, and stored beside the items.

    `recipient` is a person or site by name, `recipient_key_id` the SHA-256 of their public key
    (SubjectPublicKeyInfo), or the key id of the site key. `wrapped` is hexadecimal.
    """

    key_id: str
    method: WrapMethod
    recipient: str
    recipient_key_id: str
    wrapped: str
    version: int = SEAL_VERSION

    def __post_init__(self) -> None:
        require(self.version == SEAL_VERSION, f"version must be {SEAL_VERSION}, got {self.version}")
        require(bool(self.recipient) and self.recipient.isprintable(), "recipient must be a printable name")
        for name in ("key_id", "recipient_key_id", "wrapped"):
            digits = getattr(self, name)
            require(
                bool(digits) and len(digits) % 2 == 0 and set(digits) <= set("0123456789abcdef"),
                f"{name} must be hexadecimal digits",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Under which key and name something is to be sealed."""

    key: DataKey
    name: str


class SealingWriter:
    """A file that is written only: what comes in lies on the disk sealed. Memory holds one chunk.

    >>> sealed, key = io.BytesIO(), DataKey.generate()
    >>> writer = SealingWriter(sealed, Seal(key=key, name="a.txt"))
    >>> writer.write(b"note"), writer.finish(), unseal(sealed.getvalue(), key=key, name="a.txt")
    (4, None, b'note')
    """

    def __init__(self, sealed: BinaryIO, seal: Seal) -> None:
        header = _header(seal.key)
        self._sealed, self._cipher = sealed, seal.key.item_key(header[-_SALT_BYTES:])
        self._context, self._number, self._waiting = _context(header, seal.name), 0, bytearray()
        sealed.write(header)

    def write(self, data: bytes | memoryview) -> int:
        """Take more bytes and return how many they were."""
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:
            self._put(CHUNK_BYTES, last=False)
        return len(data)

    def flush(self) -> None:
        """Do nothing: a chunk is written when it is full, the last one by `finish`."""

    def finish(self) -> None:
        """Seal the last chunk; without it the item does not open."""
        self._put(len(self._waiting), last=True)

    def _put(self, size: int, *, last: bool) -> None:
        chunk = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._sealed.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._context))
        self._number += 1


def seal(plain: bytes, *, key: DataKey, name: str) -> bytes:
    """Return `plain` sealed as the item `name`: version (1), key id (8), salt (32), then the chunks.

    >>> key = DataKey.generate()
    >>> unseal(seal(b"note", key=key, name="a.txt"), key=key, name="a.txt")
    b'note'
    """
    sealed = io.BytesIO()
    seal_stream(io.BytesIO(plain), sealed, key=key, name=name)
    return sealed.getvalue()


def unseal(sealed: bytes, *, key: DataKey, name: str) -> bytes:
    """Return what was sealed as `name`.

    Raises:
        IntegrityError: The bytes are not exactly what `seal` made under this key and name.
    """
    return b"".join(unseal_stream(io.BytesIO(sealed), key=key, name=name))


def seal_stream(plain: BinaryIO, sealed: BinaryIO, *, key: DataKey, name: str) -> None:
    """Read `plain` to its end and write the sealed item; memory holds two chunks."""
    header = _header(key)
    cipher, context = key.item_key(header[-_SALT_BYTES:]), _context(header, name)
    sealed.write(header)
    for number, chunk, last in _chunks(plain, CHUNK_BYTES):
        sealed.write(cipher.encrypt(_nonce(number, last=last), chunk, context))


def unseal_stream(sealed: BinaryIO, *, key: DataKey, name: str) -> Iterator[bytes]:
    """Yield the chunks of an item, each verified. Only a generator that ends has shown the item to be whole.

    Raises:
        IntegrityError: The item was changed, cut, put together from others, sealed under another key or name, or
            is of another version.
    """
    header = sealed.read(_HEADER_BYTES)
    _check_header(header, key, name)
    cipher, context = key.item_key(header[-_SALT_BYTES:]), _context(header, name)
    for number, chunk, last in _chunks(sealed, CHUNK_BYTES + _TAG_BYTES):
        try:
            yield cipher.decrypt(_nonce(number, last=last), chunk, context)
        except InvalidTag:
            raise IntegrityError(
                f"item {name!r}: chunk {number} does not verify: changed, moved, sealed under another name, or "
                f"{_CUT}; take it from a back-up"
            ) from None


def seal_file(plain: Path, sealed: Path, *, key: DataKey, name: str) -> None:
    """Seal the file `plain` into `sealed`, whole or not at all; `plain` stays.

    Raises:
        OSError: A file cannot be read or written; `sealed` is unchanged.
    """
    with plain.open("rb") as source, replacing(sealed) as target:
        seal_stream(source, target, key=key, name=name)


def unseal_file(sealed: Path, plain: Path, *, key: DataKey, name: str) -> None:
    """Open the item in `sealed` into `plain`, which appears only once everything has verified.

    Raises:
        IntegrityError: The item does not verify; `plain` is unchanged.
        OSError: A file cannot be read or written; `plain` is unchanged.
    """
    with sealed.open("rb") as source, replacing(plain) as target:
        for chunk in unseal_stream(source, key=key, name=name):
            target.write(chunk)


def wrap_for_recipient(key: DataKey, *, recipient: str, public_key: RSAPublicKey) -> WrappedKey:
    """Wrap a data key for a named recipient by RSA-OAEP with SHA-256 (RFC 8017).

    The recipient's name and the key id are the OAEP label, so that neither can be changed afterwards.

    Raises:
        UsageError: The RSA key is shorter than 4096 bits.
    """
    if public_key.key_size < MIN_RSA_BITS:
        raise UsageError(f"recipient {recipient}: expected an RSA key of {MIN_RSA_BITS} bits or more, got fewer")
    return WrappedKey(
        key_id=key.key_id,
        method="rsa-oaep-sha256",
        recipient=recipient,
        recipient_key_id=_fingerprint(public_key),
        wrapped=key.encrypt_to(public_key, _label(recipient, key.key_id)).hex(),
    )


def wrap_for_site(key: DataKey, *, site: str, site_key: bytes) -> WrappedKey:
    """Wrap a data key under the site's own 256-bit key by AES key wrap (RFC 3394).

    Raises:
        UsageError: The site key has another length.
    """
    return WrappedKey(
        key_id=key.key_id,
        method="aes-kw",
        recipient=site,
        recipient_key_id=site_key_id(site_key),
        wrapped=key.wrap(_kek(site_key, site)).hex(),
    )


def unwrap_by_recipient(wrapped: WrappedKey, *, private_key: RSAPrivateKey) -> DataKey:
    """Return the data key that was wrapped for the owner of `private_key`.

    Raises:
        IntegrityError: It was wrapped for somebody else, or changed.
    """
    _check_wrap(wrapped, method="rsa-oaep-sha256", holder=_fingerprint(private_key.public_key()))
    try:
        secret = private_key.decrypt(bytes.fromhex(wrapped.wrapped), _oaep(_label(wrapped.recipient, wrapped.key_id)))
    except ValueError:
        raise _not_ours(wrapped) from None
    return _checked_key(secret, wrapped)


def unwrap_by_site(wrapped: WrappedKey, *, site_key: bytes) -> DataKey:
    """Return the data key that was wrapped under `site_key`.

    Raises:
        IntegrityError: It was wrapped under another key, or changed.
    """
    _check_wrap(wrapped, method="aes-kw", holder=site_key_id(site_key))
    try:
        secret = aes_key_unwrap(_kek(site_key, wrapped.recipient), bytes.fromhex(wrapped.wrapped))
    except (InvalidUnwrap, ValueError):
        raise _not_ours(wrapped) from None
    return _checked_key(secret, wrapped)


def rotate_site_key(wrapped: WrappedKey, *, old: bytes, new: bytes) -> WrappedKey:
    """Return the same data key wrapped under a new site key; no item is touched.

    This replaces the key that guards the data key. When a data key itself was exposed, seal the items anew.

    Raises:
        IntegrityError: `wrapped` does not open under `old`.
    """
    return wrap_for_site(unwrap_by_site(wrapped, site_key=old), site=wrapped.recipient, site_key=new)


def site_key_id(site_key: bytes) -> str:
    """Return the public name of a site key, as the wraps under it bear it.

    Raises:
        UsageError: The key has another length.
    """
    if len(site_key) != KEY_BYTES:
        raise UsageError(f"the site's sealing key must have {KEY_BYTES} bytes, got {len(site_key)}")
    return _derive(site_key, salt=None, purpose=b"site key id")[:_KEY_ID_BYTES].hex()


def _chunks(source: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number, bytes and whether it is the last for each chunk; an empty source is one empty chunk."""
    number, chunk = 0, _read(source, size)
    while True:
        following = _read(source, size) if len(chunk) == size else b""
        yield number, chunk, not following
        if not following:
            return
        number, chunk = number + 1, following


def _read(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end: a pipe may give less than it was asked for."""
    parts: list[bytes] = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _header(key: DataKey) -> bytes:
    return bytes([SEAL_VERSION]) + bytes.fromhex(key.key_id) + os.urandom(_SALT_BYTES)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_COUNTER_BYTES, "big") + bytes([last])


def _context(header: bytes, name: str) -> bytes:
    return _INFO + header + name.encode()


def _check_header(header: bytes, key: DataKey, name: str) -> None:
    if len(header) < _HEADER_BYTES:
        raise IntegrityError(f"item {name!r}: expected a header of {_HEADER_BYTES} bytes, got {len(header)}; {_CUT}")
    if header[0] != SEAL_VERSION:
        raise IntegrityError(f"item {name!r}: expected version {SEAL_VERSION}, got {header[0]}; use that release")
    key_id = header[1 : 1 + _KEY_ID_BYTES].hex()
    if not hmac.compare_digest(key_id, key.key_id):
        raise IntegrityError(f"item {name!r}: sealed under data key {key_id}, got {key.key_id}; use that key")


def _check_wrap(wrapped: WrappedKey, *, method: WrapMethod, holder: str) -> None:
    if wrapped.method != method or not hmac.compare_digest(wrapped.recipient_key_id, holder):
        raise _not_ours(wrapped)


def _checked_key(secret: bytes, wrapped: WrappedKey) -> DataKey:
    if len(secret) != KEY_BYTES or not hmac.compare_digest(DataKey(secret).key_id, wrapped.key_id):
        raise _not_ours(wrapped)
    return DataKey(secret)


def _not_ours(wrapped: WrappedKey) -> IntegrityError:
    return IntegrityError(
        f"data key {wrapped.key_id}: expected one wrapped for this key by {wrapped.method}, got one for "
        f"{wrapped.recipient!r} under another key, or a changed one; use the recipient's own key"
    )


def _label(recipient: str, key_id: str) -> bytes:
    return _INFO + b"recipient " + bytes.fromhex(key_id) + recipient.encode()


def _oaep(label: bytes) -> padding.OAEP:
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)


def _fingerprint(public_key: RSAPublicKey) -> str:
    encoded = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _kek(site_key: bytes, site: str) -> bytes:
    if len(site_key) != KEY_BYTES:
        raise UsageError(f"the site's sealing key must have {KEY_BYTES} bytes, got {len(site_key)}")
    return _derive(site_key, salt=None, purpose=b"key encryption " + site.encode())


def _derive(secret: bytes, *, salt: bytes | None, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=_INFO + purpose).derive(secret)
