"""A site's policy refuses whatever asks for more than the hospital allows, and says why."""

import math
from dataclasses import replace
from typing import Any

import pytest

from fedmed.errors import RefusedError
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    canonical_json,
    decode,
)
from fedmed_site.policy import SitePolicy

CAPPED = SitePolicy(cap_epsilon=8.0, delta=1e-5)
UNLIMITED = SitePolicy(cap_epsilon=None, delta=1e-5)
PRIVATE = PrivacySpec(trust_model="local", epsilon=8.0, delta=1e-5, noise_multiplier=1.0, release_noise_multiplier=3.0)
OPEN = PrivacySpec(trust_model="none")


def plan(privacy: PrivacySpec) -> Plan:
    """Return a plan with this privacy."""
    return Plan(
        study="s",
        seed=0,
        data=DataSpec(schema="s", schema_digest="0" * 64, target="t"),
        model=ModelSpec(family="linear", adapter="full"),
        base_digest="1" * 64,
        training=TrainingSpec(rounds=1, local_steps=1, sample_rate=1.0, learning_rate=1.0),
        privacy=privacy,
        aggregation=AggregationSpec(kind="secure"),
        continual=ContinualSpec(strength=0.0, release_fisher=False),
    )


@pytest.mark.parametrize("policy", [CAPPED, UNLIMITED, replace(CAPPED, allow_simulated_noise=True)])
def test_a_plan_within_the_limits_is_accepted(policy: SitePolicy):
    """Private training at the site's own delta, with the operating system's noise."""
    policy.check(plan(PRIVATE))
    policy.check(plan(replace(PRIVATE, delta=1e-6)))


def test_a_capped_site_trains_only_with_privacy():
    """A plan without protection has no epsilon that could be charged."""
    with pytest.raises(RefusedError, match="only with differential privacy; the plan has none"):
        CAPPED.check(plan(OPEN))


def test_a_site_without_cap_may_train_without_privacy():
    """The hospital has said so itself: for comparison only."""
    UNLIMITED.check(plan(OPEN))


@pytest.mark.parametrize("policy", [CAPPED, UNLIMITED])
def test_a_larger_delta_is_refused_with_both_numbers(policy: SitePolicy):
    """A larger delta is a weaker promise, whatever the epsilon."""
    with pytest.raises(RefusedError, match=r"delta up to 1e-05; the plan asks for 0\.001"):
        policy.check(plan(replace(PRIVATE, delta=1e-3)))


@pytest.mark.parametrize("policy", [CAPPED, UNLIMITED])
def test_noise_that_can_be_repeated_is_refused(policy: SitePolicy):
    """Whoever knows the seed removes the noise; only a simulated hospital may accept it."""
    with pytest.raises(RefusedError, match="the plan asks for simulated-seed"):
        policy.check(plan(replace(PRIVATE, noise="simulated-seed")))
    replace(policy, allow_simulated_noise=True).check(plan(replace(PRIVATE, noise="simulated-seed")))


def test_the_default_refuses():
    """Nothing has to be switched off for a careful site."""
    policy = SitePolicy(cap_epsilon=1.0, delta=1e-5)
    assert (policy.allow_simulated_noise, policy.min_records) == (False, 20)


def test_the_cap_as_a_number():
    """No cap is infinity, which every charge is below."""
    assert (CAPPED.cap, UNLIMITED.cap) == (8.0, math.inf)


@pytest.mark.parametrize(
    "change",
    [{"cap_epsilon": 0.0}, {"cap_epsilon": -1.0}, {"cap_epsilon": math.nan}, {"delta": 0.0}, {"delta": 1.0},
     {"delta": math.nan}, {"min_records": 0}],
)  # fmt: skip
def test_impossible_limits_are_refused(change: dict[str, Any]):
    """A mistake in site.json doesn't open the site."""
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CAPPED, **change)


def test_an_infinite_cap_is_not_a_cap():
    """A stored policy refuses what the policy refused before it was stored."""
    with pytest.raises(ValueError, match="cap_epsilon"):
        SitePolicy(cap_epsilon=math.inf, delta=1e-5)


@pytest.mark.parametrize("policy", [CAPPED, UNLIMITED, SitePolicy(cap_epsilon=1.0, delta=1e-3, min_records=5)])
def test_a_policy_survives_its_file(policy: SitePolicy):
    """What the administrator set is what the agent reads."""
    assert decode(canonical_json(policy), SitePolicy) == policy


