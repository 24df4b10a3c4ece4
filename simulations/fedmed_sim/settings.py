"""What `fedmed simulate` can be told, as one frozen record.

Why it exists: the command line, a saved run and a test all build the same record;
from it and the data's dimensions follow the plans that sites are sent (`plans`).

What it does not do: read YAML (`fedmed.config`) or run anything (`harness`).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from fedmed.data.schema import DataSet
from fedmed.errors import ConfigError
from fedmed.records import (
    AggregationKind,
    AggregationSpec,
    DataSpec,
    FisherKind,
    MachineSpec,
    ModelSpec,
    NoiseSource,
    Normalisation,
    OptimiserSpec,
    TrainingSpec,
    TrustModel,
    require,
)
from fedmed.secagg.roster import Policy, Segment

EngineKind = Literal["ray", "inprocess", "processes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Training, normalisation and consolidation of every study of the run."""

    rounds: int
    local_steps: int
    sample_rate: float
    learning_rate: float
    momentum: float
    average_from: float
    proximal: float
    normalisation: Normalisation
    consolidation: float
    fisher_clip_norm: float
    fisher_decay: float
    penalty: float = 0.0
    fisher: FisherKind | None = None

    def __post_init__(self) -> None:
        self.training()
        require(self.consolidation >= 0, f"consolidation must be at least 0, got {self.consolidation}")
        require(self.penalty >= 0, f"penalty must be at least 0, got {self.penalty}")
        require(self.fisher_clip_norm > 0, f"fisher_clip_norm must be above 0, got {self.fisher_clip_norm}")
        require(0 <= self.fisher_decay <= 1, f"fisher_decay must be in [0, 1], got {self.fisher_decay}")

    def training(self) -> TrainingSpec:
        """Return the part that a site trains by."""
        return TrainingSpec(
            rounds=self.rounds,
            local_steps=self.local_steps,
            sample_rate=self.sample_rate,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            average_from=self.average_from,
            proximal=self.proximal,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """The budget of the whole run; the noise follows from it."""

    trust_model: TrustModel
    epsilon: float | None
    delta: float
    clip_norm: float
    release_noise_ratio: float
    noise: NoiseSource

    def __post_init__(self) -> None:
        private = self.trust_model != "none"
        require(private or self.epsilon is None, "epsilon must be null with privacy=off")
        require(
            not private or (self.epsilon is not None and 0 < self.epsilon < math.inf),
            f"epsilon must be above 0, got {self.epsilon}; use privacy=off to train without protection",
        )
        require(0 < self.delta < 1, f"delta must be in (0, 1), got {self.delta}")
        require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
        require(self.release_noise_ratio > 0, f"release_noise_ratio must be above 0, got {self.release_noise_ratio}")

    @property
    def private(self) -> bool:
        """Whether sites clip, add noise and charge."""
        return self.trust_model != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecaggSettings:
    """How updates are aggregated, and the roster's policy of the simulated consortium."""

    kind: AggregationKind
    min_sites: int
    sites_per_round: int | None
    attempts: int
    round_timeout_s: float
    phase_timeout_s: float
    max_corrupt: int
    """How many sites may side with the coordinator."""
    max_weight: float | None
    """W_max, the most training records that a site may weigh; null = what the largest site needs."""
    bits: Literal[16, 32]
    """Of the ring that updates are summed in; 16 halves the bytes and is coarser by 2^12."""
    clip: float
    """Largest coordinate of an update, weighted by w / W_max."""

    def __post_init__(self) -> None:
        self.spec()
        if self.kind == "secure":
            require(
                self.min_sites >= self.max_corrupt + 2,
                f"min_sites must be at least max_corrupt + 2, got {self.min_sites} and {self.max_corrupt}",
            )
        require(self.max_corrupt >= 0, f"max_corrupt must be at least 0, got {self.max_corrupt}")
        require(self.max_weight is None or self.max_weight > 0, f"max_weight must be above 0, got {self.max_weight}")
        require(0 < self.clip < math.inf, f"clip must be above 0, got {self.clip}")

    def spec(self) -> AggregationSpec:
        """Return the part that stands in a plan."""
        return AggregationSpec(
            kind=self.kind,
            min_sites=self.min_sites,
            sites_per_round=self.sites_per_round,
            attempts=self.attempts,
            round_timeout_s=self.round_timeout_s,
            phase_timeout_s=self.phase_timeout_s,
        )

    def policy(self, *, sites: int, max_weight: float, shared_noise: bool = False) -> Policy:
        """Return the roster's policy for a consortium of `sites`: the finest rounding that leaves headroom for all.

        Args:
            sites: How many sites one sum may cover.
            max_weight: W_max where the settings leave it open.
            shared_noise: Whether half of the ring is left to noise that the sites share.

        Raises:
            ConfigError: The ring is too small for so many sites.
        """
        room = 2 * sites if shared_noise else sites
        reals = [self._finest(name, sites=room) for name in ("delta", "fisher")]
        aux = Segment(name="aux", bits=64, kind="integer", clip=2.0**48, fraction_bits=0, max_length=64)
        return Policy(
            n_min=self.min_sites,
            max_corrupt=self.max_corrupt,
            segments=(reals[0], aux, reals[1]),
            max_weight=self.max_weight or max_weight,
        )

    def _finest(self, name: str, *, sites: int) -> Segment:
        for fraction_bits in range(self.bits - 1, 0, -1):
            found = Segment(
                name=name, bits=self.bits, kind="signed", clip=self.clip, fraction_bits=fraction_bits, max_length=2**31
            )
            if found.has_headroom(sites):
                return found
        raise ConfigError(
            f"secagg.bits: a ring of {self.bits} bits has no room for {sites} sites at clip {self.clip:g};"
            " use bits=32 or a smaller clip"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """One study of the sequence."""

    name: str
    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.name) and self.name.isprintable(), "name must be printable and not empty")
        require(
            bool(self.cohort) == (self.cohort_column is not None),
            "cohort and cohort_column are set together or not at all",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Which studies run in a row, and how large synthetic hospitals are."""

    studies: tuple[StudySettings, ...]
    sites: int | None = None
    patients_per_site: int | None = None

    def __post_init__(self) -> None:
        require(bool(self.studies), "studies must name at least one study")
        require(len({study.name for study in self.studies}) == len(self.studies), "two studies have the same name")
        require(self.sites is None or self.sites >= 1, f"sites must be at least 1, got {self.sites}")
        patients = self.patients_per_site
        require(patients is None or patients >= 50, f"patients_per_site must be at least 50, got {patients}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """The whole configuration."""

    seed: int
    engine: EngineKind
    workers: int
    out: str
    resume: str | None
    plan: PlanSettings
    model: ModelSpec
    data: DataSet
    scenario: Scenario
    privacy: PrivacySettings
    secagg: SecaggSettings
    optimiser: OptimiserSpec
    site: MachineSpec = field(default_factory=MachineSpec)
    """What of this machine each simulated site may use."""
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        require(bool(self.out.strip()), "out must name a folder, got an empty text")
        require(self.workers >= 1, f"workers must be at least 1, got {self.workers}")
        require(0 <= self.seed < 2**31, f"seed must be in [0, 2**31), got {self.seed}")
        shared = self.privacy.trust_model == "distributed"
        require(
            not shared or self.secagg.kind == "secure",
            "privacy must be local with secagg=insecure: shares of noise protect only a sum",
        )
        require(
            not shared or (self.plan.local_steps == 1 and self.plan.sample_rate == 1),
            "privacy must be local for several or sampled local steps; distributed noise takes plan=fedsgd",
        )
        processes = self.engine == "processes"
        require(
            not processes or self.secagg.kind == "secure",
            "engine must be ray or inprocess with secagg=insecure: sites of a real consortium refuse it",
        )
        require(
            not processes or self.privacy.trust_model == "none" or self.privacy.noise == "system",
            "privacy.noise must be system with engine=processes: real sites take no noise from a seed",
        )


def views(settings: SimulationSettings) -> tuple[DataSpec, ...]:
    """Return the view of the data of each study, in order."""
    return tuple(
        DataSpec(
            schema=settings.data.schema.name,
            schema_digest=settings.data.schema.digest,
            target=study.target,
            cohort_column=study.cohort_column,
            cohort=tuple(sorted(set(study.cohort))),
            normalisation=settings.plan.normalisation,
        )
        for study in settings.scenario.studies
    )
