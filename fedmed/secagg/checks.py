"""Everything a site checks before it answers; each check is one function that raises.

Why it exists: the coordinator is not trusted, so the privacy of the protocol is
exactly these checks. Each stands alone, so that a test can remove it and see
the attack that it stops.

Rules:
    * `RefusedError`: the site's own policy says no. `ProtocolError`: the coordinator or a peer
      broke the contract. `IntegrityError`: bytes were changed on the way.
    * A message names sites, counts and digests' meaning, never a secret or a value.

What it does not do: change any state.
"""

from collections.abc import Iterable

from fedmed.errors import IntegrityError, ProtocolError, RefusedError
from fedmed.secagg import bindings, keys
from fedmed.secagg.messages import Advert, Certificate, Header, Offer, Turn, Upload
from fedmed.secagg.roster import Policy, Roster


def check_offer(offer: Offer, *, site: str, roster: Roster, model: bytes, marks: tuple[Turn, ...]) -> None:
    """Check the terms of an attempt before any key is made.

    Args:
        offer: The terms.
        site: Our name.
        roster: The pinned roster.
        model: The 32-byte digest of the model that this site holds.
        marks: The high-water mark of each run.

    Raises:
        RefusedError: The turn is not above the mark, or the terms are below the policy's floors.
        ProtocolError: Roster or cohort are not ours.
    """
    check_fresh(offer.turn, marks)
    check_terms(offer, roster)
    if site not in offer.cohort:
        raise ProtocolError(f"offer: expected {site} in the cohort, got {len(offer.cohort)} other sites")
    if not keys.equal(offer.model, model):
        raise RefusedError("offer: expected the model that this site holds, got the digest of another; synchronise it")


def check_terms(offer: Offer, roster: Roster) -> None:
    """Check what holds for every site of the cohort: roster, floors, and the layout of the upload."""
    if not keys.equal(offer.roster, roster.digest()):
        raise ProtocolError(f"offer: expected roster serial {roster.serial}, got another; distribute the roster")
    strangers = [name for name in offer.cohort if name not in roster.names]
    if strangers:
        raise ProtocolError(f"offer: expected sites of the roster, got unknown ones: {', '.join(strangers)}")
    check_floors(offer, roster.policy)
    check_layout(offer, roster.policy)


def check_fresh(turn: Turn, marks: tuple[Turn, ...]) -> None:
    """Raise unless `turn` is above the high-water mark of its run; old rounds are never replayed."""
    for mark in marks:
        if mark.run == turn.run and (turn.round, turn.attempt) <= (mark.round, mark.attempt):
            raise RefusedError(
                f"offer: expected a turn after round {mark.round} attempt {mark.attempt}, "
                f"got round {turn.round} attempt {turn.attempt}; retry with the next attempt"
            )


def check_floors(offer: Offer, policy: Policy) -> None:
    """Raise unless the cohort has n_min sites and t keeps two survivor sets from both being certified."""
    size = len(offer.cohort)
    if size < policy.n_min:
        raise RefusedError(f"offer: expected a cohort of at least {policy.n_min} sites, got {size}")
    floor = policy.threshold_floor(size)
    if not floor <= offer.threshold <= size:
        raise RefusedError(f"offer: expected a threshold between {floor} and {size}, got {offer.threshold}")


def check_layout(offer: Offer, policy: Policy) -> None:
    """Raise unless each segment's length is within the policy and the sum over the cohort can't wrap."""
    if len(offer.lengths) != len(policy.segments):
        raise ProtocolError(f"offer: expected {len(policy.segments)} segment lengths, got {len(offer.lengths)}")
    if not any(offer.lengths):
        raise RefusedError("offer: expected at least one segment of length 1 or more, got none")
    for segment, length in zip(policy.segments, offer.lengths, strict=True):
        if length > segment.max_length:
            raise RefusedError(
                f"offer: segment {segment.name} expected at most {segment.max_length} elements, got {length}"
            )
        if not segment.has_headroom(len(offer.cohort)):
            raise RefusedError(f"offer: segment {segment.name} has no headroom for {len(offer.cohort)} sites")


def check_gate(phase: str, came: Iterable[str], *, of: Iterable[str], needed: int) -> None:
    """Raise unless at least `needed` sites came, all of them out of `of`; the message names the missing ones."""
    names, known = set(came), set(of)
    if not names <= known:
        raise ProtocolError(
            f"{phase}: expected only sites of the phase before, got also {', '.join(sorted(names - known))}"
        )
    if len(names) < needed:
        raise RefusedError(
            f"{phase}: expected at least {needed} of {len(known)} sites, got {len(names)}; "
            f"missing: {', '.join(sorted(known - names))}"
        )


