"""Noise for sums in a ring: each site adds a share, and the shares of the honest sites suffice.

Why it exists: under secure aggregation nobody sees one site's vector, so the noise can be shared:
the sum of Skellam variables is Skellam, so h shares of variance v / h are noise of variance v.

Rules:
    * A share is drawn from AES-256-CTR under a key that is used for it alone.
    * `noise_units` counts what rounding to whole numbers adds to the sensitivity.
    * `distance` bounds how far the noise is from a rounded Gaussian, and is charged with the Gaussian:
      a mechanism within total variation t of an (epsilon, delta)-DP one is (epsilon, delta + (1 + e^epsilon) t)-DP.

What it does not do: decide who is honest, encode, or sum.

Sources: Agarwal, Kairouz and Liu, The Skellam Mechanism for Differentially Private Federated Learning, NeurIPS
2021; Hoermann, The Transformed Rejection Method for Generating Poisson Random Variables, 1993 (PTRS); Loader,
Fast and Accurate Computation of Binomial Probabilities, 2000 (the probabilities of large means).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import RefusedError
from fedmed.privacy.noise import SeededNoise
from fedmed.records import require

SLACK = 1e-4
"""Added to the sensitivity, relatively, for what float32 gradients and float64 sums round away."""
SMALLEST_MEAN = 1000.0
"""Least mean of the two Poisson variables of a share; below it rounding outweighs the noise anyway."""
LARGEST_MEAN = 2.0**46
_CHI_SQUARE = 0.0452
"""Chi-square between Skellam noise of variance v and a rounded Gaussian of the same variance, times v^2.

