"""What a plan would really cost in epsilon, against what it says that it costs.

Why it exists: an administrator approves an epsilon that the plan declares. The noise, the rate and the steps that
stand in the same plan decide what is spent; a plan whose noise is too small for its word must not come to him.

Rules:
    * Counted is everything that the plan makes this site release in one run without failures: each round's steps,
      Fisher information, statistics.
    * A plan may declare more than it costs: it stands for a sequence of studies.

What it does not do: charge (the ledger does, as the work is done, repeats included).
"""

from typing import Final

from fedmed.errors import RefusedError
from fedmed.privacy.plan import Accountant, Event
from fedmed.records import Plan

TOLERANCE: Final = 1.01
"""Two versions of an accountant may differ by so much."""


def events_of(plan: Plan) -> tuple[Event, ...]:
    """Return what a private plan releases, in one run without failures; nothing for one without privacy."""
    privacy, training = plan.privacy, plan.training
    if not privacy.private:
        return ()
    steps = Event(
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=training.sample_rate,
        steps=training.local_steps * training.rounds,
        distance=privacy.distance,
    )
    release = Event(
        noise_multiplier=privacy.release_noise_multiplier, sample_rate=1.0, steps=1, distance=privacy.distance
    )
    releases = int(plan.continual.release_fisher) + int(plan.data.normalisation != "public")
    return (steps, *[release] * releases)


def require_declared(plan: Plan, accountant: Accountant) -> None:
    """Raise unless the plan's own noise keeps it within the epsilon that it declares, at its own delta.

    Args:
        plan: A plan that was not seen before; the answer never changes.
        accountant: Composes what it releases.

    Raises:
        RefusedError: It costs more; fit to leave the site, because all of it stands in the plan.
    """
    declared = plan.privacy.epsilon
    if declared is None:
        return
    cost = accountant.epsilon(events_of(plan), plan.privacy.delta)
    if cost > declared * TOLERANCE:
        raise RefusedError(f"the plan declares epsilon {declared:g}; its noise over all rounds costs {cost:.3g}")
