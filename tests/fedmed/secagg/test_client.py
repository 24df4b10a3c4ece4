"""A site's checks: each wrong message is refused for its own reason, and the attempt ends there."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import ProtocolError
from fedmed.secagg import bindings, client, dealing, keys, masking, wire
from fedmed.secagg.attempt import Phase
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import (
    Abort,
    CertifyRequest,
    Finish,
    MaskRequest,
    Offer,
    Refusal,
    ShareRequest,
    Turn,
    UnmaskRequest,
)
from fedmed.secagg.state import Phase as SitePhase

STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)


def requests_of(cohort: Any, **arguments: object) -> dict[type, object]:
    """Play a fair round and return the first message of each kind that site1 got."""
    seen: dict[type, object] = {}

    def down(name: Any, message: Any) -> Any:
        if name == "site1":
            seen.setdefault(type(message), message)
        return message

    cohort.assert_exact(cohort.play(down=down, **arguments))
    return seen


def refused(cohort: Any, kind: type, change: Any, *, reason: str, site: str = "site1") -> None:
    """Assert that `site` refuses the message of `kind` as `change` makes it, erases, and stays out."""
    replies = []

    def down(name: Any, message: Any) -> Any:
        if name != site or not isinstance(message, kind):
            return message
        changed = change(message)
        replies.append(cohort.sites[site].answer(changed, cohort.roster))
        return None

    cohort.play(down=down)
    (reply,) = replies
    assert isinstance(reply, Refusal)
    assert reason in reply.reason
    state = cohort.sites[site].state
    assert state.phase is SitePhase.IDLE
    assert state.advertised is None


@pytest.fixture
def cohort(bench: Any):
    """Return four sites of which at most one is curious."""
    return bench.Cohort(4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": ("site1",), "threshold": 1}, "expected a cohort of at least 3 sites, got 1"),
        ({"cohort": ("site1", "site2"), "threshold": 2}, "expected a cohort of at least 3 sites, got 2"),
        ({"threshold": 2}, "expected a threshold between 3 and 4, got 2"),
        ({"threshold": 0}, "expected a threshold between 3 and 4, got 0"),
        ({"threshold": 5}, "expected a threshold between 3 and 4, got 5"),
        ({"cohort": ("site1", "site2", "site3", "zebra")}, "unknown ones: zebra"),
        ({"cohort": ("site2", "site3", "site4"), "threshold": 2}, "expected site1 in the cohort"),
        ({"model": b"m" * 32}, "expected the model that this site holds"),
        ({"roster": b"r" * 32}, "expected roster serial 1, got another"),
        ({"lengths": (7, 4, 5)}, "expected 4 segment lengths, got 3"),
        ({"lengths": (0, 0, 0, 0)}, "expected at least one segment"),
        ({"lengths": (2**20 + 1, 4, 5, 3)}, "segment delta expected at most 1048576 elements"),
    ],
)
def test_terms_below_the_policy_are_refused_before_any_key_exists(cohort: Any, changes: Any, reason: Any):
    """A lone cohort, a low threshold, strangers, another model or roster: refused, and nothing is made."""
    site = cohort.sites["site1"]
    reply = site.answer(cohort.offer(**changes), cohort.roster, entropy=None)
    assert isinstance(reply, Refusal)
    assert reason in reply.reason
    assert site.state.advertised is None
    assert site.state.marks == ()


def test_the_floor_counts_curious_sites(bench: Any):
    """With c = 2 of ten sites t = 6 would let two survivor sets pass, and is refused."""
    cohort = bench.Cohort(10, corrupt=2)
    reply = cohort.sites["site01"].answer(cohort.offer(threshold=6), cohort.roster)
    assert "expected a threshold between 7 and 10, got 6" in reply.reason


def test_a_cohort_without_headroom_is_refused(bench: Any):
    """Forty sites don't fit the 16-bit segment at ten binary places."""
    cohort = bench.Cohort(40)
    reply = cohort.sites["site01"].answer(cohort.offer(), cohort.roster)
    assert "segment half has no headroom for 40 sites" in reply.reason


