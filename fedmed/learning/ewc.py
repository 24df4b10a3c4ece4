"""Elastic weight consolidation: remember what a finished study found important.

Why it exists: a new study must not erase what hospitals paid privacy for.

Rules:
    * The Fisher diagonal is the mean over records of the squared per-record
      gradient at the accepted model (empirical Fisher, observed labels). Each
      record's squared gradient is bounded in L2 norm before it is summed, so the
      sum is a release that can be noised and charged.
    * The coordinator applies the closed form after aggregation:
      theta = (theta_agg + lambda F anchor) / (1 + lambda F).
    * Across studies the Fisher is one decayed sum (online EWC, Schwarz et al. 2018).
    * Importance may belong to the entries of adapted weights instead of to coordinates; see `weights`.

What it does not do: add the penalty inside a private loss, where clipping would
swallow it (see docs/explanation/sharp-edges.md).
Source: Kirkpatrick et al., PNAS 114 (2017).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import IntegrityError
from fedmed.records import FisherKind, require
from fedmed.tensors import pack, unpack

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knowledge:
    """What earlier studies left behind."""

    anchor: Vector
    """The released model, shape `[size]`."""
    fisher: Vector
    """Fisher diagonal: of the coordinates, shape `[size]`, or of the weights that adapters change (see `kind`)."""
    frozen: Vector | None = None
    """The adapter's frozen factors that `anchor` goes with; None without an adapter."""
    kind: FisherKind = "coordinates"

    def __post_init__(self) -> None:
        require(self.anchor.ndim == 1 and self.fisher.ndim == 1, "anchor and fisher must be vectors")
        same = self.anchor.shape == self.fisher.shape
        require(same or self.kind != "coordinates", "anchor and fisher differ in shape")
        require(bool(np.isfinite(self.anchor).all()), "anchor must be finite")
        require(self.frozen is None or bool(np.isfinite(self.frozen).all()), "frozen must be finite")
        require(bool(np.isfinite(self.fisher).all() and (self.fisher >= 0).all()), "fisher must be finite, at least 0")


def consolidate(aggregate: Vector, knowledge: Knowledge | None, *, strength: float) -> Vector:
    """Return the model after the closed-form pull towards earlier knowledge.

    Args:
        aggregate: The aggregated model, shape `[size]`.
        knowledge: What to remember; None or strength 0 leaves the aggregate as it is.
        strength: lambda; the pull on a coordinate is `lambda F / (1 + lambda F)`.

    >>> k = Knowledge(anchor=np.array([1.0, 1.0]), fisher=np.array([0.0, 1.0]))
    >>> consolidate(np.zeros(2), k, strength=1.0)
    array([0. , 0.5])
    """
    if knowledge is None or strength == 0:
        return aggregate
    require(aggregate.shape == knowledge.anchor.shape, "aggregate and anchor differ in shape")
    pull = strength * knowledge.fisher
    return (aggregate + pull * knowledge.anchor) / (1 + pull)


def fisher_from_sum(noisy_sum: Vector, total_weight: float) -> Vector:
    """Return a Fisher diagonal from a (noisy) sum of squared gradients.

    Noise can make a coordinate negative; a negative importance means none, so it is set to zero.
    """
    require(total_weight > 0, f"total_weight must be above 0, got {total_weight}")
    return np.maximum(noisy_sum / total_weight, 0.0)


def accumulate(
    previous: Knowledge | None,
    *,
    anchor: Vector,
    fisher: Vector,
    decay: float,
    frozen: Vector | None = None,
    kind: FisherKind = "coordinates",
) -> Knowledge:
    """Return the knowledge after a study: its own anchor, and its Fisher on top of the decayed earlier one."""
    earlier = 0.0 if previous is None else decay * previous.fisher
    return Knowledge(anchor=anchor, fisher=fisher + earlier, frozen=frozen, kind=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    version: int = 1
    kind: FisherKind = "coordinates"

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


def knowledge_to_bytes(knowledge: Knowledge) -> bytes:
    """Return `knowledge` as bytes to store beside the model."""
    arrays = {"anchor": knowledge.anchor, "fisher": knowledge.fisher}
    if knowledge.frozen is not None:
        arrays["frozen"] = knowledge.frozen
    return pack(_Head(kind=knowledge.kind), arrays)


def knowledge_from_bytes(data: bytes) -> Knowledge:
    """Return the knowledge stored by `knowledge_to_bytes`.

    Raises:
        IntegrityError: The bytes are not of that form.
    """
    head, arrays = unpack(data, _Head)
    try:
        return Knowledge(anchor=arrays["anchor"], fisher=arrays["fisher"], frozen=arrays.get("frozen"), kind=head.kind)
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"expected stored knowledge of earlier studies, got another file: {error}") from None
