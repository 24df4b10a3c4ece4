"""How many records are computed at a time, so that a step stays below a ceiling of memory.

Why it exists: a gradient per record costs memory per record, and how much depends on the model and on the longest
record. A machine that runs out of memory in the middle of a round has charged for nothing.

Rules:
    * It is measured, not estimated: one and two synthetic records of the real shape go through the real pass.
    * The answer changes how often the pass is run, never which records take part or what comes out.
    * Nothing here looks at a real record.

What it does not do: bound what is held outside tensors (interpreter, libraries, data), or the noise.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fedmed.errors import ModelError, RefusedError
from fedmed.privacy.gradients import device_of, synthetic
from fedmed.privacy.precision import longest

_JOINED_BYTES: Final = 24
"""Of each number of a gradient where rows are joined and summed: 4 joined, 4 squared, 8 in float64, 8 selected."""
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler else writes on standard error
_MARGIN: Final = 1.1
"""On what a record was measured to need: what a batch needs isn't quite linear in it."""


def fitting(
    module: nn.Module,
    run: Callable[[Tensor, Tensor], object],
    inputs: Tensor,
    labels: Tensor,
    *,
    memory_bytes: int,
    joined: bool = False,
) -> int:
    """Return how many records may be computed at a time under a ceiling.

    Args:
        module: Where it stands ready for `run`.
        run: The forward and backward pass over some inputs and labels; what it returns is held, its gradients too.
        inputs: Real inputs, of which only shape and dtype are used.
        labels: Real labels, likewise.
        memory_bytes: Most bytes in tensors, those of the module among them.
        joined: Whether gradients of records are joined to one matrix and summed in float64.

    Raises:
        RefusedError: Not even one record fits: the site's own ceiling forbids the work.
    """
    device = device_of(module)
    batches = [tuple(synthetic(value, records, device) for value in (inputs, labels)) for records in (1, 1, 2)]
    with longest(module):  # the first pass is not counted: libraries allocate for good in it
        _, one, two = (peak_bytes(lambda batch=batch: _read(run(*batch)), device) for batch in batches)  # type: ignore[misc]
    each = max(two - one, one // 8, 1)
    if joined:
        each += _JOINED_BYTES * sum(value.numel() for value in module.parameters() if value.requires_grad)
    held = _held(module, device) + max(0, one - each)
    fitting = int((memory_bytes - held) / (each * _MARGIN))
    if fitting < 1:
        raise RefusedError(
            f"this site computes with {_gib(memory_bytes)} of memory at most; one record of this model needs about"
            f" {_gib(held + each)}, the model among them; raise the site's memory_gb, or use checkpointing"
        )
    return fitting


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that tensors held at any moment of a step, on top of what they held before.

    On a processor they are counted from every allocation and release that torch's profiler sees.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    if profiled.profiler is None or profiled.profiler.kineto_results is None:
        raise ModelError("memory can't be measured here: torch's profiler recorded nothing; leave memory_gb at null")
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    ordered = sorted(changes, key=lambda change: change[0])
    return max(itertools.accumulate((int(size) for _, size in ordered), initial=0))


def _read(result: object) -> None:
    """Ask for every gradient: some are made only then."""
    if isinstance(result, Mapping):
        for name in result:
            result[name]


def _held(module: nn.Module, device: torch.device) -> int:
    """Return what tensors hold before a step: everything on a card, the module on a processor."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    held = {value.data_ptr(): value.nbytes for value in (*module.parameters(), *module.buffers())}
    return sum(held.values())


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