@pytest.mark.parametrize(("round_", "attempt"), [(2, 3), (2, 2), (2, 0), (1, 9)])
def test_an_old_turn_is_refused(cohort: Any, round_: Any, attempt: Any):
    """A turn at or below the high-water mark is never answered again, whatever became of it."""
    site = cohort.sites["site1"]
    site.answer(cohort.offer(round=2, attempt=3), cohort.roster)
    site.answer(Abort(turn=cohort.offer(round=2, attempt=3).turn), cohort.roster)
    reply = site.answer(cohort.offer(round=round_, attempt=attempt), cohort.roster)
    assert "expected a turn after round 2 attempt 3" in reply.reason
    assert site.state.advertised is None


def test_marks_are_kept_per_run_and_survive_a_finished_run(cohort: Any):
    """Another run counts its own rounds; a finished run is closed for good."""
    site = cohort.sites["site1"]
    site.answer(cohort.offer(round=9), cohort.roster)
    other = cohort.offer(round=1, turn=Turn(run="other", round=1, attempt=0))
    assert not isinstance(site.answer(other, cohort.roster), Refusal)
    assert site.answer(Finish(run="run"), cohort.roster) is None
    assert isinstance(site.answer(cohort.offer(round=10), cohort.roster), Refusal)
    assert site.state.turn == other.turn


def test_a_refused_replay_leaves_the_running_attempt_alone(cohort: Any):
    """An old offer is turned down without harm to the attempt in progress."""
    site = cohort.sites["site1"]
    site.answer(cohort.offer(round=5), cohort.roster)
    before = site.state.advertised
    assert isinstance(site.answer(cohort.offer(round=4), cohort.roster), Refusal)
    assert site.state.advertised == before


def test_two_offers_for_one_turn_end_the_attempt(cohort: Any):
    """A coordinator that changes the terms within a turn gets no second advert."""
    site = cohort.sites["site1"]
    site.answer(cohort.offer(), cohort.roster)
    reply = site.answer(cohort.offer(threshold=4), cohort.roster)
    assert isinstance(reply, Refusal)
    assert site.state.phase is SitePhase.IDLE


def edit_advert(request: ShareRequest, **changes: object) -> ShareRequest:
    """Change the advert of site2."""
    adverts = tuple(replace(a, **changes) if a.site == "site2" else a for a in request.adverts)
    return replace(request, adverts=adverts)


@pytest.mark.parametrize("name", ["enc_key", "mask_key"])
def test_a_substituted_key_is_refused(cohort: Any, name: Any):
    """The coordinator can't put its own key in the place of a peer's, so it never reads a share."""
    mine = {name: keys.public_key(b"\x09" * 32)}
    refused(cohort, ShareRequest, lambda r: edit_advert(r, **mine), reason="advert of site2: expected its")


def test_an_advert_signed_by_a_stranger_is_refused(cohort: Any):
    """Valid keys under a signature from outside the roster count for nothing."""
    pair = dealing.make_pair(cohort.offer(), site="site2", signing_key=STRANGER, entropy=lambda n: b"\x31" * n)

    def change(request: Any) -> Any:
        advert = pair.advert
        return edit_advert(request, enc_key=advert.enc_key, mask_key=advert.mask_key, signature=advert.signature)

    refused(cohort, ShareRequest, change, reason="advert of site2: expected its signature")


def test_our_own_key_changed_is_refused(cohort: Any):
    """A site finds its own advert as it sent it, or stops."""

    def change(request: Any) -> Any:
        adverts = tuple(replace(a, mask_key=b"k" * 32) if a.site == "site1" else a for a in request.adverts)
        return replace(request, adverts=adverts)

    refused(cohort, ShareRequest, change, reason="expected the keys of site1 as it sent them")


