"""How the coordinator takes the masks off a sum, and how it finds a liar.

Why it exists: the coordinator rebuilds exactly one secret of each site: b of
those whose vector is in the sum, s_sk of those who dropped out before it.

Rules:
    * Every revealed share is checked against its owner's commitment; a false one names its holder.
    * Every rebuilt secret is checked against H(b) or s_pk; a false one names its dealer.

What it does not do: keep the protocol's order (see `server`).
"""

from collections.abc import Mapping, Sequence

from fedmed.errors import IntegrityError, ProtocolError
from fedmed.secagg import checks, keys, masking, shamir
from fedmed.secagg.masking import Ring
from fedmed.secagg.messages import Advert, Header, Offer, Revealed, Unmasked
from fedmed.secagg.roster import Segment


class DealerError(IntegrityError):
    """A site dealt shares that do not rebuild the secret it committed to, so the sum can't be unmasked."""

    def __init__(self, site: str) -> None:
        """Name the dealer."""
        self.site = site
        super().__init__(
            f"secret of {site}: expected shares of the committed secret, got others; leave {site} out and retry"
        )


def check_reply(
    reply: Unmasked, headers: Mapping[str, Header], *, survivors: Sequence[str], lost: Sequence[str], h1: bytes
) -> None:
    """Check that `reply` reveals the right share of each site: b of `survivors`, s_sk of `lost`.

    Raises:
        ProtocolError: It reveals shares of other sites.
        IntegrityError: A share is not the committed one; its holder lies.
    """
    if [item.owner for item in reply.seeds] != list(survivors) or [item.owner for item in reply.keys] != list(lost):
        raise ProtocolError(f"unmasking by {reply.site}: expected one share of each site, got it wrong")
    for item in reply.seeds:
        checks.check_committed(headers[item.owner], "seed", holder=reply.site, h1=h1, share=item.share)
    for item in reply.keys:
        checks.check_committed(headers[item.owner], "key", holder=reply.site, h1=h1, share=item.share)


def unmask(
    totals: tuple[Ring, ...],
    replies: Sequence[Unmasked],
    *,
    offer: Offer,
    segments: tuple[Segment, ...],
    adverts: Mapping[str, Advert],
    headers: Mapping[str, Header],
    survivors: Sequence[str],
    h1: bytes,
) -> tuple[Ring, ...]:
    """Return the sums without masks, as new arrays.

    Args:
        totals: The sum of the uploads per segment.
        replies: At least t checked replies.
        offer: Gives t and each site's point.
        segments: The policy's segments, as in `totals`.
        adverts: The adverts of U1, by site.
        headers: The headers of U2, by site.
        survivors: U3, ascending.
        h1: The transcript hash of the adverts.

    Raises:
        DealerError: A rebuilt secret is not the one its owner committed to.
    """
    lost = [site for site in headers if site not in survivors]
    points = {reply.site: offer.point(reply.site) for reply in replies}
    seeds = _rebuild(survivors, {points[reply.site]: reply.seeds for reply in replies}, threshold=offer.threshold)
    secrets = _rebuild(lost, {points[reply.site]: reply.keys for reply in replies}, threshold=offer.threshold)
    for site, seed in seeds.items():
        if not keys.equal(headers[site].seed, keys.commit_seed(h1, site, seed)):
            raise DealerError(site)
    for site, secret in secrets.items():
        if not keys.equal(adverts[site].mask_key, keys.public_key(secret)):
            raise DealerError(site)
    added = [keys.self_seed(seed, h1) for seed in seeds.values()]
    subtracted: list[bytes] = []
    for site, secret in secrets.items():
        for peer in survivors:
            seed = keys.pair_seed(secret, adverts[peer].mask_key, h1, site=site, peer=peer)
            (added if peer < site else subtracted).append(seed)
    return tuple(_remove(total, segment, added, subtracted) for total, segment in zip(totals, segments, strict=True))


def _rebuild(
    owners: Sequence[str], revealed: Mapping[int, tuple[Revealed, ...]], *, threshold: int
) -> dict[str, bytes]:
    """Return the secret of each owner from the shares that the holder of each point `revealed`."""
    shares: dict[str, dict[int, bytes]] = {owner: {} for owner in owners}
    for point, items in revealed.items():
        for item in items:
            shares[item.owner][point] = item.share
    return {owner: _combine(owner, shares[owner], threshold=threshold) for owner in owners}


def _combine(owner: str, shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    try:
        return shamir.combine(shares, threshold=threshold)
    except ProtocolError:
        raise DealerError(owner) from None


def _remove(total: Ring, segment: Segment, added: list[bytes], subtracted: list[bytes]) -> Ring:
    """Take off what the survivors had `added` and `subtracted`."""
    ring = total.copy()
    masking.apply_masks(ring, segment, added=subtracted, subtracted=added)
    return ring
