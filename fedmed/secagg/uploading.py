"""How a site turns its update into the one masked vector it sends.

Why it exists: this is the only place where the update is read, and the heavy
part of a round; the protocol around it handles only its hash.

Rules:
    * y = encode(x) + self mask + sum of pair masks, + towards peers of greater name, - towards lesser.
    * Given the same state and update, the bytes are the same: the rounding seed is part of the state.

What it does not do: decide whether the update may be used.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import RefusedError
from fedmed.secagg import bindings, keys, masking
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import Header, Masked, Offer, Upload
from fedmed.secagg.roster import Policy, Segment
from fedmed.secagg.state import Advertised, Dealt


def active_segments(offer: Offer, policy: Policy) -> tuple[Segment, ...]:
    """Return the segments that this round uses: those with a length."""
    return tuple(segment for segment, length in zip(policy.segments, offer.lengths, strict=True) if length)


def require_contribution(contribution: Contribution | None, offer: Offer, policy: Policy) -> Contribution:
    """Return the contribution if it has every active segment at its agreed length.

    Raises:
        RefusedError: There is none, or it has another shape.
    """
    if contribution is None:
        raise RefusedError("update: expected one for this round, got none; this site drops out")
    for segment, length in zip(policy.segments, offer.lengths, strict=True):
        if not length:
            continue
        values = contribution.values.get(segment.name)
        if values is None or values.shape != (length,):
            came = "none" if values is None else f"shape {values.shape}"
            raise RefusedError(f"update: segment {segment.name} expected shape ({length},), got {came}")
    return contribution


def mask_update(
    advertised: Advertised,
    dealt: Dealt,
    headers: tuple[Header, ...],
    contribution: Contribution,
    *,
    policy: Policy,
    signing_key: Ed25519PrivateKey,
) -> Masked:
    """Encode and mask the update over U2, and sign its hash.

    Args:
        advertised: The terms and our keys.
        dealt: The adverts of U1, h1, b and the rounding seed.
        headers: The headers of U2.
        contribution: The update; its shapes fit the offer.
        policy: Segments and W_max.
        signing_key: Our Ed25519 key.

    Raises:
        RefusedError: The update can't be encoded.
        ProtocolError: A peer's key is weak.
    """
    offer, site = advertised.offer, advertised.pair.advert.site
    added, subtracted = _seeds(advertised, dealt, headers)
    payload = []
    for segment, length in zip(policy.segments, offer.lengths, strict=True):
        if not length:
            payload.append(b"")
            continue
        ring = masking.encode_masked(
            contribution,
            segment,
            max_weight=policy.max_weight,
            rounding=dealt.rounding,
            added=added,
            subtracted=subtracted,
        )
        payload.append(masking.to_bytes(ring))
    h2 = bindings.hash_headers(dealt.h1, headers)
    digest = bindings.payload_digest(h2, site=site, payload=payload)
    signature = signing_key.sign(bindings.upload_digest(h2, site=site, digest=digest))
    upload = Upload(site=site, digest=digest, signature=signature)
    return Masked(turn=offer.turn, upload=upload, payload=tuple(payload))


def _seeds(advertised: Advertised, dealt: Dealt, headers: tuple[Header, ...]) -> tuple[list[bytes], list[bytes]]:
    """Return the seeds of the masks to add and of those to subtract."""
    pair = advertised.pair
    site = pair.advert.site
    peers = {header.site for header in headers} - {site}
    added = [keys.self_seed(dealt.seed, dealt.h1)]
    subtracted: list[bytes] = []
    for advert in dealt.adverts:
        if advert.site not in peers:
            continue
        seed = keys.pair_seed(pair.mask_secret, advert.mask_key, dealt.h1, site=site, peer=advert.site)
        (added if site < advert.site else subtracted).append(seed)
    return added, subtracted
