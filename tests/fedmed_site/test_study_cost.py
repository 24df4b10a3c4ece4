"""A plan's word about its epsilon is checked against its own noise before an administrator reads it."""

from dataclasses import replace

import pytest
from plans import plan_of

from fedmed.errors import RefusedError
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.plan import Event
from fedmed.records import Plan, PrivacySpec
from fedmed_site.study_cost import events_of, require_declared

PLAN = plan_of("stroke-1")


def with_noise(noise: float, epsilon: float) -> Plan:
    """Return six full steps with this noise, under this declaration."""
    return replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=noise, epsilon=epsilon))


def test_everything_that_is_released_counts():
    """All rounds' steps, the Fisher information and statistics that aren't public."""
    steps = Event(noise_multiplier=1.0, sample_rate=1.0, steps=6)
    release = Event(noise_multiplier=3.0, sample_rate=1.0, steps=1)
    assert events_of(PLAN) == (steps,)
    plan = replace(PLAN, continual=replace(PLAN.continual, release_fisher=True))
    assert events_of(plan) == (steps, release)
    plan = replace(plan, data=replace(PLAN.data, normalisation="federated"))
    assert events_of(plan) == (steps, release, release)


def test_a_plan_that_costs_more_than_it_says_is_refused():
    """Both numbers stand in the refusal; with the epsilon that it really costs it passes."""
    cost = PrvAccountant().epsilon(events_of(with_noise(1.0, 1.0)), PLAN.privacy.delta)
    assert cost > 5
    with pytest.raises(RefusedError, match=rf"declares epsilon 1; its noise over all rounds costs {cost:.3g}"):
        require_declared(with_noise(1.0, 1.0), PrvAccountant())
    require_declared(with_noise(1.0, cost), PrvAccountant())
    require_declared(with_noise(50.0, 1.0), PrvAccountant())


def test_a_plan_without_privacy_declares_nothing():
    """Whether it may run at all is for the policy to say."""
    plan = replace(PLAN, privacy=PrivacySpec(trust_model="none"))
    assert events_of(plan) == ()
    require_declared(plan, PrvAccountant())
