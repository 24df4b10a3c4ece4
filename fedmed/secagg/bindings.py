"""What each signature covers: the chain ctx, h1, h2, h3 and the digests that sites sign along it.

Why it exists: each hash swallows the one before, so two sites that sign the
same h3 were told the same terms, keys, commitments and uploads.

Rules:
    * Every signature is Ed25519 over one labelled 32-byte digest.
    * An early advert is signed over turn and roster alone; model and cohort enter at h1.

What it does not do: decide whether what was signed is acceptable (see `checks`).
"""

from collections.abc import Iterable

from fedmed.secagg import transcript
from fedmed.secagg.messages import Advert, Header, Offer, Turn, Upload


def advert_digest(offer: Offer, *, site: str, enc_key: bytes, mask_key: bytes) -> bytes:
    """Return what a site signs to advertise its keys under the terms of `offer`."""
    return transcript.digest("advert", offer.context(), site.encode(), enc_key, mask_key)


def early_advert_digest(turn: Turn, roster: bytes, *, site: str, enc_key: bytes, mask_key: bytes) -> bytes:
    """Return what a site signs to advertise keys for the next round, before its terms are known."""
    return transcript.digest("advert-early", turn.packed(), roster, site.encode(), enc_key, mask_key)


def signed_of_advert(advert: Advert, offer: Offer) -> bytes:
    """Return the digest that the signature of `advert` must cover under `offer`."""
    if advert.early:
        return early_advert_digest(
            offer.turn, offer.roster, site=advert.site, enc_key=advert.enc_key, mask_key=advert.mask_key
        )
    return advert_digest(offer, site=advert.site, enc_key=advert.enc_key, mask_key=advert.mask_key)


def hash_adverts(offer: Offer, adverts: Iterable[Advert]) -> bytes:
    """Return h1 = H(ctx, adverts of U1 in order of site)."""
    return transcript.digest("h1", offer.context(), transcript.pack(*(advert.packed() for advert in adverts)))


def header_digest(h1: bytes, *, site: str, committed: bytes) -> bytes:
    """Return what a site signs to commit to its shares."""
    return transcript.digest("header", h1, site.encode(), committed)


def hash_headers(h1: bytes, headers: Iterable[Header]) -> bytes:
    """Return h2 = H(h1, headers of U2 in order of site)."""
    return transcript.digest("h2", h1, transcript.pack(*(header.packed() for header in headers)))


def payload_digest(h2: bytes, *, site: str, payload: Iterable[bytes]) -> bytes:
    """Return H(y), the hash of a masked vector, segment by segment."""
    return transcript.digest("masked", h2, site.encode(), *payload)


def upload_digest(h2: bytes, *, site: str, digest: bytes) -> bytes:
    """Return what a site signs over its masked vector, (h2, H(y))."""
    return transcript.digest("upload", h2, site.encode(), digest)


def hash_uploads(h2: bytes, uploads: Iterable[Upload]) -> bytes:
    """Return h3 = H(h2, (site, H(y)) of U3 in order of site)."""
    return transcript.digest(
        "h3", h2, transcript.pack(*(transcript.pack(upload.site.encode(), upload.digest) for upload in uploads))
    )


def certificate_digest(h3: bytes) -> bytes:
    """Return what a site signs, once, to certify the set of survivors; equal for all sites."""
    return transcript.digest("certificate", h3)
