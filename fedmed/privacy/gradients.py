"""What a module must be before its per-record gradients may be believed.

Why it exists: per-record clipping bounds one patient's influence only while the row
that is clipped holds that patient's gradient, all of it and nothing else. Reshapes, losses
that divide by a batch's token count, and checkpointing break this in silence.

Rules:
    * The module is tried on three synthetic records, the same for every site: its captured
      gradients must equal those of an explicit loop over single records.
    * It is tried with other weights than its own: behind a head or a `lora_B` that starts at zero
      every gradient is zero, and a zero shows nothing. So a trial speaks for all weights.
    * In less than float32 a gradient alone and one in a batch may round differently, so the loop is compared coarsely,
      which still shows a loss or a module that divides by the number of records; and each record is captured beside
      other neighbours in another place, where its gradient must be the same to float32's last digits.
    * Nothing here depends on a real record, so a refusal reveals none.
    * Trainable parameters are float32: noise rounded to bfloat16 protects less than it says.

What it does not do: capture gradients (see `engine`) or repair a module.
"""

import math
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

_RECORDS = 3
_COARSE = 0.25
"""Relative error of a gradient in half precision or less; to divide by a count of three is an error of two thirds."""
_IGNORED_LABEL = -100
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


def check_per_record(
    module: nn.Module, *, loss: Loss, inputs: Tensor, labels: Tensor, capture: Capture, precision: Precision = "fp32"
) -> None:
    """Try `module`, `loss` and `capture` on synthetic records with the shapes of `inputs` and `labels`.

    Args:
        module: Stands in training mode; its hooks are off unless `capture` runs.
        loss: One loss per record, scaled for `precision`.
        inputs: Real inputs, of which only shape, dtype and device are used.
        labels: Real labels, of which only shape, dtype and device are used.
        capture: What the training will use, whose rows have the scale divided out.
        precision: What frozen layers compute in.

    Raises:
        ModelError: The module can't be captured, or a captured gradient isn't its record's own.
    """
    parameters, coarse = trainable(module), precision != "fp32"
    some_inputs, some_labels = (synthetic(value, _RECORDS, device_of(module)) for value in (inputs, labels))
    with dropout_off(module), _stirred(module):
        try:
            alone = [
                _explicit(
                    module, loss, parameters, some_inputs[row : row + 1], some_labels[row : row + 1],
                    scale=loss_scale(precision),
                )
                for row in range(_RECORDS)
            ]  # fmt: skip
            captured = capture(some_inputs, some_labels)
            moved = _moved_away(capture, some_inputs, some_labels) if coarse else captured
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"per-record gradients can't be captured from this module ({type(error).__name__}); "
                "see docs/explanation/privacy.md for what a private module may contain"
            ) from error
    for name, value in parameters.items():
        for row, (_, expected) in enumerate(alone):
            if not bool(torch.isfinite(expected[name]).all()):
                raise ModelError(
                    f"parameter {name!r}: the trial on synthetic records gave a gradient that isn't finite, which "
                    "shows nothing; expected a finite loss for inputs that are standard normal"
                )
            actual = captured[name][row] if name in captured else torch.zeros_like(value)
            elsewhere = moved[name][row] if name in moved else torch.zeros_like(value)
            if not ((_roughly if coarse else _close)(actual, expected[name]) and _close(elsewhere, actual)):
                raise ModelError(
                    f"parameter {name!r}: the gradient captured for a record isn't that record's own; keep records "
                    "on the first dimension of every layer and don't use non-reentrant checkpointing"
                )
    _check_decoupled(loss, torch.cat([outputs for outputs, _ in alone]), some_labels)


def forget_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Drop what an earlier backward pass left on the parameters."""
    for value in parameters.values():
        value.grad = None


@contextmanager
def _stirred(module: nn.Module) -> Iterator[None]:
    """Hold what `module` trains, and what is frozen at zero, a fixed random distance from where it was."""
    before = [
        (value, value.detach().clone())
        for value in module.parameters()
        if value.requires_grad or (value.is_floating_point() and not bool(value.any()))
    ]
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for value, _ in before:
                scale = 0.5 / math.sqrt(max(1, value[0].numel())) if value.ndim > 1 and len(value) else 0.1
                value.add_((scale * torch.randn(value.shape, generator=generator)).to(value))
        yield
    finally:
        with torch.no_grad():
            for value, old in before:
                value.copy_(old)


def _check_decoupled(loss: Loss, outputs: Tensor, labels: Tensor) -> None:
    """Raise when the loss of a record depends on the other records of its batch."""
    for variant in _label_variants(labels):
        try:
            together = record_losses(loss, outputs, variant)
            alone = [record_losses(loss, outputs[row : row + 1], variant[row : row + 1])[0] for row in range(_RECORDS)]
        except (IndexError, RuntimeError):
            if variant is labels:
                raise
            continue  # this loss doesn't know ignored labels
        if not _close(together, torch.stack(alone)):
            raise ModelError("the loss of a record depends on its batch: average within each record, not over tokens")


def _label_variants(labels: Tensor) -> Iterator[Tensor]:
    yield labels
    if labels.dtype == torch.int64 and labels.ndim > 1 and labels.device.type == "cpu":
        uneven = labels.clone()
        uneven[1, ..., labels.shape[-1] // 2 :] = _IGNORED_LABEL
        yield uneven


def _explicit(
    module: nn.Module,
    loss: Loss,
    parameters: Mapping[str, nn.Parameter],
    inputs: Tensor,
    labels: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return outputs and gradient of one record; by `backward`, as re-entrant checkpointing knows no other way."""
    forget_gradients(parameters)
    outputs = module(inputs)
    record_losses(loss, outputs, labels).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {}
    for name, value in parameters.items():
        gradients[name] = torch.zeros_like(value) if value.grad is None else value.grad / scale
    forget_gradients(parameters)
    return outputs.detach(), gradients


def _moved_away(capture: Capture, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return what is captured of each record when it stands in another place beside other neighbours."""
    stranger, strange = (synthetic(value, 1, value.device, seed=2) for value in (inputs, labels))
    found: dict[str, list[Tensor]] = {}
    for row in range(_RECORDS):
        place = (row + 1) % _RECORDS
        around = [stranger] * _RECORDS, [strange] * _RECORDS
        around[0][place], around[1][place] = inputs[row : row + 1], labels[row : row + 1]
        for name, rows in capture(torch.cat(around[0]), torch.cat(around[1])).items():
            found.setdefault(name, []).append(rows[place].clone())
    return {name: torch.stack(rows) for name, rows in found.items()}


def _roughly(actual: Tensor, expected: Tensor) -> bool:
    return float((actual - expected).norm()) <= _COARSE * float(expected.norm()) + 1e-7


def _close(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.detach().abs().amax()) if expected.numel() else 0.0
    return torch.allclose(actual.float(), expected.float(), rtol=1e-3, atol=1e-4 * scale + 1e-7)


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
