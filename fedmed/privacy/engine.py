"""Differentially private training and accounting: the only module that imports opacus.

Why it exists: stock Opacus lets ten breaches through (docs/explanation/privacy.md). Each is
closed here once, so nobody who trains can reopen it.

Rules:
    * Each record contributes its own gradient, clipped to one norm; noise is added once per step
      to the sum, from a `NoiseSource`; a penalty on the parameters joins after clip and noise.
    * Per-record gradients come from `per_record` where that covers the whole module, else from Opacus'
      hooks. Either is tried on synthetic records before a training touches real ones (`per_record_trial`);
      Opacus also takes over what the first doesn't get right. Ghost clipping isn't offered.
    * A record with a non-finite gradient counts as zero; an empty batch is a step of pure noise.
    * The module that comes back is the module that went in: no hooks, no attributes, even after an error.

What it does not do: charge or decide how much noise is enough. `StepReport` and `TrainReport`
count real records: they stay at the site.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.model_spec import Precision
from fedmed.privacy.clipping import clipped_sums, clipping_factors, require_clip_norm
from fedmed.privacy.descent import (
    Descent,
    PenaltyGradient,
    Records,
    StepReport,
    TrainReport,
    blocks,
    check_loop,
    check_records,
    require_positive,
    train_plain,
)
from fedmed.privacy.gradients import (
    Capture,
    Capturing,
    Loss,
    device_of,
    dropout_off,
    record_losses,
    trainable,
    training_mode,
)
from fedmed.privacy.noise import Floats, NoiseSource
from fedmed.privacy.penalty import Penalty
from fedmed.privacy.per_record import covers, direct_capture
from fedmed.privacy.per_record_hooks import captured_samples, clean, expected_warnings, forget_samples
from fedmed.privacy.plan import Event, epsilon_near, merge, total_distance
from fedmed.privacy.precision import computing
from fedmed.privacy.release import clipped_sum, private_sum
from fedmed.privacy.structure import structure
from fedmed.privacy.trials import first_that_stands

_root_handlers = logging.root.handlers[:]
from opacus.accountants import PRVAccountant  # noqa: E402  see the restoration below
from opacus.accountants.analysis.prv import Domain  # noqa: E402
from opacus.accountants.analysis.rdp import compute_rdp  # noqa: E402
from opacus.grad_sample.grad_sample_module import GradSampleHooks  # noqa: E402
from opacus.optimizers import DPOptimizer  # noqa: E402

logging.root.handlers[:] = _root_handlers  # importing opacus calls logging.basicConfig

__all__ = [
    "PrvAccountant",
    "StepReport",
    "TrainReport",
    "clipped_sum",
    "hooked_capture",
    "per_record_gradients",
    "private_sum",
    "train_plain",
    "train_private",
    "tried_capture",
]

_RELATIVE_ERROR = 2e-3
"""Error of the PRV's grid relative to epsilon: Opacus' absolute 0.01 doubles an epsilon of 0.01."""

_LARGEST_PRV_EPSILON = 200.0
"""Above it exp(epsilon) strains the PRV's float64 grid, and nobody is protected anyway."""