def test_a_spliced_advert_of_an_older_attempt_is_refused(bench: Any):
    """An advert of attempt 0 is worth nothing in attempt 1: it is signed over the turn."""
    for early in (False, True):
        cohort = bench.Cohort(4)
        if early:
            first = cohort.play(pipeline=True)
            old = dict(first.early)
        else:
            old = dict(cohort.play(drops={"site2": 1, "site3": 1}).adverts)

        def change(request: Any, old: Any = old) -> Any:
            turn = request.offer.turn
            adverts = tuple(replace(old["site2"], turn=turn) if a.site == "site2" else a for a in request.adverts)
            return replace(request, adverts=adverts)

        for site in cohort.sites.values():
            site.train("again")
        offer = cohort.offer(round=2, attempt=1) if early else cohort.offer(attempt=1)
        replies = []

        def down(name: Any, message: Any, change: Any = change, replies: Any = replies, cohort: Any = cohort) -> Any:
            if name == "site1" and isinstance(message, ShareRequest):
                replies.append(cohort.sites[name].answer(change(message), cohort.roster))
                return None
            return message

        cohort.play(offer, down=down)
        assert "advert of site2: expected its signature" in replies[0].reason
        assert cohort.sites["site1"].state.dealt is None


def test_one_key_twice_is_refused(cohort: Any):
    """A site that advertises one key for both purposes, or another's key, is found out."""
    site2 = cohort.sites["site2"]
    enc = keys.public_key(b"\x22" * 32)
    signed = bindings.advert_digest(cohort.offer(), site="site2", enc_key=enc, mask_key=enc)

    def change(request: Any) -> Any:
        return edit_advert(request, enc_key=enc, mask_key=enc, signature=site2.signing_key.sign(signed))

    refused(cohort, ShareRequest, change, reason="expected all keys distinct")


@pytest.mark.parametrize("weak", [bytes(32), b"\x01" + bytes(31)], ids=["0", "1"])
def test_a_weak_key_is_refused(cohort: Any, weak: Any):
    """A key of low order, which makes the shared secret public, is refused even when it is signed."""
    good = keys.public_key(b"\x22" * 32)
    signed = bindings.advert_digest(cohort.offer(), site="site2", enc_key=weak, mask_key=good)
    signature = cohort.sites["site2"].signing_key.sign(signed)

    def change(request: Any) -> Any:
        return edit_advert(request, enc_key=weak, mask_key=good, signature=signature)

    refused(cohort, ShareRequest, change, reason="key of site2: expected an X25519 key of full order")


def test_too_few_adverts_are_refused_and_the_missing_named(cohort: Any):
    """Two of four adverts are below the gate, and the message says who is missing."""
    reason = "expected at least 3 of 4 sites, got 2; missing: site3, site4"
    refused(cohort, ShareRequest, lambda request: replace(request, adverts=request.adverts[:2]), reason=reason)


def test_other_terms_with_the_adverts_are_refused(cohort: Any):
    """The terms that come with the adverts are those that were offered."""

    def change(request: Any) -> Any:
        return replace(request, offer=replace(request.offer, threshold=4))

    refused(cohort, ShareRequest, change, reason="expected the terms that were offered")


def test_two_model_hashes_in_one_cohort_never_get_shares(cohort: Any, bench: Any):
    """If a site was offered another model, its advert fails at the others before anything is shared."""
    other = cohort.sites["site4"]
    other.model = b"other model".ljust(32)

    def down(name: Any, message: Any) -> Any:
        if name == "site4" and isinstance(message, Offer):
            return replace(message, model=other.model)
        return message

    state = cohort.play(down=down)
    assert state.phase in (Phase.DONE, Phase.ABORTED)
    assert "site4" not in state.adverts
    offer = cohort.offer(attempt=1)
    adverts = {
        name: site.answer(offer if name != "site4" else replace(offer, model=other.model), cohort.roster)
        for name, site in cohort.sites.items()
    }
    request = ShareRequest(offer=offer, adverts=tuple(adverts.values()))
    replies = [cohort.sites[name].answer(request, cohort.roster) for name in cohort.names[:3]]
    assert all("advert of site4" in reply.reason for reply in replies)
    assert all(site.state.dealt is None for site in cohort.sites.values())


