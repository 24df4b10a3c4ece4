"""The coordinator: it names who is at fault, goes on with the rest, and aborts cleanly below the gates."""

from dataclasses import replace
from typing import Any

import pytest

from fedmed.errors import ProtocolError, RefusedError, SiteFailureError
from fedmed.secagg import server, shamir
from fedmed.secagg.attempt import Deadline, Phase
from fedmed.secagg.messages import (
    Abort,
    Advert,
    Certificate,
    Masked,
    Refusal,
    Shared,
    Unmasked,
)


def tampered(cohort: Any, kind: type, change: Any, *, name: str = "site2", **arguments: object):
    """Play a round in which the messages of `kind` by `name` are changed on their way up."""

    def up(site: Any, message: Any) -> Any:
        return change(message) if site == name and isinstance(message, kind) else message

    return cohort.play(up=up, **arguments)


@pytest.mark.parametrize("part", ["seeds", "keys"])
@pytest.mark.parametrize("share", [bytes(33), b"\x01" + b"\xff" * 32], ids=["0", "above-p"])
def test_a_false_share_is_blamed_on_its_holder_and_the_sum_stays_exact(bench: Any, part: Any, share: Any):
    """One liar among the unmaskers is named; t honest ones are left, so the sum is bit-equal."""
    cohort = bench.Cohort(5)

    def lie(reply: Any) -> Any:
        items = getattr(reply, part)
        return replace(reply, **{part: (replace(items[0], share=share), *items[1:])})

    state = tampered(cohort, Unmasked, lie, name="site1", drops={"site4": 2})
    cohort.assert_exact(state)
    (fault,) = state.faults
    assert fault.site == "site1"
    assert fault.phase == "unmasking"
    assert "for site1: expected the committed one, got another" in fault.reason


def test_too_many_liars_abort_the_attempt(bench: Any):
    """With fewer than t good replies the attempt aborts and names the sites without one."""
    cohort = bench.Cohort(3)

    def up(site: Any, message: Any) -> Any:
        if isinstance(message, Unmasked) and site != "site3":
            return replace(message, seeds=tuple(replace(item, share=bytes(33)) for item in message.seeds))
        return message

    state = cohort.play(up=up)
    assert {fault.site for fault in state.faults} == {"site1", "site2"}
    with pytest.raises(
        SiteFailureError, match=r"unmasking got 1 of 3 sites and needs 2; missing: site1, site2; retry as .* training"
    ):
        server.result(state)


def test_shares_of_the_wrong_kind_are_blamed(bench: Any):
    """A site that reveals the other share, or of other sites, is named."""
    cohort = bench.Cohort(5)
    state = tampered(cohort, Unmasked, lambda reply: replace(reply, seeds=reply.seeds[1:]), drops={"site4": 2})
    cohort.assert_exact(state)
    assert "expected one share of each site" in state.faults[0].reason