def test_an_update_in_clear_needs_the_sites_consent():
    """By default a coordinator that asks for the update itself is refused; a site may allow it for itself."""
    clear = replace(plan(PRIVATE), aggregation=AggregationSpec(kind="insecure"))
    with pytest.raises(RefusedError, match="only under secure aggregation"):
        CAPPED.check(clear)
    replace(CAPPED, allow_insecure_aggregation=True).check(clear)


def test_shared_noise_needs_the_sites_consent():
    """A coordinator can't choose the weaker trust model for a site, nor let its shape eat the site's delta."""
    base = plan(PRIVATE)
    training = replace(base.training, local_steps=1, sample_rate=1.0)
    shared = replace(base, training=training, privacy=replace(PRIVATE, trust_model="distributed", distance=1e-9))
    with pytest.raises(RefusedError, match="adds all of the noise itself"):
        CAPPED.check(shared)
    willing = replace(CAPPED, allow_shared_noise=True)
    willing.check(shared)
    with pytest.raises(RefusedError, match=r"within 1\.0e-08 of a Gaussian"):
        willing.check(replace(shared, privacy=replace(shared.privacy, distance=2e-8)))


def changed(**training: Any) -> Plan:
    """Return a private plan with other training."""
    base = plan(PRIVATE)
    return replace(base, training=replace(base.training, **training))


@pytest.mark.parametrize(
    ("limit", "asked", "message"),
    [
        ({"max_rounds": 5}, changed(rounds=6), "allows 5 rounds a study; the plan asks for 6"),
        ({"max_steps": 10}, changed(rounds=6, local_steps=2), "allows 10 local steps a study; the plan asks for 12"),
        ({"max_epsilon": 7.5}, plan(PRIVATE), r"epsilon up to 7\.5 a study; the plan asks for 8"),
        ({"model_families": ("mlp",)}, plan(PRIVATE), "model families mlp; the plan asks for linear"),
        ({"model_families": ()}, plan(PRIVATE), "model families none; the plan asks for linear"),
        ({"min_cohort": 4}, plan(PRIVATE), "sums over at least 4 sites; this one may cover 3"),
        ({"segments": ("aux", "fisher")}, plan(PRIVATE), "lets aux, fisher leave in a sum; the plan asks for delta"),
        ({"segments": ()}, plan(PRIVATE), "lets nothing leave in a sum; the plan asks for aux"),
    ],
)
def test_what_exceeds_a_cap_is_refused_with_both_sides(limit: dict[str, Any], asked: Plan, message: str):
    """The coordinator learns what it asked for and what this site allows; at the limit itself nothing is refused."""
    CAPPED.check(asked)
    with pytest.raises(RefusedError, match=message):
        replace(CAPPED, **limit).check(asked)


def test_limits_are_met_exactly():
    """A plan that asks for all that is allowed is accepted."""
    policy = replace(CAPPED, max_rounds=6, max_steps=12, max_epsilon=8.0, min_cohort=3, model_families=("linear",))
    policy.check(changed(rounds=6, local_steps=2))


def test_importances_of_parameters_need_their_segment():
    """A site that lets no Fisher information leave refuses only studies that ask for it."""
    policy = replace(CAPPED, segments=("aux", "delta"))
    policy.check(plan(PRIVATE))
    base = plan(PRIVATE)
    with pytest.raises(RefusedError, match="the plan asks for fisher"):
        policy.check(replace(base, continual=replace(base.continual, release_fisher=True)))


def test_a_cap_on_epsilon_refuses_a_plan_without_any():
    """No bound is more than every bound."""
    with pytest.raises(RefusedError, match="epsilon up to 5 a study; the plan asks for no bound"):
        replace(UNLIMITED, max_epsilon=5.0).check(plan(OPEN))


def test_a_cohort_below_the_floor_is_refused():
    """The roster's smallest cohort counts, whatever the plan says."""
    CAPPED.check_cohort(3)
    with pytest.raises(RefusedError, match="at least 3 sites; this one may cover 2"):
        CAPPED.check_cohort(2)


@pytest.mark.parametrize(
    "change",
    [{"max_epsilon": 0.0}, {"max_epsilon": math.inf}, {"max_hours_per_study": -1.0}, {"max_hours_per_day": math.nan},
     {"max_rounds": 0}, {"max_steps": 0}, {"min_cohort": 0}, {"segments": ("aux", "aux")}],
)  # fmt: skip
def test_impossible_caps_are_refused(change: dict[str, Any]):
    """A cap that allows nothing, or everything, is a mistake."""
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CAPPED, **change)


def test_a_new_site_approves_each_study():
    """Nobody has to switch approval on."""
    assert CAPPED.approval == "each-study"
