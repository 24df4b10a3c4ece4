"""The coordinator's side: five phases as one table, pure.

Why it exists: who must answer, how many suffice, and what comes next are rows
of data; the caller only carries messages and tells when a phase's time is up.

Rules:
    * `begin` and `step(state, event) -> (state, outgoing)`; `result(state)` gives the sum or says why not.
    * A phase ends when all expected sites have answered or refused, or at `Deadline`; with too few
      the attempt aborts, and a retry is the next attempt, with fresh keys.
    * A message that fails its check drops its sender and is written down as a fault of it.
    * A message of an earlier phase is late and dropped; of a later phase or another turn, it raises
      and changes nothing.
    * An upload is added to the running sum as it comes and not kept.

What it does not do: talk, wait, or learn anything but the sum (the sites see to that).

Source: Bonawitz et al., CCS 2017, figure 4, the variant against an active server.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from fedmed.errors import FedMedError, ProtocolError, SiteFailureError
from fedmed.secagg import bindings, checks, keys, masking, unmasking
from fedmed.secagg.attempt import Aggregate, Deadline, Event, Fault, Outgoing, Phase, ServerState
from fedmed.secagg.messages import (
    Abort,
    Advert,
    Box,
    Certificate,
    CertifyRequest,
    Masked,
    MaskRequest,
    Offer,
    Refusal,
    Shared,
    ShareRequest,
    SiteMessage,
    Turn,
    Unmasked,
    UnmaskRequest,
)
from fedmed.secagg.roster import Roster

_Step = tuple[ServerState, tuple[Outgoing, ...]]
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
    close: Callable[[ServerState], _Step]
    target: Phase
    eager: bool = False


def begin(*, roster: Roster, offer: Offer, pipeline: bool = False, early: Mapping[str, Advert] | None = None) -> _Step:
    """Start an attempt: offer the terms to each site of the cohort that has not advertised yet.

    Args:
        roster: The verified roster.
        offer: The terms.
        pipeline: Whether sites are asked for an advert for the next round at the end.
        early: Adverts that came with the round before, by site; used for attempt 0 only.

    Raises:
        RefusedError: The terms are below the policy's floors, so every site would refuse them.
        ProtocolError: Roster, cohort or an early advert do not fit.
    """
    checks.check_terms(offer, roster)
    ready = {
        site: advert
        for site, advert in sorted((early or {}).items())
        if site in offer.cohort and advert.turn == offer.turn
    }
    state = ServerState(roster=roster, offer=offer, pipeline=pipeline, adverts=ready)
    for advert in ready.values():
        _verify_advert(state, advert, offer)
    out = tuple(Outgoing(site=site, message=offer) for site in offer.cohort if site not in ready)
    return _advance(state, out)


def step(state: ServerState, event: Event) -> _Step:
    """Take in one event.

    Returns:
        The next state and the messages to send.

    Raises:
        ProtocolError: The event belongs to another turn, a later phase, or a site that was
            not asked; the state stays as it is.
    """
    row = TABLE.get(state.phase)
    if isinstance(event, Deadline):
        return (state, ()) if row is None else _close(state, row)
    _require_ours(state, event)
    if isinstance(event, Refusal):
        known = row is None or event.site in state.out
        return (state, ()) if known else _advance(_fault(state, event.site, f"refused: {event.reason}"), ())
    if row is None or not isinstance(event, row.event):
        return _off_phase(state, event), ()
    if event.site in row.came(state) or event.site in state.out:
        return state, ()
    if event.site not in row.asked(state):
        raise ProtocolError(f"{state.phase.value}: expected a site that was asked, got {event.site}; nothing changed")
    try:
        follower = row.accept(state, event)
    except FedMedError as error:
        follower = _fault(state, event.site, str(error))
    return _advance(follower, ())


def waiting_for(state: ServerState) -> tuple[str, ...]:
    """Return the sites that the current phase still waits for, ascending."""
    row = TABLE.get(state.phase)
    return () if row is None else tuple(sorted(set(row.asked(state)) - set(row.came(state)) - state.out))


def result(state: ServerState) -> Aggregate:
    """Return the sum of a finished attempt.

    Raises:
        SiteFailureError: The attempt aborted; says in which phase, the counts and the missing sites.
        ProtocolError: The attempt is not over.
    """
    if state.phase is Phase.ABORTED:
        raise SiteFailureError(state.failure)
    if state.phase is not Phase.DONE:
        raise ProtocolError(f"expected a finished attempt, got one that is {state.phase.value}")
    layout = zip(state.roster.policy.segments, state.sums, state.offer.lengths, strict=True)
    return Aggregate(
        sums={segment.name: masking.decode(ring, segment) for segment, ring, length in layout if length},
        sites=tuple(state.uploads),
        dropped=tuple(site for site in state.offer.cohort if site not in state.uploads),
        faults=state.faults,
        early=state.early,
    )


def diagram() -> str:
    """Return the table as a Mermaid state diagram.

    >>> diagram().splitlines()[2].strip()
    'advertising --> sharing: Advert from enough sites'
    """
    lines = ["stateDiagram-v2", "    [*] --> advertising"]
    for phase, row in TABLE.items():
        lines.append(f"    {phase.value} --> {row.target.value}: {row.event.__name__} from enough sites")
        lines.append(f"    {phase.value} --> aborted: all answered or deadline, too few")
    return "\n".join(lines)


def _require_ours(state: ServerState, event: SiteMessage) -> None:
    if event.site not in state.offer.cohort:
        raise ProtocolError(f"expected a site of the cohort, got {event.site}; nothing changed")
    if event.turn != state.offer.turn:
        raise ProtocolError(f"expected {state.offer.turn}, got {event.turn} from {event.site}; nothing changed")


def _off_phase(state: ServerState, event: SiteMessage) -> ServerState:
    """Drop what is late, keep the early advert of a late unmasking, raise on what is too soon."""
    order = list(Phase)
    if state.phase is Phase.ABORTED:
        return state
    due = next(phase for phase, row in TABLE.items() if isinstance(event, row.event))
    if order.index(due) > order.index(state.phase):
        raise ProtocolError(
            f"{state.phase.value}: {type(event).__name__} of {event.site} came too soon; nothing changed"
        )
    if isinstance(event, Unmasked) and event.site in state.certificates and event.site not in state.unmasked:
        try:
            return _accept_unmasked(state, event)
        except FedMedError as error:
            return _fault(state, event.site, str(error))
    return state


def _advance(state: ServerState, out: tuple[Outgoing, ...]) -> _Step:
    """Close the current phase if nobody is left to wait for, or enough came and the phase is eager."""
    row = TABLE[state.phase]
    if waiting_for(state) and not (row.eager and len(row.came(state)) >= row.needed(state)):
        return state, out
    follower, more = _close(state, row)
    return follower, (*out, *more)


def _close(state: ServerState, row: Row) -> _Step:
    came, asked, needed = row.came(state), row.asked(state), row.needed(state)
    if len(came) < needed:
        missing = ", ".join(site for site in sorted(asked) if site not in came)
        return _abort(
            state,
            f"{state.phase.value} got {len(came)} of {len(asked)} sites and needs {needed}; missing: {missing}",
        )
    follower, out = row.close(state)
    return (follower if follower.phase is Phase.ABORTED else replace(follower, phase=row.target)), out


def _abort(state: ServerState, why: str) -> _Step:
    turn = state.offer.turn
    # Sites that may have certified refuse the same update again, whatever the attempt.
    anew = " after training again" if state.h3 else ""
    failure = f"secure aggregation of {turn} aborted: {why}; retry as attempt {turn.attempt + 1}{anew}"
    out = tuple(Outgoing(site=site, message=Abort(turn=turn)) for site in state.offer.cohort)
    return replace(state, phase=Phase.ABORTED, failure=failure, totals=(), unmasked={}), out


def _fault(state: ServerState, site: str, reason: str) -> ServerState:
    fault = Fault(site=site, phase=state.phase.value, reason=reason)
    return replace(state, faults=(*state.faults, fault), out=state.out | {site})


def _accept_advert(state: ServerState, advert: Advert) -> ServerState:
    if advert.early:
        raise ProtocolError(f"advert of {advert.site}: expected one under this offer, got an early one")
    _verify_advert(state, advert, state.offer)
    return replace(state, adverts=_with(state.adverts, advert.site, advert))


def _verify_advert(state: ServerState, advert: Advert, offer: Offer) -> None:
    public = (advert.enc_key, advert.mask_key)
    others = (*state.adverts.values(), *state.early.values())
    taken = {key for other in others if other.site != advert.site for key in (other.enc_key, other.mask_key)}
    if public[0] == public[1] or taken & set(public):  # every site would refuse the whole attempt
        raise ProtocolError(f"advert of {advert.site}: expected keys of its own, got one that is there already")
    for key in public:
        keys.agree(_PROBE, key, peer=advert.site)
    state.roster.verify(advert.site, advert.signature, bindings.signed_of_advert(advert, offer), what="advert")


def _close_advertising(state: ServerState) -> _Step:
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


def _close_sharing(state: ServerState) -> _Step:
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


def _close_masking(state: ServerState) -> _Step:
    uploads = tuple(state.uploads.values())
    request = CertifyRequest(turn=state.offer.turn, uploads=uploads)
    out = tuple(Outgoing(site=site, message=request) for site in state.uploads)
    return replace(state, h3=bindings.hash_uploads(state.h2, uploads)), out


def _accept_certificate(state: ServerState, certificate: Certificate) -> ServerState:
    signed = bindings.certificate_digest(state.h3)
    state.roster.verify(certificate.site, certificate.signature, signed, what="certificate")
    return replace(state, certificates=_with(state.certificates, certificate.site, certificate))


def _close_certifying(state: ServerState) -> _Step:
    certificates = tuple(state.certificates.values())
    request = UnmaskRequest(turn=state.offer.turn, certificates=certificates, pipeline=state.pipeline)
    return state, tuple(Outgoing(site=site, message=request) for site in state.certificates)


def _accept_unmasked(state: ServerState, reply: Unmasked) -> ServerState:
    lost = [site for site in state.headers if site not in state.uploads]
    unmasking.check_reply(reply, state.headers, survivors=tuple(state.uploads), lost=lost, h1=state.h1)
    state = replace(state, unmasked=_with(state.unmasked, reply.site, reply))
    return state if reply.early is None else _keep_early(state, reply.site, reply.early)


def _keep_early(state: ServerState, site: str, advert: Advert) -> ServerState:
    turn = state.offer.turn
    following = Turn(run=turn.run, round=turn.round + 1, attempt=0)
    if advert.site != site or advert.turn != following or not advert.early:
        raise ProtocolError(f"early advert of {site}: expected one for {following}, got another")
    _verify_advert(state, advert, replace(state.offer, turn=following))
    return replace(state, early=_with(state.early, site, advert))


def _close_unmasking(state: ServerState) -> _Step:
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
        return _abort(_fault(state, error.site, str(error)), str(error))
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
        accept=_accept_unmasked,
        close=_close_unmasking,
        target=Phase.DONE,
        eager=True,
    ),
}
"""The phases in their order."""