@pytest.mark.parametrize(("calls", "drops"), [({2, 3}, {}), ({2, 3}, {"site2": 2})], ids=["seed", "key"])
def test_a_dealer_of_inconsistent_shares_is_named(bench: Any, monkeypatch: Any, calls: Any, drops: Any):
    """Shares that fit their commitments but no secret: the attempt aborts and says whom to leave out."""
    original, count = shamir.split, [0]

    def split(secret: Any, **arguments: object) -> Any:
        count[0] += 1
        return original(b"\x42" * 32 if count[0] - 1 in calls else secret, **arguments)

    monkeypatch.setattr(shamir, "split", split)
    cohort = bench.Cohort(5)
    state = cohort.play(drops=drops)
    assert state.phase is Phase.ABORTED
    assert state.faults[-1].site == "site2"
    with pytest.raises(SiteFailureError, match="secret of site2: expected shares of the committed secret"):
        server.result(state)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (Advert, lambda m: replace(m, enc_key=b"e" * 32), "advert of site2: expected its signature"),
        (Advert, lambda m: replace(m, early=True), "expected one under this offer, got an early one"),
        (Shared, lambda m: replace(m, header=replace(m.header, seed=b"s" * 32)), "header of site2: expected its"),
        (Shared, lambda m: replace(m, boxes=m.boxes[1:]), "got it wrong for: site1"),
        (Masked, lambda m: replace(m, payload=(bytes(len(m.payload[0])), *m.payload[1:])), "expected the vector that"),
        (Masked, lambda m: replace(m, payload=m.payload[:2]), "expected the vector that it signed"),
        (Masked, lambda m: replace(m, upload=replace(m.upload, digest=b"d" * 32)), "upload of site2: expected its"),
        (Certificate, lambda m: replace(m, signature=bytes(64)), "certificate of site2: expected its signature"),
    ],
)
def test_a_bad_reply_drops_its_sender_and_the_sum_stays_exact(bench: Any, kind: Any, change: Any, reason: Any):
    """A reply that fails its check counts as a dropout; the fault names the site and the phase."""
    cohort = bench.Cohort(5)
    state = tampered(cohort, kind, change)
    cohort.assert_exact(state)
    (fault,) = state.faults
    assert fault.site == "site2"
    assert reason in fault.reason
    assert ("site2" in server.result(state).sites) is (kind is Certificate)


def test_a_signed_upload_of_the_wrong_size_is_refused(bench: Any):
    """A vector of another length is the sender's fault even when the sender signed it."""
    cohort = bench.Cohort(4)
    cohort.sites["site2"].contribution.values["delta"] = cohort.sites["site2"].contribution.values["delta"][:3]
    state = cohort.play()
    cohort.assert_exact(state)
    assert [fault.site for fault in state.faults] == ["site2"]


def test_a_late_upload_is_dropped(bench: Any):
    """After U3 is sealed an upload changes neither the sum nor the set."""
    cohort = bench.Cohort(5)
    late = []

    def up(site: Any, message: Any) -> Any:
        if site == "site2" and isinstance(message, Masked):
            late.append(message)
            return None
        return message

    state = cohort.play(up=up, until=Phase.CERTIFYING)
    follower, out = server.step(state, late[0])
    assert follower is state
    assert out == ()
    cohort = bench.Cohort(5)
    done = cohort.play(up=up)
    assert server.step(done, late[0]) == (done, ())
    cohort.assert_exact(done)
    assert "site2" not in server.result(done).sites


def test_a_repeated_upload_counts_once(bench: Any):
    """A resent vector is not added twice."""
    cohort = bench.Cohort(3)
    state = cohort.play(until=Phase.MASKING)
    request = cohort.pending[0]
    reply = cohort.sites[request.site].answer(request.message, cohort.roster)
    once, _ = server.step(state, reply)
    twice, out = server.step(once, reply)
    assert once.totals
    assert twice is once
    assert out == ()


def test_what_comes_too_soon_from_strangers_or_of_another_turn_raises_and_changes_nothing(bench: Any):
    """Each such event raises; the state is a frozen record that the caller still holds."""
    cohort = bench.Cohort(4)
    seen = {}

    def up(site: Any, message: Any) -> Any:
        seen.setdefault(type(message), message)
        return message

    cohort.play(up=up)
    state, _ = server.begin(roster=cohort.roster, offer=cohort.offer())
    for kind in (Shared, Masked, Certificate, Unmasked):
        with pytest.raises(ProtocolError, match="came too soon; nothing changed"):
            server.step(state, seen[kind])
    with pytest.raises(ProtocolError, match="expected a site of the cohort, got zebra"):
        server.step(state, replace(seen[Advert], site="zebra"))
    with pytest.raises(ProtocolError, match="expected run run round 1 attempt 0, got run run round 7"):
        server.step(state, replace(seen[Advert], turn=replace(seen[Advert].turn, round=7)))
    with pytest.raises(ProtocolError, match="expected a finished attempt, got one that is advertising"):
        server.result(state)