It tends to 26 / 576 from below as v grows (the fourth cumulant and Sheppard's correction); a test sums it up.
"""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseUnits:
    """The noise of one released sum in units of the ring.

    `sensitivity`: how far one record can move the rounded sum, in Euclidean norm. `deviation`: the
    standard deviation that all honest shares together have, per coordinate.
    """

    sensitivity: float
    deviation: float
    size: int

    def __post_init__(self) -> None:
        require(self.sensitivity > 0, f"sensitivity must be above 0, got {self.sensitivity}")
        require(self.deviation > 0, f"deviation must be above 0, got {self.deviation}")

    @property
    def distance(self) -> float:
        """Total variation between this noise on `size` coordinates and a rounded Gaussian of the same deviation.

        >>> NoiseUnits(sensitivity=1e4, deviation=1e6, size=100).distance < 2e-12
        True
        """
        chi_square = math.expm1(min(1.0, self.size * _CHI_SQUARE / self.deviation**4))
        return min(1.0, 0.5 * math.sqrt(chi_square) + self.size * 1e-30)  # the last: beyond twelve deviations

    def share_variance(self, honest: int) -> float:
        """Return the variance of each site's share where at least `honest` sites add one."""
        return self.deviation**2 / honest


def noise_units(*, clip_norm: float, noise_multiplier: float, unit: float, size: int) -> NoiseUnits:
    """Return sensitivity and noise of a sum of records that is rounded to whole numbers.

    Rounding moves each coordinate by less than one, with the same uniform for neighbouring data, so it adds
    at most sqrt(size) to the sensitivity; the noise grows with it.

    Args:
        clip_norm: Largest Euclidean norm of what one record adds to the sum.
        noise_multiplier: Standard deviation of the noise over the sensitivity.
        unit: How many units of the ring a 1 of the sum becomes.
        size: Coordinates.

    >>> round(noise_units(clip_norm=1.0, noise_multiplier=2.0, unit=1e4, size=100).deviation)
    20022
    """
    sensitivity = unit * clip_norm * (1 + SLACK) + math.sqrt(size)
    return NoiseUnits(sensitivity=sensitivity, deviation=noise_multiplier * sensitivity, size=size)


def require_room(units: NoiseUnits, *, segment: str, bits: int, sites: int, honest: int) -> None:
    """Raise unless the sum's noise, twelve deviations of it from every site, stays inside half of the ring.

    Args:
        units: The noise.
        segment: What the sum goes into, for the message.
        bits: Of its ring.
        sites: How many add a share, at most.
        honest: How many of them are honest, at least: the shares of these suffice.

    Raises:
        RefusedError: It doesn't.
    """
    deviation = units.deviation * math.sqrt(sites / honest)
    if 12 * deviation > 2.0 ** (bits - 2):
        raise RefusedError(
            f"expected room for noise of {deviation:.2g} units in a ring of {bits} bits, got too little;"
            f" sign a roster with fewer fraction_bits or a larger max_weight for {segment}"
        )


def require_share(variance: float) -> None:
    """Raise unless a share of this variance, in squared units of the ring, can be drawn.

    Raises:
        RefusedError: The variance is too small for the ring to hold it, or too large for the sampler's precision.
    """
    if not SMALLEST_MEAN <= variance / 2 <= LARGEST_MEAN:
        raise RefusedError(
            f"expected noise of a deviation from {math.sqrt(2 * SMALLEST_MEAN):.0f} to"
            f" {math.sqrt(2 * LARGEST_MEAN):.0f} units of the ring, got {math.sqrt(variance):.3g};"
            " choose another clip or max_weight for the roster"
        )


def draw_share(key: bytes, *, variance: float, size: int) -> Integers:
    """Return one site's share: a Skellam variable per coordinate, the difference of two Poisson variables.

    Args:
        key: Secret bytes that serve for this share alone; the same key gives the same share.
        variance: Of each coordinate, in squared units of the ring.
        size: Coordinates.

    Returns:
        Shape `[size]`.

    Raises:
        RefusedError: The variance is too small for the ring to hold it, or too large for the sampler's precision.
    """
    require_share(variance)
    mean = variance / 2
    source = SeededNoise(key)
    return _poisson_offsets(source, mean, size) - _poisson_offsets(source, mean, size)


def _poisson_offsets(source: SeededNoise, mean: float, size: int) -> Integers:
    """Return Poisson variables of a large mean, less the whole part of the mean (transformed rejection, PTRS)."""
    scale = 0.931 + 2.53 * math.sqrt(mean)
    shift = -0.059 + 0.02483 * scale
    inverse_alpha = 1.1239 + 1.1328 / (scale - 3.4)
    whole = math.floor(mean)
    fraction = mean - whole
    found = np.empty(size, dtype=np.int64)
    missing = np.arange(size)
    while missing.size:
        centred = source.uniform(missing.size) - 0.5
        height = 1.0 - source.uniform(missing.size)  # in (0, 1]
        edge = 0.5 - np.abs(centred)
        with np.errstate(divide="ignore", invalid="ignore"):  # an edge of zero is rejected below
            offset = np.floor((2 * shift / edge + scale) * centred + fraction + 0.43)
            ratio = np.log(height * inverse_alpha / (shift / edge**2 + scale))
            accepted = (edge >= 0.013) | (height <= edge)
            accepted &= np.abs(offset) < 0.5 * mean
            accepted &= ratio <= _log_probability(np.where(accepted, offset, 0.0), whole, fraction)
        found[missing[accepted]] = offset[accepted].astype(np.int64)
        missing = missing[~accepted]
    return found


def _log_probability(offset: NDArray[np.float64], whole: int, fraction: float) -> NDArray[np.float64]:
    """Return log P(X = whole + offset) for a Poisson variable of mean `whole + fraction`, by Loader's deviance."""
    mean = whole + fraction
    value = whole + offset
    away = offset - fraction  # value - mean, without the loss of subtracting two large numbers
    ratio = away / (value + mean)
    deviance = away * ratio
    term = 2 * value * ratio
    square = ratio * ratio
    for order in range(1, 40):
        term = term * square
        deviance = deviance + term / (2 * order + 1)
    stirling = (1 / 12 - (1 / 360 - 1 / 1260 / value**2) / value**2) / value
    result: NDArray[np.float64] = -stirling - deviance - 0.5 * np.log(2 * math.pi * value)
    return result
