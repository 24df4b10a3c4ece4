"""What one site computes in one exchange: train, evaluate, Fisher, statistics.

Why it exists: the path from a cohort to a bounded, noised vector in one place,
used alike by the simulation and an appliance.

Rules:
    * A site sends the difference from the round's model, never the model.
    * The private and the plain path share sampling and loop; only clipping and
      noise differ.
    * Randomness is injected: `noise` decides whether it can be repeated.
    * The machine and how many records fit on it change the last digits of a result at most.

What it does not do: charge the ledger, touch files, know who asks.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmed.data.source import Cohort
from fedmed.errors import DataError, ModelError
from fedmed.learning.machine import Bounds, Machine, at_work
from fedmed.learning.memory import Memory, gradient_at, split
from fedmed.model_spec import Precision
from fedmed.models.build import record_losses, scores
from fedmed.models.lora import layer_of, whole_weights_trained
from fedmed.models.vector import Layout
from fedmed.privacy.ceiling import fitting
from fedmed.privacy.descent import TrainReport, train_plain
from fedmed.privacy.engine import per_record_gradients, train_private
from fedmed.privacy.gradients import device_of
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.precision import computing
from fedmed.privacy.rehearsal import LARGEST_BATCH
from fedmed.privacy.release import clipped_sum, private_sum
from fedmed.records import ContinualSpec, ModelSpec, PrivacySpec, TrainingSpec

_LARGEST_BLOCK = 2**24
"""Most gradients of records in memory at once, in numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """The result of one site's local training; `nonfinite` stays at the site.

    `delta` is float32, or float64 where its noise is added in the ring: rounding would move it by more than one unit.
    """

    delta: NDArray[np.floating]
    nonfinite: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """How a model does on one site's held-out records; it never leaves the site."""

    records: int
    correct: int
    loss: float
    scores: NDArray[np.float32]
    """Probability of every class, shape `[records, classes]`."""
    labels: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Fraction of the held-out records that are classified correctly."""
        return self.correct / self.records


def train_locally(
    module: nn.Module,
    start: NDArray[np.float32],
    cohort: Cohort,
    *,
    training: TrainingSpec,
    privacy: PrivacySpec,
    noise: NoiseSource,
    memory: Memory | None = None,
    own: NDArray[np.float32] | None = None,
    spec: ModelSpec | None = None,
    machine: Machine | None = None,
    at_once: int | None = None,
) -> Trained:
    """Train from the round's model, or from the site's own, and return the difference from the round's.

    Args:
        module: Rebuilt from the plan; its trainable part is overwritten by `start`.
        start: The round's model, shape `[size]`.
        cohort: The site's training records.
        training: Local steps, rate, sampling.
        privacy: Clip norm and noise multiplier, or `trust_model="none"`.
        noise: Source of sampling and noise.
        memory: Pull of earlier studies, added after the noise.
        own: The site's own model, where it keeps one, shape `[size]`.
        spec: Of the model; its precision and checkpointing count. None is float32 without checkpointing.
        machine: What to compute on; None is the processor without a ceiling.
        at_once: Records at a time, as `rehearsal` found for this machine; None measures it where there is a ceiling.

    Raises:
        ConfigError, ModelError, RefusedError: As `rehearsal.rehearse_training`.
    """
    layout = Layout.of(module)
    layout.write(module, start if own is None else own)
    inputs, labels = _tensors(cohort)
    if privacy.trust_model == "distributed":  # one step from the round's model, which pulls nowhere there
        pull = 0.0 if memory is None else gradient_at(module, memory)
        with at_work(module, machine, spec) as bounds:
            total, nonfinite = _clipped_gradients(module, inputs, labels, privacy.clip_norm, _sizes(bounds, at_once))
        return Trained(delta=-training.learning_rate * (total / len(labels) + pull), nonfinite=nonfinite)
    penalty, weight_pull = split(start, memory, mu=training.proximal)
    train = _training(privacy)
    with at_work(module, machine, spec) as bounds:
        report = train(
            module,
            loss=record_losses,
            inputs=inputs,
            labels=labels,
            steps=training.local_steps,
            sample_rate=training.sample_rate,
            expected_batch=training.sample_rate * len(labels),
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            noise=noise,
            penalty=penalty,
            penalty_gradient=weight_pull,
            **_sizes(bounds, at_once),
        )
    return Trained(delta=layout.read(module) - start, nonfinite=report.nonfinite)


def _training(privacy: PrivacySpec) -> Callable[..., TrainReport]:
    """Return what trains under a plan's privacy."""
    if not privacy.private:
        return train_plain
    return partial(train_private, clip_norm=privacy.clip_norm, noise_multiplier=privacy.noise_multiplier)


