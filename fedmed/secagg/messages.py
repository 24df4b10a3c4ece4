"""The messages of the five phases, as frozen records.

Why it exists: both ends hash the same fields in the same order, so each record
packs itself into its one transcript field.

Rules:
    * A message that exists is well formed: sizes, order of names, ranges. Whether it may be
      believed is the business of `checks`.
    * No message has a field for a weight, a count of patients or a metric.

What it does not do: travel (see `wire`), sign or verify (see `bindings`, `checks`).
"""

from dataclasses import dataclass
from typing import Final

from fedmed.records import require
from fedmed.secagg import transcript
from fedmed.secagg.keys import BOX_BYTES
from fedmed.secagg.roster import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, require_ascending, require_name
from fedmed.secagg.shamir import SHARE_BYTES
from fedmed.secagg.transcript import DIGEST_BYTES

_LIMIT: Final = 2**63


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Turn:
    """Which try at which round of which run a message belongs to; `attempt` counts from 0."""

    run: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        require_name(self.run)
        require(0 <= self.round < _LIMIT, f"round must be in [0, 2^63), got {self.round}")
        require(0 <= self.attempt < _LIMIT, f"attempt must be in [0, 2^63), got {self.attempt}")

    def __str__(self) -> str:
        return f"run {self.run} round {self.round} attempt {self.attempt}"

    def packed(self) -> bytes:
        """Return the turn as one transcript field."""
        return transcript.pack(self.run.encode(), transcript.number(self.round), transcript.number(self.attempt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Phase 0, coordinator to site: the terms of one attempt.

    `cohort`: U0, ascending. `threshold`: t. `roster`, `model`: 32-byte digests. `lengths`: elements
    per segment of the policy, in its order; 0 leaves a segment out of this round.
    """

    turn: Turn
    cohort: tuple[str, ...]
    threshold: int
    roster: bytes
    model: bytes
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        require_ascending(self.cohort)
        require(0 <= self.threshold < _LIMIT, f"threshold must be in [0, 2^63), got {self.threshold}")
        require_size(self.roster, DIGEST_BYTES, "roster")
        require_size(self.model, DIGEST_BYTES, "model")
        require(all(0 <= length < _LIMIT for length in self.lengths), "lengths must be in [0, 2^63)")

    def context(self) -> bytes:
        """Return ctx, the 32-byte hash of these terms."""
        return transcript.digest(
            "ctx",
            self.turn.packed(),
            self.roster,
            transcript.names(self.cohort),
            transcript.number(self.threshold),
            self.model,
            transcript.pack(*(transcript.number(length) for length in self.lengths)),
        )

    def point(self, site: str) -> int:
        """Return the x-coordinate of the shares that `site` holds: its place in the cohort, from 1."""
        return self.cohort.index(site) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Phase 0, site to coordinator: fresh X25519 keys, `enc_key` (c_pk) and `mask_key` (s_pk), signed.

    An `early` advert came with the round before, so it is signed without model and cohort.
    """

    turn: Turn
    site: str
    enc_key: bytes
    mask_key: bytes
    early: bool
    signature: bytes

    def __post_init__(self) -> None:
        require_name(self.site)
        require_size(self.enc_key, PUBLIC_KEY_BYTES, "enc_key")
        require_size(self.mask_key, PUBLIC_KEY_BYTES, "mask_key")
        require_size(self.signature, SIGNATURE_BYTES, "signature")

    def packed(self) -> bytes:
        """Return the advert as one transcript field."""
        return transcript.pack(self.site.encode(), self.enc_key, self.mask_key, bytes([self.early]), self.signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """Phase 1, coordinator to site: the terms again and the adverts of U1, ascending by site."""

    offer: Offer
    adverts: tuple[Advert, ...]

    def __post_init__(self) -> None:
        require_ascending(tuple(advert.site for advert in self.adverts))

    @property
    def turn(self) -> Turn:
        """The attempt this belongs to."""
        return self.offer.turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """H(share) of both shares that `holder` gets, 32 bytes each."""

    holder: str
    seed: bytes
    key: bytes

    def __post_init__(self) -> None:
        require_name(self.holder)
        require_size(self.seed, DIGEST_BYTES, "seed commitment")
        require_size(self.key, DIGEST_BYTES, "key commitment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a site commits to when it shares its secrets: H(b) and H(share) per holder; signed over h1."""

    site: str
    seed: bytes
    commitments: tuple[Commitment, ...]
    signature: bytes

    def __post_init__(self) -> None:
        require_name(self.site)
        require_size(self.seed, DIGEST_BYTES, "seed commitment")
        require_ascending(tuple(commitment.holder for commitment in self.commitments))
        require_size(self.signature, SIGNATURE_BYTES, "signature")

    def committed(self) -> bytes:
        """Return the commitments as one transcript field."""
        fields = [transcript.pack(item.holder.encode(), item.seed, item.key) for item in self.commitments]
        return transcript.pack(self.seed, *fields)

    def packed(self) -> bytes:
        """Return the header as one transcript field."""
        return transcript.pack(self.site.encode(), self.committed(), self.signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Sealed shares on their way between two sites; `peer` is the holder going up, the owner going down."""

    peer: str
    data: bytes

    def __post_init__(self) -> None:
        require_name(self.peer)
        require_size(self.data, BOX_BYTES, "box")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Phase 1, site to coordinator: the header and one box per other site of U1."""

    turn: Turn
    header: Header
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        require_ascending(tuple(box.peer for box in self.boxes))

    @property
    def site(self) -> str:
        """The sender."""
        return self.header.site


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRequest:
    """Phase 2, coordinator to site: the headers of U2 and the boxes sealed for this site."""

    turn: Turn
    headers: tuple[Header, ...]
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        require_ascending(tuple(header.site for header in self.headers))
        require_ascending(tuple(box.peer for box in self.boxes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The signed header of a masked vector: H(y), signed over (h2, H(y))."""

    site: str
    digest: bytes
    signature: bytes

    def __post_init__(self) -> None:
        require_name(self.site)
        require_size(self.digest, DIGEST_BYTES, "digest")
        require_size(self.signature, SIGNATURE_BYTES, "signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Phase 2, site to coordinator: y, one string of ring elements per segment of the policy."""

    turn: Turn
    upload: Upload
    payload: tuple[bytes, ...]

    @property
    def site(self) -> str:
        """The sender."""
        return self.upload.site


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyRequest:
    """Phase 3, coordinator to site: the upload headers of U3."""

    turn: Turn
    uploads: tuple[Upload, ...]

    def __post_init__(self) -> None:
        require_ascending(tuple(upload.site for upload in self.uploads))


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Phase 3, site to coordinator: its one signature over h3."""

    turn: Turn
    site: str
    signature: bytes

    def __post_init__(self) -> None:
        require_name(self.site)
        require_size(self.signature, SIGNATURE_BYTES, "signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskRequest:
    """Phase 4, coordinator to site: certificates over one h3; `pipeline` asks for an advert for the next round."""

    turn: Turn
    certificates: tuple[Certificate, ...]
    pipeline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """One share of a secret of `owner`, in clear: 33 bytes."""

    owner: str
    share: bytes

    def __post_init__(self) -> None:
        require_name(self.owner)
        require_size(self.share, SHARE_BYTES, "share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked:
    """Phase 4, site to coordinator: b-shares for U3, s-shares for U2 minus U3, and maybe the next advert."""

    turn: Turn
    site: str
    seeds: tuple[Revealed, ...]
    keys: tuple[Revealed, ...]
    early: Advert | None

    def __post_init__(self) -> None:
        require_name(self.site)
        require_ascending(tuple(revealed.owner for revealed in self.seeds))
        require_ascending(tuple(revealed.owner for revealed in self.keys))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Site to coordinator: no, and why; the attempt is over for this site."""

    turn: Turn
    site: str
    reason: str

    def __post_init__(self) -> None:
        require_name(self.site)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Coordinator to site: this attempt is over, erase it."""

    turn: Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Coordinator to site: the run is over, erase all of it and take part in it no more."""

    run: str

    def __post_init__(self) -> None:
        require_name(self.run)


def require_size(value: bytes, size: int, name: str) -> None:
    """Raise `ValueError` unless `value` has `size` bytes."""
    require(len(value) == size, f"{name} must have {size} bytes, got {len(value)}")


SiteMessage = Advert | Shared | Masked | Certificate | Unmasked | Refusal
CoordinatorMessage = Offer | ShareRequest | MaskRequest | CertifyRequest | UnmaskRequest | Abort | Finish
Message = SiteMessage | CoordinatorMessage