def test_a_site_that_was_not_asked_can_not_join_later(bench: Any):
    """A site that missed the adverts can't share in the next phase."""
    cohort = bench.Cohort(4)
    donor = bench.Cohort(4)
    shared = []
    donor.play(up=lambda _, message: shared.append(message) if isinstance(message, Shared) else message)
    state = cohort.play(drops={"site4": 0}, until=Phase.SHARING)
    stray = next(message for message in shared if message.site == "site4")
    with pytest.raises(ProtocolError, match="expected a site that was asked, got site4"):
        server.step(state, stray)


def test_an_abort_names_phase_counts_and_missing_sites_and_tells_everyone(bench: Any):
    """Below the gate the attempt ends at once: one line for the administrator, an Abort for each site."""
    cohort = bench.Cohort(4)
    state = cohort.play(drops={"site2": 1, "site3": 1}, until=Phase.SHARING)
    for name in ("site1", "site4"):
        state, _ = server.step(state, Refusal(turn=state.offer.turn, site=name, reason="test"))
    state, out = server.step(state, Deadline())
    assert state.phase is Phase.ABORTED
    assert [item.site for item in out] == list(cohort.names)
    assert all(isinstance(item.message, Abort) for item in out)
    assert "run run round 1 attempt 0 aborted: sharing got 0 of 4 sites and needs 3" in state.failure
    assert "missing: site1, site2, site3, site4" in state.failure
    assert server.step(state, Deadline()) == (state, ())


def test_a_refusal_frees_the_coordinator_from_waiting(bench: Any):
    """When the last awaited site refuses, the phase closes without a deadline."""
    cohort = bench.Cohort(4)
    state, _ = server.begin(roster=cohort.roster, offer=cohort.offer())
    for name in cohort.names[:3]:
        state, _ = server.step(state, cohort.sites[name].answer(cohort.offer(), cohort.roster))
    assert server.waiting_for(state) == ("site4",)
    state, out = server.step(state, Refusal(turn=state.offer.turn, site="site4", reason="the budget is spent"))
    assert state.phase is Phase.SHARING
    assert {item.site for item in out} == set(cohort.names[:3])
    assert state.faults[0].reason == "refused: the budget is spent"


def test_unfair_terms_are_refused_before_anyone_is_asked(bench: Any):
    """The coordinator's own mistakes in the terms surface at once."""
    cohort = bench.Cohort(4)
    with pytest.raises(RefusedError, match="expected a threshold between 3 and 4, got 2"):
        server.begin(roster=cohort.roster, offer=cohort.offer(threshold=2))
    with pytest.raises(RefusedError, match="expected a cohort of at least 3 sites"):
        server.begin(roster=cohort.roster, offer=cohort.offer(cohort=("site1", "site2"), threshold=2))


def test_a_false_early_advert_is_the_senders_fault(bench: Any):
    """An early advert that is not signed for the next round is not kept."""
    cohort = bench.Cohort(4)
    state = tampered(
        cohort,
        Unmasked,
        lambda reply: replace(reply, early=replace(reply.early, enc_key=b"e" * 32)),
        name="site1",
        pipeline=True,
    )
    cohort.assert_exact(state)
    assert set(state.early) == {"site2", "site3", "site4"}
    assert state.faults[0].site == "site1"


def test_steps_do_not_change_the_state_they_came_from(bench: Any):
    """The running sum of an earlier state is the same after later uploads: a step is pure."""
    cohort = bench.Cohort(3)
    states = []

    def up(site: Any, message: Any) -> Any:
        return message

    original = server.step

    def spy(state: Any, event: Any) -> Any:
        if state.totals:
            states.append((state, [ring.tobytes() for ring in state.totals]))
        return original(state, event)

    server.step = spy
    try:
        cohort.play(up=up)
    finally:
        server.step = original
    assert len(states) > 3
    assert all([ring.tobytes() for ring in state.totals] == before for state, before in states)


def test_the_diagram_shows_each_phase():
    """The Mermaid text is generated from the table."""
    text = server.diagram()
    assert all(phase.value in text for phase in Phase)
