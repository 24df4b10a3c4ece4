"""Noised counts and means: the distribution, the accounts, and that no seed is anywhere."""

import inspect
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from scipy import stats

from fedmed.deid import laplace
from fedmed.deid.laplace import noised_count, noised_mean
from fedmed.errors import UsageError

PATIENTS = pl.Series([f"p{at // 2}" for at in range(200)])
VALUES = pl.Series([40.0 + at % 20 for at in range(200)])


def fits(draw: Callable[[], "np.ndarray"], distribution: Callable[["np.ndarray"], "np.ndarray"]) -> bool:
    """Return whether one of three samples passes a Kolmogorov-Smirnov test at 0.01; noise without a seed fails 1 %."""
    return any(stats.kstest(draw(), distribution).pvalue > 0.01 for _ in range(3))


def discrete_laplace(scale: float) -> Callable[["np.ndarray"], "np.ndarray"]:
    """Return the distribution of integer Laplace noise plus uniform noise in (0, 1), which makes it continuous."""
    below = stats.dlaplace(1 / scale)

    def cdf(values: "np.ndarray") -> "np.ndarray":
        whole = np.floor(values)
        return below.cdf(whole - 1) + (values - whole) * below.pmf(whole)

    return cdf


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.1, 2.0])
def test_a_count_has_integer_laplace_noise(epsilon: float):
    """1e5 draws of the measurement that releases counts: scale 1/epsilon."""
    measurement, scale = laplace._count_measurement(epsilon)
    assert scale == 1 / epsilon
    rng = np.random.default_rng()

    def draw() -> np.ndarray:
        return np.array([measurement(0) for _ in range(100_000)]) + rng.random(100_000)

    assert fits(draw, discrete_laplace(scale))


@pytest.mark.slow
def test_a_sum_has_laplace_noise():
    """1e5 draws of the measurement that releases sums, of no rows: mean 0 and the scale that the record states."""
    measurement, scale = laplace._sum_measurement(0.5, 2)
    assert scale == 2**30 * 2 / 0.5
    assert fits(lambda: np.array([float(measurement([])) for _ in range(100_000)]), stats.laplace(scale=scale).cdf)


def test_a_test_of_the_distribution_would_notice_a_wrong_scale():
    """The test above is no formality: half the scale, or a normal, does not pass it."""
    rng = np.random.default_rng(0)
    laplace_cdf = stats.laplace(scale=1.0).cdf
    assert not fits(lambda: rng.laplace(scale=0.5, size=100_000), laplace_cdf)
    assert not fits(lambda: rng.normal(scale=2**0.5, size=100_000), laplace_cdf)


def test_a_count_is_of_patients():
    """Two rows of one patient count once; the noise is that of one patient."""
    released = [noised_count(PATIENTS, epsilon=5.0).value for _ in range(200)]
    assert np.mean(released) == pytest.approx(100, abs=1)
    assert noised_count(PATIENTS, epsilon=5.0).sensitivity == 1


def test_a_mean_is_near_the_mean():
    """With a large epsilon the noise is small, and clamps outside the data change nothing."""
    released = noised_mean(VALUES, PATIENTS, low=0, high=100, epsilon=1000.0, contributions=2)
    assert released.value == pytest.approx(float(VALUES.mean()), abs=1)


def test_the_noise_of_a_mean_has_the_scale_that_is_stated():
    """Of very many patients the count's noise is nothing, and what is left is Laplace of the sum over the count."""
    values, patients = pl.Series([60.0] * 5000), pl.Series(range(5000)).cast(pl.String)
    released = [noised_mean(values, patients, low=0, high=120, epsilon=2.0, contributions=1) for _ in range(100)]
    errors = np.array([(each.value - 60.0) * 5000 for each in released])
    assert np.mean(np.abs(errors)) == pytest.approx(released[0].scales[1], rel=0.6)


def test_values_beyond_the_clamps_count_as_the_clamps():
    """One absurd value cannot move the mean out of the limits."""
    values = pl.Series([1e12] * 200)
    assert noised_mean(values, PATIENTS, low=0, high=100, epsilon=1000.0, contributions=2).value <= 100


def test_rows_beyond_a_patients_share_are_left_out():
    """Of a patient with a hundred rows only the first counts."""
    patients = pl.Series(["a"] * 100 + [f"p{at}" for at in range(100)])
    values = pl.Series([100.0] * 100 + [0.0] * 100)
    released = noised_mean(values, patients, low=0, high=100, epsilon=1e4, contributions=1)
    assert released.value == pytest.approx(100 / 101, abs=0.5)


def test_missing_values_are_left_out():
    """Null and not-a-number never reach the sum."""
    values = pl.Series([50.0, None, float("nan"), 50.0])
    released = noised_mean(values, pl.Series(list("abcd")), low=0, high=100, epsilon=1e4, contributions=1)
    assert released.value == pytest.approx(50, abs=1)


def test_the_audit_says_epsilon_sensitivity_and_clamps():
    """And the scale of each noise, but not the exact value."""
    body = noised_mean(VALUES, PATIENTS, low=0, high=120, epsilon=1.0, contributions=3).audit_body()
    assert (body["laplace.epsilon"], body["laplace.low"], body["laplace.high"]) == (1.0, 0.0, 120.0)
    assert body["laplace.sensitivity"] == 60 * 3
    assert body["laplace.scale.0"] == pytest.approx(3 / 0.5)
    assert body["laplace.scale.1"] == pytest.approx(180 / 0.5)
    assert float(VALUES.mean()) not in body.values()


def test_sum_and_count_together_cost_epsilon():
    """OpenDP's own accountant confirms it for patients with several rows."""
    total, _ = laplace._sum_measurement(0.5, 3)
    size, _ = laplace._count_measurement(0.5, sensitivity=3)
    assert total.map(3) + size.map(3) <= 1.0 + 1e-9


def test_two_releases_differ_and_nothing_takes_a_seed():
    """The generator is the library's own; no function of the module has a parameter for another."""
    assert len({noised_count(PATIENTS, epsilon=0.01).value for _ in range(20)}) > 10
    for _, function in inspect.getmembers(laplace, inspect.isfunction):
        assert not {"seed", "rng", "random_state"} & set(inspect.signature(function).parameters)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_out_of_range_is_refused(epsilon: float):
    """Nothing is released without a finite loss."""
    with pytest.raises(UsageError, match="epsilon must be above 0"):
        noised_count(PATIENTS, epsilon=epsilon)
    with pytest.raises(UsageError, match="epsilon must be above 0"):
        noised_mean(VALUES, PATIENTS, low=0, high=1, epsilon=epsilon, contributions=1)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"low": 5, "high": 5}, "clamps"), ({"high": float("inf")}, "clamps"), ({"contributions": 0}, "contributions")],
)
def test_clamps_and_contributions_are_checked(wrong: dict[str, float], match: str):
    """A mean without limits has no sensitivity, so it is not released."""
    with pytest.raises(UsageError, match=match):
        noised_mean(VALUES, PATIENTS, **({"low": 0, "high": 100, "epsilon": 1.0, "contributions": 1} | wrong))


def test_clamps_and_epsilon_have_no_default():
    """Whoever asks for a mean names them."""
    parameters = inspect.signature(noised_mean).parameters
    assert all(
        parameters[name].default is inspect.Parameter.empty for name in ("low", "high", "epsilon", "contributions")
    )
