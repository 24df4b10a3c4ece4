"""The site's side: five phases as one table, pure.

Why it exists: the site is the only one who protects its update, so what it may
answer, and when, is data that can be read, drawn and tested in full.

Rules:
    * `step(state, message, ...) -> (state, reply)`. Persist the new state before the reply leaves.
    * A message that the table does not allow, or of another turn, raises and changes nothing.
    * A message that fails a check ends the attempt: its secrets are erased and a `Refusal` goes out.
    * The same request again gets the same bytes again; another request in its place is refused.

What it does not do: talk, wait, store, train, or draw randomness other than from `entropy`.

Source: Bonawitz et al., CCS 2017, figure 4, the variant against an active server.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import FedMedError, ProtocolError, RefusedError
from fedmed.secagg import bindings, checks, dealing, masking, transcript, uploading, wire
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import (
    Abort,
    Certificate,
    CertifyRequest,
    CoordinatorMessage,
    Finish,
    Header,
    Masked,
    MaskRequest,
    Offer,
    Refusal,
    Revealed,
    ShareRequest,
    SiteMessage,
    Turn,
    Unmasked,
    UnmaskRequest,
)
from fedmed.secagg.roster import Roster
from fedmed.secagg.shamir import Entropy
from fedmed.secagg.state import Advertised, Certified, ClientState, Dealt, KeyPair, Phase, Uploaded

TABLE: Final[dict[tuple[Phase, type[CoordinatorMessage]], Phase]] = {
    (Phase.IDLE, Offer): Phase.ADVERTISED,
    (Phase.IDLE, ShareRequest): Phase.SHARED,  # with an advert that went out early
    (Phase.ADVERTISED, ShareRequest): Phase.SHARED,
    (Phase.SHARED, MaskRequest): Phase.MASKED,
    (Phase.MASKED, CertifyRequest): Phase.CERTIFIED,
    (Phase.CERTIFIED, UnmaskRequest): Phase.IDLE,
    **{(phase, Offer): Phase.ADVERTISED for phase in Phase},  # a later turn abandons the current one
    **{(phase, Abort): Phase.IDLE for phase in Phase},
    **{(phase, Finish): Phase.IDLE for phase in Phase},
}
"""Which message may come in which phase, and the phase after it."""

_REPEATS: Final[dict[Phase, type[CoordinatorMessage]]] = {
    Phase.SHARED: ShareRequest,
    Phase.MASKED: MaskRequest,
    Phase.CERTIFIED: CertifyRequest,
}
"""The request that led into a phase may come again, but only as it was."""


Source = Contribution | Callable[[], Contribution]
"""An update, or how to get it: it is asked for once every check of the request has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hand:
    """The arguments of one step, bundled for the handlers; it lives no longer than the step."""

    site: str
    roster: Roster
    model: bytes
    signing_key: Ed25519PrivateKey = field(repr=False)
    entropy: Entropy = field(repr=False)
    contribution: Source | None = field(repr=False)


_Answer = tuple[ClientState, SiteMessage]
_Value = TypeVar("_Value")


def step(
    state: ClientState,
    message: CoordinatorMessage,
    *,
    site: str,
    roster: Roster,
    model: bytes,
    signing_key: Ed25519PrivateKey,
    entropy: Entropy,
    contribution: Source | None = None,
) -> tuple[ClientState, SiteMessage | None]:
    """Answer one message of the coordinator.

    Args:
        state: What this site remembers.
        message: What came.
        site: Our name in the roster.
        roster: The roster that this site has verified and pinned.
        model: The 32-byte digest of the model that this site holds.
        signing_key: Our Ed25519 key.
        entropy: A source of uniform bytes, `os.urandom` in production.
        contribution: Our update or how to make it; needed for a `MaskRequest`, also for its repetition.
            What it raises refuses the attempt, and the message of a `FedMedError` goes out.

    Returns:
        The next state, to be stored first, and the reply, to be sent then (None if there is none).

    Raises:
        ProtocolError: The message is not allowed here; the state stays as it is.
    """
    if isinstance(message, Finish):
        return state.finished(message.run), None
    if isinstance(message, Abort):
        return state.ended(message.turn), None
    hand = _Hand(
        site=site, roster=roster, model=model, signing_key=signing_key, entropy=entropy, contribution=contribution
    )
    _require_allowed(state, message)
    request = _fingerprint(message)
    try:
        if request == state.answered:
            return state, _repeat(state, hand)
        if _REPEATS.get(state.phase) is type(message):
            raise ProtocolError(f"{type(message).__name__}: expected the same request again, got a second, other one")
        follower, reply = _HANDLERS[type(message)](state, message, hand)
    except FedMedError as error:
        return state.ended(message.turn), Refusal(turn=message.turn, site=site, reason=str(error))
    # A masked vector is large and can be computed again, so its bytes are not kept.
    kept = b"" if isinstance(reply, Masked | Unmasked) else wire.encode(reply)
    answered = b"" if isinstance(reply, Unmasked) else request
    return replace(follower, answered=answered, reply=kept), reply


