"""Rosters as files and in figures: load, save, compare two editions, and say what the numbers mean.

Why it exists: a signature on numbers that nobody understood is worth little. Before a roster
is handed out, its thresholds, the losses that it tolerates and the rounding errors of its
segments are there to read.

Rules:
    * Each edition has a higher serial than the one before, which the same key signed.
    * `load_roster` returns only what the pinned key signed and what is in force.
    * Figures are for the full cohort; a smaller one has its own thresholds and smaller errors.

What it does not do: read drafts (see `roster_drafts`), sign, print, or hold private keys.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed.crypto.keyfiles import fingerprint
from fedmed.errors import ConfigError, UsageError
from fedmed.files import write_atomic
from fedmed.secagg.masking import error_bound
from fedmed.secagg.roster import TIME_FORMAT, Roster, Segment, SignedRoster, sign_roster, verify_signature
from fedmed.secagg.roster_file import open_roster, roster_from_bytes, roster_to_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """A site and its key's fingerprint."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFacts:
    """A segment, the largest cohort it has headroom for, and the error of a mean over the full cohort at max_weight.

    The errors are per coordinate, in the unit of the update; None for whole numbers, which are exact.
    """

    segment: Segment
    most_sites: int
    error_rms: float | None
    error_maximum: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterFacts:
    """What a roster means for its full cohort; `halved` shows each segment of reals in 16 bits instead."""

    serial: int
    digest: str
    valid_from: str | None
    valid_until: str | None
    sites: tuple[SiteFacts, ...]
    n_min: int
    max_corrupt: int
    max_weight: float
    threshold: int
    gate: int
    losses_before_upload: int
    losses_after_upload: int
    segments: tuple[SegmentFacts, ...]
    halved: tuple[SegmentFacts, ...]


def require_successor(roster: Roster, previous: SignedRoster, key: Ed25519PublicKey) -> Roster:
    """Return the previous roster if `key` signed it and `roster` is a later edition.

    Raises:
        IntegrityError: Another key signed `previous`, or it was changed.
        ConfigError: The serial did not grow.
    """
    before = verify_signature(previous, key)
    if roster.serial <= before.serial:
        raise ConfigError(
            f"serial: expected more than the previous roster's {before.serial}, got {roster.serial}; "
            f"write serial: {before.serial + 1}"
        )
    return before


def require_signable(roster: Roster, consortium_key: bytes, *, now: datetime) -> None:
    """Raise unless it makes sense to sign `roster` with this key at this time.

    Args:
        roster: What the draft means.
        consortium_key: The 32 raw bytes of the public key that is about to sign.
        now: The present time, with its time zone.

    Raises:
        ConfigError: It has expired already, or a site's key is the consortium's own.
    """
    moment = now.astimezone(UTC).strftime(TIME_FORMAT)
    if roster.valid_until is not None and roster.valid_until < moment:
        raise ConfigError(
            f"valid_until: expected a time to come, got {roster.valid_until}, and this machine's clock says {moment} "
            "(UTC); write a later day, or set the clock"
        )
    owner = next((entry.site for entry in roster.sites if entry.signing_key == consortium_key), None)
    if owner is not None:
        raise ConfigError(f"sites: expected {owner}'s own signing key, got the consortium's; ask the site for its key")


def without(previous: SignedRoster, site: str, key: Ed25519PrivateKey, *, now: datetime) -> SignedRoster:
    """Return the next edition of a roster, without `site`.

    Args:
        previous: The edition that the site is to leave.
        site: Its name.
        key: The consortium's private key.
        now: The present time, with its time zone.

    Raises:
        IntegrityError: Another key signed the previous edition.
        ConfigError: Fewer sites stay than any sum must cover, or the roster has expired.
    """
    before = verify_signature(previous, key.public_key())
    stay = tuple(entry for entry in before.sites if entry.site != site)
    if len(stay) < before.policy.n_min:
        raise ConfigError(
            f"roster: expected at least n_min = {before.policy.n_min} sites after {site} is gone, got {len(stay)}; "
            "sign no roster before there are enough sites again"
        )
    after = replace(before, serial=before.serial + 1, sites=stay)
    require_signable(after, key.public_key().public_bytes_raw(), now=now)
    return sign_roster(after, key)


