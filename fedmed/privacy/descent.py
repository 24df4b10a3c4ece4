"""The training loop of one site, the same with and without differential privacy.

Why it exists: switching privacy off must change clip and noise and nothing else, or a
comparison of the two says nothing.

Rules:
    * A step is: sample records, fill the gradients, add the penalty, descend.
    * Records are sampled by Poisson sampling from a `NoiseSource`, never from torch's generator.
    * A penalty on the parameters (elastic weight consolidation, proximal terms) joins after the
      gradients are filled: inside a loss, per-record hooks would miss it.
    * `StepReport` and `TrainReport` count real records: they stay at the site.

What it does not do: clip or add noise (see `engine`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fedmed.errors import ConfigError, DataError, ModelError
from fedmed.model_spec import Precision
from fedmed.privacy.ceiling import fitting
from fedmed.privacy.gradients import Capture, Loss, device_of, loss_scale, record_losses, trainable, training_mode
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.penalty import Penalty
from fedmed.privacy.precision import block_size, computing, in_blocks, scaled

PenaltyGradient: TypeAlias = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Maps the trainable parameters by name to what to add to their gradients; it must not look at records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step saw; private to the site."""

    records: int
    nonfinite: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a training saw, step by step; private to the site."""

    steps: tuple[StepReport, ...]

    @property
    def records(self) -> int:
        """Records used over all steps."""
        return sum(step.records for step in self.steps)

    @property
    def nonfinite(self) -> int:
        """Records dropped over all steps because their gradient wasn't finite."""
        return sum(step.nonfinite for step in self.steps)


def train_plain(
    module: nn.Module,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    steps: int,
    sample_rate: float,
    expected_batch: float,
    learning_rate: float,
    momentum: float,
    noise: NoiseSource,
    penalty_gradient: PenaltyGradient | None = None,
    penalty: Penalty | None = None,
    physical_batch: int = 256,
    memory_bytes: int | None = None,
    precision: Precision = "fp32",
) -> TrainReport:
    """Train like `train_private`, without clip and noise: same loop, same samples, no privacy.

    Records with a non-finite loss are left out and counted. Arguments are `train_private`'s; `expected_batch` is what
    the summed gradient is divided by, and only sampling comes from `noise`.

    Raises:
        ConfigError: A number is out of range.
        DataError: Inputs and labels don't match, or finite losses gave a non-finite gradient.
        ModelError: The module has nothing to train, the penalty doesn't fit, or the loss isn't one per record.
    """
    check_loop(steps=steps, sample_rate=sample_rate, expected_batch=expected_batch, learning_rate=learning_rate)
    check_records(inputs, labels, physical_batch)
    loss = scaled(loss, precision)
    descent = Descent.of(
        module, learning_rate=learning_rate, momentum=momentum, penalty_gradient=penalty_gradient, penalty=penalty
    )

    def backward(some_inputs: Tensor, some_labels: Tensor) -> int:
        return plain_backward(module, loss, some_inputs, some_labels)

    def step(rows: Tensor) -> int:
        descent.sgd.zero_grad()
        nonfinite = sum(backward(*batch) for batch in records.batches(rows))
        _average(descent.parameters, expected_batch * loss_scale(precision))
        return nonfinite

    with training_mode(module), computing(module, precision):
        try:
            size = physical_batch
            if memory_bytes is not None:
                size = min(size, fitting(module, backward, inputs, labels, memory_bytes=memory_bytes))
            records = Records(inputs=inputs, labels=labels, physical_batch=size, device=device_of(module))
            return descent.run(step, records=len(records), steps=steps, sample_rate=sample_rate, noise=noise)
        finally:
            descent.sgd.zero_grad()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """What is trained on: inputs and labels, the first dimension counts them, how many at once, and on what device.

    Raises:
        DataError: Inputs and labels don't match.
        ConfigError: `physical_batch` is below 1.
    """

    inputs: Tensor
    labels: Tensor
    physical_batch: int
    device: torch.device

    def __post_init__(self) -> None:
        check_records(self.inputs, self.labels, self.physical_batch)

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels of `rows` in order, a physical batch at a time; nothing for no rows."""
        for chunk in chunks(rows, self.physical_batch):
            first, last = int(chunk[0]), int(chunk[-1])
            if last - first + 1 == len(chunk):  # rows ascend, so these are neighbours, which need no copy
                found = self.inputs[first : last + 1], self.labels[first : last + 1]
            else:
                found = self.inputs[chunk], self.labels[chunk]
            yield found[0].to(self.device), found[1].to(self.device)


def blocks(
    module: nn.Module,
    capture: Capture,
    inputs: Tensor,
    labels: Tensor,
    *,
    precision: Precision,
    most: int,
    memory_bytes: int | None,
    expected: float,
    joined: bool = False,
) -> tuple[Capture, Records]:
    """Return the capture and the records as they come, a block at a time: at most `most`, and as many as fit.

    Args:
        module: Where it stands ready for `capture`.
        capture: Of per-record gradients.
        inputs: Of all records.
        labels: Theirs.
        precision: Of the frozen part; in less than float32 the size is a power of two.
        most: Most records at a time.
        memory_bytes: Most bytes in tensors, those of the module among them; None is no ceiling.
        expected: How many records a step is expected to have; a public number.
        joined: Whether the rows are joined to one matrix and summed in float64.

    Raises:
        RefusedError: Not even one record fits.
    """
    if memory_bytes is not None:
        most = min(most, fitting(module, capture, inputs, labels, memory_bytes=memory_bytes, joined=joined))
    size = block_size(precision, most, expected)
    records = Records(inputs=inputs, labels=labels, physical_batch=size, device=device_of(module))
    return in_blocks(capture, precision, size), records


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Descent:
    """What descends: the trainable parameters by name, their optimizer, and what joins the gradient of every step."""

    parameters: Mapping[str, nn.Parameter]
    sgd: torch.optim.SGD
    penalty_gradients: Sequence[PenaltyGradient]

    @classmethod
    def of(
        cls,
        module: nn.Module,
        *,
        learning_rate: float,
        momentum: float,
        penalty_gradient: PenaltyGradient | None,
        penalty: Penalty | None,
    ) -> "Descent":
        """Return the descent of a module.

        Args:
            module: Its trainable parameters descend.
            learning_rate: Of stochastic gradient descent.
            momentum: Likewise.
            penalty_gradient: Added to the gradient, after clip and noise; it doesn't depend on the records.
            penalty: Pull towards an anchor; its gradient is added too.

        Raises:
            ModelError: The module has nothing to train, or the penalty's anchor isn't of the trainable parameters.
        """
        parameters = trainable(module)
        gathered = () if penalty_gradient is None else (penalty_gradient,)
        if penalty is not None:
            gathered = (*gathered, penalty.for_parameters(parameters))
        sgd = torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=momentum)
        return cls(parameters=parameters, sgd=sgd, penalty_gradients=gathered)

    def run(
        self, step: Callable[[Tensor], int], *, records: int, steps: int, sample_rate: float, noise: NoiseSource
    ) -> TrainReport:
        """Run `steps` times: sample, let `step` fill the gradients, add the penalties, descend.

        Args:
            step: Fills the gradients from the given rows and returns how many records weren't finite.
            records: How many there are.
            steps: How often, each time on a fresh Poisson sample.
            sample_rate: Probability with which a record takes part in a step.
            noise: Where sampling comes from.
        """
        reports = []
        for _ in range(steps):
            rows = _poisson_sample(records, sample_rate, noise)
            nonfinite = step(rows)
            for penalty_gradient in self.penalty_gradients:
                _add_penalty(self.parameters, penalty_gradient)
            self.sgd.step()
            reports.append(StepReport(records=len(rows), nonfinite=nonfinite))
        return TrainReport(steps=tuple(reports))


def chunks(rows: Tensor, physical_batch: int) -> Iterator[Tensor]:
    """Yield `rows` in order, at most `physical_batch` at a time; nothing for no rows."""
    for start in range(0, len(rows), physical_batch):
        yield rows[start : start + physical_batch]


def check_records(inputs: Tensor, labels: Tensor, physical_batch: int) -> None:
    """Raise unless inputs and labels hold the same records and a physical batch holds at least one."""
    if inputs.ndim == 0 or labels.ndim == 0 or len(inputs) != len(labels):
        raise DataError(
            f"expected as many inputs as labels, got shapes {tuple(inputs.shape)} and {tuple(labels.shape)}"
        )
    if physical_batch < 1:
        raise ConfigError(f"physical_batch: expected at least 1, got {physical_batch}")


def check_loop(*, steps: int, sample_rate: float, expected_batch: float, learning_rate: float) -> None:
    """Raise `ConfigError` on a number out of range."""
    if steps < 1:
        raise ConfigError(f"steps: expected at least 1, got {steps}")
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate: expected a number in (0, 1], got {sample_rate}")
    require_positive(expected_batch=expected_batch, learning_rate=learning_rate)


def require_positive(**numbers: float) -> None:
    """Raise `ConfigError` unless every number is finite and above 0."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: expected a number above 0, got {value}")


