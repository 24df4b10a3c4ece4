"""Clipping of per-record gradients in float32: how much of each record enters the sum, and the sum.

Why it exists: float32 has a smallest square as it has a largest. A norm that misses entries below it would let a
record pass unclipped, however small the clip norm; whoever writes the plan could ask for just that.

Rules:
    * What is taken for a record's norm is never below its norm.
    * A record with a non-finite gradient adds nothing to any parameter.
    * Rows are asked for twice, for the norms and for the sum: those that wait are then never held all at once.

What it does not do: noise, or clip one-shot releases (see `release`, which has float64).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from fedmed.errors import ConfigError
from fedmed.records import CLIP_NORMS

_SHAVE: Final = 1e-5
"""Gradients are clipped this much, relatively, below the clip norm: float32 rounding can't pass it."""

_UNSEEN: Final = 1.1e-19
"""Entries below this square to less than float32 has (2**-126): a norm may miss so much of each."""


def require_clip_norm(clip_norm: float) -> None:
    """Raise `ConfigError` on a clip norm too small or too large for float32 to clip to."""
    least, most = CLIP_NORMS
    if not least <= clip_norm <= most:
        raise ConfigError(f"clip_norm: expected a number from {least:g} to {most:g}, got {clip_norm:g}")


def clipping_factors(captured: Mapping[str, Tensor], clip_norm: float) -> tuple[Tensor, Tensor]:
    """Return what to multiply each record's gradient by, (records,), and which records are not finite.

    The factor of those is 0. `captured` has rows (records, *shape) for each parameter, at least for one.

    >>> factors, wrong = clipping_factors({"w": torch.tensor([[3.0, 4.0], [0.0, 0.5], [torch.nan, 0.0]])}, 1.0)
    >>> [round(float(factor), 2) for factor in factors], wrong.tolist()
    ([0.2, 1.0, 0.0], [2])
    """
    size, parts = 0, []
    for name in captured:
        rows = flat(captured[name])
        size += rows.shape[1]
        parts.append(torch.linalg.vector_norm(rows, dim=1))
    norms = torch.linalg.vector_norm(torch.stack(parts, dim=1), dim=1) + _UNSEEN * math.sqrt(size)
    wrong = (~torch.isfinite(norms)).nonzero().flatten()
    factors = (clip_norm * (1 - _SHAVE) / norms).clamp(max=1.0)
    return factors.index_fill(0, wrong, 0.0), wrong


def clipped_sums(captured: Mapping[str, Tensor], factors: Tensor, wrong: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the sum over records of each parameter's gradients, times `factors`, flattened."""
    for name in captured:
        rows = flat(captured[name])
        if len(wrong):
            rows.index_fill_(0, wrong, 0.0)  # in place: a copy of all rows may not fit
        yield name, factors @ rows


def flat(rows: Tensor) -> Tensor:
    """Return the gradient of each record as a row of float32."""
    return rows.flatten(1).float()