def changes(before: Roster, after: Roster) -> tuple[str, ...]:
    """Return one indented line per difference between two editions, for the person who signs."""
    old = {entry.site: entry.signing_key for entry in before.sites}
    new = {entry.site: entry.signing_key for entry in after.sites}
    lines = [f"added: {name}" for name in sorted(new.keys() - old.keys())]
    lines += [f"removed: {name}" for name in sorted(old.keys() - new.keys())]
    lines += [f"new key: {name}" for name in sorted(new.keys() & old.keys()) if new[name] != old[name]]
    for name in ("n_min", "max_corrupt", "max_weight"):
        was, becomes = getattr(before.policy, name), getattr(after.policy, name)
        lines += [f"{name}: {was} becomes {becomes}"] if was != becomes else []
    lines += ["segments: changed"] if before.policy.segments != after.policy.segments else []
    return tuple(f"  {line}" for line in lines or ["no site, key, floor or segment"])


def describe(roster: Roster) -> RosterFacts:
    """Return what `roster` means for its full cohort of n sites: t, gates, losses tolerated, errors."""
    size, policy = len(roster.sites), roster.policy
    threshold = policy.threshold_floor(size)
    gate = policy.gate(threshold)
    return RosterFacts(
        serial=roster.serial,
        digest=roster.digest().hex(),
        valid_from=roster.valid_from,
        valid_until=roster.valid_until,
        sites=tuple(SiteFacts(name=e.site, fingerprint=fingerprint(e.signing_key)) for e in roster.sites),
        n_min=policy.n_min,
        max_corrupt=policy.max_corrupt,
        max_weight=policy.max_weight,
        threshold=threshold,
        gate=gate,
        losses_before_upload=size - gate,
        losses_after_upload=size - threshold,
        segments=tuple(_facts(segment, size) for segment in policy.segments),
        halved=tuple(_halved(policy.segments, size)),
    )


def most_sites(segment: Segment) -> int:
    """Return the largest N with headroom, N (C 2^f + 1) < 2^(k-1).

    >>> most_sites(Segment(name="delta", bits=32, kind="signed", clip=4, fraction_bits=22, max_length=1))
    127
    """
    ring = Fraction(1 << (segment.bits - 1))
    return math.ceil(ring / (Fraction(segment.clip) * (1 << segment.fraction_bits) + 1)) - 1


def finest_fraction_bits(*, bits: int, clip: float, sites: int) -> int:
    """Return the largest f with headroom for `sites` sites; 0 if there is none.

    >>> finest_fraction_bits(bits=16, clip=4.0, sites=5)
    10
    """
    steps = (Fraction(1 << (bits - 1), sites) - 1) / Fraction(clip)  # C 2^f stays below this
    return next((f for f in range(bits - 1, 0, -1) if 1 << f < steps), 0)


def read_signed(path: Path) -> SignedRoster:
    """Return the roster at `path`; its signature is not checked yet.

    Raises:
        UsageError: There is no such file.
        IntegrityError: It is no roster file, or a damaged one.
    """
    return roster_from_bytes(_bytes_at(path))


def load_roster(path: Path, *, consortium_key: Ed25519PublicKey, least_serial: int, now: datetime) -> Roster:
    """Return the roster at `path` if the pinned key signed it, it is current, and in force at `now`.

    Raises:
        UsageError: There is no such file.
        IntegrityError: See `fedmed.secagg.roster_file.open_roster`.
    """
    return open_roster(_bytes_at(path), consortium_key=consortium_key, least_serial=least_serial, now=now)


def save_roster(path: Path, signed: SignedRoster) -> None:
    """Write a signed roster, whole or not at all; anybody may read it.

    Raises:
        OSError: The disk is full or the folder is not writable; an earlier file stays.
    """
    write_atomic(path, roster_to_bytes(signed), mode=0o644)


def _bytes_at(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"{path}: expected a signed roster, found no such file; check the path")
    return path.read_bytes()


def _facts(segment: Segment, size: int) -> SegmentFacts:
    if segment.kind == "integer":
        return SegmentFacts(segment=segment, most_sites=most_sites(segment), error_rms=None, error_maximum=None)
    bound = error_bound(segment, sites=size, weight_sum=float(size))
    return SegmentFacts(
        segment=segment, most_sites=most_sites(segment), error_rms=bound.rms, error_maximum=bound.maximum
    )


def _halved(segments: tuple[Segment, ...], size: int) -> Iterator[SegmentFacts]:
    """Yield each wider segment of reals as it would be in 16 bits, where that has headroom for all sites."""
    for segment in segments:
        if segment.kind == "integer" or segment.bits == 16:
            continue
        bits = finest_fraction_bits(bits=16, clip=segment.clip, sites=size)
        narrow = replace(segment, bits=16, fraction_bits=bits)
        if narrow.has_headroom(size):
            yield _facts(narrow, size)
