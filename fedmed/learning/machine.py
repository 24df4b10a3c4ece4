"""The machine that a site computes on: what it has, what it can do, and a module at work on it.

Why it exists: hospitals have graphics cards, or none. What a study computes must not depend on which, so only here is
a device looked for, named, and refused.

Rules:
    * A card is used where torch can use one; the processor otherwise, and said so.
    * A precision that the machine has not is refused in one line, before anything is charged.
    * The module comes back as it was but for what was trained: whole, on the processor, in float32.

What it does not do: choose how many records fit (`fedmed.privacy.ceiling`), or compute (`fedmed.privacy.precision`).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedmed.errors import ConfigError
from fedmed.model_spec import MachineSpec, ModelSpec, Precision
from fedmed.models.reading import checkpointed
from fedmed.privacy.precision import DTYPES

_FP8_CAPABILITY: Final = (8, 9)
"""Compute capability of the first cards with products in eight bits (Ada, Hopper)."""
_FREE_SHARE: Final = 0.9
_LOWERED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a site computes on."""

    device: str
    """`cpu` or `cuda`."""
    name: str
    memory_bytes: int
    """Of the device."""
    precisions: tuple[Precision, ...]
    ceiling_bytes: int | None = None
    """Most that training may hold in tensors; None is no bound."""

    @classmethod
    def found(cls, spec: MachineSpec) -> "Machine":
        """Return the machine that a site's settings mean.

        Raises:
            ConfigError: A graphics card was asked for, and torch finds none.
        """
        there = torch.cuda.is_available()
        if spec.device == "cuda" and not there:
            raise ConfigError(
                "device: expected a graphics card for cuda, torch finds none here; use auto or cpu, or install a driver"
                " and a torch for it"
            )
        given = None if spec.memory_gb is None else int(spec.memory_gb * 2**30)
        return _card(given) if there and spec.device != "cpu" else _processor(given)

    def require(self, precision: Precision) -> None:
        """Raise unless this machine can compute in `precision`.

        Raises:
            ConfigError: It can't; the message names what it can.
        """
        if precision not in self.precisions:
            needs = "; it needs a card of compute capability 8.9 or above" if precision == "fp8" else ""
            raise ConfigError(
                f"model.precision: {precision} can't be computed on {self.name} ({self.device}){needs}; it has"
                f" {', '.join(self.precisions)}"
            )

    def computing(self, precision: Precision) -> str:
        """Return in words what computes, and in what.

        >>> Machine(device="cpu", name="a processor", memory_bytes=2**33, precisions=("fp32",)).computing("fp32")
        'a processor (cpu), fp32'
        """
        return f"{self.name} ({self.device}), {precision}"

    def __str__(self) -> str:
        """Return the machine in words.

        >>> print(Machine(device="cpu", name="a processor", memory_bytes=2**33, precisions=("fp32", "bf16")))
        a processor (cpu), 8.0 GiB, fp32 bf16
        """
        ceiling = "" if self.ceiling_bytes is None else f", training below {self.ceiling_bytes / 2**30:.1f} GiB"
        size = f"{self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.name} ({self.device}), {size}, {' '.join(self.precisions)}{ceiling}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a training has to keep to."""

    precision: Precision
    memory_bytes: int | None
    """The machine's ceiling, less what is set aside on a processor to put the module back; None is no bound."""


@contextmanager
def at_work(module: nn.Module, machine: Machine | None, spec: ModelSpec | None = None) -> Iterator[Bounds]:
    """Hold `module` on the machine, its frozen matrices in the precision of `spec`, its blocks checkpointed if asked.

    Afterwards it stands on the processor as before, with what was trained. Lent is what training has to keep to.

    Args:
        module: In float32 on the processor, what it trains already chosen.
        machine: Where to; None is the processor without a ceiling.
        spec: Of the model; None is float32 without checkpointing.

    Raises:
        ConfigError: The machine has not that precision.
        ModelError: The module can't be checkpointed.
    """
    precision: Precision = "fp32" if spec is None else spec.precision
    machine = machine or Machine.found(MachineSpec(device="cpu"))
    machine.require(precision)
    checkpoints = checkpointed(module) if spec is not None and spec.checkpointing else nullcontext()
    values = [*module.parameters(), *module.buffers()]
    before = [(value, value.data) for value in dict.fromkeys(values)]
    low = _lowered(module)
    try:
        for value, data in before:
            value.data = data.to(machine.device, DTYPES[precision] if value in low else data.dtype)
        aside = sum(value.nbytes for value in low) * 2 if machine.device == "cpu" and precision != "fp32" else 0
        with checkpoints:
            most = machine.ceiling_bytes
            yield Bounds(precision=precision, memory_bytes=None if most is None else max(0, most - aside))
    finally:
        for value, data in before:
            if value.requires_grad:
                data.copy_(value.data)
            value.data = data


def _lowered(module: nn.Module) -> set[Tensor]:
    """Return the frozen matrices of products; what an embedding shares with one stays whole, it begins the sums."""
    shared = {layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)}
    layers = (layer for layer in module.modules() if isinstance(layer, _LOWERED))
    return {layer.weight for layer in layers if not layer.weight.requires_grad} - shared


def _card(given: int | None) -> Machine:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    free += torch.cuda.memory_reserved(0)  # what torch keeps of earlier work is free for the next
    precisions: list[Precision] = ["fp32"]
    if torch.cuda.is_bf16_supported(including_emulation=False):
        precisions.append("bf16")
    precisions.append("fp16")
    if (properties.major, properties.minor) >= _FP8_CAPABILITY and hasattr(torch, "_scaled_mm"):
        precisions.append("fp8")
    return Machine(
        device="cuda",
        name=properties.name,
        memory_bytes=total,
        precisions=tuple(precisions),
        ceiling_bytes=given or int(_FREE_SHARE * free),
    )


def _processor(given: int | None) -> Machine:
    return Machine(
        device="cpu",
        name=_processor_name(),
        memory_bytes=_memory("MemTotal"),
        precisions=("fp32", "bf16", "fp16"),
        ceiling_bytes=given,
    )


def _processor_name() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "the processor"


def _memory(key: str) -> int:
    """Return a number of proc(5) in bytes, 0 where there is none."""
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return 0


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
