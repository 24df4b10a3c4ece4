"""What a module must be before its per-record gradients may be believed, and how it stands while they are computed.

Why it exists: per-record clipping bounds one patient's influence only while nothing couples records.

Rules:
    * Trainable parameters are float32: noise rounded to bfloat16 protects less than it says.
    * No normalisation learns from a batch, and no buffer remembers one.
    * A loss is one number per record.

What it does not do: capture gradients (see `engine`), or try them on synthetic records (see `per_record_trial`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fedmed.errors import ModelError
from fedmed.model_spec import Precision

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps (outputs, labels) of a batch to one loss per record."""

Capture: TypeAlias = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Maps (inputs, labels) to the per-record gradients, (records, *shape), of every parameter that took part."""

Capturing: TypeAlias = Callable[[nn.Module, Loss], AbstractContextManager[Capture]]
"""Prepares a module for capture, lends the `Capture`, and leaves the module as it was."""

_LOSS_SCALE = 1024.0


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters to train by name.

    Raises:
        ModelError: There is none, one is not float32, or one belongs to a batch normalisation.
    """
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not parameters:
        raise ModelError("expected a module with trainable parameters, found none")
    for name, value in parameters.items():
        if value.dtype != torch.float32:
            raise ModelError(f"parameter {name!r}: expected float32, got {value.dtype}; noise needs full precision")
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and any(value.requires_grad for value in layer.parameters()):
            raise ModelError(
                f"layer {name!r}: a trainable batch normalisation mixes records; freeze it or use group normalisation"
            )
    return parameters


@contextmanager
def training_mode(module: nn.Module) -> Iterator[None]:
    """Hold `module` in training mode, but normalisations with running statistics in eval mode.

    Raises:
        ModelError: A buffer changed in the block: running statistics of real records would leave
            with the module. The buffers are put back first.
    """
    modes = {layer: layer.training for layer in module.modules()}
    buffers = {name: value.detach().clone() for name, value in module.named_buffers()}
    module.train()
    for layer in modes:
        if isinstance(layer, _NormBase):
            layer.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        changed = _restore(module, buffers)
    if changed:
        raise ModelError(f"buffer {changed[0]!r} changed in training: it would release statistics without noise")


@contextmanager
def dropout_off(module: nn.Module) -> Iterator[None]:
    """Hold every layer without trainable parameters of its own in eval mode: hooks need the others in training mode.

    Blocks that are checkpointed stay in training mode too, or they would not be: what runs is what is tried.
    """
    quiet = [
        layer
        for layer in module.modules()
        if layer.training
        and not getattr(layer, "gradient_checkpointing", False)
        and not any(value.requires_grad for value in layer.parameters(recurse=False))
    ]
    for layer in quiet:
        layer.training = False
    try:
        yield
    finally:
        for layer in quiet:
            layer.training = True


def record_losses(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return one loss per record.

    Raises:
        ModelError: The loss returned another shape, such as the mean of a batch.
    """
    if not isinstance(outputs, Tensor):
        raise ModelError(f"expected the module to return one tensor, got a {type(outputs).__name__}")
    losses = loss(outputs, labels)
    if losses.shape != labels.shape[:1]:
        raise ModelError(
            f"expected a loss per record, shape {tuple(labels.shape[:1])}, got {tuple(losses.shape)}; "
            "use reduction='none' and average within each record"
        )
    return losses


def loss_scale(precision: Precision) -> float:
    """Return what the loss is multiplied by before a backward pass, so that float16 can hold small gradients."""
    return _LOSS_SCALE if precision == "fp16" else 1.0


def forget_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Drop what an earlier backward pass left on the parameters."""
    for value in parameters.values():
        value.grad = None


def synthetic(like: Tensor, records: int, device: torch.device, *, seed: int = 0) -> Tensor:
    """Return records shaped and typed `like` on a device: zeros and ones, or normals for float inputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (records, *like.shape[1:])
    if like.is_floating_point() and like.ndim > 1:
        return torch.randn(shape, generator=generator).to(device, like.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(device, like.dtype)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes: the device of its first parameter."""
    return next(module.parameters()).device


def _restore(module: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    """Put changed buffers back and return their names."""
    changed = []
    for name, value in module.named_buffers():
        old = before.get(name)
        if old is None or old.shape != value.shape:
            changed.append(name)
        elif not torch.equal(old, value):
            changed.append(name)
            with torch.no_grad():
                value.copy_(old)
    return changed
