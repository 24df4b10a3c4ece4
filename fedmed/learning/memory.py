"""What pulls a site's training: the round's model (FedProx), earlier studies (EWC), or both as one quadratic.

Why it exists: a site that trains several steps between two sums forgets earlier studies and drifts from the
other sites before the coordinator can do anything about it.

Rules:
    * A pull joins the gradient after clip and noise, so clipped sums and what they are charged for stay the same.
    * It is made of what came with the round, never of records: it costs no privacy.

What it does not do: consolidate at the coordinator (`ewc`, `weights`), or train.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.learning.ewc import Knowledge
from fedmed.learning.weights import WeightPull, weight_layout
from fedmed.models import Layout
from fedmed.models.lora import round_layouts
from fedmed.privacy.descent import PenaltyGradient
from fedmed.privacy.gradients import trainable
from fedmed.privacy.penalty import Penalty
from fedmed.records import ContinualSpec, ModelSpec

Memory: TypeAlias = Penalty | PenaltyGradient
"""The pull of earlier studies: on coordinates, or on the weights that factors make up."""


def memory_of(module: nn.Module, spec: ModelSpec, continual: ContinualSpec, knowledge: Knowledge) -> Memory:
    """Return the pull of earlier studies on what `module` trains in the round it has entered.

    Raises:
        ModelError: The knowledge is of another model.
    """
    reference, frozen = round_layouts(module, spec)
    wide = weight_layout(module) if knowledge.kind == "delta-w" else reference
    sizes = [len(knowledge.anchor), len(knowledge.fisher)]
    wanted = [reference.size, wide.size]
    if knowledge.frozen is not None:
        sizes.append(len(knowledge.frozen))
        wanted.append(frozen.size)
    if sizes != wanted:
        raise ModelError(f"expected knowledge of {wanted} values, got {sizes}; it belongs to another model")
    if knowledge.kind == "delta-w":
        return WeightPull.of(module, spec, knowledge).gradient(strength=continual.penalty)
    return Penalty(
        anchor=knowledge.anchor.astype(np.float32),
        weights=knowledge.fisher.astype(np.float32),
        strength=continual.penalty,
    )


def proximal(start: NDArray[np.float32], *, strength: float) -> Penalty | None:
    """Return the pull towards the round's model; None for strength 0."""
    return Penalty(anchor=start, weights=1.0, strength=strength) if strength > 0 else None


def combined(one: Penalty | None, other: Penalty | None) -> Penalty | None:
    """Return the one quadratic whose gradient is the sum of both pulls'.

    >>> pull = combined(proximal(np.zeros(1, np.float32), strength=1.0), proximal(np.ones(1, np.float32), strength=3.0))
    >>> pull.anchor.tolist(), np.asarray(pull.weights).tolist()
    ([0.75], [4.0])
    """
    if one is None or other is None:
        return one or other
    first, second = (
        pull.strength * np.broadcast_to(np.float64(pull.weights), pull.anchor.shape) for pull in (one, other)
    )
    weights = first + second
    safe = np.where(weights > 0, weights, 1.0)
    anchor = np.where(weights > 0, (first * one.anchor + second * other.anchor) / safe, one.anchor)
    return Penalty(anchor=anchor.astype(np.float32), weights=weights.astype(np.float32), strength=1.0)


def split(
    start: NDArray[np.float32], memory: Memory | None, *, mu: float
) -> tuple[Penalty | None, PenaltyGradient | None]:
    """Return the pulls of a training from `start` as the one on coordinates and the one on weights."""
    towards_start = proximal(start, strength=mu)
    if isinstance(memory, Penalty):
        return combined(towards_start, memory), None
    return towards_start, memory


def gradient_at(module: nn.Module, memory: Memory) -> NDArray[np.float64]:
    """Return the gradient of a pull at the parameters of `module`, shape `[size]`."""
    parameters = trainable(module)
    function = memory.for_parameters(parameters) if isinstance(memory, Penalty) else memory
    found: Mapping[str, Tensor] = function({name: value.detach() for name, value in parameters.items()})
    arrays = {name: value.double().numpy() for name, value in found.items()}
    return Layout.of(module).flat(arrays)
