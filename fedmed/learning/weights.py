"""Elastic weight consolidation on the weights that an adapter changes, in whatever factors are trained now.

Why it exists: how much a weight mattered says more than how much each factor did (EWC-LoRA), and the
weights stay what they are when factors are refreshed or alternate; their coordinates do not.

Rules:
    * Importance is the Fisher diagonal of delta-W = B A, so the pull is
      `strength / 2 * sum F (B A - B* A*)^2`; in the trained factor, with the other one frozen, that is a
      quadratic with one small matrix for each row of B (or column of A).
    * The closed form minimises `|x - aggregate|^2 + strength * sum F (B A - B* A*)^2` over the trained factor
      x: one least-squares step per row. With orthonormal A it is the one nearest in delta-W too.
    * The head, which is trained in full, is pulled coordinate by coordinate.

What it does not do: measure the Fisher information (`local`), or decide on a strength.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.learning.ewc import Knowledge
from fedmed.models import Layout, frozen_factors
from fedmed.models.lora import factors_of, is_a, layer_of, round_layouts, whole_weights_trained
from fedmed.records import ModelSpec

Vector = NDArray[np.float64]
Parts = Mapping[str, Vector]


def weight_layout(adapted: nn.Module) -> Layout:
    """Return the layout of what the Fisher information of an adapted module is about: whole weights and the head."""
    with whole_weights_trained(adapted):
        return Layout.of(adapted)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """`x^T H x / 2 - c^T x` for each row x of a trained parameter."""

    hessian: Vector
    """Shape `[rows, width, width]`, or `[rows, width]` where it is diagonal."""
    linear: Vector
    """Shape `[rows, width]`."""
    columns: bool
    """Whether rows are the parameter's columns, as for A."""


class WeightPull:
    """The pull of earlier knowledge on what a round trains."""

    def __init__(self, layout: Layout, rows: Mapping[str, _Rows]) -> None:
        self._layout = layout
        self._rows = rows

    @classmethod
    def of(cls, adapted: nn.Module, spec: ModelSpec, knowledge: Knowledge) -> "WeightPull":
        """Return the pull in the round that `adapted` has entered, with the factors that are frozen in it.

        Raises:
            ModelError: The knowledge is of another model, or of coordinates.
        """
        reference, frozen = round_layouts(adapted, spec)
        if knowledge.kind != "delta-w" or knowledge.frozen is None:
            raise ModelError("expected knowledge of weights with its frozen factors, got that of coordinates")
        anchor = {**reference.parts(knowledge.anchor), **frozen.parts(knowledge.frozen)}
        fisher = weight_layout(adapted).parts(knowledge.fisher)
        now = frozen_factors(adapted)
        other = now.parts(now.read(adapted).astype(np.float64))
        layout = Layout.of(adapted)
        return cls(layout, {name: _rows(name, anchor, fisher, other) for name in layout.names})

    def minimise(self, aggregate: Vector, *, strength: float) -> Vector:
        """Return the closed form: the aggregate, pulled; shape `[size]`."""
        return self._layout.flat(
            {name: _minimised(self._rows[name], part, strength) for name, part in self._layout.parts(aggregate).items()}
        )

    def gradient(self, *, strength: float) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]]:
        """Return the gradient of the pull as a function of the trained parameters by name."""
        terms = {
            name: (
                torch.from_numpy(strength * rows.hessian).float(),
                torch.from_numpy(strength * rows.linear).float(),
                rows.columns,
            )
            for name, rows in self._rows.items()
        }

        def pull(current: dict[str, Tensor]) -> Mapping[str, Tensor]:
            return {name: _pulled(current[name], *term) for name, term in terms.items()}

        return pull

    def steepest(self) -> float:
        """Return the largest curvature of the pull at strength 1."""
        return max(
            float(rows.hessian.max() if rows.hessian.ndim == 2 else np.linalg.eigvalsh(rows.hessian).max())
            for rows in self._rows.values()
        )


def _rows(name: str, anchor: Parts, fisher: Parts, other: Parts) -> _Rows:
    layer = layer_of(name)
    if layer is None:
        wide = anchor[name].shape[-1]
        weights = fisher[name].reshape(-1, wide)
        return _Rows(hessian=weights, linear=weights * anchor[name].reshape(-1, wide), columns=False)
    name_a, name_b, name_weight = factors_of(layer)
    importance, target = fisher[name_weight], anchor[name_b] @ anchor[name_a]
    columns = is_a(name)
    basis = other[name_b].T if columns else other[name_a]
    if columns:
        importance, target = importance.T, target.T
    hessian = np.stack([(basis * row) @ basis.T for row in importance])
    return _Rows(hessian=hessian, linear=(importance * target) @ basis.T, columns=columns)


def _minimised(rows: _Rows, part: Vector, strength: float) -> Vector:
    values = part.T if rows.columns else part.reshape(rows.linear.shape)
    right = values + strength * rows.linear
    if rows.hessian.ndim == 2:
        return (right / (1 + strength * rows.hessian)).reshape(part.shape)
    left = np.eye(right.shape[1]) + strength * rows.hessian
    found = np.asarray(np.linalg.solve(left, right[:, :, None])[:, :, 0], dtype=np.float64)
    return (found.T if rows.columns else found).reshape(part.shape)


def _pulled(value: Tensor, hessian: Tensor, linear: Tensor, columns: bool) -> Tensor:  # noqa: FBT001  of a record
    rows = value.T if columns else value.reshape(linear.shape)
    hessian, linear = hessian.to(value.device), linear.to(value.device)
    slope = hessian * rows if hessian.ndim == 2 else torch.einsum("nrs,ns->nr", hessian, rows)
    found = slope - linear
    return (found.T if columns else found).reshape(value.shape)