def edit_header(request: MaskRequest, **changes: object) -> MaskRequest:
    """Change the header of site2."""
    return replace(request, headers=tuple(replace(h, **changes) if h.site == "site2" else h for h in request.headers))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: edit_header(r, seed=b"s" * 32), "header of site2: expected its signature"),
        (lambda r: replace(r, headers=r.headers[:2], boxes=r.boxes[:1]), "expected at least 3 of 4 sites, got 2"),
        (lambda r: replace(r, headers=r.headers[1:], boxes=r.boxes), "expected the header of site1 as it sent it"),
        (lambda r: replace(r, boxes=r.boxes[1:]), "got it wrong for: site2"),
        (
            lambda r: replace(r, boxes=(replace(r.boxes[0], data=bytes(82)), *r.boxes[1:])),
            "shares of site2: expected a box sealed for site1 in this round",
        ),
        (
            lambda r: replace(r, boxes=(replace(r.boxes[0], data=r.boxes[1].data), *r.boxes[1:])),
            "shares of site2: expected a box sealed for site1 in this round",
        ),
    ],
)
def test_changed_shares_are_refused(cohort: Any, change: Any, reason: Any):
    """A changed header, a missing or tampered or swapped ciphertext: refused, nothing is masked."""
    refused(cohort, MaskRequest, change, reason=reason)
    assert cohort.sites["site1"].encoded == ()


def test_every_bit_of_a_box_is_authenticated(cohort: Any):
    """Whatever byte of a ciphertext changes, the box does not open."""
    request = requests_of(cohort)[MaskRequest]
    box = request.boxes[0]
    shared = b"s" * 32
    sealed = keys.seal_shares(shared, b"h" * 32, sender="a", holder="b", seed_share=bytes(33), key_share=bytes(33))
    assert len(sealed) == len(box.data)
    for index in range(len(sealed)):
        broken = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(Exception, match="expected a box sealed for b"):
            keys.open_shares(shared, b"h" * 32, broken, sender="a", holder="b")


def test_a_share_that_was_not_committed_to_is_refused(cohort: Any, monkeypatch: Any):
    """A dealer whose box holds another share than its commitment is found by the holder."""
    site2 = cohort.sites["site2"]
    original = dealing._seal

    def seal(held: Any, pair: Any, peer: Any, *, h1: Any) -> Any:
        false = replace(held, seed_share=bytes(33)) if (held.owner, peer.site) == ("site2", "site1") else held
        return original(false, pair, peer, h1=h1)

    monkeypatch.setattr(dealing, "_seal", seal)
    state = cohort.play()
    assert site2.state.phase is SitePhase.IDLE
    (fault,) = state.faults
    assert fault.site == "site1"
    assert "share of site2 for site1: expected the committed one" in fault.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, uploads=r.uploads[:2]), "expected at least 3 of 4 sites, got 2; missing: site3, site4"),
        (lambda r: replace(r, uploads=r.uploads[1:]), "expected the header of site1 as it sent it"),
        (
            lambda r: replace(r, uploads=(r.uploads[0], replace(r.uploads[1], digest=b"d" * 32), *r.uploads[2:])),
            "upload of site2: expected its signature",
        ),
        (
            lambda r: replace(r, uploads=(replace(r.uploads[0], digest=b"d" * 32), *r.uploads[1:])),
            "expected the header of site1 as it sent it",
        ),
    ],
)
def test_changed_uploads_are_not_certified(cohort: Any, change: Any, reason: Any):
    """Too few survivors, ours missing or altered, or a forged upload: no certificate."""
    refused(cohort, CertifyRequest, change, reason=reason)


def test_a_survivor_outside_the_sharers_is_not_certified(bench: Any):
    """U3 must lie within U2: a site that shared nothing can't be in the sum."""
    cohort = bench.Cohort(5)
    extra = []

    def down(name: Any, message: Any) -> Any:
        if isinstance(message, CertifyRequest) and name == "site1":
            extra.append(replace(message.uploads[-1], site="site5"))
            return replace(message, uploads=(*message.uploads, extra[0]))
        return message

    state = cohort.play(drops={"site5": 1}, down=down)
    assert any("got also site5" in fault.reason for fault in state.faults)


