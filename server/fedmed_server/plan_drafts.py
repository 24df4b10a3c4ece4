"""From a short draft to a study's plan, with the noise that its budget pays for, and to its public base.

Why it exists: a plan names data, base and noise by digests and figures that nobody writes by hand. A
coordinator writes what the study is; the rest follows from that and from the description of the data.

Rules:
    * Nothing but the draft and the public description of the data is read: no site, no record.
    * The noise is the least that keeps the whole study within its epsilon, as every site will count it.
    * The same draft gives the same plan and the same base.
    * Noise that the sites share is fitted to the rings of a roster, as every site will check it.

What it does not do: sign, or read records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from yaml import YAMLError

from fedmed.data.schema import DataSet
from fedmed.errors import ConfigError, RefusedError, UsageError
from fedmed.privacy.plan import Accountant, Event, calibrate
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Normalisation,
    OptimiserSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    TrustModel,
    require,
)
from fedmed.secagg.roster import Roster
from fedmed_server.shared_noise import Released, require_fits, shared_distance

if TYPE_CHECKING:
    from torch import nn


_MOST_WASTE = 1.5
"""How much more noise than a Gaussian's a ring may cost before its roster is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDraft:
    """Which view of which data a study trains on; `description` is one that FedMed ships, or a YAML file."""

    description: str
    target: str
    cohort_column: str | None = None
    cohort: tuple[str, ...] = ()
    normalisation: Normalisation = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyDraft:
    """The budget of the study; the noise follows from it."""

    trust_model: TrustModel = "local"
    epsilon: float | None = None
    delta: float = 1e-5
    clip_norm: float = 1.0
    release_noise_ratio: float = 3.0
    """Noise of one-shot releases over that of a training step."""

    def __post_init__(self) -> None:
        require(self.trust_model == "none" or self.epsilon is not None, "epsilon must be a number unless nothing is")
        require(self.release_noise_ratio > 0, f"release_noise_ratio must be above 0, got {self.release_noise_ratio}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDraft:
    """What a person writes of a study."""

    study: str
    data: DataDraft
    model: ModelSpec
    training: TrainingSpec
    privacy: PrivacyDraft
    seed: int = 0
    aggregation: AggregationSpec = field(default_factory=lambda: AggregationSpec(kind="secure"))
    optimiser: OptimiserSpec = field(default_factory=OptimiserSpec)
    continual: ContinualSpec = field(default_factory=lambda: ContinualSpec(strength=0.0, release_fisher=False))


def read_plan_draft(path: Path) -> tuple[PlanDraft, DataSet]:
    """Return a draft and the description of its data, whose path is relative to the draft.

    Raises:
        UsageError: There is no such file.
        ConfigError: A field is unknown, missing or does not fit; the message names it.
    """
    from fedmed import config  # noqa: PLC0415  it imports hydra, which only drafts need

    if not path.is_file():
        raise UsageError(f"{path}: expected a draft of a plan, found no such file; check the path")
    try:
        draft = config.load(PlanDraft, path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML in UTF-8; {' '.join(str(error).split())}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    shipped = {found.stem: found for found in sorted((config.config_dir() / "data").glob("*.yaml"))}
    described = shipped.get(draft.data.description, path.parent / draft.data.description)
    if not described.is_file():
        raise ConfigError(
            f"{path}: data.description: expected one of {', '.join(shipped)}, or a YAML file, got"
            f" {draft.data.description}"
        )
    return draft, config.load(DataSet, described)


def make_base(draft: PlanDraft, dataset: DataSet, folder: Path) -> str:
    """Build the public base that the draft means in `folder` and return its digest.

    Raises:
        DataError: The data has no such target.
        ModelError: The model does not fit the data, or a folder of a pretrained one is missing.
    """
    from fedmed.data.tabular import row_names  # noqa: PLC0415  other commands start without polars
    from fedmed.learning.pretrain import pretrain_base  # noqa: PLC0415  it imports torch
    from fedmed.models import Architecture, build_module, folder_digest, require_readable, save_base  # noqa: PLC0415  likewise
    from fedmed.models.reading import require_precision  # noqa: PLC0415  likewise

    features, classes = len(row_names(dataset.schema)), len(dataset.schema.target(draft.data.target).classes)
    architecture = Architecture.of(draft.model, features=features, classes=classes)
    module = build_module(architecture, seed=draft.seed)
    require_precision(module, draft.model.precision)
    require_readable(module, architecture)
    pretrain_base(module, features=features, seed=draft.seed)
    save_base(folder, architecture, module)
    return folder_digest(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What shares of noise are fitted to: the roster, and the model with its adapter on the public base."""

    roster: Roster
    module: "nn.Module"
    features: int

    @classmethod
    def of(cls, draft: PlanDraft, roster: Roster, base: Path, *, base_digest: str) -> "Sharing":
        """Return it for a draft and the folder of its base.

        Raises:
            ModelError: The base can't be used.
        """
        from fedmed.models import attach_adapter, load_module  # noqa: PLC0415  it imports torch

        architecture, module = load_module(base, expected_digest=base_digest)
        module = attach_adapter(module, draft.model, seed=draft.seed)
        return cls(roster=roster, module=module, features=architecture.features)

    def released(self, draft: PlanDraft, noise_multiplier: float) -> list[Released]:
        """Return every kind of sum that the study releases."""
        from fedmed.learning.weights import weight_layout  # noqa: PLC0415  it imports torch
        from fedmed.models import Layout  # noqa: PLC0415  likewise

        release, size = noise_multiplier * draft.privacy.release_noise_ratio, Layout.of(self.module).size
        step = draft.training.learning_rate * draft.privacy.clip_norm
        found = [Released(segment="delta", clip_norm=step, noise_multiplier=noise_multiplier, size=size)]
        if draft.continual.release_fisher:
            wide = draft.continual.fisher == "delta-w"
            found.append(
                Released(
                    segment="fisher", clip_norm=draft.continual.fisher_clip_norm, noise_multiplier=release,
                    size=weight_layout(self.module).size if wide else size,
                )
            )  # fmt: skip
        if draft.data.normalisation != "public":
            sums = 2 * self.features + 1
            found.append(Released(segment="delta", clip_norm=1.0, noise_multiplier=release, size=sums))
        return found


def plan_of_draft(
    draft: PlanDraft, dataset: DataSet, *, base_digest: str, accountant: Accountant, sharing: Sharing | None = None
) -> Plan:
    """Return the plan that a draft means.

    Args:
        draft: What a person wrote.
        dataset: The description of its data.
        base_digest: The base that every site starts from.
        accountant: What turns events into an epsilon.
        sharing: What noise is fitted to where the sites share it.

    Raises:
        DataError: The data has no such target or cohort.
        ConfigError: No noise meets the budget, or the parts do not fit together.
        RefusedError: The roster's rings don't hold noise that the sites share, or waste it.
    """
    data = draft.data
    _require_view(data, dataset)
    try:
        return Plan(
            study=draft.study,
            seed=draft.seed,
            data=DataSpec(
                schema=dataset.schema.name,
                schema_digest=dataset.schema.digest,
                target=data.target,
                cohort_column=data.cohort_column,
                cohort=tuple(sorted(set(data.cohort))),
                normalisation=data.normalisation,
            ),
            model=draft.model,
            base_digest=base_digest,
            training=draft.training,
            privacy=_privacy(draft, accountant, sharing),
            aggregation=draft.aggregation,
            optimiser=draft.optimiser,
            continual=draft.continual,
        )
    except ValueError as error:
        raise ConfigError(f"the draft of {draft.study}: {error}") from None


def _require_view(data: DataDraft, dataset: DataSet) -> None:
    dataset.schema.target(data.target)
    if data.cohort_column is None:
        return
    unknown = sorted(set(data.cohort) - set(dataset.schema.column(data.cohort_column).values))
    if unknown:
        raise ConfigError(f"data.cohort: column {data.cohort_column} has no value {unknown[0]!r}; see its description")


def _privacy(draft: PlanDraft, accountant: Accountant, sharing: Sharing | None) -> PrivacySpec:
    asked, epsilon = draft.privacy, draft.privacy.epsilon
    if asked.trust_model == "none" or epsilon is None:
        return PrivacySpec(trust_model="none", delta=asked.delta, clip_norm=asked.clip_norm)
    if (asked.trust_model == "distributed") != (sharing is not None):
        raise ConfigError(
            "privacy.trust_model: noise is fitted to a roster where the sites share it, and only there; give --roster"
            " with trust_model distributed"
        )

    def distance_at(candidate: float) -> float:
        return 0.0 if sharing is None else shared_distance(sharing.roster.policy, sharing.released(draft, candidate))

    def multiplier(distance: Callable[[float], float]) -> float:
        return calibrate(
            lambda candidate: _events(draft, candidate, distance=distance(candidate)),
            epsilon=epsilon,
            delta=asked.delta,
            accountant=accountant,
        )

    noise_multiplier = multiplier(distance_at)
    if sharing is not None:
        least = multiplier(lambda _: 0.0)
        if noise_multiplier > _MOST_WASTE * least:
            raise RefusedError(
                f"this roster's rings are so coarse that noise of {noise_multiplier:.3g} times the clip norm is needed"
                f" where {least:.3g} would do; sign a roster with more fraction_bits or a smaller max_weight"
            )
        cohort = draft.aggregation.sites_per_round or len(sharing.roster.sites)
        require_fits(sharing.roster.policy, sharing.released(draft, noise_multiplier), cohort=cohort)
    return PrivacySpec(
        trust_model=asked.trust_model,
        epsilon=asked.epsilon,
        delta=asked.delta,
        clip_norm=asked.clip_norm,
        noise_multiplier=noise_multiplier,
        release_noise_multiplier=noise_multiplier * asked.release_noise_ratio,
        distance=distance_at(noise_multiplier),
    )


def _events(draft: PlanDraft, noise_multiplier: float, *, distance: float) -> Sequence[Event]:
    """Return all that the study releases, as every site counts it before it takes part."""
    training = draft.training
    steps = Event(
        noise_multiplier=noise_multiplier,
        sample_rate=training.sample_rate,
        steps=training.rounds * training.local_steps,
        distance=distance,
    )
    noise = noise_multiplier * draft.privacy.release_noise_ratio
    release = Event(noise_multiplier=noise, sample_rate=1.0, steps=1, distance=distance)
    releases = int(draft.continual.release_fisher) + int(draft.data.normalisation != "public")
    return (steps, *[release] * releases)