def _clipped_gradients(
    module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, clip_norm: float, sizes: "_Sizes"
) -> tuple[NDArray[np.float64], int]:
    """Return the sum of the clipped gradients of all records, shape `[size]`, and how many weren't finite.

    The noise is added in the ring.
    """
    module.train()
    blocks = per_record_gradients(module, loss=record_losses, inputs=inputs, labels=labels, **sizes)
    total, nonfinite = torch.zeros(Layout.of(module).size, dtype=torch.float64), 0
    for block in blocks:
        total += clipped_sum(block, clip_norm).cpu()
        nonfinite += int((~torch.isfinite(block).all(1)).sum())
    return total.numpy(), nonfinite


class _Sizes(TypedDict):
    """How much is computed at a time, and in what."""

    physical_batch: int
    memory_bytes: int | None
    precision: Precision


def _sizes(bounds: Bounds, at_once: int | None, *, most: int = LARGEST_BATCH) -> _Sizes:
    """Return at most `most` records at a time: as many as were found to fit, else as many as will be found."""
    if at_once is not None:
        return {"physical_batch": min(most, at_once), "memory_bytes": None, "precision": bounds.precision}
    return {"physical_batch": most, "memory_bytes": bounds.memory_bytes, "precision": bounds.precision}


def evaluate(
    module: nn.Module,
    model: NDArray[np.float32],
    cohort: Cohort,
    *,
    spec: ModelSpec | None = None,
    machine: Machine | None = None,
) -> Evaluation:
    """Evaluate a model on held-out records, in the precision that it was trained in.

    Args:
        module: Its trainable part is overwritten by `model`.
        model: Shape `[size]`.
        cohort: The held-out records.
        spec: As for `train_locally`.
        machine: Likewise; under a ceiling, as many records at a time as fit.

    Raises:
        ConfigError: The machine has not the precision.
        RefusedError: Not one record fits under the machine's ceiling.
    """
    Layout.of(module).write(module, model)
    inputs, labels = _tensors(cohort)
    module.eval()
    with torch.no_grad(), at_work(module, machine, spec) as bounds, computing(module, bounds.precision):
        size, device = len(labels), device_of(module)
        if bounds.memory_bytes is not None:
            size = fitting(module, lambda rows, _: module(rows), inputs, labels, memory_bytes=bounds.memory_bytes)
        logits = torch.cat([module(some.to(device)).cpu() for some in torch.split(inputs, size)])
        losses = record_losses(logits, labels)
        probabilities = scores(logits)
    return Evaluation(
        records=len(labels),
        correct=int((probabilities.argmax(dim=1) == labels).sum()),
        loss=float(losses.mean()),
        scores=probabilities.numpy(),
        labels=cohort.labels,
    )