def diagram() -> str:
    """Return the table as a Mermaid state diagram.

    >>> diagram().splitlines()[2].strip()
    'idle --> advertised: Offer'
    """
    rows = [
        f"    {source.value} --> {target.value}: {kind.__name__}"
        for (source, kind), target in TABLE.items()
        if source is not target and kind not in (Abort, Finish) and (kind is not Offer or source is Phase.IDLE)
    ]
    ends = [f"    {phase.value} --> idle: refused, aborted or finished" for phase in Phase if phase is not Phase.IDLE]
    return "\n".join(["stateDiagram-v2", "    [*] --> idle", *rows, *ends])


def _require_allowed(state: ClientState, message: CoordinatorMessage) -> None:
    kind = type(message)
    if (state.phase, kind) not in TABLE and _REPEATS.get(state.phase) is not kind:
        raise ProtocolError(f"{kind.__name__}: not allowed for a site that is {state.phase.value}; nothing changed")
    if isinstance(message, Offer | Finish):
        return
    expected = state.turn or (state.early.advert.turn if state.early else None)
    if message.turn != expected:
        raise ProtocolError(f"{kind.__name__}: expected {expected or 'an offer first'}, got {message.turn}")


def _fingerprint(message: CoordinatorMessage) -> bytes:
    return transcript.digest("request", wire.encode(message))


def _repeat(state: ClientState, hand: _Hand) -> SiteMessage:
    """Return the last reply again, byte for byte, or refuse."""
    if state.phase is not Phase.MASKED:
        return cast("SiteMessage", wire.decode(state.reply))
    advertised, dealt, uploaded = _need(state.advertised), _need(state.dealt), _need(state.uploaded)
    contribution, update_ids = _require_update(hand, advertised.offer)
    if update_ids != uploaded.update_ids:
        raise RefusedError("update: expected the one that was masked before, got another; this site drops out")
    reply = _mask(advertised, dealt, uploaded.headers, contribution, hand)
    if reply.upload != uploaded.upload:
        raise RefusedError("update: expected the masked vector of before, got another; this site drops out")
    return reply


def _on_offer(state: ClientState, offer: Offer, hand: _Hand) -> _Answer:
    checks.check_offer(offer, site=hand.site, roster=hand.roster, model=hand.model, marks=state.marks)
    pair = dealing.make_pair(offer, site=hand.site, signing_key=hand.signing_key, entropy=hand.entropy)
    fresh = replace(state.erased(), early=None, advertised=Advertised(offer=offer, pair=pair))
    return fresh.marked(offer.turn), pair.advert


def _on_share(state: ClientState, request: ShareRequest, hand: _Hand) -> _Answer:
    offer = request.offer
    if state.advertised is None:
        pair = _need(state.early)
        checks.check_offer(offer, site=hand.site, roster=hand.roster, model=hand.model, marks=state.marks)
    else:
        pair = state.advertised.pair
        if offer != state.advertised.offer:
            raise ProtocolError("adverts: expected the terms that were offered, got others")
    checks.check_adverts(request.adverts, offer, own=pair.advert, roster=hand.roster)
    dealt, shared = dealing.deal(request, pair, signing_key=hand.signing_key, entropy=hand.entropy)
    follower = replace(state, early=None, advertised=Advertised(offer=offer, pair=pair), dealt=dealt)
    return follower.marked(offer.turn), shared


