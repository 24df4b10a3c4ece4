"""The coordinator's side, pure: from one phase of the table (see `phases`) to the next.

Why it exists: the caller only carries messages and tells when a phase's time is up;
what they mean, and when a phase is over, is decided here.

Rules:
    * `begin` and `step(state, event) -> (state, outgoing)`; `result(state)` gives the sum or says why not.
    * A phase ends when all expected sites have answered or refused, or at `Deadline`; with too few
      the attempt aborts, and a retry is the next attempt, with fresh keys.
    * A message that fails its check drops its sender and is written down as a fault of it.
    * A message of an earlier phase is late and dropped; of a later phase or another turn, it raises
      and changes nothing.

What it does not do: check a message (see `phases`), talk, wait, or learn anything but the sum (the sites see to that).

Source: Bonawitz et al., CCS 2017, figure 4, the variant against an active server.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedmed.errors import FedMedError, ProtocolError, SiteFailureError
from fedmed.secagg import checks, masking
from fedmed.secagg.attempt import Aggregate, Deadline, Event, Outgoing, Phase, ServerState
from fedmed.secagg.messages import Advert, Offer, Refusal, SiteMessage, Unmasked
from fedmed.secagg.phases import TABLE, Row, Step, abort, accept_unmasked, fault, verify_advert
from fedmed.secagg.roster import Roster


def begin(*, roster: Roster, offer: Offer, pipeline: bool = False, early: Mapping[str, Advert] | None = None) -> Step:
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
        verify_advert(state, advert, offer)
    out = tuple(Outgoing(site=site, message=offer) for site in offer.cohort if site not in ready)
    return _advance(state, out)


def step(state: ServerState, event: Event) -> Step:
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
        return (state, ()) if known else _advance(fault(state, event.site, f"refused: {event.reason}"), ())
    if row is None or not isinstance(event, row.event):
        return _off_phase(state, event), ()
    if event.site in row.came(state) or event.site in state.out:
        return state, ()
    if event.site not in row.asked(state):
        raise ProtocolError(f"{state.phase.value}: expected a site that was asked, got {event.site}; nothing changed")
    try:
        follower = row.accept(state, event)
    except FedMedError as error:
        follower = fault(state, event.site, str(error))
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
            return accept_unmasked(state, event)
        except FedMedError as error:
            return fault(state, event.site, str(error))
    return state


def _advance(state: ServerState, out: tuple[Outgoing, ...]) -> Step:
    """Close the current phase if nobody is left to wait for, or enough came and the phase is eager."""
    row = TABLE[state.phase]
    if waiting_for(state) and not (row.eager and len(row.came(state)) >= row.needed(state)):
        return state, out
    follower, more = _close(state, row)
    return follower, (*out, *more)


def _close(state: ServerState, row: Row) -> Step:
    came, asked, needed = row.came(state), row.asked(state), row.needed(state)
    if len(came) < needed:
        missing = ", ".join(site for site in sorted(asked) if site not in came)
        return abort(
            state,
            f"{state.phase.value} got {len(came)} of {len(asked)} sites and needs {needed}; missing: {missing}",
        )
    follower, out = row.close(state)
    return (follower if follower.phase is Phase.ABORTED else replace(follower, phase=row.target)), out
