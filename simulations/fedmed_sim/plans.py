"""The plans that a configuration means, and the noise that its budget pays for.

Why it exists: what sites are sent, and what their ledgers will be charged, follows from the settings and the
data's dimensions alone, before anything runs.

Rules:
    * The noise is the least that keeps everything the run releases within the budget.
    * Every study but the last releases what the next ones remember; it is paid for here.

What it does not do: charge (the sites do), or run anything (`harness`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedmed.privacy.plan import Accountant, Event, calibrate
from fedmed.records import ContinualSpec, FisherKind, Plan, PrivacySpec, digest
from fedmed.secagg.roster import Policy
from fedmed_server.shared_noise import Released, shared_distance
from fedmed_sim.settings import SimulationSettings, views


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNoise:
    """What noise that the sites share is rounded to: the roster's policy and how long the vectors are."""

    policy: Policy
    size: int
    features: int

    def distance(self, settings: SimulationSettings, noise_multiplier: float) -> float:
        """Return how far the noise of any sum that the run releases is from a Gaussian at most, rounded up."""
        release = noise_multiplier * settings.privacy.release_noise_ratio
        step = settings.plan.learning_rate * settings.privacy.clip_norm
        sums = [Released(segment="delta", clip_norm=step, noise_multiplier=noise_multiplier, size=self.size)]
        if len(settings.scenario.studies) > 1:
            sums.append(
                Released(
                    segment="fisher", clip_norm=settings.plan.fisher_clip_norm, noise_multiplier=release,
                    size=self._fisher_size(settings),
                )
            )  # fmt: skip
        if settings.plan.normalisation != "public":
            size = 2 * self.features + 1
            sums.append(Released(segment="delta", clip_norm=1.0, noise_multiplier=release, size=size))
        return shared_distance(self.policy, sums)

    def _fisher_size(self, settings: SimulationSettings) -> int:
        """Return how long Fisher information is; that of weights has two square ones for each block."""
        model = settings.model
        longer = 2 * model.depth * model.width * (model.width - model.lora_rank)
        return self.size + (longer if fisher_kind(settings) == "delta-w" else 0)


def events(settings: SimulationSettings, noise_multiplier: float, *, distance: float = 0.0) -> list[Event]:
    """Return all that a site's data set is charged for over the run, at a noise multiplier.

    The training steps of every study, one Fisher release after every study but the last, and one
    release of statistics per study where features are normalised by statistics.
    """
    studies = len(settings.scenario.studies)
    steps = settings.plan.rounds * settings.plan.local_steps * studies
    releases = (studies - 1) + (studies if settings.plan.normalisation != "public" else 0)
    rate = settings.plan.sample_rate
    found = [Event(noise_multiplier=noise_multiplier, sample_rate=rate, steps=steps, distance=distance)]
    if releases:
        noise = noise_multiplier * settings.privacy.release_noise_ratio
        found.append(Event(noise_multiplier=noise, sample_rate=1.0, steps=releases, distance=distance))
    return found


def privacy_spec(
    settings: SimulationSettings, accountant: Accountant, *, shared: SharedNoise | None = None
) -> PrivacySpec:
    """Return the privacy of every plan: the noise that spends the budget exactly over the run.

    Args:
        settings: The whole configuration.
        accountant: What turns events into an epsilon.
        shared: What noise is rounded to, where the sites share it.

    Raises:
        ConfigError: No noise meets the budget, or the ring is too coarse for noise that is shared.
    """
    privacy = settings.privacy
    if not privacy.private or privacy.epsilon is None:
        return PrivacySpec(trust_model="none", delta=privacy.delta, clip_norm=privacy.clip_norm, noise=privacy.noise)

    def distance_at(candidate: float) -> float:
        return 0.0 if shared is None else shared.distance(settings, candidate)

    noise_multiplier = calibrate(
        lambda candidate: events(settings, candidate, distance=distance_at(candidate)),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        accountant=accountant,
    )
    return PrivacySpec(
        trust_model=privacy.trust_model,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        release_noise_multiplier=noise_multiplier * privacy.release_noise_ratio,
        noise=privacy.noise,
        distance=distance_at(noise_multiplier),
    )


def fisher_kind(settings: SimulationSettings) -> FisherKind:
    """Return what importance is measured of: if not set, of weights where factors change from round to round."""
    return settings.plan.fisher or ("delta-w" if settings.model.refreshed else "coordinates")


def plan_of(
    settings: SimulationSettings,
    index: int,
    *,
    base_digest: str,
    privacy: PrivacySpec,
    knowledge_digest: str | None,
) -> Plan:
    """Return the plan of the study at `index`."""
    all_views = views(settings)
    return Plan(
        study=settings.scenario.studies[index].name,
        seed=settings.seed,
        data=all_views[index],
        model=settings.model,
        base_digest=base_digest,
        training=settings.plan.training(),
        privacy=privacy,
        aggregation=settings.secagg.spec(),
        optimiser=settings.optimiser,
        continual=ContinualSpec(
            strength=settings.plan.consolidation if index else 0.0,
            release_fisher=index + 1 < len(all_views),
            knowledge_digest=knowledge_digest,
            fisher_clip_norm=settings.plan.fisher_clip_norm,
            decay=settings.plan.fisher_decay,
            penalty=settings.plan.penalty if index else 0.0,
            fisher=fisher_kind(settings),
            earlier=all_views[:index],
        ),
    )


def without_consolidation(plan: Plan) -> Plan:
    """Return the same plan with consolidation off and its own name: the naive arm that EWC is compared with."""
    return replace(
        plan,
        study=f"{plan.study} (naive)",
        continual=replace(plan.continual, strength=0.0, penalty=0.0, release_fisher=False),
    )


def sequence_digest(plans: Sequence[Plan]) -> str:
    """Return one digest for the plans of a run, in order."""
    return digest(list(plans))
