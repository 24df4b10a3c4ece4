"""What a hospital allows, whatever a coordinator asks.

Why it exists: the site sets its cap, its delta, its floor of records and what a study
may ask for at most; a plan can ask for less, never for more.

Rules:
    * The default refuses: no unprotected training, no noise that can be repeated, no update in clear, no study
      that nobody at the site has approved.
    * `check` raises with a reason fit to leave the site: what was asked and what is allowed, both of them public.
    * Where a limit may be None, None is no limit of its own.

What it does not do: count what was spent (the ledger and `hours` do), or remember a decision (`approvals` does).
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from fedmed.errors import RefusedError
from fedmed.records import DataSpec, Family, Plan, require

LARGEST_DISTANCE = 1e-3
"""Largest part of the site's delta that the shape of one sum's shared noise may cost, before e^epsilon."""

Approval = Literal["each-study", "policy"]
"""Who approves a study: the administrator each one, or the policy whatever is within it."""
SegmentName = Literal["aux", "delta", "fisher"]
"""What can leave a site inside a sum: weights, updates and statistics, importances of parameters."""
SEGMENTS: Final[tuple[SegmentName, ...]] = ("aux", "delta", "fisher")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedView:
    """A part of a data set that the administrator lets studies train and evaluate on."""

    schema: str
    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the view as an administrator writes it: `heart: ill` or `heart: ill of ward=north,south`."""
        part = f" of {self.cohort_column}={','.join(self.cohort)}" if self.cohort else ""
        return f"{self.schema}: {self.target}{part}"


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
    max_rounds: int = 1000
    """Most rounds of one study."""
    max_epsilon: float | None = None
    """Most epsilon that one plan may ask for; None leaves it to the cap."""
    max_hours_per_study: float | None = None
    """Most hours of computing for one study; no further piece of work begins once they are used."""
    max_hours_per_day: float | None = None
    """Most hours of computing for all studies in one day (UTC)."""
    min_cohort: int = 3
    """Fewest sites that a sum with this site's part may cover, in the plan and in the roster."""
    model_families: tuple[Family, ...] | None = None
    """Families of models that plans may train; None is every one that this version knows."""
    segments: tuple[SegmentName, ...] = SEGMENTS
    """What may leave inside a sum."""
    approval: Approval = "each-study"
    """Whether each study waits for the administrator, or the policy speaks for him."""
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
        for name in ("min_records", "max_steps", "max_rounds", "min_cohort"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_epsilon", "max_hours_per_study", "max_hours_per_day"):
            most = getattr(self, name)
            require(most is None or 0 < most < math.inf, f"{name} must be above 0, or null for none, got {most}")
        for name in ("model_families", "segments", "views"):
            listed = getattr(self, name)
            require(listed is None or len(set(listed)) == len(listed), f"{name} must not repeat itself")

    @property
    def cap(self) -> float:
        """The cap as a number; infinity where there is none."""
        return math.inf if self.cap_epsilon is None else self.cap_epsilon

    def check(self, plan: Plan) -> None:
        """Raise unless the site may take part in `plan`.

        Raises:
            RefusedError: The plan asks for more than the policy allows; the message says what.
        """
        self._check_size(plan)
        self._check_what_leaves(plan)
        self._check_privacy(plan)

    def check_cohort(self, fewest: int) -> None:
        """Raise unless a sum over `fewest` sites, such as the roster's n_min, is large enough for this site.

        Raises:
            RefusedError: It is smaller.
        """
        if fewest < self.min_cohort:
            raise RefusedError(
                f"this site takes part in sums over at least {self.min_cohort} sites; this one may cover {fewest}"
            )

    def check_view(self, data: DataSpec) -> None:
        """Raise unless the administrator allows this view.

        Raises:
            RefusedError: It is not on the list; whether it has patients does not matter.
        """
        view = AllowedView(schema=data.schema, target=data.target, cohort_column=data.cohort_column, cohort=data.cohort)
        if view not in self.views:
            raise RefusedError(f"this site allows no study of target {data.target!r} on that part of {data.schema!r}")

    def _check_size(self, plan: Plan) -> None:
        rounds, steps = plan.training.rounds, plan.training.rounds * plan.training.local_steps
        if rounds > self.max_rounds:
            raise RefusedError(f"this site allows {self.max_rounds} rounds a study; the plan asks for {rounds}")
        if steps > self.max_steps:
            raise RefusedError(f"this site allows {self.max_steps} local steps a study; the plan asks for {steps}")
        families = self.model_families
        if families is not None and plan.model.family not in families:
            known = ", ".join(families) or "none"
            raise RefusedError(f"this site allows the model families {known}; the plan asks for {plan.model.family}")

    def _check_what_leaves(self, plan: Plan) -> None:
        if plan.aggregation.kind == "insecure" and not self.allow_insecure_aggregation:
            raise RefusedError("this site sends its update only under secure aggregation; the plan has it in clear")
        self.check_cohort(plan.aggregation.min_sites)
        needed = SEGMENTS if plan.continual.release_fisher else ("aux", "delta")
        for segment in needed:
            if segment not in self.segments:
                allowed = ", ".join(self.segments) or "nothing"
                raise RefusedError(f"this site lets {allowed} leave in a sum; the plan asks for {segment}")

    def _check_privacy(self, plan: Plan) -> None:
        privacy = plan.privacy
        if not privacy.private and self.cap_epsilon is not None:
            raise RefusedError("this site trains only with differential privacy; the plan has none")
        if self.max_epsilon is not None and (privacy.epsilon is None or privacy.epsilon > self.max_epsilon):
            asked = "no bound" if privacy.epsilon is None else f"{privacy.epsilon:g}"
            raise RefusedError(
                f"this site allows epsilon up to {self.max_epsilon:g} a study; the plan asks for {asked}"
            )
        if privacy.private and privacy.delta > self.delta:
            raise RefusedError(f"this site allows delta up to {self.delta}; the plan asks for {privacy.delta}")
        if privacy.trust_model == "distributed" and not self.allow_shared_noise:
            raise RefusedError("this site adds all of the noise itself; the plan has it shared by the sites")
        most = self.delta * LARGEST_DISTANCE
        if privacy.distance > most:
            raise RefusedError(
                f"this site allows noise within {most:.1e} of a Gaussian; the plan asks for {privacy.distance:.1e};"
                " sign a roster with a finer ring (a smaller clip or max_weight)"
            )
        if privacy.private and privacy.noise != "system" and not self.allow_simulated_noise:
            raise RefusedError(f"this site draws noise from its operating system; the plan asks for {privacy.noise}")
