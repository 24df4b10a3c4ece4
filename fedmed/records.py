"""Frozen records that travel: the plan and its parts.

Why it exists: two machines must agree byte for byte on what was planned. A
record that exists is valid, and equal records have equal bytes and digests.

Rules:
    * Every record is `@dataclass(frozen=True, slots=True, kw_only=True)` and checks
      itself in `__post_init__` (raise `ValueError` with a one-line message there).
    * Fields are public facts. Patient counts, keys and generators are arguments
      of functions, never fields of a plan.
    * Every stored or sent record carries a `version`.

What it does not do: encode or decode (see `codec`), or say what a model may be (see `model_spec`); the names of
both are importable here too.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fedmed.codec import AsRead, build, canonical_json, decode, digest, require, require_digest, restore
from fedmed.model_spec import (
    PRETRAINED,
    Adapter,
    AnyFamily,
    Augmentation,
    Device,
    Family,
    LoraRule,
    MachineSpec,
    ModelSpec,
    Precision,
)

__all__ = [
    "PLAN_VERSION",
    "PRETRAINED",
    "Adapter",
    "AggregationKind",
    "AggregationSpec",
    "AnyFamily",
    "AsRead",
    "Augmentation",
    "ContinualSpec",
    "DataSpec",
    "Device",
    "Family",
    "FisherKind",
    "LoraRule",
    "MachineSpec",
    "ModelSpec",
    "NoiseSource",
    "Normalisation",
    "OptimiserKind",
    "OptimiserSpec",
    "Plan",
    "Precision",
    "PrivacySpec",
    "TrainingSpec",
    "TrustModel",
    "build",
    "canonical_json",
    "decode",
    "digest",
    "require",
    "require_digest",
    "restore",
]

PLAN_VERSION = 1

CLIP_NORMS = (1e-6, 1e6)
"""The least and the largest clip norm of gradients: far inside of what float32 can square."""
_LARGEST_RATE = 1e6
_LEAST_FISHER = CLIP_NORMS[0] ** 2
"""Fisher information is of squares."""

FisherKind = Literal["coordinates", "delta-w"]
Normalisation = Literal["public", "site", "federated"]
TrustModel = Literal["none", "local", "distributed"]
NoiseSource = Literal["system", "simulated-seed"]
AggregationKind = Literal["secure", "insecure"]
OptimiserKind = Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec(AsRead):
    """Which view of a data set a study trains on."""

    schema: str
    schema_digest: str
    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()
    normalisation: Normalisation = "public"

    def __post_init__(self) -> None:
        require(
            bool(self.cohort) == (self.cohort_column is not None),
            "cohort and cohort_column are set together or not at all",
        )
        require(
            list(self.cohort) == sorted(set(self.cohort)),
            "cohort must be sorted and without repetition: one view has one name",
        )
        require_digest("schema_digest", self.schema_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """Rounds and local steps; `sample_rate` is the Poisson rate per step."""

    rounds: int
    local_steps: int
    sample_rate: float
    learning_rate: float
    momentum: float = 0.0
    average_from: float = 1.0
    """Fraction of the rounds after which the released model is the mean of the iterates; 1 = the last iterate."""
    proximal: float = 0.0
    """Mu of FedProx (Li et al. 2020), a pull towards the round's model that is added after the noise; 0 = off.

    With `lora_rule=mr-mtl` it is that rule's lambda, the pull of each site's own model to the mean.
    """

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"rounds must be at least 1, got {self.rounds}")
        require(self.local_steps >= 1, f"local_steps must be at least 1, got {self.local_steps}")
        require(0 < self.sample_rate <= 1, f"sample_rate must be in (0, 1], got {self.sample_rate}")
        require(
            0 < self.learning_rate <= _LARGEST_RATE,
            f"learning_rate must be above 0 and at most {_LARGEST_RATE:g}, got {self.learning_rate}",
        )
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        require(0 <= self.average_from <= 1, f"average_from must be in [0, 1], got {self.average_from}")
        require(0 <= self.proximal < math.inf, f"proximal must be at least 0, got {self.proximal}")
        require(
            self.proximal * self.learning_rate < 2,
            f"proximal must be below 2 / learning_rate, else its steps overshoot, got {self.proximal} at"
            f" {self.learning_rate}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySpec:
    """Record-level differential privacy of one study, under add/remove adjacency.

    `local`: each site's own release has all of the noise. `distributed`: each site adds a share of it in the
    ring of secure aggregation, so that only the sum is protected, and only while the roster's bound on how many
    sites side with the coordinator holds.

    `epsilon` and `delta` are what the whole data set may be charged over all the
    studies of the sequence; `noise_multiplier` is what calibration found for it.
    """

    trust_model: TrustModel
    epsilon: float | None = None
    delta: float = 1e-5
    clip_norm: float = 1.0
    noise_multiplier: float = 0.0
    release_noise_multiplier: float = 0.0
    """Noise of one-shot releases (Fisher information, statistics), relative to their clip norm."""
    noise: NoiseSource = "system"
    distance: float = 0.0
    """With `distributed`: how far the noise of each released sum may be from Gaussian noise, in total variation."""

    def __post_init__(self) -> None:
        require(0 <= self.distance < 1, f"distance must be in [0, 1), got {self.distance}")
        require(self.trust_model == "distributed" or self.distance == 0, "distance belongs to distributed noise")
        require(0 < self.delta < 1, f"delta must be in (0, 1), got {self.delta}")
        least, most = CLIP_NORMS
        require(least <= self.clip_norm <= most, f"clip_norm must be from {least:g} to {most:g}, got {self.clip_norm}")
        if self.trust_model == "none":
            require(self.epsilon is None, "epsilon must be null when trust_model is none")
            require(self.noise_multiplier == 0, "noise_multiplier must be 0 when trust_model is none")
            return
        require(
            self.epsilon is not None and math.isfinite(self.epsilon) and self.epsilon > 0,
            f"epsilon must be above 0, got {self.epsilon}",
        )
        require(0 < self.noise_multiplier < math.inf, f"noise_multiplier must be above 0, got {self.noise_multiplier}")
        require(
            0 < self.release_noise_multiplier < math.inf,
            f"release_noise_multiplier must be above 0, got {self.release_noise_multiplier}",
        )

    @property
    def private(self) -> bool:
        """Whether a site clips, adds noise and charges its ledger."""
        return self.trust_model != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationSpec:
    """How updates become one.

    `secure`: the coordinator learns the sum over the sites of a round and nothing else (see `fedmed.secagg`).
    `insecure`: a weighted mean that the coordinator computes in the clear.
    """

    kind: AggregationKind
    min_sites: int = 3
    sites_per_round: int | None = None
    """How many sites each round invites; null = all of them."""
    attempts: int = 3
    """How often a round of secure aggregation is begun before the study stops; each time without who failed."""
    round_timeout_s: float = 600.0
    """Longest wait for an exchange in which sites train."""
    phase_timeout_s: float = 120.0
    """Longest wait for an exchange in which they do not."""

    def __post_init__(self) -> None:
        least = 3 if self.kind == "secure" else 1
        require(
            self.min_sites >= least,
            f"min_sites must be at least {least} for {self.kind} aggregation, got {self.min_sites}",
        )
        require(
            self.sites_per_round is None or self.sites_per_round >= self.min_sites,
            f"sites_per_round must be at least min_sites, got {self.sites_per_round} and {self.min_sites}",
        )
        require(self.attempts >= 1, f"attempts must be at least 1, got {self.attempts}")
        require(0 < self.round_timeout_s < math.inf, f"round_timeout_s must be above 0, got {self.round_timeout_s}")
        require(0 < self.phase_timeout_s < math.inf, f"phase_timeout_s must be above 0, got {self.phase_timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSpec:
    """What the coordinator does with the mean update, which is all that it sees (Reddi et al. 2021).

    `fedavg` adds it to the model; the others keep moments of it. `beta_1` is the momentum of `fedavgm` too.
    """

    kind: OptimiserKind = "fedavg"
    learning_rate: float = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, f"learning_rate must be above 0, got {self.learning_rate}")
        require(0 <= self.beta_1 < 1, f"beta_1 must be in [0, 1), got {self.beta_1}")
        require(0 <= self.beta_2 < 1, f"beta_2 must be in [0, 1), got {self.beta_2}")
        require(0 < self.tau < math.inf, f"tau must be above 0, got {self.tau}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinualSpec:
    """Elastic weight consolidation (Kirkpatrick et al. 2017) against the previous study.

    `strength` is lambda of the coordinator's closed form, `penalty` that of the pull at the sites, which is
    added after clip and noise; 0 switches either off.
    `release_fisher` asks the sites for this study's Fisher diagonal at its end.
    `knowledge_digest` names what earlier studies left behind, or None for a first study.
    """

    strength: float
    release_fisher: bool
    knowledge_digest: str | None = None
    fisher_clip_norm: float = 1.0
    decay: float = 1.0
    penalty: float = 0.0
    fisher: FisherKind = "coordinates"
    """Importance of each trained coordinate, or of each entry of an adapted layer's weight (`delta-w`)."""
    earlier: tuple[DataSpec, ...] = ()
    """Views of the studies before this one, on which sites also evaluate the released model."""

    def __post_init__(self) -> None:
        require(0 <= self.strength < math.inf, f"strength must be at least 0, got {self.strength}")
        require(
            _LEAST_FISHER <= self.fisher_clip_norm <= CLIP_NORMS[1],
            f"fisher_clip_norm must be from {_LEAST_FISHER:g} to {CLIP_NORMS[1]:g}, got {self.fisher_clip_norm}",
        )
        require(0 <= self.decay <= 1, f"decay must be in [0, 1], got {self.decay}")
        require(0 <= self.penalty < math.inf, f"penalty must be at least 0, got {self.penalty}")
        if self.knowledge_digest is not None:
            require_digest("knowledge_digest", self.knowledge_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(AsRead):
    """All that a coordinator can tell a site about one study."""

    study: str
    seed: int
    data: DataSpec
    model: ModelSpec
    base_digest: str
    """SHA-256 of the model folder that every site must already hold."""
    training: TrainingSpec
    privacy: PrivacySpec
    aggregation: AggregationSpec
    continual: ContinualSpec
    optimiser: OptimiserSpec = OptimiserSpec()
    version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        require(self.version == PLAN_VERSION, f"version must be {PLAN_VERSION}, got {self.version}")
        require(bool(self.study) and self.study.isprintable(), "study must be a printable name")
        require_digest("base_digest", self.base_digest)
        object.__setattr__(self, "model", self.model.without_paths())  # whose folder it was is nobody's business
        if self.privacy.trust_model == "distributed":
            self._require_one_clipped_sum()
        if self.model.refreshed:
            self._require_no_memory_of_coordinates()
        if self.model.personal:
            self._require_a_pull()
        if self.continual.fisher == "delta-w":
            require(
                self.model.adapter == "lora" and self.model.lora_rule != "fedit",
                "continual.fisher must be coordinates unless one factor of an adapter is trained at a time",
            )

    def _require_one_clipped_sum(self) -> None:
        """Raise unless each round releases one clipped sum through secure aggregation, where shared noise is valid."""
        require(
            self.aggregation.kind == "secure",
            "privacy.trust_model must be local without secure aggregation: shares of noise protect only a sum",
        )
        steps, rate = self.training.local_steps, self.training.sample_rate
        require(
            steps == 1 and rate == 1,
            "privacy.trust_model must be local for several or sampled local steps (plan=fedsgd has one full step),"
            f" got local_steps {steps} and sample_rate {rate}",
        )

    def _require_no_memory_of_coordinates(self) -> None:
        """Raise if anything but the product of the factors is remembered from round to round."""
        rule, continual = self.model.lora_rule, self.continual
        require(
            self.optimiser.kind == "fedavg",
            f"optimiser.kind must be fedavg with lora_rule {rule}: moments of one round's coordinates mean nothing"
            f" in the next, got {self.optimiser.kind}",
        )
        require(
            self.training.average_from == 1,
            f"training.average_from must be 1 with lora_rule {rule}: iterates of different coordinates have no mean,"
            f" got {self.training.average_from}",
        )
        remembers = continual.release_fisher or continual.strength > 0 or continual.penalty > 0
        require(
            continual.fisher == "delta-w" or not remembers,
            f"continual.fisher must be delta-w with lora_rule {rule}: coordinates of the factors change",
        )

    def _require_a_pull(self) -> None:
        """Raise unless personal models are pulled to the mean and noised at the site that keeps them."""
        require(
            self.training.proximal > 0,
            "training.proximal must be above 0 with lora_rule mr-mtl: it is the pull to the mean",
        )
        require(
            self.privacy.trust_model != "distributed",
            "privacy.trust_model must be local with lora_rule mr-mtl: a model that stays at its site has no shared"
            " noise",
        )