def fisher_sum(
    module: nn.Module,
    model: NDArray[np.float32],
    cohort: Cohort,
    *,
    continual: ContinualSpec,
    privacy: PrivacySpec,
    noise: NoiseSource,
    spec: ModelSpec | None = None,
    machine: Machine | None = None,
    at_once: int | None = None,
) -> NDArray[np.float64]:
    """Return the bounded (and, if private, noised) sum of squared per-record gradients.

    Of the trained coordinates, shape `[size]`; with `continual.fisher="delta-w"` of the weights that the adapter
    changes, shape `[weight_layout(module).size]`. Either way one record moves it by at most `fisher_clip_norm`.

    Args:
        module: Its trainable part is overwritten by `model`.
        model: Where the gradients are taken, shape `[size]`.
        cohort: The site's training records.
        continual: The kind of Fisher information and its clip norm.
        privacy: Whether noise is added here.
        noise: Where it comes from.
        spec: Of the model; its adapter's scale is needed for `delta-w`.
        machine: As for `train_locally`.
        at_once: Likewise.
    """
    Layout.of(module).write(module, model)
    inputs, labels = _tensors(cohort)
    gradients_of = partial(
        per_record_gradients,
        module,
        loss=record_losses,
        inputs=inputs,
        labels=labels,
    )
    module.eval()
    if continual.fisher == "coordinates":
        with at_work(module, machine, spec) as bounds:
            blocks = gradients_of(**_sizes(bounds, at_once))
            squared: Iterable[torch.Tensor] = (block.square() for block in blocks)
            return _bounded_sum(squared, clip_norm=continual.fisher_clip_norm, privacy=privacy, noise=noise)
    if spec is None:
        raise ModelError("expected the model's specification with delta-w, got none")
    with whole_weights_trained(module), at_work(module, machine, spec) as bounds:
        layout = Layout.of(module)
        scale = torch.from_numpy(_weight_scale(layout, spec)).to(device_of(module))
        blocks = gradients_of(**_sizes(bounds, at_once, most=block_rows(layout)))
        squared = ((block * scale).square() for block in blocks)
        return _bounded_sum(squared, clip_norm=continual.fisher_clip_norm, privacy=privacy, noise=noise)


def block_rows(layout: Layout) -> int:
    """Return how many wide gradients of records are in memory at once, at most."""
    return max(1, min(LARGEST_BATCH, _LARGEST_BLOCK // layout.size))


def _weight_scale(layout: Layout, spec: ModelSpec) -> NDArray[np.float32]:
    """Return by what to multiply gradients of the layout's weights: those of W become those of B A in W + s B A."""
    factors = [spec.lora_alpha / spec.lora_rank if layer_of(name) else 1.0 for name in layout.names]
    sizes = [int(np.prod(shape)) for shape in layout.shapes]
    return np.repeat(np.asarray(factors, dtype=np.float32), sizes)


def statistics_sum(cohort: Cohort, *, privacy: PrivacySpec, noise: NoiseSource) -> NDArray[np.float64]:
    """Return the bounded (and, if private, noised) sums behind federated statistics.

    Returns:
        Shape `[2 * features + 1]`: sums of values, of squares, and the number of records. Values are
        in public-range units, clipped there already, which bounds what one record adds.
    """
    values = torch.from_numpy(cohort.features).double()
    rows = torch.cat([values, values.square(), torch.ones(len(values), 1, dtype=torch.float64)], dim=1)
    scale = statistics_scale(cohort.features.shape[1])
    total = _bounded_sum([rows * scale], clip_norm=1.0, privacy=privacy, noise=noise)
    return total / scale


def _bounded_sum(
    blocks: Iterable[torch.Tensor], *, clip_norm: float, privacy: PrivacySpec, noise: NoiseSource
) -> NDArray[np.float64]:
    """Return the sum of clipped rows, with the release noise of the plan if the site adds all of it here.

    Blocks of rows are summed as they come, so wide rows need not all be in memory.
    """
    total = functools.reduce(torch.add, (clipped_sum(block, clip_norm).cpu() for block in blocks))
    if privacy.trust_model != "local":  # none at all, or shared in the ring
        return total.numpy()
    alone = private_sum(
        total.new_zeros(0, len(total)),
        clip_norm=clip_norm,
        noise_multiplier=privacy.release_noise_multiplier,
        noise=noise,
    )
    return total.numpy() + alone


def statistics_scale(features: int) -> float:
    """Return the factor that bounds a record's statistics row by norm 1, for values clipped at 4."""
    return float(1 / np.sqrt(features * (4.0**2 + 4.0**4) + 1))


def statistics_from_sum(total: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and scale of every feature from summed statistics rows, each of shape `[features]`."""
    features = (len(total) - 1) // 2
    count = max(total[-1], 1e-9)
    mean = np.clip(total[:features] / count, -4, 4)
    variance = total[features:-1] / count - mean**2
    scale = np.sqrt(np.clip(variance, 0.05**2, 4.0**2))
    return mean.astype(np.float32), scale.astype(np.float32)


def _tensors(cohort: Cohort) -> tuple[torch.Tensor, torch.Tensor]:
    if len(cohort.labels) == 0:
        raise DataError("expected at least one record in the cohort, got none; check the cohort filter and the split")
    return torch.from_numpy(cohort.features), torch.from_numpy(cohort.labels)
