"""What a privacy budget buys: events, accountants and the calibration of noise.

Why it exists: the noise of a study is fixed before it starts, from the budget, by
whoever writes the plan; the site then charges the same events to its ledger.

Rules:
    * Everything is under add/remove adjacency of one record.
    * An `Event` is `steps` runs of the Poisson-subsampled Gaussian mechanism; a one-shot
      release of all records has `sample_rate=1, steps=1`.
    * Opacus' GDP accountant under-reports and is banned (see docs/explanation/privacy.md).

What it does not do: compute an epsilon (see `engine.PrvAccountant`), draw noise or spend.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fedmed.errors import ConfigError
from fedmed.records import require

SMALLEST_NOISE = 1e-2
LARGEST_NOISE = 1e5
_SURE = 1 - 1e-9
_LARGEST_EXPONENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A number of equal steps of the Poisson-subsampled Gaussian mechanism, or of something very near it.

    `noise_multiplier` is the standard deviation of the noise over the clip norm;
    `sample_rate` the probability with which each record takes part in a step; `distance` the total
    variation between a step's noise and the Gaussian's (see `skellam`), 0 for Gaussian noise.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    distance: float = 0.0

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0,
            f"noise_multiplier must be above 0, got {self.noise_multiplier}",
        )
        require(0 < self.sample_rate <= 1, f"sample_rate must be in (0, 1], got {self.sample_rate}")
        require(
            hasattr(self.steps, "__index__") and self.steps >= 1,
            f"steps must be a whole number from 1 up, got {self.steps}",
        )
        require(0 <= self.distance < 1, f"distance must be in [0, 1), got {self.distance}")


class Accountant(Protocol):
    """Turns a history of events into an upper bound on epsilon."""

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """Return an epsilon such that all of `events` together are (epsilon, delta)-DP; 0 for none."""
        ...


def merge(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the shortest equivalent history, in an order that does not depend on the charges' order.

    Steps with equal noise and rate are added up. Full-batch Gaussian steps (rate 1) compose
    exactly into one with noise 1 / sqrt(sum of steps / noise^2). Distances add up too; the last event has their sum.

    >>> merge([Event(noise_multiplier=6.0, sample_rate=1.0, steps=1)] * 9)
    (Event(noise_multiplier=2.0, sample_rate=1.0, steps=1, distance=0.0),)
    """
    steps: dict[tuple[float, float], int] = defaultdict(int)
    for event in events:
        steps[event.noise_multiplier, event.sample_rate] += event.steps
    merged = [
        Event(noise_multiplier=noise, sample_rate=rate, steps=count)
        for (noise, rate), count in sorted(steps.items())
        if rate < 1
    ]
    precision = math.fsum(count / noise**2 for (noise, rate), count in sorted(steps.items()) if rate == 1)
    if precision > 0:
        merged.append(Event(noise_multiplier=1 / math.sqrt(precision), sample_rate=1.0, steps=1))
    distance = total_distance(events)
    if distance:
        merged[-1] = replace(merged[-1], distance=min(distance / merged[-1].steps, _SURE))
    return tuple(merged)


def total_distance(events: Sequence[Event]) -> float:
    """Return how far, in total variation, a history is at most from one with Gaussian noise."""
    return math.fsum(event.steps * event.distance for event in events)


def epsilon_near(epsilon_at: Callable[[float], float], *, distance: float, delta: float) -> float:
    """Return the epsilon of a history that is within `distance` of one whose epsilon is known for each delta.

    If the near one is (epsilon, delta - slack)-DP with slack at least (1 + e^epsilon) distance, this one is
    (epsilon, delta)-DP; where no such slack is found, there is no bound, and the result is infinite.

    >>> [epsilon_near(lambda delta: 1.0, distance=distance, delta=1e-5) for distance in (1e-9, 1e-5)]
    [1.0, inf]
    """
    if distance == 0:
        return epsilon_at(delta)
    least = epsilon_at(delta)
    if not least < _LARGEST_EXPONENT:
        return math.inf
    slack = float(f"{1.05 * (1 + math.exp(1.05 * least)) * distance:.1e}")
    if slack >= delta / 2:
        return math.inf
    found = epsilon_at(delta - slack)
    return found if found < _LARGEST_EXPONENT and (1 + math.exp(found)) * distance <= slack else math.inf


