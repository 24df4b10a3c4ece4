"""Frozen records that travel or are stored, their canonical JSON and its digest.

Why it exists: two machines must agree byte for byte on what was planned. A
record that exists is valid, and equal records have equal bytes and digests.

Rules:
    * Every record is `@dataclass(frozen=True, slots=True, kw_only=True)` and checks
      itself in `__post_init__` (raise `ValueError` with a one-line message there).
    * Fields are public facts. Patient counts, keys and generators are arguments
      of functions, never fields of a plan.
    * Every stored or sent record carries a `version`.

What it does not do: read YAML (see `config`) or touch files.
"""

import dataclasses
import hashlib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from fedmed.errors import ConfigError, IntegrityError

PLAN_VERSION = 1

Record = TypeVar("Record")

Family = Literal["linear", "mlp", "tabular-transformer"]
Adapter = Literal["full", "lora"]
LoraRule = Literal["ffa", "fedit", "rolora", "fedsvd", "mr-mtl", "flora"]
FisherKind = Literal["coordinates", "delta-w"]
Normalisation = Literal["public", "site", "federated"]
TrustModel = Literal["none", "local", "distributed"]
NoiseSource = Literal["system", "simulated-seed"]
AggregationKind = Literal["secure", "insecure"]
OptimiserKind = Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"]


def canonical_json(record: object) -> bytes:
    """Return the one JSON encoding of `record`: UTF-8, sorted keys, no white space.

    >>> canonical_json({"b": 1, "a": [0.5]})
    b'{"a":[0.5],"b":1}'
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        record = msgspec.convert(
            msgspec.to_builtins(record), type(record)
        )  # a whole number in a float field is a float
    return msgspec.json.encode(record, order="sorted")


def digest(record: object) -> str:
    """Return the SHA-256 of the canonical JSON of `record`, as 64 hexadecimal digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical_json(record)).hexdigest()


def decode(data: bytes, kind: type[Record]) -> Record:
    """Parse canonical JSON into a record of type `kind`.

    Raises:
        IntegrityError: The bytes are not JSON or not a valid `kind`.
    """
    try:
        return build(msgspec.json.decode(data), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise IntegrityError(f"expected a {kind.__name__} record as JSON; {error}") from None


def build(value: object, kind: type[Record], *, at: str = "") -> Record:
    """Turn plain mappings, lists and scalars into a record of type `kind`, strictly.

    Args:
        value: What a YAML or JSON reader returned.
        kind: The record to build.
        at: The dotted key under which `value` stands, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or range;
            the message names the key, what it got and what it takes.
    """
    _refuse_unknown(value, kind, at)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_complaint(str(error), value, kind, at)) from None


def _complaint(text: str, value: object, kind: Any, at: str) -> str:
    """Return msgspec's complaint as `key: what it takes, got ...`, or a record's own with its key in front."""
    text, _, path = text.partition(" - at `$")
    path = path.strip("`.")
    key = ".".join(part for part in (at, path) if part) or kind.__name__
    if text.startswith("Invalid enum value"):
        options = ", ".join(str(option) for option in typing.get_args(_kind_at(kind, path)))
        return f"{key}: expected one of: {options}; got {_show(value, path)}"
    if text.startswith("Expected"):
        expected = text.split(", got ")[0].replace("Expected ", "").replace("`", "").replace(" | ", " or ")
        return f"{key}: expected {expected}, got {_show(value, path)}"
    if text.startswith("Object missing"):
        return f"{key}: {text[:1].lower()}{text[1:]}"
    if re.match(r"[a-z_]+ must ", text):
        return f"{at}.{path}.{text}".replace("..", ".").lstrip(".")
    return f"{key}: {text}"


def _kind_at(kind: Any, path: str) -> Any:
    """Return the type of the field at msgspec's `path` below the record type `kind`."""
    for part in re.split(r"[.\[]", path):
        if part.endswith("]"):
            kind = typing.get_args(kind)[0]
        elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
            kind = typing.get_type_hints(kind).get(part, kind)
    return kind