def edit_certificates(make: Any):
    """Return a change of the certificates of an unmask request."""
    return lambda request: replace(request, certificates=make(request.certificates))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda c: c[:0], "expected at least 3 of 4 sites, got 0"),
        (lambda c: c[:2], "expected at least 3 of 4 sites, got 2"),
        (lambda c: (c[0], c[0], c[0], c[0]), "expected at least 3 of 4 sites, got 1"),
        (lambda c: (c[0], *(replace(x, signature=c[0].signature) for x in c[1:])), "expected its signature"),
        (lambda c: (*c[:2], replace(c[2], site="zebra")), "got also zebra"),
    ],
)
def test_without_enough_certificates_no_share_leaves(cohort: Any, make: Any, reason: Any):
    """Too few, repeated, borrowed or foreign certificates: the site reveals nothing."""
    refused(cohort, UnmaskRequest, edit_certificates(make), reason=f"certificate{'' if 'its' in reason else 's'}")


def test_a_site_certifies_once(cohort: Any):
    """The second, different survivor set within an attempt is refused, and the attempt ends."""
    seen = requests_of(type(cohort)(4))
    site = cohort.sites["site1"]
    replies = []

    def down(name: Any, message: Any) -> Any:
        if name != "site1" or not isinstance(message, CertifyRequest):
            return message
        first = site.answer(message, cohort.roster)
        again = site.answer(message, cohort.roster)
        second = site.answer(replace(message, uploads=message.uploads[:3]), cohort.roster)
        replies.extend([first, again, second])
        return None

    cohort.play(down=down)
    assert CertifyRequest in seen
    assert wire.encode(replies[0]) == wire.encode(replies[1])
    assert "expected the same request again" in replies[2].reason
    assert site.state.phase is SitePhase.IDLE


def test_a_spent_update_is_never_offered_again(cohort: Any):
    """Once a site has certified a sum with an update in it, no cohort gets that update again."""
    cohort.assert_exact(cohort.play())
    state = cohort.play(cohort.offer(round=2))
    assert state.phase is Phase.ABORTED
    assert all("got a spent one; train again" in fault.reason for fault in state.faults)
    assert [fault.site for fault in state.faults] == list(cohort.names)


def test_a_spent_update_is_known_whatever_its_weight_rounding_or_segments(cohort: Any):
    """The rule looks at the floats of each segment, so a new weight, seed or layout doesn't get around it."""
    cohort.assert_exact(cohort.play())
    site = cohort.sites["site1"]
    old = site.contribution
    site.contribution = Contribution(weight=old.weight / 2, values={**old.values, "fisher": old.values["fisher"] + 1})
    for name in cohort.names[1:]:
        cohort.sites[name].train("fresh")
    state = cohort.play(cohort.offer(round=2))
    assert [fault.site for fault in state.faults] == ["site1"]
    cohort.sites["site1"].contribution = old
    site.train("new")
    for name in cohort.names[1:]:
        cohort.sites[name].train("fresher")
    cohort.assert_exact(cohort.play(cohort.offer(round=3)))


def test_an_update_in_no_certified_sum_may_be_offered_again(cohort: Any):
    """A site that dropped out before certifying still has its update to give."""
    cohort.play(drops=dict.fromkeys(cohort.names, 3))
    cohort.assert_exact(cohort.play(cohort.offer(attempt=1)))


def test_a_site_without_a_fitting_update_drops_out(cohort: Any):
    """No update, a missing segment or another shape is refused; the others go on."""
    site = cohort.sites["site1"]
    full = site.contribution.values
    for attempt, values in enumerate([None, {"delta": full["delta"]}, {**full, "delta": np.zeros(8)}]):
        for name in cohort.names[1:]:
            cohort.sites[name].train(attempt)
        site.contribution = None if values is None else Contribution(weight=1.0, values=values)
        state = cohort.play(cohort.offer(attempt=attempt))
        assert [fault.site for fault in state.faults] == ["site1"]
        assert "update: " in state.faults[0].reason


