"""Counts, sums and means of patients with Laplace noise, through OpenDP.

Why it exists: a site sometimes wants to say how many patients a study could have, or
their mean age. Without noise that number, asked twice around one patient, is that patient.

Rules:
    * Epsilon and clamps are named by the caller: clamps are clinical limits, never the data's own extremes.
    * One patient changes at most `contributions` rows; further rows of theirs are left out before anything is added.
    * Clamping, sums and sampling are OpenDP's, over whole numbers: neither rounding of floats nor the attack on a
      textbook Laplace (Mironov 2012) has anything to hold on to. Nothing here takes a seed.
    * The audit facts say epsilon, sensitivity, scale and clamps, and the noised value; never the exact one.

What it does not do: keep a budget. Each release costs its epsilon, and epsilons of one data set add up.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from fedmed.audit import Scalar
from fedmed.errors import UsageError

_EXTRA = "install FedMed with the extra 'tables'"
_SUM_SHARE = 0.5  # of epsilon; the rest pays for the count
_STEPS = 1 << 30  # of half the range between the clamps: values become whole numbers of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class LaplaceRelease:
    """One released number. `scales` are those of its Laplace noises: of the count, and of the sum of a mean."""

    kind: Literal["count", "sum", "mean"]
    value: float
    epsilon: float
    sensitivity: float
    scales: tuple[float, ...]
    contributions: int
    low: float | None = None
    high: float | None = None

    def audit_body(self) -> dict[str, Scalar]:
        """Return the flat facts of the audit record."""
        body: dict[str, Scalar] = {
            "laplace.kind": self.kind,
            "laplace.value": self.value,
            "laplace.epsilon": self.epsilon,
            "laplace.sensitivity": self.sensitivity,
            "laplace.contributions": self.contributions,
            "laplace.low": self.low,
            "laplace.high": self.high,
            "tool": __name__,
            "mechanism": "opendp laplace",
        }
        return body | {f"laplace.scale.{at}": scale for at, scale in enumerate(self.scales)}


def noised_count(patients: pl.Series, *, epsilon: float) -> LaplaceRelease:
    """Return how many different patients there are, with noise; adding or removing one patient is hidden by epsilon.

    Args:
        patients: Whose row each row is.
        epsilon: The privacy loss of this release, above 0.

    Raises:
        UsageError: Epsilon is not above 0, or OpenDP is not installed.
    """
    _check_epsilon(epsilon)
    measurement, scale = _count_measurement(epsilon)
    value = measurement(patients.drop_nulls().n_unique())
    return LaplaceRelease(
        kind="count", value=float(value), epsilon=epsilon, sensitivity=1.0, scales=(scale,), contributions=1
    )


def noised_mean(
    values: pl.Series, patients: pl.Series, *, low: float, high: float, epsilon: float, contributions: int
) -> LaplaceRelease:
    """Return the mean of `values` with noise, half of epsilon for the sum and half for the count.

    Values are summed as their distance from the middle of the clamps, which halves the sensitivity, in steps of
    half the range divided by 2**30. The quotient is clamped again, which costs nothing.

    Args:
        values: Numbers; null and not-a-number are left out.
        patients: Whose value each is; of the same length.
        low: What a value below becomes.
        high: What a value above becomes.
        epsilon: The privacy loss of this release, above 0.
        contributions: The first so many values of each patient count.

    Raises:
        UsageError: A parameter is out of range, or OpenDP is not installed.
    """
    first = _first_values(values, patients, low=low, high=high, epsilon=epsilon, contributions=contributions)
    radius, middle = (high - low) / 2, (high + low) / 2
    total, sum_scale = _sum_measurement(epsilon * _SUM_SHARE, contributions)
    size, count_scale = _count_measurement(epsilon * (1 - _SUM_SHARE), sensitivity=contributions)
    quotient = total(_steps(first, middle=middle, radius=radius)) / _STEPS * radius / max(size(len(first)), 1)
    return LaplaceRelease(
        kind="mean",
        value=min(max(middle + quotient, low), high),
        epsilon=epsilon,
        sensitivity=radius * contributions,
        scales=(count_scale, sum_scale / _STEPS * radius),
        contributions=contributions,
        low=low,
        high=high,
    )


def noised_sum(
    values: pl.Series, patients: pl.Series, *, low: float, high: float, epsilon: float, contributions: int
) -> LaplaceRelease:
    """Return the sum of `values` with noise; arguments and errors as for `noised_mean`.

    Values are summed in steps of the clamp that lies further from 0, divided by 2**30; a patient who is added or
    removed changes the sum by that clamp at most, as often as `contributions`.
    """
    first = _first_values(values, patients, low=low, high=high, epsilon=epsilon, contributions=contributions)
    radius = max(abs(low), abs(high))
    total, scale = _sum_measurement(epsilon, contributions)
    return LaplaceRelease(
        kind="sum",
        value=total(_steps(first, middle=0.0, radius=radius)) / _STEPS * radius,
        epsilon=epsilon,
        sensitivity=radius * contributions,
        scales=(scale / _STEPS * radius,),
        contributions=contributions,
        low=low,
        high=high,
    )


def _first_values(
    values: pl.Series, patients: pl.Series, *, low: float, high: float, epsilon: float, contributions: int
) -> pl.Series:
    """Return the clamped values that count: the first `contributions` known ones of each patient."""
    _check_epsilon(epsilon)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"noised number: expected clamps low < high, got {low} and {high}")
    if contributions < 1:
        raise UsageError(f"noised number: contributions must be at least 1, got {contributions}")
    rows = pl.DataFrame({"value": values.cast(pl.Float64), "patient": patients}).drop_nulls().drop_nans("value")
    return rows.filter(pl.int_range(pl.len()).over("patient") < contributions)["value"].clip(low, high)


def _steps(values: pl.Series, *, middle: float, radius: float) -> list[int]:
    """Return clamped values as whole numbers of steps from the middle."""
    return ((values - middle) / radius * _STEPS).round().cast(pl.Int64).to_list()


def _count_measurement(epsilon: float, sensitivity: int = 1) -> tuple[Any, float]:
    """Return OpenDP's integer Laplace for a number that one patient changes by `sensitivity`, and its scale."""
    dp = _opendp()
    space = dp.atom_domain(T="i64"), dp.absolute_distance(T="i64")
    scale = sensitivity / epsilon
    return _within(dp.m.make_laplace(*space, scale=scale), sensitivity, epsilon), scale


def _sum_measurement(epsilon: float, contributions: int) -> tuple[Any, float]:
    """Return OpenDP's noised sum of whole numbers clamped to -STEPS..STEPS, and the scale of its noise in steps."""
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.symmetric_distance()
    total = dp.t.make_clamp(*space, bounds=(-_STEPS, _STEPS)) >> dp.t.then_sum()
    scale = _STEPS * contributions / epsilon
    return _within(total >> dp.m.then_laplace(scale=scale), contributions, epsilon), scale


def _within(measurement: Any, distance: int, epsilon: float) -> Any:
    """Return `measurement` if OpenDP's own accountant agrees that it costs no more than `epsilon`."""
    if measurement.map(distance) > epsilon * (1 + 1e-9):
        raise UsageError(f"Laplace: OpenDP counts more than epsilon {epsilon} for this release; name a larger one")
    return measurement


def _check_epsilon(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UsageError(f"Laplace: epsilon must be above 0, got {epsilon}")


def _opendp() -> Any:
    try:
        import opendp.prelude as dp  # noqa: PLC0415  an optional extra
    except ImportError:
        raise UsageError(f"Laplace noise needs OpenDP; {_EXTRA}") from None
    dp.enable_features("contrib")
    return dp
