"""One keyed map of UIDs for the whole site, as a function.

Why it exists: a study, its references and its frames of reference must still
fit together when the files were cleaned by different processes, months apart.
A function of the key needs no shared table; an unkeyed hash could be confirmed
by whoever guesses the original.

Rules:
    * The same UID and key give the same new UID, in every process; another key gives another one.
    * UIDs that the standard itself defines (classes, transfer syntaxes, coding schemes, well-known frames) stay.
    * The new UID is `2.25.` and the decimal form of a version 8 UUID (PS3.5 B.2, RFC 9562): 122 keyed bits.

What it does not do: keep a way back from the new UID to the old.
"""

import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydicom._uid_dict import UID_dictionary

from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import UsageError

_INFO = b"fedmed deid 1 dicom uid"
_VERSION_MASK, _VERSION = 0xF << 76, 0x8 << 76
_VARIANT_MASK, _VARIANT = 0x3 << 62, 0x2 << 62
_PADDING = " \0"

STANDARD_UIDS = frozenset(UID_dictionary)
"""Every UID that PS3.6 defines, as far as pydicom knows it."""


class UidMap:
    """The keyed function from the site's UIDs to those it publishes.

    >>> UidMap(bytes(32)).new("1.2.3") == UidMap(bytes(32)).new("1.2.3")
    True
    >>> UidMap(bytes(32)).new("1.2.840.10008.1.2")
    '1.2.840.10008.1.2'
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"the site's pseudonym key must have {KEY_BYTES} bytes, got {len(key)}")
        self._key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO).derive(key)

    def __repr__(self) -> str:
        return "UidMap()"

    def new(self, uid: str) -> str:
        """Return the published UID for `uid`; an empty one stays empty, a standard one stays itself."""
        uid = uid.strip(_PADDING)
        if not uid or uid in STANDARD_UIDS:
            return uid
        number = int.from_bytes(hmac.digest(self._key, uid.encode("utf-8", "surrogateescape"), "sha256")[:16], "big")
        number = number & ~_VERSION_MASK & ~_VARIANT_MASK | _VERSION | _VARIANT
        return f"2.25.{number}"

    def new_value(self, value: bytes) -> bytes:
        """Return the encoded value of a UI attribute with every UID replaced, padded to an even length."""
        mapped = "\\".join(self.new(uid) for uid in value.decode("latin-1").split("\\")).encode()
        return mapped + b"\0" * (len(mapped) % 2)
