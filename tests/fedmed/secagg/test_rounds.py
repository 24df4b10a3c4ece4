"""Whole rounds between real sites and a real coordinator: exact, or cleanly aborted."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import SiteFailureError
from fedmed.secagg import masking, server
from fedmed.secagg.attempt import Phase

PHASES = 5
NEVER = 5


def expected_end(drops: tuple[int, ...], gate: int, threshold: int) -> bool:
    """Say whether a round with these drops can end: enough sites at each phase."""
    needs = (gate, gate, gate, threshold, threshold)
    return all(sum(drop > phase for drop in drops) >= need for phase, need in enumerate(needs))


def check_assignment(bench: Any, drops: tuple[int, ...], *, corrupt: int = 0, seed: object = 0) -> None:
    """Play one assignment of drop phases and check the outcome bit by bit."""
    cohort = bench.Cohort(len(drops), corrupt=corrupt, seed=seed)
    offer = cohort.offer()
    state = cohort.play(offer, drops=dict(zip(cohort.names, drops, strict=True)))
    gate = cohort.roster.policy.gate(offer.threshold)
    if expected_end(drops, gate, offer.threshold):
        cohort.assert_exact(state)
        survivors = [name for name, drop in zip(cohort.names, drops, strict=True) if drop > 2]
        assert list(server.result(state).sites) == survivors
        return
    assert state.phase is Phase.ABORTED
    assert not state.sums
    with pytest.raises(SiteFailureError, match=r"needs \d; missing: site"):
        server.result(state)


def test_a_full_round_gives_the_exact_sum(bench: Any):
    """Without drops the ring sums are bit-equal and the decoded means lie within the error bound."""
    cohort = bench.Cohort(4)
    state = cohort.play()
    cohort.assert_exact(state)
    sums = server.result(state).sums
    weights = [site.contribution.weight / 100 for site in cohort.sites.values()]
    for segment, low in ((bench.DELTA, -1.0), (bench.FISHER, 0.0)):
        inputs = [site.contribution.values[segment.name] for site in cohort.sites.values()]
        real = sum(np.clip(np.float64(w) * x, low, 1) for w, x in zip(weights, inputs, strict=True)) / sum(weights)
        bound = masking.error_bound(segment, sites=4, weight_sum=sum(weights)).maximum
        assert np.abs(sums[segment.name] / sum(weights) - real).max() <= bound
    whole = sum(site.contribution.values["aux"] for site in cohort.sites.values())
    assert (sums["aux"] == whole).all()


@pytest.mark.parametrize("drops", list(itertools.product((0, 1, 2, 3, 4, NEVER), repeat=1)))
def test_one_drop_at_any_phase_leaves_an_exact_sum(bench: Any, drops: Any):
    """Four sites lose one at each phase in turn; the sum over the rest is exact."""
    check_assignment(bench, (NEVER, *drops, NEVER, NEVER))


@settings(max_examples=40, deadline=None)
@given(drops=st.lists(st.sampled_from([0, 1, 2, 3, 4, *[NEVER] * 6]), min_size=3, max_size=7), seed=st.integers(0, 99))
def test_unmasking_inverts_masking_under_any_allowed_dropout(bench: Any, drops: list[int], seed: int):
    """For any cohort, drops and updates: the bit-equal sum of the survivors, or a clean abort."""
    check_assignment(bench, tuple(drops), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6))
def test_every_assignment_of_drops_to_four_sites(bench: Any, first: Any):
    """For all 6^4 assignments of a drop phase the ring sums are bit-equal or the attempt aborts cleanly."""
    for rest in itertools.product(range(6), repeat=3):
        check_assignment(bench, (first, *rest))


@pytest.mark.parametrize("seed", range(6))
def test_random_drops_among_nine_sites(bench: Any, seed: Any):
    """Nine sites with up to two curious ones and random drops: exact or aborted."""
    rng = np.random.default_rng(seed)
    drops = tuple(int(rng.choice([0, 1, 2, 3, 4, NEVER], p=[0.05] * 5 + [0.75])) for _ in range(9))
    check_assignment(bench, drops, corrupt=int(rng.integers(0, 3)), seed=seed)


@pytest.mark.parametrize(
    ("size", "corrupt", "before", "after"), [(3, 0, 0, 1), (5, 0, 2, 2), (10, 2, 3, 3)], ids=["n3", "n5", "n10"]
)
def test_the_losses_that_the_table_of_thresholds_tolerates(
    bench: Any, size: Any, corrupt: Any, before: Any, after: Any
):
    """A cohort survives as many losses as documented, and not one more."""
    for phase, losses in ((2, before), (3, after)):
        for extra in (0, 1):
            drops = (phase,) * (losses + extra) + (NEVER,) * (size - losses - extra)
            cohort = bench.Cohort(size, corrupt=corrupt)
            state = cohort.play(drops=dict(zip(cohort.names, drops, strict=True)))
            assert (state.phase is Phase.ABORTED) is bool(extra)


def test_an_aborted_attempt_is_retried_with_fresh_keys(bench: Any):
    """After an abort the same updates go through as attempt + 1, since no survivor set was certified."""
    cohort = bench.Cohort(3)
    first = cohort.play(drops={"site2": 2})
    assert first.phase is Phase.ABORTED
    assert "masking got 2 of 3 sites and needs 3; missing: site2; retry as attempt 1" in first.failure
    assert all(site.state.advertised is None for name, site in cohort.sites.items() if name != "site2")
    second = cohort.play(cohort.offer(attempt=1))
    cohort.assert_exact(second)
    assert {a.enc_key for a in first.adverts.values()}.isdisjoint(a.enc_key for a in second.adverts.values())


def test_rounds_follow_each_other(bench: Any):
    """Each round masks anew and gives its own exact sum."""
    cohort = bench.Cohort(3)
    for number in range(1, 4):
        for site in cohort.sites.values():
            site.train(number)
        cohort.assert_exact(cohort.play(cohort.offer(round=number)))


def test_a_segment_of_length_zero_stays_out_of_the_round(bench: Any):
    """An offer without the Fisher segment uploads none and returns none."""
    cohort = bench.Cohort(3)
    delta, aux, _, half = bench.LENGTHS
    state = cohort.play(cohort.offer(lengths=(delta, aux, 0, half)))
    cohort.assert_exact(state)
    assert set(server.result(state).sums) == {"delta", "aux", "half"}


def test_pipelined_rounds_take_four_exchanges(bench: Any):
    """An advert that came with the unmasking spares the next round its first exchange."""
    cohort = bench.Cohort(4)
    early = None
    for number in range(1, 4):
        before = sum(len(site.sent) for site in cohort.sites.values())
        for site in cohort.sites.values():
            site.train(number)
        state = cohort.play(cohort.offer(round=number), pipeline=True, early=early)
        cohort.assert_exact(state)
        early = server.result(state).early
        assert set(early) == set(cohort.names)
        exchanges = (sum(len(site.sent) for site in cohort.sites.values()) - before) / 4
        assert exchanges == (5 if number == 1 else 4)


def test_a_round_mixes_early_and_fresh_adverts(bench: Any):
    """A site without an early advert gets an offer; the others wait for it and the sum is exact."""
    cohort = bench.Cohort(4)
    first = cohort.play(pipeline=True, drops={"site3": 4})
    early = server.result(first).early
    assert set(early) == {"site1", "site2", "site4"}
    for site in cohort.sites.values():
        site.train("next")
    second = cohort.play(cohort.offer(round=2), early=early)
    cohort.assert_exact(second)
    assert len(server.result(second).sites) == 4


def test_a_failed_pipelined_round_goes_on_with_fresh_keys(bench: Any):
    """Early adverts serve attempt 0 only: a retry asks every site for fresh keys."""
    cohort = bench.Cohort(3)
    early = server.result(cohort.play(pipeline=True)).early
    for site in cohort.sites.values():
        site.train("next")
    assert cohort.play(cohort.offer(round=2), early=early, drops={"site1": 1}).phase is Phase.ABORTED
    retry = cohort.play(cohort.offer(round=2, attempt=1), early=early)
    cohort.assert_exact(retry)
    assert not any(advert.early for advert in retry.adverts.values())
