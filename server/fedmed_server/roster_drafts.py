"""Drafts of rosters: the few lines of YAML that a person writes, and the roster that they mean.

Why it exists: a roster has exact rules (order, distinct keys, headroom). A person should write
names, keys and three floors, and get sound defaults or one line that names the mistake.

Rules:
    * Sites are put in order of name; two names or two keys alike are refused, both by name.
    * A key file is believed only for the site that it names, and for the purpose that it names.
    * A draft is checked whole before a private key is unlocked.

What it does not do: sign, or compare with an earlier edition (see `rosters`).
"""

import base64
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Final, Literal

from yaml import YAMLError

from fedmed.crypto.keyfiles import SITE_SIGNING, load_public_key
from fedmed.errors import ConfigError, UsageError
from fedmed.kits import Floors
from fedmed.secagg.roster import TIME_FORMAT, Kind, Policy, Roster, RosterEntry, Segment, require_name
from fedmed_server.rosters import finest_fraction_bits

DEFAULT_SEGMENTS: Final = (
    Segment(name="delta", bits=32, kind="signed", clip=4.0, fraction_bits=22, max_length=2**31),
    Segment(name="aux", bits=64, kind="integer", clip=2.0**48, fraction_bits=0, max_length=2**31),
    Segment(name="fisher", bits=32, kind="signed", clip=4.0, fraction_bits=22, max_length=2**31),
)
"""The update, the counts beside it, and the Fisher diagonal: 2^-22 steps within +-4, for cohorts of up to 127 sites."""

