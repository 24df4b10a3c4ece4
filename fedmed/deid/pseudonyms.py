"""Keyed tokens and keyed date shifts: one site key, one function of the patient.

Why it exists: a plain hash of a record number or resident ID can be enumerated in
minutes, so every token is an HMAC under the site's own key. This is
pseudonymisation, not anonymisation: whoever holds the key can link.

Rules:
    * The same patient written differently (full-width digits, case, spaces, `A^B^`) gives the same token, in DICOM,
      tables and notes alike.
    * Each purpose has its own subkey (HKDF-SHA256, RFC 5869), so a token tells nothing of a shift.
    * The key never appears in a repr, an error, an output or a log; `key_id` names it.

What it does not do: create, store or rotate the key.
"""

import hashlib
import hmac
import unicodedata

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmed.errors import UsageError

KEY_BYTES = 32
TOKEN_HEX = 32
_INFO = b"fedmed deid 1 "


def normalise(text: str) -> str:
    """Return the one spelling of an identifier: NFKC, case folded, no white space or invisible characters.

    Empty components at the end, which DICOM writes as `^`, make no other identifier.

    >>> normalise(" ＭＲ　００12 ") == normalise("mr0012") == "mr0012"
    True
    >>> normalise("A^B^") == normalise("a^b")
    True
    """
    if text.isascii() and text.isprintable():  # the same, without asking for each character
        return text.lower().replace(" ", "").rstrip("^")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(character for character in folded if unicodedata.category(character)[0] not in "ZC")
    # what stood on both sides of a space may now combine
    return unicodedata.normalize("NFKC", visible).rstrip("^")


class Pseudonyms:
    """The keyed functions of one site key.

    >>> Pseudonyms(bytes(32)).token("MR 001") == Pseudonyms(bytes(32)).token("mr001")
    True
    """

    __slots__ = ("_hash", "_shift", "_token", "key_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"the site's pseudonym key must have {KEY_BYTES} bytes, got {len(key)}")
        self._token = _subkey(key, b"token")
        self._shift = _subkey(key, b"date shift")
        self._hash = _subkey(key, b"content hash")
        self.key_id = _subkey(key, b"key id")[:8].hex()

    def __repr__(self) -> str:
        return f"Pseudonyms(key_id={self.key_id!r})"

    def token(self, identifier: str) -> str:
        """Return the token of a patient: 128 bits as hexadecimal digits."""
        return hmac.digest(self._token, normalise(identifier).encode(), "sha256").hex()[:TOKEN_HEX]

    def shift_days(self, identifier: str, *, limit: int) -> int:
        """Return the patient's whole-day date shift, in -limit..limit and never 0."""
        number = int.from_bytes(hmac.digest(self._shift, normalise(identifier).encode(), "sha256")[:16], "big")
        days = number % (2 * limit) - limit
        return days if days < 0 else days + 1

    def content_hash(self) -> "hmac.HMAC":
        """Return a running keyed hash for a source file: an unkeyed one would confirm a guessed file."""
        return hmac.new(self._hash, digestmod=hashlib.sha256)


def _subkey(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO + purpose).derive(key)