def train_private(
    module: nn.Module,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    steps: int,
    sample_rate: float,
    expected_batch: float,
    clip_norm: float,
    noise_multiplier: float,
    learning_rate: float,
    momentum: float,
    noise: NoiseSource,
    penalty_gradient: PenaltyGradient | None = None,
    penalty: Penalty | None = None,
    physical_batch: int = 256,
    memory_bytes: int | None = None,
    precision: Precision = "fp32",
    capturing: Capturing | None = None,
) -> TrainReport:
    """Train the trainable parameters of `module` in place by DP-SGD (Abadi et al. 2016).

    Guarantees: the trained parameters are the output of `Event(noise_multiplier, sample_rate, steps)`,
    provided `expected_batch`, `penalty_gradient` and `penalty` don't depend on the records.

    A record's gradient is cut to `clip_norm`; the noise's standard deviation is `noise_multiplier` times that, and the
    noisy sum is divided by `expected_batch`, a public number. `module` maps a batch of inputs to one tensor, and comes
    back without hooks, in the mode it came in; `loss` gives one loss per record, which depends on that record only.
    `capturing` is `direct_capture` or `hooked_capture`; None takes the first wherever it applies. The other arguments
    are explained at `Descent.of`, `Descent.run` and `blocks`, which take them; `physical_batch` is its `most`.

    Raises:
        ConfigError: A number is out of range.
        DataError: Inputs and labels don't match.
        ModelError: The penalty doesn't fit the module, or the module or the loss can't be trained record by record.
        RefusedError: Not one record fits under `memory_bytes`.
    """
    require_positive(noise_multiplier=noise_multiplier)
    require_clip_norm(clip_norm)
    check_loop(steps=steps, sample_rate=sample_rate, expected_batch=expected_batch, learning_rate=learning_rate)
    check_records(inputs, labels, physical_batch)
    descent = Descent.of(
        module, learning_rate=learning_rate, momentum=momentum, penalty_gradient=penalty_gradient, penalty=penalty
    )
    with (
        training_mode(module),
        tried_capture(module, loss, inputs, labels, chosen=capturing, precision=precision) as capture,
    ):
        blockwise, records = blocks(
            module, capture, inputs, labels, precision=precision, most=physical_batch, memory_bytes=memory_bytes,
            expected=expected_batch,
        )  # fmt: skip
        optimizer = _PrivateOptimizer.of(
            descent, noise_multiplier=noise_multiplier, clip_norm=clip_norm, expected_batch=expected_batch, noise=noise
        )
        step = partial(_private_step, optimizer, descent.parameters, blockwise, records)
        return descent.run(step, records=len(records), steps=steps, sample_rate=sample_rate, noise=noise)


def per_record_gradients(
    module: nn.Module,
    *,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    physical_batch: int = 256,
    memory_bytes: int | None = None,
    precision: Precision = "fp32",
    capturing: Capturing | None = None,
) -> Iterator[Tensor]:
    """Yield (records, d) float32 gradients of at most `physical_batch` records at a time, or what fits in memory.

    Dropout is off. Columns follow `named_parameters()` of the trainable parameters, flattened. Rows may be
    non-finite. The module is clean again when the iterator is exhausted or closed. Arguments are `train_private`'s.

    Raises:
        DataError: Inputs and labels don't match.
        ModelError: The module or the loss can't be captured record by record.
        RefusedError: Not one record fits under `memory_bytes`.
    """
    check_records(inputs, labels, physical_batch)
    parameters = trainable(module)
    with (
        training_mode(module),
        dropout_off(module),
        tried_capture(module, loss, inputs, labels, chosen=capturing, precision=precision) as capture,
    ):
        blockwise, records = blocks(
            module, capture, inputs, labels, precision=precision, most=physical_batch, memory_bytes=memory_bytes,
            expected=len(inputs), joined=True,
        )  # fmt: skip
        for some_inputs, some_labels in records.batches(torch.arange(len(inputs))):
            yield _joined(blockwise(some_inputs, some_labels), parameters, len(some_inputs))


def _joined(captured: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], records: int) -> Tensor:
    """Return the gradients of every parameter side by side, (records, d); who takes no part has zeros."""
    return torch.cat(
        [
            captured.get(name, value.new_zeros(1).expand(records, *value.shape)).flatten(1)
            for name, value in parameters.items()
        ],
        dim=1,
    )


