"""The trainable part of a module as one flat vector, and back.

Why it exists: aggregation, noise, consolidation and secure sums all work on a
vector. Its layout is fixed by the module alone, so both ends agree on it.

Rules:
    * Order is `named_parameters()` order of what requires a gradient; dtype float32.
    * Writing a vector of another length, or one that is not finite, is refused.

What it does not do: know about adapters or files.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmed.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Names and shapes of the trainable parameters of a module, in vector order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """Return the layout of what `module` trains.

        Raises:
            ModelError: Nothing is trainable, or a trainable parameter is not float32.
        """
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ModelError("expected a module with trainable parameters, got none; check adapter and model settings")
        for name, parameter in trainable:
            if parameter.dtype != torch.float32:
                raise ModelError(f"expected float32 for trainable {name}, got {parameter.dtype}; keep adapters in fp32")
        return cls(names=tuple(n for n, _ in trainable), shapes=tuple(tuple(p.shape) for _, p in trainable))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def read(self, module: nn.Module) -> NDArray[np.float32]:
        """Return the trainable parameters of `module` as one vector, shape `[size]`."""
        parameters = dict(module.named_parameters())
        return np.concatenate([parameters[name].detach().cpu().numpy().ravel() for name in self.names])

    def write(self, module: nn.Module, vector: NDArray[np.floating]) -> None:
        """Set the trainable parameters of `module` from `vector`, shape `[size]`.

        Raises:
            ModelError: The vector has another length or a value that is not finite.
        """
        if vector.shape != (self.size,):
            raise ModelError(f"expected a vector of {self.size} values, got shape {vector.shape}")
        with np.errstate(over="ignore"):
            vector = vector.astype(np.float32)
        if not np.isfinite(vector).all():
            raise ModelError("expected finite values in the model vector, got others; lower the learning rate")
        parameters = dict(module.named_parameters())
        start = 0
        with torch.no_grad():
            for name, shape in zip(self.names, self.shapes, strict=True):
                count = int(np.prod(shape))
                part = torch.from_numpy(vector[start : start + count].reshape(shape))
                parameters[name].copy_(part)
                start += count


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 over every parameter and buffer of `module`, trained or frozen, in name order.

    Two machines with equal digests start from the same function and the same adapter.
    """
    total = hashlib.sha256(b"FedMed-state/v1\0")
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + b"\0" + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return total.hexdigest()
