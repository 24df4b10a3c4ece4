r"""Transcript hashes: one unambiguous digest for everything that sites sign or derive keys from.

Why it exists: two sites that were told different things must never agree on a
hash. Each digest has its own label, and each field carries its length, so no
two different field lists share an encoding.

Rules:
    * Every hash is SHA-256 over ``FedMed-SA/v1/<label>\0`` and length-prefixed fields.
    * A list enters as one packed field, so its end cannot slide into the next field.

What it does not do: sign, or know any message.
"""

import hashlib
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

PREFIX: Final = b"FedMed-SA/v1/"
DIGEST_BYTES: Final = 32
KEY_BYTES: Final = 32


def digest(label: str, *fields: bytes | memoryview) -> bytes:
    r"""Return the 32-byte transcript hash of `fields` under `label`.

    >>> digest("a", b"xy") == digest("a", b"x", b"y")
    False
    >>> digest("a", b"x") == hashlib.sha256(b"FedMed-SA/v1/a\0" + bytes(7) + b"\1x").digest()
    True
    """
    hasher = hashlib.sha256(PREFIX + label.encode() + b"\0")
    for field in fields:
        view = memoryview(field)
        hasher.update(number(view.nbytes))
        hasher.update(view)
    return hasher.digest()


def pack(*fields: bytes) -> bytes:
    r"""Return `fields` as one field: each with its length in eight bytes before it.

    >>> pack(b"a", b"") == bytes(7) + b"\1a" + bytes(8)
    True
    """
    return b"".join(number(len(field)) + field for field in fields)


def number(value: int) -> bytes:
    r"""Return a non-negative integer as eight big-endian bytes.

    >>> number(258)[-2:]
    b'\x01\x02'
    """
    return value.to_bytes(8, "big")


def names(sites: tuple[str, ...]) -> bytes:
    """Return a list of site names as one field."""
    return pack(*(site.encode() for site in sites))


def derive(secret: bytes, salt: bytes, label: str, *fields: bytes) -> bytes:
    """Return a 32-byte key from `secret`: HKDF-SHA-256 (RFC 5869) with `salt` and a labelled context.

    >>> len(derive(b"secret", b"salt", "enc", b"north", b"south"))
    32
    """
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_info(label, fields)).derive(secret)


def expand(seed: bytes, label: str, *fields: bytes) -> bytes:
    """Return a 32-byte key from the uniform 32-byte `seed`: HKDF-Expand (RFC 5869, section 2.3).

    >>> expand(bytes(32), "prg", b"delta") != expand(bytes(32), "prg", b"aux")
    True
    """
    return HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=_info(label, fields)).derive(seed)


def _info(label: str, fields: tuple[bytes, ...]) -> bytes:
    return PREFIX + label.encode() + b"\0" + pack(*fields)