Bits = Literal[16, 32, 64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDraft:
    """One site: its signing key as base64 or hexadecimal, or the path of its public key file."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDraft:
    """One segment; what is left out comes from the default segment of that name.

    Without `fraction_bits`, a segment whose `bits` or `clip` differ from the default gets the
    finest steps that leave headroom for the full cohort.
    """

    name: str
    bits: Bits | None = None
    kind: Kind | None = None
    clip: float | None = None
    fraction_bits: int | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDraft:
    """The floors that every site keeps; see `fedmed.secagg.roster.Policy`."""

    n_min: int
    max_weight: float
    max_corrupt: int = 0
    segments: tuple[SegmentDraft, ...] = tuple(SegmentDraft(name=segment.name) for segment in DEFAULT_SEGMENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterDraft:
    """What a person writes; dates are days (2030-01-31, both days included) or moments (2030-01-31T12:00:00Z), UTC.

    `sites` is left out where they come from the consortium's register.
    """

    serial: int
    policy: PolicyDraft
    sites: tuple[SiteDraft, ...] = ()
    valid_from: str | None = None
    valid_until: str | None = None


def read_draft(path: Path, *, sites: tuple[SiteDraft, ...] | None = None) -> Roster:
    """Return the roster that the draft at `path` describes.

    Args:
        path: A YAML file; paths of key files in it are relative to its folder.
        sites: Those of the register, for a draft that names none; None for the draft's own.

    Raises:
        UsageError: There is no such file, or a key file in it is missing or of another purpose.
        ConfigError: A field is unknown, missing or does not fit; the message names it.
        IntegrityError: A key file in it is damaged.
    """
    draft = _load(path)
    if sites is not None and draft.sites:
        raise ConfigError(
            f"{path}: expected no sites beside those of the register, got {len(draft.sites)}; remove them"
        )
    if sites is None and not draft.sites:
        raise ConfigError(f"{path}: sites: expected at least one, got none; write them, or give --from-register DIR")
    return roster_of(draft if sites is None else replace(draft, sites=sites), folder=path.parent)


def read_floors(path: Path) -> Floors:
    """Return the floors in the draft at `path`, to be promised to a site that is invited.

    Raises:
        UsageError: There is no such file.
        ConfigError: A field is unknown, missing or does not fit; the message names it.
    """
    policy = _load(path).policy
    least = max(3, policy.max_corrupt + 2)
    if policy.n_min < least or policy.max_corrupt < 0:
        raise ConfigError(f"{path}: policy: expected n_min of at least {least}, got {policy.n_min}")
    return Floors(n_min=policy.n_min, max_corrupt=policy.max_corrupt, max_weight=policy.max_weight)


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


def _load(path: Path) -> RosterDraft:
    if not path.is_file():
        raise UsageError(f"{path}: expected a draft of a roster, found no such file; check the path")
    from fedmed import config  # noqa: PLC0415  it imports hydra, which only drafts need

    try:
        return config.load(RosterDraft, path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML in UTF-8; {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def roster_of(draft: RosterDraft, *, folder: Path) -> Roster:
    """Return the roster that `draft` describes, its sites in order of name.

    Args:
        draft: What a person wrote.
        folder: Where relative paths of key files start.

    Raises:
        UsageError: A key file is missing or serves another purpose.
        ConfigError: A name, key, date or figure does not fit.
        IntegrityError: A key file is damaged.
    """
    entries = tuple(sorted((_entry(site, folder) for site in draft.sites), key=lambda entry: entry.site))
    _require_distinct(entries)
    if len(entries) < draft.policy.n_min:
        raise ConfigError(f"sites: expected at least n_min = {draft.policy.n_min}, got {len(entries)}; add sites")
    try:
        segments = tuple(_segment(part, sites=len(entries)) for part in draft.policy.segments)
        policy = Policy(
            n_min=draft.policy.n_min,
            max_corrupt=draft.policy.max_corrupt,
            max_weight=draft.policy.max_weight,
            segments=segments,
        )
    except ValueError as error:
        raise ConfigError(f"policy: {error}") from None
    try:
        return Roster(
            serial=draft.serial,
            sites=entries,
            policy=policy,
            valid_from=_moment("valid_from", draft.valid_from, time.min),
            valid_until=_moment("valid_until", draft.valid_until, time(23, 59, 59)),
        )
    except ValueError as error:
        raise ConfigError(f"draft: {error}") from None


def _entry(site: SiteDraft, folder: Path) -> RosterEntry:
    try:
        require_name(site.name)
    except ValueError as error:
        raise ConfigError(f"sites: {error}; got {site.name!r}") from None
    try:
        key = decode_public_key(site.key)
    except ValueError:
        key = _key_in_file(site, folder)
    return RosterEntry(site=site.name, signing_key=key)


def _key_in_file(site: SiteDraft, folder: Path) -> bytes:
    path = folder / site.key
    if not path.is_file():
        raise UsageError(
            f"sites: key of {site.name}: expected 32 bytes as base64 or hexadecimal, or a public key file; "
            f"found no file {path}"
        )
    public = load_public_key(path, purpose=SITE_SIGNING)
    if public.name != site.name:
        raise ConfigError(f"sites: expected the key file of {site.name!r} in {site.key}, got that of {public.name}")
    return public.ed25519().public_bytes_raw()


def _require_distinct(entries: tuple[RosterEntry, ...]) -> None:
    names: set[str] = set()
    owners: dict[bytes, str] = {}
    for entry in entries:
        if entry.site in names:
            raise ConfigError(f"sites: expected distinct names, got {entry.site} twice")
        if entry.signing_key in owners:
            raise ConfigError(
                f"sites: expected a signing key of its own for each site, got the same for "
                f"{owners[entry.signing_key]} and {entry.site}; each site makes its own"
            )
        names.add(entry.site)
        owners[entry.signing_key] = entry.site


def _segment(draft: SegmentDraft, *, sites: int) -> Segment:
    """Return the segment that `draft` means for a full cohort of `sites`."""
    names = ("bits", "kind", "clip", "fraction_bits", "max_length")
    given: dict[str, Any] = {name: getattr(draft, name) for name in names if getattr(draft, name) is not None}
    known = next((segment for segment in DEFAULT_SEGMENTS if segment.name == draft.name), None)
    if known is None:
        missing = [name for name in names if name not in given and name != "fraction_bits"]
        if missing:
            raise ConfigError(f"policy.segments: {draft.name!r} has no defaults; give also {', '.join(missing)}")
        return Segment(name=draft.name, **{"fraction_bits": _finest(given, sites), **given})
    if "fraction_bits" not in given and given.keys() & {"bits", "kind", "clip"}:
        shape = {"bits": known.bits, "kind": known.kind, "clip": known.clip, **given}
        given["fraction_bits"] = _finest(shape, sites)
    return replace(known, **given)


def _finest(shape: dict[str, Any], sites: int) -> int:
    """Return the finest steps for this ring, kind and clip; a clip out of range is left for `Segment` to refuse."""
    if shape["kind"] == "integer" or not 0 < shape["clip"] < math.inf:
        return 0
    return finest_fraction_bits(bits=shape["bits"], clip=shape["clip"], sites=sites)


def _moment(name: str, text: str | None, of_day: time) -> str | None:
    """Return a day or a moment of the draft as the roster writes it; a day without a time gets `of_day`."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name}: expected a day like 2030-01-31 or a moment, got {text!r}") from None
    if len(text) <= len("2030-01-31"):
        moment = datetime.combine(moment.date(), of_day, tzinfo=UTC)
    if moment.tzinfo is None:
        raise ConfigError(f"{name}: expected a moment with its time zone, such as {text}Z for UTC, got {text!r}")
    try:
        return moment.astimezone(UTC).strftime(TIME_FORMAT)
    except OverflowError:
        raise ConfigError(f"{name}: expected a day like 2030-01-31 or a moment, got {text!r}") from None
