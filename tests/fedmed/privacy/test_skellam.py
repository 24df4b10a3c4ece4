"""Shares of noise: their law, that they add up, and that what rounding and their shape cost is charged."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive
from scipy.stats import chisquare, kstest, norm, poisson, skellam

from fedmed.errors import RefusedError
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.plan import Event, epsilon_near, merge, total_distance
from fedmed.privacy.skellam import NoiseUnits, _log_probability, draw_share, noise_units


@pytest.mark.parametrize("variance", [2000.0, 2500.7, 20000.0])
def test_a_share_has_the_law_of_a_skellam_variable(variance: float) -> None:
    """Value by value, against the exact probabilities."""
    share = draw_share(b"law", variance=variance, size=200_000)
    reach = int(3.5 * math.sqrt(variance))
    values = np.arange(-reach, reach + 1)
    seen = np.array([(share == value).sum() for value in values])
    expected = skellam.pmf(values, variance / 2, variance / 2)
    assert chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-4


@pytest.mark.parametrize("variance", [1e7, 1e10, 1e13])
def test_a_large_share_is_as_good_as_normal(variance: float) -> None:
    """At the sizes that a ring holds, the deviation is right and the shape is a Gaussian's."""
    share = draw_share(b"large", variance=variance, size=200_000) / math.sqrt(variance)
    assert kstest(share, "norm").pvalue > 1e-4
    assert abs(share.var() - 1) < 0.02


@pytest.mark.parametrize("mean", [1000.0, 1234.5, 40_000.25])
def test_probabilities_are_those_of_a_poisson_variable(mean: float) -> None:
    """The rejection step compares with the true probability, ten deviations to both sides."""
    offsets = np.arange(-10 * math.sqrt(mean), 10 * math.sqrt(mean)).round()
    whole = math.floor(mean)
    got = _log_probability(offsets, whole, mean - whole)
    assert np.abs(got - poisson.logpmf(whole + offsets, mean)).max() < 1e-9


def test_one_key_gives_one_share_and_another_key_another() -> None:
    """A restarted site repeats its bytes; two sites never add the same noise."""
    assert (draw_share(b"a", variance=1e6, size=50) == draw_share(b"a", variance=1e6, size=50)).all()
    assert (draw_share(b"a", variance=1e6, size=50) != draw_share(b"b", variance=1e6, size=50)).any()


def test_the_shares_of_the_honest_add_up_to_the_noise() -> None:
    """Three shares of a third are noise of the whole deviation."""
    units = noise_units(clip_norm=1.0, noise_multiplier=3.0, unit=1e5, size=100_000)
    total = sum(draw_share(bytes([site]), variance=units.share_variance(3), size=units.size) for site in range(3))
    assert abs(np.std(total) / units.deviation - 1) < 0.01


@pytest.mark.parametrize("variance", [0.0, 100.0, 1e16, math.nan])
def test_noise_that_the_ring_cannot_hold_is_refused(variance: float) -> None:
    """Too little noise would be eaten by rounding, too much could not be drawn exactly."""
    with pytest.raises(RefusedError, match="choose another clip or max_weight"):
        draw_share(b"k", variance=variance, size=3)


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20),
    moved=st.lists(st.floats(-3, 3), min_size=20, max_size=20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300)
def test_rounding_adds_no_more_to_the_sensitivity_than_is_counted(
    values: list[float], moved: list[float], seed: int
) -> None:
    """Neighbouring sums, rounded with the same uniforms, differ by no more than the noise is scaled to."""
    size = len(values)
    first = np.array(values)
    second = first + np.array(moved[:size])
    uniform = np.random.default_rng(seed).random(size)
    rounded = np.floor(first + uniform) - np.floor(second + uniform)
    clip = max(float(np.linalg.norm(second - first)), 1e-12)
    units = noise_units(clip_norm=clip, noise_multiplier=1.0, unit=1.0, size=size)
    assert np.linalg.norm(rounded) <= units.sensitivity + 1e-9


@pytest.mark.parametrize("deviation", [30.0, 100.0, 1000.0])
@pytest.mark.parametrize("size", [1, 500])
def test_the_distance_bounds_what_it_says(deviation: float, size: int) -> None:
    """The true chi-square to a rounded Gaussian, summed up, never exceeds what the bound is made of."""
    variance = deviation**2
    values = np.arange(0, int(12 * deviation) + 1)
    noise = ive(values, variance)
    gaussian = norm.sf((values - 0.5) / deviation) - norm.sf((values + 0.5) / deviation)
    twice = np.where(values == 0, 1, 2)
    chi_square = float((twice * (noise - gaussian) ** 2 / gaussian).sum())
    total = math.expm1(size * math.log1p(chi_square))
    assert 0.5 * math.sqrt(total) <= NoiseUnits(sensitivity=1.0, deviation=deviation, size=size).distance
    one = float((twice * np.abs(noise - gaussian)).sum()) / 2
    assert one <= NoiseUnits(sensitivity=1.0, deviation=deviation, size=1).distance


def test_the_distance_is_charged() -> None:
    """A history that is only near a Gaussian one costs more, and none at all is promised where it is too far."""
    exact = Event(noise_multiplier=2.0, sample_rate=1.0, steps=1)
    accountant = PrvAccountant()
    costs = [
        accountant.epsilon([Event(noise_multiplier=2.0, sample_rate=1.0, steps=1, distance=distance)], 1e-5)
        for distance in (0.0, 1e-9, 1e-7, 1e-5)
    ]
    assert costs[0] == accountant.epsilon([exact], 1e-5)
    assert costs == sorted(costs)
    assert costs[2] > costs[0]
    assert costs[3] == math.inf


def test_distances_survive_merging() -> None:
    """However a history is shortened, its distance stays what it was."""
    history = [Event(noise_multiplier=3.0, sample_rate=1.0, steps=1, distance=1e-9)] * 30
    history.append(Event(noise_multiplier=1.0, sample_rate=0.5, steps=7, distance=2e-9))
    assert total_distance(merge(history)) == pytest.approx(total_distance(history))
    assert total_distance(history) == pytest.approx(44e-9)


def test_the_slack_of_delta_is_enough() -> None:
    """The promise at the reduced delta plus the slack is never more than the delta that was asked for."""
    asked = []

    def epsilon_at(delta: float) -> float:
        asked.append(delta)
        return 2.0 + 1e-7 / delta

    found = epsilon_near(epsilon_at, distance=1e-8, delta=1e-5)
    assert asked[-1] + (1 + math.exp(found)) * 1e-8 <= 1e-5