def _on_mask(state: ClientState, request: MaskRequest, hand: _Hand) -> _Answer:
    advertised, dealt = _need(state.advertised), _need(state.dealt)
    offer = advertised.offer
    checks.check_headers(request.headers, offer, dealt.adverts, own=dealt.header, h1=dealt.h1, roster=hand.roster)
    held = dealing.open_boxes(request, advertised.pair, dealt)
    contribution, update_ids = _require_update(hand, offer)
    checks.check_unspent(update_ids, state.spent)
    reply = _mask(advertised, dealt, request.headers, contribution, hand)
    uploaded = Uploaded(
        headers=request.headers,
        h2=bindings.hash_headers(dealt.h1, request.headers),
        held=held,
        upload=reply.upload,
        update_ids=update_ids,
    )
    # Noise that is shared covers one sum. Others may certify this upload without us, so it counts as spent from here.
    spent = (*state.spent, *update_ids) if contribution.noise else state.spent
    return replace(state, uploaded=uploaded, spent=spent), reply


def _on_certify(state: ClientState, request: CertifyRequest, hand: _Hand) -> _Answer:
    offer, uploaded = _need(state.advertised).offer, _need(state.uploaded)
    checks.check_uploads(
        request.uploads, offer, uploaded.headers, own=uploaded.upload, h2=uploaded.h2, roster=hand.roster
    )
    h3 = bindings.hash_uploads(uploaded.h2, request.uploads)
    survivors = tuple(upload.site for upload in request.uploads)
    signature = hand.signing_key.sign(bindings.certificate_digest(h3))
    follower = replace(
        state,
        certified=Certified(survivors=survivors, h3=h3),
        spent=(*state.spent, *(item for item in uploaded.update_ids if item not in state.spent)),
    )
    return follower, Certificate(turn=offer.turn, site=hand.site, signature=signature)


def _on_unmask(state: ClientState, request: UnmaskRequest, hand: _Hand) -> _Answer:
    offer, uploaded, certified = _need(state.advertised).offer, _need(state.uploaded), _need(state.certified)
    checks.check_certificates(
        request.certificates, certified.survivors, threshold=offer.threshold, h3=certified.h3, roster=hand.roster
    )
    seeds = [item for item in uploaded.held if item.owner in certified.survivors]
    lost = [item for item in uploaded.held if item.owner not in certified.survivors]
    early = _pair_for_next(offer, hand) if request.pipeline else None
    reply = Unmasked(
        turn=offer.turn,
        site=hand.site,
        seeds=tuple(Revealed(owner=item.owner, share=item.seed_share) for item in seeds),
        keys=tuple(Revealed(owner=item.owner, share=item.key_share) for item in lost),
        early=early.advert if early else None,
    )
    return replace(state.erased(), early=early), reply


def _pair_for_next(offer: Offer, hand: _Hand) -> KeyPair:
    turn = Turn(run=offer.turn.run, round=offer.turn.round + 1, attempt=0)
    return dealing.make_early_pair(
        turn, offer.roster, site=hand.site, signing_key=hand.signing_key, entropy=hand.entropy
    )


def _require_update(hand: _Hand, offer: Offer) -> tuple[Contribution, tuple[bytes, ...]]:
    """Return the contribution and its ids, or raise if it does not fit the offer."""
    source = hand.contribution
    made = source() if callable(source) else source
    contribution = uploading.require_contribution(made, offer, hand.roster.policy)
    return contribution, masking.update_ids(contribution, uploading.active_segments(offer, hand.roster.policy))


def _mask(
    advertised: Advertised, dealt: Dealt, headers: tuple[Header, ...], contribution: Contribution, hand: _Hand
) -> Masked:
    return uploading.mask_update(
        advertised, dealt, headers, contribution, policy=hand.roster.policy, signing_key=hand.signing_key
    )


def _need(value: _Value | None) -> _Value:
    """Return what the phase guarantees to be there."""
    if value is None:
        raise ProtocolError("expected the phase before this one; start again with an offer")
    return value


_HANDLERS: Final[dict[type[CoordinatorMessage], Callable[[ClientState, Any, _Hand], _Answer]]] = {
    Offer: _on_offer,
    ShareRequest: _on_share,
    MaskRequest: _on_mask,
    CertifyRequest: _on_certify,
    UnmaskRequest: _on_unmask,
}
