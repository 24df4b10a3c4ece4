"""Signed statements: one JSON file that says what it is, what it states, and who signed it.

Why it exists: invitations, requests, kits and lists are carried by mail and memory sticks. Each
of them needs one format, one signature rule, and one line that says what is wrong with a file.

Rules:
    * The file says its format and version before anything else of it is read.
    * The Ed25519 signature (RFC 8032) covers the format, the version and the canonical JSON of the body, so a
      statement of one format is never taken for one of another.
    * What was parsed is only a claim until `Signed.verify` has returned it.
    * White space does not matter: the signature covers the canonical JSON of what the file states.

What it does not do: touch files or clocks, or know what any statement means.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.errors import ConfigError, IntegrityError
from fedmed.records import build, canonical_json, restore

VERSION: Final = 1
MOST_BYTES: Final = 4 * 1024 * 1024
"""Largest file that is looked at."""

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What the file holds, before its body is taken for anything."""

    format: str
    version: int
    body: dict[str, Any]
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Generic[Body]):
    """A claim and the signature that came with it."""

    form: str
    claim: Body
    body: Mapping[str, Any]
    """The claim as it stood in the file: what was signed, whatever fields this version adds."""
    signature: bytes

    def verify(self, key: Ed25519PublicKey, *, cure: str) -> Body:
        """Return what was stated if `key` signed it.

        Args:
            key: Who must have signed.
            cure: What to do otherwise, for the message.

        Raises:
            IntegrityError: Another key signed it, or it was changed.
        """
        for stated in (self.body, self.claim):  # a whole number where a fraction belongs was signed as a fraction
            try:
                key.verify(self.signature, _signed_bytes(self.form, stated))
            except InvalidSignature:
                continue
            return self.claim
        raise IntegrityError(
            f"{self.form}: expected an intact file under the expected key, but the signature is not its; {cure}"
        )


def sign(form: str, body: object, key: Ed25519PrivateKey) -> bytes:
    """Return the file of a statement: canonical JSON with bytes as base64, and an end of line.

    Args:
        form: The format's name, such as "fedmed-kit".
        body: A frozen record.
        key: Who signs.
    """
    body = msgspec.json.decode(canonical_json(body))
    signature = key.sign(_signed_bytes(form, body))
    return canonical_json({"format": form, "version": VERSION, "body": body, "signature": signature}) + b"\n"


def form_of(data: bytes) -> str:
    """Return the format that a file claims to have, or the empty string.

    >>> form_of(b'{"format":"fedmed-kit","version":1}')
    'fedmed-kit'
    >>> form_of(b"PK")
    ''
    """
    plain = _plain(data)
    form = plain.get("format") if isinstance(plain, Mapping) else None
    return form if isinstance(form, str) else ""


def parse(data: bytes, form: str, kind: type[Body]) -> Signed[Body]:
    """Return the claim in a file; nobody has checked its signature yet.

    Raises:
        IntegrityError: It is another format or version, or damaged.
    """
    plain = _plain(data)
    if not isinstance(plain, Mapping) or plain.get("format") != form:
        raise IntegrityError(f"expected a {form} file, got {form_of(data) or 'another file'}; check the path")
    if plain.get("version") != VERSION:
        raise IntegrityError(
            f"{form}: expected version {VERSION}, got {plain.get('version')!r}; install a newer FedMed"
        )
    try:
        held = build(plain, _File)
        return Signed(form=form, claim=restore(held.body, kind), body=held.body, signature=held.signature)
    except ConfigError as error:
        raise IntegrityError(f"{form}: expected an intact file; {error}; fetch it again") from None


def _plain(data: bytes) -> object:
    if len(data) > MOST_BYTES:
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _signed_bytes(form: str, body: object) -> bytes:
    return b"FedMed-statement/v1\0" + form.encode() + b"\0" + canonical_json(body)
