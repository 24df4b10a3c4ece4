"""What a hospital allows, whatever a coordinator asks.

Why it exists: the site sets its cap, its delta and its floor of records; a plan
can ask for less, never for more.

Rules:
    * The default refuses: no unprotected training, no noise that can be repeated, no update in clear.
    * `check` raises with a reason fit to leave the site; it never returns a bool.

What it does not do: count what was spent (the ledger does).
"""

import math
from dataclasses import dataclass

from fedmed.errors import RefusedError
from fedmed.records import DataSpec, Plan, require

LARGEST_DISTANCE = 1e-3
"""Largest part of the site's delta that the shape of one sum's shared noise may cost, before e^epsilon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedView:
    """A part of a data set that the administrator lets studies train and evaluate on."""

    schema: str
    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """The limits of one site, kept in its own `site.json`."""

    cap_epsilon: float | None
    """Lifetime budget of each data set; None means unlimited, which unprotected training needs."""
    delta: float
    views: tuple[AllowedView, ...] = ()
    """What plans may name. Who may name any sub-cohort learns from which of them a task fails."""
    min_records: int = 20
    max_steps: int = 100_000
    """Most local steps of one study, over all its rounds."""
    allow_simulated_noise: bool = False
    """Only a simulated hospital may accept noise that a seed repeats."""
    allow_shared_noise: bool = False
    """Whether the noise of a sum may be shared by the sites, so that one site's own upload has only a share of it."""
    allow_insecure_aggregation: bool = False
    """Whether a coordinator may be sent this site's own update, weight and counts in clear."""

    def __post_init__(self) -> None:
        cap = self.cap_epsilon
        require(cap is None or 0 < cap < math.inf, f"cap_epsilon must be above 0, or null for none, got {cap}")
        require(0 < self.delta < 1, f"delta must be in (0, 1), got {self.delta}")
        require(self.min_records >= 1, f"min_records must be at least 1, got {self.min_records}")

    @property
    def cap(self) -> float:
        """The cap as a number; infinity where there is none."""
        return math.inf if self.cap_epsilon is None else self.cap_epsilon

    def check(self, plan: Plan) -> None:
        """Raise unless the site may take part in `plan`.

        Raises:
            RefusedError: The plan asks for more than the policy allows; the message says what.
        """
        if plan.aggregation.kind == "insecure" and not self.allow_insecure_aggregation:
            raise RefusedError("this site sends its update only under secure aggregation; the plan has it in clear")
        steps = plan.training.rounds * plan.training.local_steps
        if steps > self.max_steps:
            raise RefusedError(f"this site allows {self.max_steps} local steps a study; the plan asks for {steps}")
        if not plan.privacy.private and self.cap_epsilon is not None:
            raise RefusedError("this site trains only with differential privacy; the plan has none")
        if plan.privacy.private and plan.privacy.delta > self.delta:
            raise RefusedError(f"this site allows delta up to {self.delta}; the plan asks for {plan.privacy.delta}")
        if plan.privacy.trust_model == "distributed" and not self.allow_shared_noise:
            raise RefusedError("this site adds all of the noise itself; the plan has it shared by the sites")
        most = self.delta * LARGEST_DISTANCE
        if plan.privacy.distance > most:
            raise RefusedError(
                f"this site allows noise within {most:.1e} of a Gaussian; the plan asks for {plan.privacy.distance:.1e}"
            )
        if plan.privacy.private and plan.privacy.noise != "system" and not self.allow_simulated_noise:
            raise RefusedError(
                f"this site draws noise from its operating system; the plan asks for {plan.privacy.noise}"
            )

    def check_view(self, data: DataSpec) -> None:
        """Raise unless the administrator allows this view.

        Raises:
            RefusedError: It is not on the list; whether it has patients does not matter.
        """
        view = AllowedView(schema=data.schema, target=data.target, cohort_column=data.cohort_column, cohort=data.cohort)
        if view not in self.views:
            raise RefusedError(f"this site allows no study of target {data.target!r} on that part of {data.schema!r}")