def check_adverts(adverts: tuple[Advert, ...], offer: Offer, *, own: Advert, roster: Roster) -> None:
    """Check the adverts of U1: enough sites, our keys intact, every signature, all keys distinct."""
    gate = roster.policy.gate(offer.threshold)
    check_gate("adverts", (advert.site for advert in adverts), of=offer.cohort, needed=gate)
    if own not in adverts:
        raise ProtocolError(f"adverts: expected the keys of {own.site} as it sent them, got others or none")
    for advert in adverts:
        if advert.turn != offer.turn:
            raise ProtocolError(f"advert of {advert.site}: expected {offer.turn}, got {advert.turn}")
        roster.verify(advert.site, advert.signature, bindings.signed_of_advert(advert, offer), what="advert")
    public = [key for advert in adverts for key in (advert.enc_key, advert.mask_key)]
    if len(set(public)) != len(public):
        raise ProtocolError("adverts: expected all keys distinct, got one key twice")


def check_headers(
    headers: tuple[Header, ...], offer: Offer, adverts: tuple[Advert, ...], *, own: Header, h1: bytes, roster: Roster
) -> None:
    """Check the headers of U2: enough sites of U1, ours intact, every signature, commitments for all of U1."""
    u1 = tuple(advert.site for advert in adverts)
    gate = roster.policy.gate(offer.threshold)
    check_gate("shares", (header.site for header in headers), of=u1, needed=gate)
    if own not in headers:
        raise ProtocolError(f"shares: expected the header of {own.site} as it sent it, got another or none")
    for header in headers:
        check_header(header, u1, h1=h1, roster=roster)


def check_header(header: Header, u1: tuple[str, ...], *, h1: bytes, roster: Roster) -> None:
    """Check one header: signed over h1, with commitments for exactly the sites `u1`."""
    signed = bindings.header_digest(h1, site=header.site, committed=header.committed())
    roster.verify(header.site, header.signature, signed, what="header")
    if tuple(item.holder for item in header.commitments) != u1:
        raise ProtocolError(f"header of {header.site}: expected commitments for all {len(u1)} sites, got others")


def check_boxes(came: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Raise unless there is exactly one box from each other site of U2."""
    if came != expected:
        wrong = sorted(set(came) ^ set(expected))
        raise ProtocolError(f"shares: expected one box from each other site, got it wrong for: {', '.join(wrong)}")


def check_share(header: Header, *, holder: str, h1: bytes, seed_share: bytes, key_share: bytes) -> None:
    """Raise unless both shares that `holder` got are those that the owner committed to."""
    check_committed(header, "seed", holder=holder, h1=h1, share=seed_share)
    check_committed(header, "key", holder=holder, h1=h1, share=key_share)


def check_committed(header: Header, of: keys.ShareOf, *, holder: str, h1: bytes, share: bytes) -> None:
    """Raise unless `share` is what the header's site committed to for `holder`."""
    commitment = next((item for item in header.commitments if item.holder == holder), None)
    if commitment is None:
        raise ProtocolError(f"header of {header.site}: expected a commitment for {holder}, got none")
    expected = commitment.seed if of == "seed" else commitment.key
    if not keys.equal(expected, keys.commit_share(h1, of, share, owner=header.site, holder=holder)):
        raise IntegrityError(f"share of {header.site} for {holder}: expected the committed one, got another")


def check_uploads(
    uploads: tuple[Upload, ...], offer: Offer, headers: tuple[Header, ...], *, own: Upload, h2: bytes, roster: Roster
) -> None:
    """Check the uploads of U3: enough sites of U2, ours intact, every signature over (h2, H(y))."""
    u2 = tuple(header.site for header in headers)
    gate = roster.policy.gate(offer.threshold)
    check_gate("uploads", (upload.site for upload in uploads), of=u2, needed=gate)
    if own not in uploads:
        raise ProtocolError(f"uploads: expected the header of {own.site} as it sent it, got another or none")
    for upload in uploads:
        check_upload(upload, h2=h2, roster=roster)


def check_upload(upload: Upload, *, h2: bytes, roster: Roster) -> None:
    """Check one upload header's signature."""
    signed = bindings.upload_digest(h2, site=upload.site, digest=upload.digest)
    roster.verify(upload.site, upload.signature, signed, what="upload")


def check_certificates(
    certificates: tuple[Certificate, ...], survivors: tuple[str, ...], *, threshold: int, h3: bytes, roster: Roster
) -> None:
    """Raise unless `threshold` distinct sites of U3 signed the very h3 that this site certified."""
    signers = {certificate.site for certificate in certificates}
    check_gate("certificates", signers, of=survivors, needed=threshold)
    for certificate in certificates:
        roster.verify(certificate.site, certificate.signature, bindings.certificate_digest(h3), what="certificate")


def check_unspent(update_ids: tuple[bytes, ...], spent: tuple[bytes, ...]) -> None:
    """Raise if an update whose survivors this site has certified is offered again.

    Two sums that differ in one site's update give that update away; the ids are taken before
    rounding, because stochastic rounding makes two encodings of one update differ. A segment
    that repeats bit for bit is refused too, even one of zeros: leave it out by a length of 0.
    """
    if set(update_ids) & set(spent):
        raise RefusedError("update: expected one that no certified sum holds yet, got a spent one; train again")
