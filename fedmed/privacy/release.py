"""One-shot releases: the noisy sum of clipped vectors, one per record.

Why it exists: Fisher information and statistics leave a site too, so they are clipped,
noised and charged like a training step.

Rules:
    * Everything is float64: adding or removing one record moves `clipped_sum` by at most the clip norm.
    * A record with a non-finite entry counts as zero.

What it does not do: average (a count of records is private too), account or charge.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedmed.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedmed.privacy.noise import Floats, NoiseSource

SHAVE = 1e-12
"""Vectors are clipped this much, relatively, below the clip norm, so that rounding can't pass it."""


def clipped_sum(vectors: Tensor, clip_norm: float) -> Tensor:
    """Return the sum over records of `vectors` (records, d), each scaled down to at most `clip_norm`.

    >>> clipped_sum(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    tensor([0.9000, 1.2000], dtype=torch.float64)

    Raises:
        DataError: `vectors` isn't a matrix.
        ConfigError: The clip norm isn't a positive number.
    """
    if vectors.ndim != 2:
        raise DataError(f"expected vectors of shape (records, d), got {tuple(vectors.shape)}")
    if not 0 < clip_norm < math.inf:
        raise ConfigError(f"clip_norm: expected a number above 0, got {clip_norm}")
    rows = vectors.detach().to(torch.float64)
    norms = torch.linalg.vector_norm(rows, dim=1)
    finite = torch.isfinite(norms)
    rows, norms = rows[finite], norms[finite]
    factors = (clip_norm * (1 - SHAVE) / norms.clamp(min=clip_norm)).where(norms > clip_norm, 1.0)
    return torch.mv(rows.T, factors)


def private_sum(vectors: Tensor, *, clip_norm: float, noise_multiplier: float, noise: "NoiseSource") -> "Floats":
    """Return `clipped_sum` plus Gaussian noise of standard deviation `noise_multiplier * clip_norm`.

    Charge `Event(noise_multiplier=noise_multiplier, sample_rate=1.0, steps=1)` for it.

    Raises:
        DataError: `vectors` isn't a matrix.
        ConfigError: The clip norm or the noise multiplier isn't a positive number.
    """
    if not 0 < noise_multiplier < math.inf:
        raise ConfigError(f"noise_multiplier: expected a number above 0, got {noise_multiplier}")
    total = clipped_sum(vectors, clip_norm).cpu().numpy()
    return total + noise_multiplier * clip_norm * noise.normal(total.shape)
