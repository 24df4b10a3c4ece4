"""The roster: which sites belong to the consortium, their signing keys, and the policy they all keep.

Why it exists: the coordinator names the cohort of a round, so a site needs a
list that the coordinator cannot write. The consortium key signs the roster,
every site pins that key, and the roster's hash stands in every transcript.

Rules:
    * A roster that exists is valid: names ascending, keys distinct, headroom for its smallest cohort.
    * A site accepts a roster only under the pinned consortium key and never an older serial than it has seen.
    * A roster with dates is accepted only between them; whoever verifies one brings the present time.
    * Every gate of the protocol asks for `Policy.gate(threshold)` sites.

What it does not do: hold private keys, or read files.
"""

import itertools
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.records import AsRead, canonical_json, require
from fedmed.secagg import transcript

VERSION: Final = 1
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
"""How a roster writes a moment: UTC, whole seconds, always this long."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)

Kind = Literal["signed", "nonnegative", "integer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One part of the upload and the ring it lives in.

    `signed` and `nonnegative` hold weighted reals, clipped to [-clip, clip] or [0, clip] and
    rounded at `fraction_bits` binary places; `integer` holds whole numbers within +-clip, as they are.
    """

    name: str
    bits: Literal[16, 32, 64]
    kind: Kind
    clip: float
    fraction_bits: int
    max_length: int

    def __post_init__(self) -> None:
        require_name(self.name)
        require(self.bits in (16, 32, 64), f"segment {self.name}: bits must be 16, 32 or 64, got {self.bits}")
        require(
            self.kind in ("signed", "nonnegative", "integer"),
            f"segment {self.name}: kind must be signed, nonnegative or integer, got {self.kind!r}",
        )
        require(0 < self.clip < math.inf, f"segment {self.name}: clip must be above 0, got {self.clip}")
        require(
            0 <= self.fraction_bits < self.bits,
            f"segment {self.name}: fraction_bits must be in [0, {self.bits}), got {self.fraction_bits}",
        )
        require(
            self.kind != "integer" or (self.fraction_bits == 0 and self.clip == int(self.clip)),
            f"segment {self.name}: whole numbers take fraction_bits 0 and a whole clip",
        )
        require(self.max_length >= 1, f"segment {self.name}: max_length must be at least 1, got {self.max_length}")

    def has_headroom(self, sites: int) -> bool:
        """Tell whether the sum over `sites` sites cannot wrap: N (C 2^f + 1) < 2^(k-1).

        >>> Segment(name="delta", bits=32, kind="signed", clip=1, fraction_bits=24, max_length=1).has_headroom(127)
        True
        """
        return sites * (self.clip * 2.0**self.fraction_bits + 1) < 2.0 ** (self.bits - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What every site insists on, whatever the coordinator offers.

    `n_min`: the fewest sites that any sum may cover. `max_corrupt`: c, how many sites may
    side with the coordinator. `max_weight`: W_max, in the unit of a site's weight.
    """

    n_min: int
    max_corrupt: int
    segments: tuple[Segment, ...]
    max_weight: float

    def __post_init__(self) -> None:
        require(self.max_corrupt >= 0, f"max_corrupt must be at least 0, got {self.max_corrupt}")
        least = max(3, self.max_corrupt + 2)
        require(self.n_min >= least, f"n_min must be at least max(3, max_corrupt + 2) = {least}, got {self.n_min}")
        require(bool(self.segments), "segments must name at least one segment")
        names = [segment.name for segment in self.segments]
        require(len(set(names)) == len(names), f"segments must have distinct names, got {', '.join(names)}")
        require(0 < self.max_weight < math.inf, f"max_weight must be above 0, got {self.max_weight}")
        for segment in self.segments:
            require(segment.has_headroom(self.n_min), f"segment {segment.name}: no headroom for {self.n_min} sites")

    def threshold_floor(self, cohort: int) -> int:
        """Return the least t for a cohort of n sites, floor((n + c) / 2) + 1: two survivor sets can't both pass.

        >>> segment = Segment(name="delta", bits=32, kind="signed", clip=1, fraction_bits=20, max_length=1)
        >>> Policy(n_min=4, max_corrupt=2, segments=(segment,), max_weight=1).threshold_floor(10)
        7
        """
        return (cohort + self.max_corrupt) // 2 + 1

    def gate(self, threshold: int) -> int:
        """Return how many sites each phase up to the upload needs, max(t, n_min)."""
        return max(threshold, self.n_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """One site and its raw Ed25519 public key (32 bytes)."""

    site: str
    signing_key: bytes

    def __post_init__(self) -> None:
        require_name(self.site)
        require(len(self.signing_key) == PUBLIC_KEY_BYTES, f"{self.site}: expected a signing key of 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster(AsRead):
    """The sites in ascending order of name; `serial` grows with each edition.

    `valid_from`, `valid_until`: the first and the last moment at which the roster is in force, as
    `TIME_FORMAT`, or None for no such bound.
    """

    serial: int
    sites: tuple[RosterEntry, ...]
    policy: Policy
    valid_from: str | None = None
    valid_until: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        require(self.version == VERSION, f"version must be {VERSION}, got {self.version}")
        require(self.serial >= 1, f"serial must be at least 1, got {self.serial}")
        require_ascending(self.names)
        keys = {entry.signing_key for entry in self.sites}
        require(len(keys) == len(self.sites), "sites must have distinct signing keys")
        for name in ("valid_from", "valid_until"):
            require_moment(name, getattr(self, name))
        if self.valid_from is not None and self.valid_until is not None:
            require(
                self.valid_from < self.valid_until,
                f"valid_until must be after valid_from, got {self.valid_until} and {self.valid_from}",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all sites, ascending."""
        return tuple(entry.site for entry in self.sites)

    def digest(self) -> bytes:
        """Return the 32-byte hash that stands for this roster in every transcript.

        A date that is not set does not enter, so a roster without dates hashes as it did before there were any.
        """
        plain = msgspec.json.decode(canonical_json(self))
        dateless = [name for name in ("valid_from", "valid_until") if plain.get(name) is None]
        return transcript.digest("roster", canonical_json({k: v for k, v in plain.items() if k not in dateless}))

    def require_current(self, now: datetime) -> None:
        """Raise unless the roster is in force at `now`.

        Args:
            now: The present time, with its time zone.

        Raises:
            IntegrityError: It is too early or too late by this machine's clock.
        """
        moment = now.astimezone(UTC).strftime(TIME_FORMAT)
        clock = f"this machine's clock says {moment} (UTC)"
        if self.valid_from is not None and moment < self.valid_from:
            raise IntegrityError(
                f"roster: expected a time from {self.valid_from} on, when serial {self.serial} comes into force, but "
                f"{clock}; set the clock if it is wrong (clock skew), else wait"
            )
        if self.valid_until is not None and moment > self.valid_until:
            raise IntegrityError(
                f"roster: expected one that is in force, but serial {self.serial} expired at {self.valid_until} and "
                f"{clock}; fetch the current roster, or set the clock if it is wrong (clock skew)"
            )

    def verify(self, site: str, signature: bytes, signed: bytes, *, what: str) -> None:
        """Raise unless `signature` is that of `site` over the 32-byte hash `signed`.

        Args:
            site: The supposed signer.
            signature: 64 bytes.
            signed: A transcript hash.
            what: The message's name for the error, such as "advert".

        Raises:
            ProtocolError: The site is not in the roster or did not sign this.
        """
        key = next((entry.signing_key for entry in self.sites if entry.site == site), None)
        if key is None:
            raise ProtocolError(
                f"{what} of {site}: expected a site of roster serial {self.serial}, which has no {site}"
            )
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
        except InvalidSignature:
            raise ProtocolError(
                f"{what} of {site}: expected its signature over this very round, got another; refuse the attempt"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoster:
    """A roster and the consortium key's Ed25519 signature over its hash."""

    roster: Roster
    signature: bytes

    def __post_init__(self) -> None:
        require(len(self.signature) == SIGNATURE_BYTES, "signature must have 64 bytes")


def sign_roster(roster: Roster, key: Ed25519PrivateKey) -> SignedRoster:
    """Sign `roster` with the consortium key, which is not the coordinator's."""
    return SignedRoster(roster=roster, signature=key.sign(_signed_bytes(roster)))


def verify_roster(
    signed: SignedRoster, key: Ed25519PublicKey, *, least_serial: int, now: datetime | None = None
) -> Roster:
    """Return the roster if the pinned consortium key signed it, it is no older than `least_serial`, and in force.

    Args:
        signed: The roster as it came.
        key: The pinned consortium key.
        least_serial: The latest serial that this machine has seen, or 1.
        now: The present time, with its time zone; it may be left out only for a roster without dates.

    Raises:
        IntegrityError: Another key signed it, or it was changed, it is an old edition, not yet
            or no longer in force, or has dates and `now` was not given.
    """
    roster = verify_signature(signed, key)
    if signed.roster.serial < least_serial:
        raise IntegrityError(
            f"roster: expected serial {least_serial} or later, got {roster.serial}; fetch the current roster"
        )
    if now is not None:
        roster.require_current(now)
    elif roster.valid_from is not None or roster.valid_until is not None:
        raise IntegrityError("roster: expected the present time, because this roster has dates; verify it with `now`")
    return roster


def verify_signature(signed: SignedRoster, key: Ed25519PublicKey) -> Roster:
    """Return the roster if `key` signed it, whatever its serial and dates: for reading earlier editions.

    Raises:
        IntegrityError: Another key signed it, or it was changed.
    """
    try:
        key.verify(signed.signature, _signed_bytes(signed.roster))
    except InvalidSignature:
        raise IntegrityError(
            "roster: expected the signature of the pinned consortium key, got another; the roster was changed, or it "
            "belongs to another consortium: compare the key's fingerprint, and fetch the roster again"
        ) from None
    return signed.roster


def require_name(name: str) -> None:
    """Raise `ValueError` unless `name` is a plain ASCII name of 1 to 64 characters."""
    require(_NAME.fullmatch(name) is not None, "a name must be 1 to 64 letters, digits, dots, dashes or underscores")


def require_moment(name: str, value: str | None) -> None:
    """Raise `ValueError` unless `value` is None or a real moment written as `TIME_FORMAT`.

    >>> require_moment("valid_from", "2030-01-31T00:00:00Z")
    """
    if value is None:
        return
    message = f"{name} must be a moment in UTC like 2030-01-31T00:00:00Z, got {value!r}"
    require(_TIME.fullmatch(value) is not None, message)
    try:
        datetime.strptime(value, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(message) from None


def require_ascending(names: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `names` are strictly ascending, hence distinct."""
    ascending = all(left < right for left, right in itertools.pairwise(names))
    require(ascending, "site names must be distinct and in ascending order")


def _signed_bytes(roster: Roster) -> bytes:
    return transcript.digest("roster-signature", roster.digest())
