"""The trainable part of a module as one flat vector, and back.

Why it exists: aggregation, noise, consolidation and secure sums all work on a
vector. Its layout is fixed by the module alone, so both ends agree on it.

Rules:
    * Order is `named_parameters()` order of what requires a gradient; dtype float32.
    * Writing a vector of another length, or one that is not finite, is refused.

What it does not do: know about adapters or files.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmed.errors import ModelError

Number = TypeVar("Number", bound=np.floating)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Names and shapes of some parameters of a module, in vector order: mostly of those that it trains."""

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

    def parts(self, vector: NDArray[Number]) -> dict[str, NDArray[Number]]:
        """Return the arrays of a vector by name, each a view of it.

        Raises:
            ModelError: The vector has another length.
        """
        if vector.shape != (self.size,):
            raise ModelError(f"expected a vector of {self.size} values, got shape {vector.shape}")
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        pieces = zip(self.names, self.shapes, np.split(vector, ends), strict=True)
        return {name: piece.reshape(shape) for name, shape, piece in pieces}

    def flat(self, parts: Mapping[str, NDArray[Number]]) -> NDArray[Number]:
        """Return the vector of arrays by name; `flat(parts(x))` is `x`."""
        return np.concatenate([parts[name].ravel() for name in self.names])

    def read(self, module: nn.Module) -> NDArray[np.float32]:
        """Return these parameters of `module` as one vector, shape `[size]`."""
        parameters = dict(module.named_parameters())
        return np.concatenate([parameters[name].detach().cpu().numpy().ravel() for name in self.names])

    def write(self, module: nn.Module, vector: NDArray[np.floating]) -> None:
        """Set these parameters of `module` from `vector`, shape `[size]`.

        Raises:
            ModelError: The vector has another length or a value that is not finite.
        """
        parts = self.parts(vector)
        with np.errstate(over="ignore"):
            parts = {name: part.astype(np.float32) for name, part in parts.items()}
        if not all(np.isfinite(part).all() for part in parts.values()):
            raise ModelError("expected finite values in the model vector, got others; lower the learning rate")
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, part in parts.items():
                parameters[name].copy_(torch.from_numpy(part))


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 over every parameter and buffer of `module`, trained or frozen, in name order.

    Two machines with equal digests start from the same function and the same adapter.
    """
    total = hashlib.sha256(b"FedMed-state/v1\0")
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + b"\0" + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return total.hexdigest()
