"""What noise that the sites share becomes in the roster's rings, before any site is asked.

Why it exists: shares of noise are whole numbers of a ring's steps, and a ring too coarse or too narrow for them is
known from the plan and the roster alone. Who makes a plan learns it here, not from the sites' refusals.

Rules:
    * The same figures as at the sites, from the same functions.
    * Honest are as many sites as any certified sum surely has, less those that may side with the coordinator.

What it does not do: draw noise, or decide who is honest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedmed.errors import RefusedError
from fedmed.privacy.skellam import NoiseUnits, noise_units, require_room, require_share
from fedmed.secagg.roster import Policy

_MARGIN = 1.05
"""On the distance, which is written with two digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """One kind of sum that a study releases; `clip_norm` bounds what one record adds to it."""

    segment: str
    clip_norm: float
    noise_multiplier: float
    size: int


def shared_distance(policy: Policy, released: Iterable[Released]) -> float:
    """Return how far the noise of any of these sums is from a Gaussian at most, in total variation, rounded up.

    Raises:
        RefusedError: The roster has no ring for one of them.
    """
    found = max(_units(policy, one).distance for one in released)
    return min(0.999, float(f"{_MARGIN * found:.1e}"))


def honest_sites(policy: Policy, *, cohort: int) -> int:
    """Return how many honest sites add a share to any sum over a cohort, at least."""
    return policy.gate(policy.threshold_floor(cohort)) - policy.max_corrupt


def require_fits(policy: Policy, released: Iterable[Released], *, cohort: int) -> None:
    """Raise unless the roster's rings hold the noise of all these sums.

    Args:
        policy: Of the roster.
        released: What the study releases.
        cohort: How many sites a round invites.

    Raises:
        RefusedError: A ring is too narrow or too coarse; the message names the segment and the cure.
    """
    honest = honest_sites(policy, cohort=cohort)
    segments = {segment.name: segment for segment in policy.segments}
    for one in released:
        units = _units(policy, one)
        require_room(units, segment=one.segment, bits=segments[one.segment].bits, sites=cohort, honest=honest)
        require_share(units.share_variance(honest))


def _units(policy: Policy, released: Released) -> NoiseUnits:
    segment = next((segment for segment in policy.segments if segment.name == released.segment), None)
    if segment is None:
        raise RefusedError(
            f"expected a ring for {released.segment!r}, which the study releases, got a roster without one; sign a"
            " roster that has it, or take it out of the plan"
        )
    return noise_units(
        clip_norm=released.clip_norm,
        noise_multiplier=released.noise_multiplier,
        unit=2.0**segment.fraction_bits / policy.max_weight,
        size=released.size,
    )