class PrvAccountant:
    """Composes events by Opacus' privacy-random-variable accountant (Gopi et al., arXiv:2106.02848).

    Guarantees: an upper bound. On the grid that the tests compare it is at most 1 % above Google's PLD accountant;
    mixtures of very unlike events can be 2 % above.
    """

    def epsilon(self, events: Sequence[Event], delta: float) -> float:
        """Return an epsilon such that all of `events` together are (epsilon, delta)-DP; 0 for none.

        >>> event = Event(noise_multiplier=2.0, sample_rate=1.0, steps=1)
        >>> round(PrvAccountant().epsilon([event], 1e-5), 2)
        2.0
        """
        require_positive(delta=delta)
        if not events:
            return 0.0
        gaussian = merge([replace(event, distance=0.0) for event in events])
        return epsilon_near(lambda spent: _prv_epsilon(gaussian, spent), distance=total_distance(events), delta=delta)


@lru_cache(maxsize=4096)
def _prv_epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Return the PRV bound, or the looser Renyi bound where the PRV's grid can't resolve the budget."""
    curves = [event.steps * _renyi_curve(event.noise_multiplier, event.sample_rate) for event in events]
    renyi = _renyi_epsilon(np.sum(curves, axis=0), delta)
    if not 0 < renyi <= _LARGEST_PRV_EPSILON:
        return renyi
    accountant = _ScaledPrvAccountant()
    accountant.history = [(event.noise_multiplier, event.sample_rate, event.steps) for event in events]
    try:
        with np.errstate(all="ignore"):  # log(1 - rate) at rate 1
            bound = accountant.get_epsilon(
                delta, eps_error=_RELATIVE_ERROR * renyi, delta_error=_RELATIVE_ERROR * delta / 2
            )
    except (RuntimeError, ValueError):
        return renyi
    return min(renyi, max(0.0, float(bound))) if math.isfinite(bound) else renyi


class _ScaledPrvAccountant(PRVAccountant):  # type: ignore[misc]  # opacus ships no types
    """Opacus' PRV accountant on a domain that shrinks with the budget.

    Stock Opacus adds 3 to half the domain's width, which for epsilon 0.05 makes the grid 15 times as
    long. From Pr[loss >= e + c] <= delta(e) / (1 - exp(-c)) any c > 0 will do; the best of a few is taken.
    """

    def _get_domain(
        self, *, prvs: Sequence[Any], num_self_compositions: Sequence[int], eps_error: float, delta_error: float
    ) -> Any:
        total_steps = sum(num_self_compositions)
        curves = [_renyi_curve(prv.noise_multiplier, prv.sample_rate) for prv in prvs]
        total = np.asarray(num_self_compositions, dtype=np.float64) @ np.stack(curves)

        def half_width(slack: float) -> float:
            share = -math.expm1(-slack) * delta_error
            single = (_renyi_epsilon(curve, share / (8 * total_steps)) for curve in curves)
            return max(eps_error, _renyi_epsilon(total, share / 4), *single) + slack

        half = min(half_width(slack) for slack in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0))
        mesh = eps_error / math.sqrt(total_steps * math.log(12 / delta_error) / 2)
        return Domain.create_aligned(-half, half, mesh)


_ORDERS = [1 + tenth / 10 for tenth in range(1, 100)] + [*range(11, 64), 80, 128, 256, 512, 1024]


@lru_cache(maxsize=4096)
def _renyi_curve(noise_multiplier: float, sample_rate: float) -> Floats:
    """Return the Renyi divergence of one step at each of `_ORDERS` (Mironov et al., arXiv:1908.10530)."""
    curve = compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_ORDERS)
    return np.asarray(curve, dtype=np.float64)


def _renyi_epsilon(curve: Floats, delta: float) -> float:
    """Return the best epsilon over the orders (Balle et al., arXiv:1905.09982, theorem 21)."""
    orders = np.asarray(_ORDERS)
    bounds = curve - (math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    return max(0.0, float(np.nanmin(bounds)))


class _PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus' optimizer with float32-safe clipping, non-finite records dropped, and noise from a `NoiseSource`."""

    noise: NoiseSource

    @classmethod
    def of(
        cls, descent: Descent, *, noise_multiplier: float, clip_norm: float, expected_batch: float, noise: NoiseSource
    ) -> "_PrivateOptimizer":
        """Return the optimizer of a descent."""
        made = cls(
            descent.sgd, noise_multiplier=noise_multiplier, max_grad_norm=clip_norm, expected_batch_size=expected_batch
        )
        made.noise = noise
        return made

    def add_clipped(self, parameters: Mapping[str, nn.Parameter], captured: Mapping[str, Tensor]) -> int:
        """Add the clipped gradients of some records to the sum; return how many weren't finite."""
        if not captured:
            return 0
        factors, wrong = clipping_factors(captured, self.max_grad_norm)
        for name, total in clipped_sums(captured, factors, wrong):
            value: Any = parameters[name]  # Opacus keeps the sum on it
            value.summed_grad = total if value.summed_grad is None else value.summed_grad + total
        return len(wrong)

    def add_noise(self) -> None:
        """Set every gradient to its clipped sum plus noise, added in float64; no records means noise alone."""
        sizes = [value.numel() for value in self.params]
        draws = torch.from_numpy(self.noise.normal(sum(sizes)) * (self.noise_multiplier * self.max_grad_norm))
        for value, draw in zip(self.params, torch.split(draws, sizes), strict=True):
            total = draw.to(value.device)
            if value.summed_grad is not None:
                total = total + value.summed_grad.double()
            value.grad = total.to(value.dtype).view_as(value)
            value.summed_grad = None

    def scale_grad(self) -> None:
        """Divide by the expected batch, whatever the batch really was."""
        for value in self.params:
            value.grad /= self.expected_batch_size


