"""The trial on synthetic records: is what is captured for a record that record's own gradient, whatever the weights?

Why it exists: per-record clipping bounds one patient's influence only while the row that is clipped holds that
patient's gradient, all of it and nothing else. Reshapes, losses that divide by a batch's token count, and
checkpointing break this in silence.

Rules:
    * The module is tried on three synthetic records, the same for every site: its captured
      gradients must equal those of an explicit loop over single records.
    * It is tried with other weights than its own: behind a head or a `lora_B` that starts at zero
      every gradient is zero, and a zero shows nothing. So a trial speaks for all weights.
    * Gradients are compared with their own size, never with a fixed number, so that a loss or an adapter of any scale
      is held to the same. Where they differ, rounding is measured: the loop is run again with trained weights moved by
      their last digit. A difference within what that moves is rounding (a saturated attention leaves next to nothing of
      sums that cancel), any other is a refusal. What rounding hides must be shown with smaller weights.
    * In less than float32 a gradient alone and one in a batch may round differently, so the loop is compared coarsely,
      which still shows a loss or a module that divides by the number of records; and each record is captured beside
      other neighbours in another place, where its gradient must be the same to float32's last digits.
    * Nothing here depends on a real record, so a refusal reveals none.

What it does not do: capture gradients (see `engine`), remember verdicts (see `trials`), or repair a module.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.privacy.gradients import (
    Capture,
    Loss,
    device_of,
    dropout_off,
    forget_gradients,
    loss_scale,
    record_losses,
    synthetic,
    trainable,
)

_RECORDS = 3
_COARSE = 0.25
"""Relative error of a gradient in half precision or less; to divide by a count of three is an error of two thirds."""
_EPSILON = torch.finfo(torch.float32).eps
_EPSILONS: Mapping[Precision, float] = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": 2.0**-4}
"""Of what frozen layers compute in; float32 stands apart."""
_NOTHING = 16 * _EPSILON
"""Of a record's whole gradient: a parameter with less of it has none but rounding, as a key's bias under a softmax."""
_SHARES = (1.0, 2.0**-6, 2.0**-12)
"""What trained weights are multiplied by in one trial after the other, while rounding hides a parameter."""
_NUDGES = (1000, 2000)
"""Seeds of the nudges by which rounding is measured."""
_EXPLAINED = 16.0
"""How many times the measured rounding an error may be; on small transformers it was five times at most."""
_IGNORED_LABEL = -100


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
    hidden: set[str] | None = None
    for share in _SHARES:
        with dropout_off(module), _stirred(module, share):
            trial = _trial(module, loss=loss, inputs=inputs, labels=labels, capture=capture, precision=precision)
            found = set(trial.hidden())
            _check_decoupled(loss, trial.outputs, trial.labels)
        hidden = found if hidden is None else hidden & found
        if not hidden:
            return
    raise ModelError(
        f"parameter {min(hidden or ())!r}: rounding is larger than its gradient, so the trial on synthetic records"
        " shows nothing; lower lora_alpha, or compute in more precision"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Gradients of synthetic records: each computed alone, captured together, and captured among other neighbours."""

    parameters: Mapping[str, nn.Parameter]
    explicit: Callable[[], tuple[list[Tensor], list[dict[str, Tensor]]]]
    """Computes outputs and gradients of each record alone."""
    outputs: Tensor
    labels: Tensor
    alone: list[dict[str, Tensor]]
    captured: Mapping[str, Tensor]
    moved: Mapping[str, Tensor] | None
    """None in float32, where `captured` is compared closely with `alone`."""
    precision: Precision
    measured: dict[float, list[dict[str, float]]] = field(default_factory=dict)
    """Rounding by epsilon, measured when it is asked for."""

    def hidden(self) -> Iterator[str]:
        """Yield the parameters of which rounding hides whether each record's gradient is its own.

        Raises:
            ModelError: A gradient isn't finite, or isn't its record's own beyond what rounding explains.
        """
        for row, expected in enumerate(self.alone):
            self._check_finite(expected)
            whole = max(_largest(value) for value in expected.values())
            for name, value in expected.items():
                for error, epsilon in self._errors(name, row, value):
                    if not error <= _EXPLAINED * self._rounding(epsilon)[row][name]:  # what isn't a number, too
                        raise ModelError(
                            f"parameter {name!r}: the gradient captured for a record isn't that record's own; keep"
                            " records on the first dimension of every layer and don't use non-reentrant checkpointing"
                        )
                    if max(error, _largest(value)) > _NOTHING * whole:
                        yield name

    def _errors(self, name: str, row: int, expected: Tensor) -> Iterator[tuple[float, float]]:
        """Yield by how much a captured gradient is off, where it isn't close, and what epsilon may explain it."""
        zero = torch.zeros_like(self.parameters[name])
        actual = self.captured[name][row] if name in self.captured else zero
        if self.moved is None:
            if not _close(actual, expected):
                yield _largest(actual - expected), _EPSILON
            return
        elsewhere = self.moved[name][row] if name in self.moved else zero
        if not _roughly(actual, expected):
            yield _largest(actual - expected), _EPSILONS[self.precision]
        if not _close(elsewhere, actual):
            yield _largest(elsewhere - actual), _EPSILON

    def _rounding(self, epsilon: float) -> list[dict[str, float]]:
        """Return by how much the gradients alone move when trained weights move by a rounding error."""
        if epsilon not in self.measured:
            found = [dict.fromkeys(self.parameters, 0.0) for _ in self.alone]
            for seed in _NUDGES:
                with _nudged(self.parameters.values(), epsilon, seed):
                    _, nudged = self.explicit()
                for row, gradients in enumerate(nudged):
                    for name, value in gradients.items():
                        found[row][name] = max(found[row][name], _largest(value - self.alone[row][name]))
            self.measured[epsilon] = found
        return self.measured[epsilon]

    def _check_finite(self, expected: Mapping[str, Tensor]) -> None:
        for name, value in expected.items():
            if not bool(torch.isfinite(value).all()):
                raise ModelError(
                    f"parameter {name!r}: the trial on synthetic records gave a gradient that isn't finite, which "
                    "shows nothing; expected a finite loss for inputs that are standard normal"
                )