def _refuse_unknown(value: object, kind: Any, at: str) -> None:
    """Raise on a key that no field of the dataclass `kind` (or of a nested one) has."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if len(options) == 1 and value is not None:
            _refuse_unknown(value, options[0], at)
        return
    if typing.get_origin(kind) in (tuple, list):
        item = typing.get_args(kind)[0]
        if isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                _refuse_unknown(entry, item, f"{at}[{index}]")
        return
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping)):
        return
    hints = typing.get_type_hints(kind)
    for key, entry in value.items():
        if key not in hints:
            known = ", ".join(sorted(hints))
            name = f"{at}.{key}" if at else str(key)
            raise ConfigError(f"{name}: unknown key; expected one of: {known}")
        _refuse_unknown(entry, hints[key], f"{at}.{key}" if at else str(key))


def _show(value: object, path: str) -> str:
    """Return the scalar at msgspec's `path` inside `value`, or the kind of thing found there."""
    for part in path.strip("`").strip(".").replace("[", ".[").split("."):
        if part.startswith("[") and isinstance(value, list | tuple) and part[1:-1].isdigit():
            value = value[int(part[1:-1])]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
    if isinstance(value, str | int | float | bool) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def require(condition: bool, message: str) -> None:  # noqa: FBT001  a predicate reads best in first place
    """Raise `ValueError(message)` unless `condition` holds; for `__post_init__` checks."""
    if not condition:
        raise ValueError(message)


def require_digest(name: str, value: str) -> None:
    """Raise `ValueError` unless `value` is a SHA-256 in hexadecimal; digests name folders, so nothing else passes."""
    require(re.fullmatch("[0-9a-f]{64}", value) is not None, f"{name} must be 64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
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
class ModelSpec:
    """The shape of the shared model and of what is trained of it."""

    family: Family
    adapter: Adapter
    width: int = 32
    depth: int = 2
    heads: int = 4
    lora_rank: int = 4
    lora_alpha: float = 8.0
    lora_rule: LoraRule = "ffa"
    """What of the adapter is trained and how updates become one; see `fedmed.models.lora`."""

    def __post_init__(self) -> None:
        require(
            self.lora_rule != "flora",
            "lora_rule must not be flora: stacking needs the factors of every site, and a secure sum hides them;"
            " fedsvd is as exact",
        )
        require(
            self.adapter == "lora" or self.lora_rule not in ("rolora", "fedsvd"),
            f"lora_rule must be ffa, fedit or mr-mtl where the whole model is trained, got {self.lora_rule}",
        )
        require(
            self.lora_rule != "fedsvd" or self.lora_rank <= self.width,
            f"lora_rank must be at most width with fedsvd, got {self.lora_rank} and {self.width}",
        )
        for name in ("width", "depth", "heads", "lora_rank"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 < self.lora_alpha < math.inf, f"lora_alpha must be above 0, got {self.lora_alpha}")
        require(self.width % self.heads == 0, f"width must be a multiple of heads, got {self.width} and {self.heads}")
        require(
            self.adapter == "full" or self.family == "tabular-transformer",
            f"adapter=lora needs attention to adapt: use model=tabular_transformer, or adapter=full with {self.family}",
        )

    @property
    def refreshed(self) -> bool:
        """Whether the factors that are frozen in a round differ from round to round and travel with it."""
        return self.lora_rule in ("rolora", "fedsvd")

    @property
    def personal(self) -> bool:
        """Whether each site keeps a model of its own, which is pulled to the mean."""
        return self.lora_rule == "mr-mtl"


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
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate must be above 0, got {self.learning_rate}",
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
        require(0 < self.clip_norm < math.inf, f"clip_norm must be above 0, got {self.clip_norm}")
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
        require(0 < self.fisher_clip_norm < math.inf, f"fisher_clip_norm must be above 0, got {self.fisher_clip_norm}")
        require(0 <= self.decay <= 1, f"decay must be in [0, 1], got {self.decay}")
        require(0 <= self.penalty < math.inf, f"penalty must be at least 0, got {self.penalty}")
        if self.knowledge_digest is not None:
            require_digest("knowledge_digest", self.knowledge_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
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
