"""The bytes of a signed roster: one JSON file that the consortium hands out and every site keeps.

Why it exists: the roster is signed on one machine, carried by hand or mail, and
read on every other; all of them need one format, and one line that says what is
wrong with a file.

Rules:
    * The file says what it is and in which version before anything else of it is read.
    * What was parsed is only a claim until `open_roster` (or `verify_roster`) has checked the signature.
    * White space does not matter: the signature covers the roster's hash, not the file's bytes.

What it does not do: touch files, clocks or private keys; callers bring bytes and `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmed.errors import ConfigError, IntegrityError
from fedmed.records import canonical_json, restore
from fedmed.secagg.roster import Roster, SignedRoster, verify_roster

FORMAT: Final = "fedmed-roster"
VERSION: Final = 1
_CURE: Final = "fetch it again from the consortium"


@dataclass(frozen=True, slots=True, kw_only=True)
class _RosterFile:
    """What the file holds."""

    format: Literal["fedmed-roster"]
    version: Literal[1]
    roster: Roster
    signature: bytes


def roster_to_bytes(signed: SignedRoster) -> bytes:
    """Return the file of `signed`: canonical JSON with bytes as base64, and an end of line."""
    held = _RosterFile(format=FORMAT, version=VERSION, roster=signed.roster, signature=signed.signature)
    return canonical_json(held) + b"\n"


def roster_from_bytes(data: bytes) -> SignedRoster:
    """Parse a roster file; its signature is not checked yet.

    Args:
        data: The whole file.

    Raises:
        IntegrityError: The bytes are no roster file, of another version, or hold no valid roster.
    """
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = None
    if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
        raise IntegrityError(
            "roster: expected a file that `fedmed consortium roster sign` wrote, got another; check the path"
        )
    if plain.get("version") != VERSION:
        raise IntegrityError(
            f"roster: expected file version {VERSION}, got {plain.get('version')!r}; install the FedMed that wrote it"
        )
    try:
        held = restore(plain, _RosterFile)
    except ConfigError as error:
        raise IntegrityError(f"roster: expected an intact file; {error}; {_CURE}") from None
    try:
        return SignedRoster(roster=held.roster, signature=held.signature)
    except ValueError as error:
        raise IntegrityError(f"roster: expected an intact file; {error}; {_CURE}") from None


def open_roster(data: bytes, *, consortium_key: Ed25519PublicKey, least_serial: int, now: datetime) -> Roster:
    """Return the roster in `data` if the pinned key signed it, it is current, and in force at `now`.

    Args:
        data: The whole file.
        consortium_key: The key that this machine pinned.
        least_serial: The latest serial that this machine has seen, or 1.
        now: The present time, with its time zone.

    Raises:
        IntegrityError: No roster file, another signer, changed, an old edition, or not in force.
    """
    return verify_roster(roster_from_bytes(data), consortium_key, least_serial=least_serial, now=now)
