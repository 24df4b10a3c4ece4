"""The five phases of the coordinator, as a table: what comes, what is checked, and what goes out next.

Why it exists: who must answer, how many suffice, and what follows are rows of data; `server` walks them.

Rules:
    * A message that fails its check raises; the state stays as it is.
    * An upload is added to the running sum as it comes and not kept.
    * What a phase sends follows from the state at its end alone.

What it does not do: decide when a phase is over, talk, or wait.

Source: Bonawitz et al., CCS 2017, figure 4, the variant against an active server.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fedmed.errors import ProtocolError
from fedmed.secagg import bindings, checks, keys, masking, unmasking
from fedmed.secagg.attempt import Fault, Outgoing, Phase, ServerState
from fedmed.secagg.messages import (
    Abort,
    Advert,
    Box,
    Certificate,
    CertifyRequest,
    Masked,
    MaskRequest,
    Offer,
    Shared,
    ShareRequest,
    SiteMessage,
    Turn,
    Unmasked,
    UnmaskRequest,
)

Step = tuple[ServerState, tuple[Outgoing, ...]]
"""The next state, and the messages to send."""
_PROBE: Final = bytes([64, *range(31)])
"""Any X25519 secret: agreeing with it fails for the weak keys that sites would refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One phase: what comes, from whom, how many are needed, and what follows.

    `eager`: the phase ends as soon as enough have come.
    """

    event: type[SiteMessage]
    asked: Callable[[ServerState], Mapping[str, object] | tuple[str, ...]]
    came: Callable[[ServerState], Mapping[str, object]]
    needed: Callable[[ServerState], int]
    accept: Callable[[ServerState, Any], ServerState]
    close: Callable[[ServerState], Step]
    target: Phase
    eager: bool = False


def abort(state: ServerState, why: str) -> Step:
    """End the attempt; each site of the cohort is told."""
    turn = state.offer.turn
    # Sites that may have certified refuse the same update again, whatever the attempt.
    anew = " after training again" if state.h3 else ""
    failure = f"secure aggregation of {turn} aborted: {why}; retry as attempt {turn.attempt + 1}{anew}"
    out = tuple(Outgoing(site=site, message=Abort(turn=turn)) for site in state.offer.cohort)
    return replace(state, phase=Phase.ABORTED, failure=failure, totals=(), unmasked={}), out


def fault(state: ServerState, site: str, reason: str) -> ServerState:
    """Write down a fault of a site, which is out of the attempt from here."""
    found = Fault(site=site, phase=state.phase.value, reason=reason)
    return replace(state, faults=(*state.faults, found), out=state.out | {site})


def _accept_advert(state: ServerState, advert: Advert) -> ServerState:
    if advert.early:
        raise ProtocolError(f"advert of {advert.site}: expected one under this offer, got an early one")
    verify_advert(state, advert, state.offer)
    return replace(state, adverts=_with(state.adverts, advert.site, advert))


def verify_advert(state: ServerState, advert: Advert, offer: Offer) -> None:
    """Check the keys and the signature of an advert.

    Raises:
        ProtocolError: A key is weak or there already, or the site did not sign it under these terms.
    """
    public = (advert.enc_key, advert.mask_key)
    others = (*state.adverts.values(), *state.early.values())
    taken = {key for other in others if other.site != advert.site for key in (other.enc_key, other.mask_key)}
    if public[0] == public[1] or taken & set(public):  # every site would refuse the whole attempt
        raise ProtocolError(f"advert of {advert.site}: expected keys of its own, got one that is there already")
    for key in public:
        keys.agree(_PROBE, key, peer=advert.site)
    state.roster.verify(advert.site, advert.signature, bindings.signed_of_advert(advert, offer), what="advert")


def _close_advertising(state: ServerState) -> Step:
    request = ShareRequest(offer=state.offer, adverts=tuple(state.adverts.values()))
    out = tuple(Outgoing(site=site, message=request) for site in state.adverts)
    return replace(state, h1=bindings.hash_adverts(state.offer, request.adverts)), out


def _accept_shared(state: ServerState, shared: Shared) -> ServerState:
    checks.check_header(shared.header, tuple(state.adverts), h1=state.h1, roster=state.roster)
    peers = tuple(site for site in state.adverts if site != shared.site)
    checks.check_boxes(tuple(box.peer for box in shared.boxes), peers)
    return replace(
        state,
        headers=_with(state.headers, shared.site, shared.header),
        boxes=_with(state.boxes, shared.site, shared.boxes),
    )


def _close_sharing(state: ServerState) -> Step:
    headers = tuple(state.headers.values())
    out = tuple(
        Outgoing(site=site, message=MaskRequest(turn=state.offer.turn, headers=headers, boxes=_boxes_for(state, site)))
        for site in state.headers
    )
    return replace(state, h2=bindings.hash_headers(state.h1, headers), boxes={}), out


def _boxes_for(state: ServerState, holder: str) -> tuple[Box, ...]:
    return tuple(
        Box(peer=owner, data=box.data) for owner, boxes in state.boxes.items() for box in boxes if box.peer == holder
    )


def _accept_masked(state: ServerState, masked: Masked) -> ServerState:
    """Check an upload against its signed hash and add it to the running sum."""
    checks.check_upload(masked.upload, h2=state.h2, roster=state.roster)
    digest = bindings.payload_digest(state.h2, site=masked.site, payload=masked.payload)
    if digest != masked.upload.digest:
        raise ProtocolError(f"upload of {masked.site}: expected the vector that it signed, got another")
    segments, lengths = state.roster.policy.segments, state.offer.lengths
    if len(masked.payload) != len(segments):
        raise ProtocolError(f"upload of {masked.site}: expected {len(segments)} segments, got {len(masked.payload)}")
    rings = tuple(
        masking.from_bytes(data, segment, length)
        for data, segment, length in zip(masked.payload, segments, lengths, strict=True)
    )
    totals = tuple(total + ring for total, ring in zip(state.totals, rings, strict=True)) if state.totals else rings
    return replace(state, totals=totals, uploads=_with(state.uploads, masked.site, masked.upload))


def _close_masking(state: ServerState) -> Step:
    uploads = tuple(state.uploads.values())
    request = CertifyRequest(turn=state.offer.turn, uploads=uploads)
    out = tuple(Outgoing(site=site, message=request) for site in state.uploads)
    return replace(state, h3=bindings.hash_uploads(state.h2, uploads)), out


def _accept_certificate(state: ServerState, certificate: Certificate) -> ServerState:
    signed = bindings.certificate_digest(state.h3)
    state.roster.verify(certificate.site, certificate.signature, signed, what="certificate")
    return replace(state, certificates=_with(state.certificates, certificate.site, certificate))


def _close_certifying(state: ServerState) -> Step:
    certificates = tuple(state.certificates.values())
    request = UnmaskRequest(turn=state.offer.turn, certificates=certificates, pipeline=state.pipeline)
    return state, tuple(Outgoing(site=site, message=request) for site in state.certificates)


def accept_unmasked(state: ServerState, reply: Unmasked) -> ServerState:
    """Take in the shares of one site, and its advert for the next round.

    Raises:
        ProtocolError: A share or the advert is not what was asked for.
    """
    lost = [site for site in state.headers if site not in state.uploads]
    unmasking.check_reply(reply, state.headers, survivors=tuple(state.uploads), lost=lost, h1=state.h1)
    state = replace(state, unmasked=_with(state.unmasked, reply.site, reply))
    return state if reply.early is None else _keep_early(state, reply.site, reply.early)


def _keep_early(state: ServerState, site: str, advert: Advert) -> ServerState:
    turn = state.offer.turn
    following = Turn(run=turn.run, round=turn.round + 1, attempt=0)
    if advert.site != site or advert.turn != following or not advert.early:
        raise ProtocolError(f"early advert of {site}: expected one for {following}, got another")
    verify_advert(state, advert, replace(state.offer, turn=following))
    return replace(state, early=_with(state.early, site, advert))


def _close_unmasking(state: ServerState) -> Step:
    try:
        sums = unmasking.unmask(
            state.totals,
            tuple(state.unmasked.values()),
            offer=state.offer,
            segments=state.roster.policy.segments,
            adverts=state.adverts,
            headers=state.headers,
            survivors=tuple(state.uploads),
            h1=state.h1,
        )
    except unmasking.DealerError as error:
        return abort(fault(state, error.site, str(error)), str(error))
    return replace(state, sums=sums, totals=()), ()


def _with(mapping: Mapping[str, Any], site: str, value: object) -> dict[str, Any]:
    return dict(sorted({**mapping, site: value}.items()))


def _gate(state: ServerState) -> int:
    return state.roster.policy.gate(state.offer.threshold)


def _threshold(state: ServerState) -> int:
    return state.offer.threshold


TABLE: Final[dict[Phase, Row]] = {
    Phase.ADVERTISING: Row(
        event=Advert,
        asked=lambda state: state.offer.cohort,
        came=lambda state: state.adverts,
        needed=_gate,
        accept=_accept_advert,
        close=_close_advertising,
        target=Phase.SHARING,
    ),
    Phase.SHARING: Row(
        event=Shared,
        asked=lambda state: state.adverts,
        came=lambda state: state.headers,
        needed=_gate,
        accept=_accept_shared,
        close=_close_sharing,
        target=Phase.MASKING,
    ),
    Phase.MASKING: Row(
        event=Masked,
        asked=lambda state: state.headers,
        came=lambda state: state.uploads,
        needed=_gate,
        accept=_accept_masked,
        close=_close_masking,
        target=Phase.CERTIFYING,
    ),
    Phase.CERTIFYING: Row(
        event=Certificate,
        asked=lambda state: state.uploads,
        came=lambda state: state.certificates,
        needed=_threshold,
        accept=_accept_certificate,
        close=_close_certifying,
        target=Phase.UNMASKING,
    ),
    Phase.UNMASKING: Row(
        event=Unmasked,
        asked=lambda state: state.certificates,
        came=lambda state: state.unmasked,
        needed=_threshold,
        accept=accept_unmasked,
        close=_close_unmasking,
        target=Phase.DONE,
        eager=True,
    ),
}
"""The phases in their order."""
