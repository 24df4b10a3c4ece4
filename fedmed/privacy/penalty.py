"""A pull of the parameters towards an anchor: elastic weight consolidation and FedProx at a site.

Why it exists: a site that trains several steps between two sums drifts from what earlier studies
learnt, or from the other sites. A penalty inside the loss would be clipped with the records, or
missed by per-record gradients in silence.

Rules:
    * The gradient of `strength / 2 * sum(weights * (parameters - anchor)^2)` joins after clip and noise.
    * Anchor and weights are public or already released: then the penalty costs no privacy.

What it does not do: find the weights, or know about records. Sources: Kirkpatrick et al., PNAS 114
(2017); Li et al., arXiv:1812.06127 (FedProx: weights of 1).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmed.errors import ConfigError, ModelError

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Penalty:
    """A quadratic pull towards `anchor`.

    >>> Penalty(anchor=np.zeros(2, np.float32), weights=1.0, strength=-1.0)
    Traceback (most recent call last):
    fedmed.errors.ConfigError: penalty strength: expected a finite number of at least 0, got -1.0
    """

    anchor: Vector
    """Where to, shape `[size]`: the trainable parameters, flattened, in `named_parameters()` order."""
    weights: Vector | float
    """How much each coordinate matters, shape `[size]`, or one number for all; at least 0."""
    strength: float
    """lambda; 0 is no penalty."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"penalty strength: expected a finite number of at least 0, got {self.strength}")
        if self.anchor.ndim != 1 or self.anchor.dtype != np.float32 or not np.isfinite(self.anchor).all():
            raise ConfigError(
                f"penalty anchor: expected a finite float32 vector, got {self.anchor.dtype} {self.anchor.shape}"
            )
        weights = np.asarray(self.weights)
        if weights.ndim and weights.shape != self.anchor.shape:
            raise ConfigError(f"penalty weights: expected shape {self.anchor.shape}, got {weights.shape}")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ConfigError("penalty weights: expected finite numbers of at least 0, got others")

    def for_parameters(self, parameters: Mapping[str, Tensor]) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]]:
        """Return the penalty's gradient as a function of the trainable parameters by name.

        Args:
            parameters: The trainable parameters, whose names, shapes and devices are used.

        Raises:
            ModelError: They aren't as many as the anchor's.
        """
        sizes = [value.numel() for value in parameters.values()]
        if sum(sizes) != len(self.anchor):
            raise ModelError(
                f"penalty anchor: expected {sum(sizes)} parameters as the module has, got {len(self.anchor)}"
            )
        weights = np.broadcast_to(self.strength * np.asarray(self.weights, np.float64), self.anchor.shape)
        ends = np.cumsum(sizes)[:-1]
        parts = {
            name: tuple(torch.from_numpy(part.copy()).view_as(value).to(value) for part in (weight, start))
            for (name, value), weight, start in zip(
                parameters.items(), np.split(weights, ends), np.split(self.anchor, ends), strict=True
            )
        }

        def gradient(current: dict[str, Tensor]) -> Mapping[str, Tensor]:
            return {name: weight * (current[name] - start) for name, (weight, start) in parts.items()}

        return gradient