def test_a_value_that_is_not_finite_is_refused_in_the_round(cohort: Any):
    """NaN never reaches the wire: the site drops out, and the sum of the rest is exact."""
    site = cohort.sites["site1"]
    site.contribution.values["delta"][3] = np.nan
    sent = len(site.sent)
    state = cohort.play()
    assert state.faults[0].site == "site1"
    assert "expected finite values" in state.faults[0].reason
    assert len(site.sent) - sent >= 3


def test_after_unmasking_nothing_of_the_attempt_is_left(cohort: Any):
    """The erased state holds no key, seed or share of the round, in any byte of it."""
    secrets = set()
    site = cohort.sites["site1"]

    def down(name: Any, message: Any) -> Any:
        state = site.state
        if state.uploaded is not None:
            secrets.update({state.dealt.seed, state.dealt.rounding})
            secrets.update({state.advertised.pair.enc_secret, state.advertised.pair.mask_secret})
            secrets.update(share for held in state.uploaded.held for share in (held.seed_share, held.key_share))
        return message

    cohort.assert_exact(cohort.play(down=down))
    assert len(secrets) == 4 + 2 * 4
    assert site.state.phase is SitePhase.IDLE
    assert not any(secret in site.stored for secret in secrets)


@pytest.mark.parametrize("ending", [Abort(turn=Turn(run="run", round=1, attempt=0)), Finish(run="run")])
def test_an_aborted_or_finished_attempt_is_erased(cohort: Any, ending: Any):
    """Abort and Finish leave no secret of the attempt behind."""
    cohort.play(until=Phase.CERTIFYING)
    site = cohort.sites["site1"]
    state = site.state
    secrets = [state.dealt.seed, state.advertised.pair.mask_secret, state.dealt.own.key_share]
    assert all(secret in site.stored for secret in secrets)
    assert site.answer(ending, cohort.roster) is None
    assert not any(secret in site.stored for secret in secrets)


def test_an_illegal_message_raises_and_changes_nothing(cohort: Any):
    """In each phase, each message that the table does not name raises, and the state is the same object."""
    seen = requests_of(type(cohort)(4))
    for kind, message in seen.items():
        site = type(cohort)(4).sites["site1"]
        if kind is Offer:
            continue
        before = site.stored
        with pytest.raises(ProtocolError, match=r"not allowed for a site that is idle|expected an offer first"):
            site.answer(message, cohort.roster)
        assert site.stored == before


def test_a_message_of_another_turn_raises_and_changes_nothing(cohort: Any):
    """A stale request of an earlier attempt doesn't disturb the current one."""
    seen = requests_of(cohort)
    for site in cohort.sites.values():
        site.train("next")
    cohort.play(cohort.offer(round=2), until=Phase.MASKING)
    site = cohort.sites["site1"]
    before = site.stored
    with pytest.raises(ProtocolError, match="expected run run round 2 attempt 0, got run run round 1 attempt 0"):
        site.answer(seen[MaskRequest], cohort.roster)
    assert site.stored == before


def test_each_accepted_step_lands_where_the_table_says(cohort: Any):
    """The phase after each accepted message is the one in the transition table."""
    steps = []
    site = cohort.sites["site1"]

    def down(name: Any, message: Any) -> Any:
        if name == "site1":
            steps.append((site.state.phase, type(message)))
        return message

    cohort.play(down=down)
    phases = [phase for phase, _ in steps] + [site.state.phase]
    assert [client.TABLE[step] for step in steps] == phases[1:]
    assert len(steps) == 5


def test_the_diagram_shows_each_phase():
    """The Mermaid text is generated from the table."""
    text = client.diagram()
    assert text.startswith("stateDiagram-v2")
    for phase in SitePhase:
        assert phase.value in text
    assert "idle --> shared: ShareRequest" in text


def early_state(cohort: Any):
    """Play a pipelined round; return the early adverts."""
    early = cohort.play(pipeline=True).early
    for site in cohort.sites.values():
        site.train("next")
    return early