def calibrate(
    events_at: Callable[[float], Sequence[Event]],
    *,
    epsilon: float,
    delta: float,
    accountant: Accountant,
) -> float:
    """Return the smallest noise multiplier, to four significant digits, that stays within the budget.

    Args:
        events_at: The whole history that a study with the given noise multiplier charges;
            more noise must not cost more.
        epsilon: The budget for all of these events together.
        delta: The delta of the budget.
        accountant: What turns the events into an epsilon.

    Returns:
        A noise multiplier in [0.01, 100000] whose epsilon is at most `epsilon`.

    Raises:
        ConfigError: The budget is not a positive number, or no noise multiplier in range meets it.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"privacy.epsilon: expected a number above 0, got {epsilon}")
    if not 0 < delta < 1:
        raise ConfigError(f"privacy.delta: expected a number in (0, 1), got {delta}")

    def spent(position: int) -> float:
        return accountant.epsilon(events_at(_noise(position)), delta)

    found = _smallest(spent, epsilon)
    if found is None:
        raise ConfigError(
            f"privacy.epsilon: no noise multiplier up to {LARGEST_NOISE:g} keeps these events within "
            f"epsilon {epsilon:g} at delta {delta:g}; ask for fewer steps or releases, or a larger epsilon"
        )
    return _noise(found)


def _smallest(spent: Callable[[int], float], epsilon: float) -> int | None:
    """Return the smallest position in range that spends at most `epsilon`, or None.

    Epsilon is nearly a power of the noise, so interpolation lands close; every third probe
    halves the interval, so that a badly behaved history costs a few probes more and no error.
    """
    bracket = _bracket(spent, epsilon)
    if bracket is None:
        return None
    (bad, bad_cost), (good, good_cost) = bracket
    probes = 0
    while good - bad > 1:
        probes += 1
        middle = (good + bad) // 2
        if probes % 3 and 0 < good_cost < bad_cost < math.inf:
            share = math.log(bad_cost / epsilon) / math.log(bad_cost / good_cost)
            low, high = math.log(_noise(bad)), math.log(_noise(good))
            middle = min(good - 1, max(bad + 1, math.ceil(_fractional(low + share * (high - low)))))
        cost = spent(middle)
        if cost <= epsilon:
            good, good_cost = middle, cost
        else:
            bad, bad_cost = middle, cost
    return good


def _bracket(spent: Callable[[int], float], epsilon: float) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """Return (position, cost) of too little noise and of enough, a decade apart; None where none is enough."""
    lowest, highest = _position(SMALLEST_NOISE), _position(LARGEST_NOISE)
    here = _position(1.0)
    cost = spent(here)
    while cost <= epsilon and here > lowest:
        good, here = (here, cost), here - 9000
        cost = spent(here)
        if cost > epsilon:
            return (here, cost), good
    if cost <= epsilon:
        return (here - 1, math.inf), (here, cost)
    while here < highest:
        bad, here = (here, cost), here + 9000
        cost = spent(here)
        if cost <= epsilon:
            return bad, (here, cost)
    return None


def _noise(position: int) -> float:
    """Return number `position` in the ascending list of all decimals with four significant digits.

    >>> _noise(0), _noise(1), _noise(8999), _noise(9000), _noise(-9000)
    (1.0, 1.001, 9.999, 10.0, 0.1)
    """
    decade, offset = divmod(position, 9000)
    return float(f"{1000 + offset}e{decade - 3}")


def _position(power_of_ten: float) -> int:
    return 9000 * round(math.log10(power_of_ten))


def _fractional(log_noise: float) -> float:
    """Return where a noise multiplier falls between positions."""
    decade = math.floor(log_noise / math.log(10))
    return 9000 * decade + math.exp(log_noise - decade * math.log(10)) * 1000 - 1000
