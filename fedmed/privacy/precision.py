"""A frozen base computed in half precision or less, under trained layers that stay in float32.

Why it exists: on a graphics card half precision is many times as fast and needs half the memory, but a gradient that
is rounded before it is clipped, or noise that is rounded after it is drawn, is no longer what the ledger charged for.

Rules:
    * Every layer that owns a trained parameter computes in float32, forward and backward; so do the loss, gradients of
      records, clipping, sums and noise. Only frozen layers run in less.
    * float16 loses small gradients, so the loss is multiplied by a constant, a power of two, which is divided out in
      float32 before anything is clipped. The constant never follows the data, as dynamic scaling would.
    * Blocks of records have one size, the last one filled up, and texts one length: what a record's gradient is rounded
      to depends on the shape that it is computed in, which must not follow who else was sampled. Fillers are dropped.

What it does not do: move a module to a device, or lower its weights (see `fedmed.learning.machine`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedmed.model_spec import Precision
from fedmed.privacy.eight_bits import fits, in_eight_bits
from fedmed.privacy.gradients import Capture, Loss, loss_scale

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,  # what is between the products in eight bits
}
"""What autocast computes in."""


def scaled(loss: Loss, precision: Precision) -> Loss:
    """Return a loss in float32, whatever the outputs are in, multiplied by the scale."""
    if precision == "fp32":
        return loss
    scale = loss_scale(precision)
    return lambda outputs, labels: loss(outputs, labels).float() * scale


def unscaled(capture: Capture, precision: Precision) -> Capture:
    """Return a capture of scaled losses whose rows have the scale divided out, in float32."""
    if precision == "fp32":
        return capture
    scale = loss_scale(precision)
    return lambda inputs, labels: {name: rows.float() / scale for name, rows in capture(inputs, labels).items()}


def in_blocks(capture: Capture, precision: Precision, size: int) -> Capture:
    """Return a capture that fills up its records to `size`, so that every block has one shape; not for float32."""
    if precision == "fp32":
        return capture

    def filled(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        records = len(inputs)
        rows = capture(_filled(inputs, size), _filled(labels, size))
        return {name: row[:records] for name, row in rows.items()}

    return filled


def block_size(precision: Precision, physical_batch: int, expected: float) -> int:
    """Return how many records are computed at a time; in less than float32 a power of two, of public numbers alone.

    Args:
        precision: Of the base.
        physical_batch: Most that fit.
        expected: Records that a step is expected to have; a quarter of it wastes an eighth in fillers, on average.

    >>> block_size("fp32", 256, 100.0), block_size("bf16", 256, 100.0), block_size("bf16", 20, 100.0)
    (256, 32, 16)
    """
    if precision == "fp32":
        return physical_batch
    size = 1
    while size < expected / 4 and 2 * size <= physical_batch:
        size *= 2
    return size


@contextmanager
def computing(module: nn.Module, precision: Precision) -> Iterator[None]:
    """Hold `module` so that its frozen layers compute in `precision`, its trained ones in float32.

    Its outputs are float32. Afterwards the module is as it was.
    """
    if precision == "fp32":
        yield
        return
    layers = [layer for layer in module.modules() if any(value.requires_grad for value in _own(layer))]
    eight = [layer for layer in module.modules() if precision == "fp8" and fits(layer)]
    before = [(layer, layer.__dict__.get("forward")) for layer in (*layers, *eight, module)]
    hooks = [layer.register_forward_pre_hook(_raise_inputs, with_kwargs=True) for layer in layers]
    try:
        for layer in layers:
            layer.forward = _cast(layer.forward, None)
        for layer in eight:
            layer.forward = in_eight_bits(layer)  # type: ignore[arg-type]  # `fits` says that it is linear
        module.forward = _cast(module.forward, DTYPES[precision])
        with longest(module):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, forward in reversed(before):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


@contextmanager
def longest(module: nn.Module) -> Iterator[None]:
    """Hold a module that reads texts (it has an attribute `longest`) so that it fills each up to the longest it takes.

    Else the longest text of a batch would decide in which shape the others are computed.
    """
    before = vars(module).get("longest")
    if before is None:
        yield
        return
    module.longest = True  # type: ignore[assignment]
    try:
        yield
    finally:
        module.longest = before


def _own(layer: nn.Module) -> list[nn.Parameter]:
    return [value for value in layer._parameters.values() if value is not None]  # noqa: SLF001  as in `per_record`


def _filled(values: Tensor, size: int) -> Tensor:
    missing = size - len(values)
    return values if missing <= 0 else torch.cat([values, values[:1].expand(missing, *values.shape[1:])])


def _raise_inputs(_layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give a trained layer its inputs in float32, before anything else looks at them."""
    return tuple(map(_raised, given)), {name: _raised(value) for name, value in named.items()}


def _raised(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _cast(forward: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    """Return a forward pass under autocast to `dtype`, with float32 outputs; None: without autocast."""

    def cast(*given: Any, **named: Any) -> Any:
        with _autocast(given, dtype):
            found = forward(*given, **named)
        return found if dtype is None else _raised(found)

    return cast


def _autocast(given: tuple[Any, ...], dtype: torch.dtype | None) -> torch.autocast:
    device = next((value.device.type for value in given if isinstance(value, Tensor)), "cpu")
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