def _private_step(
    optimizer: _PrivateOptimizer,
    parameters: Mapping[str, nn.Parameter],
    capture: Capture,
    records: Records,
    rows: Tensor,
) -> int:
    """Fill the gradients from those of `rows`, clipped and noised; return how many records weren't finite."""
    optimizer.zero_grad()
    nonfinite = 0
    for inputs, labels in records.batches(rows):
        nonfinite += optimizer.add_clipped(parameters, capture(inputs, labels))
    optimizer.add_noise()
    optimizer.scale_grad()
    return nonfinite


@contextmanager
def tried_capture(
    module: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, *, chosen: Capturing | None, precision: Precision
) -> Iterator[Capture]:
    """Lend the first way to capture that applies to `module` and stands the trial; raise the refusal of the last."""
    candidates: tuple[Capturing, ...] = (chosen,) if chosen else (hooked_capture,)
    if chosen is None and covers(module):
        candidates = (direct_capture, hooked_capture)
    known = structure(module, loss, inputs, labels)
    key = None if known is None else (known, precision, device_of(module))
    try:
        with computing(module, precision), first_that_stands(
            candidates, module, key, loss=loss, inputs=inputs, labels=labels, precision=precision
        ) as capture:  # fmt: skip
            yield capture
    finally:
        clean(module)


@contextmanager
def hooked_capture(module: nn.Module, loss: Loss) -> Iterator[Capture]:
    """Lend the capture of per-record gradients by Opacus' hooks; afterwards the module is as it was.

    Raises:
        ModelError: Opacus knows no per-record gradients for a layer; or, from the capture, rows aren't records.
    """
    parameters = trainable(module)
    try:
        try:
            hooks = GradSampleHooks(module, loss_reduction="sum", strict=True)
        except (NotImplementedError, ValueError) as error:
            raise ModelError(
                f"this module has layers without per-record gradients: {str(error).partition(chr(10))[0]}"
            ) from error
        hooks.disable_hooks()

        def capture(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            forget_samples(parameters)
            hooks.enable_hooks()
            try:
                with expected_warnings():
                    record_losses(loss, module(inputs), labels).sum().backward()  # type: ignore[no-untyped-call]
            finally:
                hooks.disable_hooks()
            return captured_samples(parameters, len(inputs))

        with expected_warnings():
            yield capture
    finally:
        clean(module)
