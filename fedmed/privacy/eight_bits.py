"""Products of a frozen linear layer in eight bits (float8 e4m3).

Why it exists: cards since Ada and Hopper multiply eight bits twice as fast as sixteen.

Rules:
    * Each token has a scale of its own, from its own values. One scale for a batch, as is usual, would let the largest
      value of one patient decide how all others are rounded.
    * Only the forward product runs in eight bits. The backward one runs in bfloat16, with the layer's own weights.

What it does not do: train anything, or say which machine can do it (see `fedmed.learning.machine`).
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

_LARGEST: Final = 448.0
"""Of float8 e4m3."""
_SMALLEST: Final = 1e-12
_MULTIPLE: Final = 16
"""What the hardware wants the sides of a product to be multiples of."""


def fits(layer: nn.Module) -> bool:
    """Return whether a layer is a plain frozen linear whose sides the hardware can multiply.

    >>> fits(nn.Linear(16, 32).requires_grad_(False)), fits(nn.Linear(16, 32)), fits(nn.Linear(16, 3))
    (True, False, False)
    """
    return (
        type(layer) is nn.Linear
        and not any(value.requires_grad for value in layer.parameters())
        and layer.in_features % _MULTIPLE == 0
        and layer.out_features % _MULTIPLE == 0
    )


def in_eight_bits(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of a frozen linear layer with its product in eight bits, bfloat16 in and out."""
    weight, scales = _quantised(layer.weight.detach())

    def forward(input: Tensor) -> Tensor:  # noqa: A002  torch's layers call it so
        found: Tensor = _Product.apply(input, layer, weight, scales)  # type: ignore[no-untyped-call]
        return found

    return forward


def _quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in eight bits and the scale of each, shape `[rows, 1]`."""
    values = values.float()
    scales = (values.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=_SMALLEST)
    return (values / scales).to(torch.float8_e4m3fn), scales


class _Product(torch.autograd.Function):
    """The forward product in eight bits, the backward one in bfloat16."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear, weight: Tensor, scales: Tensor) -> Tensor:
        ctx.layer, ctx.dtype = layer, inputs.dtype
        rows, row_scales = _quantised(inputs.reshape(-1, layer.in_features))
        found: Tensor = torch._scaled_mm(  # noqa: SLF001  torch's one door to these products
            rows, weight.t(), scale_a=row_scales, scale_b=scales.t(), out_dtype=torch.bfloat16
        )
        if layer.bias is not None:
            found = found + layer.bias.to(found.dtype)
        return found.view(*inputs.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        onwards = gradient.bfloat16() @ ctx.layer.weight.bfloat16()
        return onwards.to(ctx.dtype), None, None, None