def _trial(
    module: nn.Module, *, loss: Loss, inputs: Tensor, labels: Tensor, capture: Capture, precision: Precision
) -> _Trial:
    """Compute what a trial compares; the module stands stirred."""
    parameters = trainable(module)
    some_inputs, some_labels = (synthetic(value, _RECORDS, device_of(module)) for value in (inputs, labels))

    def explicit() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        found = [
            _explicit(
                module, loss, parameters, some_inputs[row : row + 1], some_labels[row : row + 1],
                scale=loss_scale(precision),
            )
            for row in range(_RECORDS)
        ]  # fmt: skip
        return [outputs for outputs, _ in found], [gradients for _, gradients in found]

    try:
        outputs, alone = explicit()
        captured = capture(some_inputs, some_labels)
        moved = None if precision == "fp32" else _moved_away(capture, some_inputs, some_labels)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"per-record gradients can't be captured from this module ({type(error).__name__}); "
            "see docs/explanation/privacy.md for what a private module may contain"
        ) from error
    return _Trial(
        parameters=parameters,
        explicit=explicit,
        outputs=torch.cat(outputs),
        labels=some_labels,
        alone=alone,
        captured=captured,
        moved=moved,
        precision=precision,
    )


@contextmanager
def _nudged(parameters: Iterable[nn.Parameter], epsilon: float, seed: int) -> Iterator[None]:
    """Hold parameters a rounding error from where they were."""
    before = [(value, value.detach().clone()) for value in parameters]
    try:
        with torch.no_grad():
            for place, (value, old) in enumerate(before):
                value.copy_(_moved(old, epsilon, seed=seed + place))
        yield
    finally:
        with torch.no_grad():
            for value, old in before:
                value.copy_(old)


@contextmanager
def _stirred(module: nn.Module, share: float = 1.0) -> Iterator[None]:
    """Hold what `module` trains, and what is frozen at zero, a fixed random distance from where it was.

    What it trains is multiplied by `share` then: with smaller weights nothing saturates.
    """
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
                if value.requires_grad:
                    value.mul_(share)
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
        rounding = _largest(record_losses(loss, _moved(outputs, _EPSILON, seed=3), variant) - together)
        if not _close(together, torch.stack(alone), _EXPLAINED * rounding):
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
    return float((actual - expected).norm()) <= _COARSE * float(expected.norm())


def _close(actual: Tensor, expected: Tensor, floor: float = 0.0) -> bool:
    return torch.allclose(actual.float(), expected.float(), rtol=1e-3, atol=1e-4 * _largest(expected) + floor)


def _moved(values: Tensor, epsilon: float, *, seed: int) -> Tensor:
    """Return values that are off by a rounding error of `epsilon`, which has the same bits on every machine."""
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    return values * (1 + epsilon * drawn).to(values)


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().amax()) if values.numel() else 0.0
