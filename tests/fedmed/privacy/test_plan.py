"""Merging keeps the meaning of a history; calibration finds the least noise that a budget allows."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import ConfigError
from fedmed.privacy.plan import Event, calibrate, merge

EVENTS = st.lists(
    st.builds(
        Event,
        noise_multiplier=st.sampled_from([0.5, 1.0, 2.0]),
        sample_rate=st.sampled_from([0.1, 0.5, 1.0]),
        steps=st.integers(1, 5),
    ),
    max_size=8,
)


class Smooth:
    """A toy accountant: `scale` times the root of the summed steps over squared noise."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.calls = 0

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """Return the toy's epsilon."""
        self.calls += 1
        return self.scale * math.sqrt(sum(e.steps * e.sample_rate**2 / e.noise_multiplier**2 for e in events))


class Cliff:
    """An accountant that is infinite below a threshold of noise."""

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """Return the toy's epsilon."""
        return 0.5 if events[0].noise_multiplier >= 3.217 else math.inf


def one_step(noise: float) -> list[Event]:
    """Return a study of one release."""
    return [Event(noise_multiplier=noise, sample_rate=1.0, steps=1)]


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(0.0, 0.1, 1), (math.inf, 0.1, 1), (math.nan, 0.1, 1), (1, 0, 1), (1, 1.1, 1), (1, 1, 0), (1, 1, 1.5)],
)
def test_an_event_that_exists_is_valid(noise: float, rate: float, steps: int):
    """No noise, no sampling, too much sampling and no steps are refused."""
    with pytest.raises(ValueError, match="must be"):
        Event(noise_multiplier=noise, sample_rate=rate, steps=steps)


@given(EVENTS, st.randoms())
def test_merging_does_not_depend_on_the_order(events: list[Event], random: object):
    """Histories with the same charges are equal, so that their epsilon can be remembered."""
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(events) == merge(shuffled)


@given(EVENTS)
def test_merging_keeps_subsampled_steps_and_gaussian_precision(events: list[Event]):
    """Steps per (noise, rate) add up, and so do the precisions of full-batch Gaussians."""
    merged = merge(events)
    for noise in (0.5, 1.0, 2.0):
        for rate in (0.1, 0.5):
            before = sum(e.steps for e in events if (e.noise_multiplier, e.sample_rate) == (noise, rate))
            after = sum(e.steps for e in merged if (e.noise_multiplier, e.sample_rate) == (noise, rate))
            assert before == after
    assert sum(e.steps / e.noise_multiplier**2 for e in merged if e.sample_rate == 1) == pytest.approx(
        sum(e.steps / e.noise_multiplier**2 for e in events if e.sample_rate == 1)
    )
    assert len(merged) == len({(e.noise_multiplier, e.sample_rate) for e in merged})


@given(st.floats(1e-4, 50))
def test_calibration_is_the_smallest_of_four_digits(epsilon: float):
    """The answer meets the budget, has four digits, and the next smaller four-digit number doesn't meet it."""
    accountant = Smooth()
    noise = calibrate(one_step, epsilon=epsilon, delta=1e-5, accountant=accountant)
    assert noise == float(f"{noise:.3e}")
    assert accountant.epsilon(one_step(noise), 1e-5) <= epsilon
    smaller = noise - 10.0 ** (math.floor(math.log10(noise)) - 3) * (0.1 if f"{noise:.3e}".startswith("1.000") else 1)
    assert accountant.epsilon(one_step(smaller), 1e-5) > epsilon


def test_calibration_asks_the_accountant_a_few_times_only():
    """An accountant may take a tenth of a second."""
    accountant = Smooth()
    calibrate(one_step, epsilon=0.0037, delta=1e-5, accountant=accountant)
    assert accountant.calls <= 12


def test_calibration_survives_a_cliff():
    """Infinite costs fall back to halving the interval."""
    assert calibrate(one_step, epsilon=1, delta=1e-5, accountant=Cliff()) == 3.217


def test_calibration_stops_at_the_least_noise_in_range():
    """A budget that almost any noise meets gets the smallest multiplier of the range."""
    assert calibrate(one_step, epsilon=1e6, delta=1e-5, accountant=Smooth()) == 0.01


def test_an_impossible_budget_is_a_configuration_error():
    """A fixed cost above the budget can't be cured with noise."""
    fixed = one_step(1.0)
    with pytest.raises(ConfigError, match="no noise multiplier"):
        calibrate(lambda noise: [*fixed, *one_step(noise)], epsilon=0.5, delta=1e-5, accountant=Smooth())


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)]
)
def test_a_budget_is_a_positive_number(epsilon: float, delta: float):
    """Nonsense budgets are named as such."""
    with pytest.raises(ConfigError, match=r"privacy\."):
        calibrate(one_step, epsilon=epsilon, delta=delta, accountant=Smooth())