def _poisson_sample(records: int, sample_rate: float, noise: NoiseSource) -> Tensor:
    """Return the rows that take part: each on its own with probability `sample_rate`."""
    if sample_rate == 1:
        return torch.arange(records)
    return torch.from_numpy(np.flatnonzero(noise.uniform(records) < sample_rate))


def _add_penalty(parameters: Mapping[str, nn.Parameter], penalty_gradient: PenaltyGradient) -> None:
    with torch.no_grad():
        extra = penalty_gradient({name: value.detach() for name, value in parameters.items()})
        for name, gradient in extra.items():
            if name not in parameters or gradient.shape != parameters[name].shape:
                raise ModelError(f"penalty on {name!r}: expected the gradient of a trainable parameter, in its shape")
            target = parameters[name]
            target.grad = gradient.to(target) if target.grad is None else target.grad + gradient.to(target)


def _average(parameters: Mapping[str, nn.Parameter], expected_batch: float) -> None:
    """Divide the summed gradients by the expected batch, whatever the batch really was; no records means zero."""
    for name, value in parameters.items():
        value.grad = torch.zeros_like(value) if value.grad is None else value.grad / expected_batch
        if not bool(torch.isfinite(value.grad).all()):
            raise DataError(f"parameter {name!r}: finite losses gave a non-finite gradient; lower the learning rate")


def plain_backward(module: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor) -> int:
    """Add the gradient of the summed finite losses; return how many records weren't finite."""
    losses = record_losses(loss, module(inputs), labels)
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        if bool(finite.any()):
            record_losses(loss, module(inputs[finite]), labels[finite]).sum().backward()  # type: ignore[no-untyped-call]
        return int((~finite).sum())
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return 0