def test_an_early_advert_serves_the_next_round_only(cohort: Any):
    """It can't open round r + 2, nor another attempt."""
    early = early_state(cohort)
    site = cohort.sites["site1"]
    for turn in ({"round": 3}, {"round": 2, "attempt": 1}):
        offer = cohort.offer(**turn)
        adverts = tuple(replace(advert, turn=offer.turn) for advert in early.values())
        with pytest.raises(ProtocolError, match="expected run run round 2 attempt 0"):
            site.answer(ShareRequest(offer=offer, adverts=adverts), cohort.roster)


def test_an_early_advert_is_used_once(cohort: Any):
    """After its round it opens nothing, and a round that it opened can't be offered again."""
    early = early_state(cohort)
    requests = []

    def down(name: Any, message: Any) -> Any:
        if name == "site1" and isinstance(message, ShareRequest):
            requests.append(message)
        return message

    site = cohort.sites["site1"]
    used = []

    def up(name: str, message: Any) -> Any:
        used.append(cohort.sites[name].state.early)
        return message

    cohort.assert_exact(cohort.play(cohort.offer(round=2), early=early, down=down, up=up))
    assert set(used) == {None}
    with pytest.raises(ProtocolError, match="expected an offer first"):
        site.answer(requests[0], cohort.roster)
    assert "expected a turn after" in site.answer(cohort.offer(round=2), cohort.roster).reason


def test_model_and_floors_are_checked_when_an_early_advert_is_used(cohort: Any):
    """Terms that come late are checked as strictly, before anything is shared; then the advert is gone."""
    for changes, reason in (
        ({"model": b"m" * 32}, "expected the model that this site holds"),
        ({"threshold": 2}, "expected a threshold between 3 and 4"),
    ):
        cohort = type(cohort)(4)
        early = early_state(cohort)
        site = cohort.sites["site1"]
        offer = cohort.offer(round=2, **changes)
        reply = site.answer(ShareRequest(offer=offer, adverts=tuple(early.values())), cohort.roster, entropy=None)
        assert reason in reply.reason
        assert site.state.early is None
        assert isinstance(site.answer(cohort.offer(round=2), cohort.roster), Refusal)


@pytest.mark.parametrize("ending", ["finish", "offer"])
def test_an_unused_early_advert_is_erased(cohort: Any, ending: Any):
    """When the run ends, or a fresh offer comes, the early secrets go."""
    early_state(cohort)
    site = cohort.sites["site1"]
    secret = site.state.early.mask_secret
    assert secret in site.stored
    site.answer(Finish(run="run") if ending == "finish" else cohort.offer(round=2), cohort.roster)
    assert site.state.early is None
    assert secret not in site.stored


def test_state_and_keys_show_no_secret_when_logged(cohort: Any):
    """The repr of a state in the middle of a round has none of its secrets."""
    cohort.play(until=Phase.CERTIFYING)
    state = cohort.sites["site1"].state
    text = repr(state)
    for secret in (
        state.dealt.seed,
        state.dealt.rounding,
        state.advertised.pair.enc_secret,
        state.dealt.own.seed_share,
    ):
        assert repr(secret) not in text


def test_masked_bytes_follow_the_documented_formula(cohort: Any):
    """Y is the encoding, plus the self mask, plus masks towards greater names, minus those towards lesser."""
    cohort.play(until=Phase.CERTIFYING)
    for name, site in cohort.sites.items():
        state = site.state
        masked = next(m for m in map(wire.decode, site.sent) if type(m).__name__ == "Masked")
        ring = masking.from_bytes(masked.payload[0], cohort.roster.policy.segments[0], 7).copy()
        segment = cohort.roster.policy.segments[0]
        masking.subtract_mask(ring, keys.self_seed(state.dealt.seed, state.dealt.h1), segment)
        for advert in state.dealt.adverts:
            if advert.site == name:
                continue
            seed = keys.pair_seed(
                state.advertised.pair.mask_secret, advert.mask_key, state.dealt.h1, site=name, peer=advert.site
            )
            (masking.subtract_mask if name < advert.site else masking.add_mask)(ring, seed, segment)
        assert ring.tobytes() == site.encoded[0].tobytes()
