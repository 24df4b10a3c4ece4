"""What a site makes of its secrets: keys, adverts, and the shares that it deals and holds.

Why it exists: the phases of `client` read as a protocol when the making of
each message's content stands apart.

Rules:
    * All randomness comes from `entropy`.
    * A site keeps a share of its own secrets too, so that any t sites suffice.

What it does not do: check what others sent, beyond opening their boxes.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.secagg import bindings, checks, keys, shamir
from fedmed.secagg.messages import Advert, Box, Commitment, Header, MaskRequest, Offer, Shared, ShareRequest, Turn
from fedmed.secagg.shamir import Entropy
from fedmed.secagg.state import Dealt, Held, KeyPair


def make_pair(offer: Offer, *, site: str, signing_key: Ed25519PrivateKey, entropy: Entropy) -> KeyPair:
    """Make fresh keys and their advert under the terms of `offer`."""
    enc_secret, mask_secret = entropy(keys.SECRET_BYTES), entropy(keys.SECRET_BYTES)
    enc_key, mask_key = keys.public_key(enc_secret), keys.public_key(mask_secret)
    signed = bindings.advert_digest(offer, site=site, enc_key=enc_key, mask_key=mask_key)
    advert = Advert(
        turn=offer.turn,
        site=site,
        enc_key=enc_key,
        mask_key=mask_key,
        early=False,
        signature=signing_key.sign(signed),
    )
    return KeyPair(advert=advert, enc_secret=enc_secret, mask_secret=mask_secret)


def make_early_pair(
    turn: Turn, roster: bytes, *, site: str, signing_key: Ed25519PrivateKey, entropy: Entropy
) -> KeyPair:
    """Make fresh keys and their advert for `turn`, whose model and cohort are not known yet."""
    enc_secret, mask_secret = entropy(keys.SECRET_BYTES), entropy(keys.SECRET_BYTES)
    enc_key, mask_key = keys.public_key(enc_secret), keys.public_key(mask_secret)
    signed = bindings.early_advert_digest(turn, roster, site=site, enc_key=enc_key, mask_key=mask_key)
    advert = Advert(
        turn=turn, site=site, enc_key=enc_key, mask_key=mask_key, early=True, signature=signing_key.sign(signed)
    )
    return KeyPair(advert=advert, enc_secret=enc_secret, mask_secret=mask_secret)


def deal(
    request: ShareRequest, pair: KeyPair, *, signing_key: Ed25519PrivateKey, entropy: Entropy
) -> tuple[Dealt, Shared]:
    """Draw b, share b and s_sk among U1, commit to every share, and seal each for its holder.

    Raises:
        ProtocolError: A peer's key is weak.
    """
    offer, site = request.offer, pair.advert.site
    h1 = bindings.hash_adverts(offer, request.adverts)
    seed, rounding = entropy(keys.SECRET_BYTES), entropy(keys.SECRET_BYTES)
    points = {advert.site: offer.point(advert.site) for advert in request.adverts}
    seed_shares = shamir.split(seed, threshold=offer.threshold, points=tuple(points.values()), entropy=entropy)
    key_shares = shamir.split(
        pair.mask_secret, threshold=offer.threshold, points=tuple(points.values()), entropy=entropy
    )
    held = {
        holder: Held(owner=site, seed_share=seed_shares[point], key_share=key_shares[point])
        for holder, point in points.items()
    }
    header = _commit(seed, held, h1=h1, site=site, signing_key=signing_key)
    boxes = tuple(_seal(held[peer.site], pair, peer, h1=h1) for peer in request.adverts if peer.site != site)
    dealt = Dealt(adverts=request.adverts, h1=h1, header=header, own=held[site], seed=seed, rounding=rounding)
    return dealt, Shared(turn=offer.turn, header=header, boxes=boxes)


def open_boxes(request: MaskRequest, pair: KeyPair, dealt: Dealt) -> tuple[Held, ...]:
    """Return the shares that this site holds of every site of U2, its own among them.

    Raises:
        ProtocolError: Boxes are missing or from sites outside U2.
        IntegrityError: A box was changed, or a share is not the one committed to.
    """
    site, adverts = pair.advert.site, {advert.site: advert for advert in dealt.adverts}
    boxes = {box.peer: box for box in request.boxes}
    checks.check_boxes(tuple(boxes), tuple(header.site for header in request.headers if header.site != site))
    held = []
    for header in request.headers:
        if header.site == site:
            held.append(dealt.own)
            continue
        shared = keys.agree(pair.enc_secret, adverts[header.site].enc_key, peer=header.site)
        seed_share, key_share = keys.open_shares(
            shared, dealt.h1, boxes[header.site].data, sender=header.site, holder=site
        )
        checks.check_share(header, holder=site, h1=dealt.h1, seed_share=seed_share, key_share=key_share)
        held.append(Held(owner=header.site, seed_share=seed_share, key_share=key_share))
    return tuple(held)


def _commit(seed: bytes, held: dict[str, Held], *, h1: bytes, site: str, signing_key: Ed25519PrivateKey) -> Header:
    commitments = tuple(
        Commitment(
            holder=holder,
            seed=keys.commit_share(h1, "seed", item.seed_share, owner=site, holder=holder),
            key=keys.commit_share(h1, "key", item.key_share, owner=site, holder=holder),
        )
        for holder, item in held.items()
    )
    unsigned = Header(site=site, seed=keys.commit_seed(h1, site, seed), commitments=commitments, signature=bytes(64))
    signed = bindings.header_digest(h1, site=site, committed=unsigned.committed())
    return Header(site=site, seed=unsigned.seed, commitments=commitments, signature=signing_key.sign(signed))


def _seal(held: Held, pair: KeyPair, peer: Advert, *, h1: bytes) -> Box:
    shared = keys.agree(pair.enc_secret, peer.enc_key, peer=peer.site)
    data = keys.seal_shares(
        shared,
        h1,
        sender=held.owner,
        holder=peer.site,
        seed_share=held.seed_share,
        key_share=held.key_share,
    )
    return Box(peer=peer.site, data=data)
