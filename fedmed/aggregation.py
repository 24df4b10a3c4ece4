"""How the updates of many sites become one, and how a product of factors is written anew.

Why it exists: weighting and LoRA rules are arithmetic over arrays; whether the
terms were visible (insecure) or only their sum (secure) is another matter.

Rules:
    * Updates are folded in as they arrive; nothing keeps all of them.
    * Arithmetic is float64 and the order of arrival must not decide the result
      beyond rounding, so callers fold in site order when they need bit equality.

What it does not do: exchange messages, or hide anything.
"""

import numpy as np
from numpy.typing import NDArray

from fedmed.errors import ProtocolError, SiteFailureError
from fedmed.records import Adapter, LoraRule

EXACT_RULES: dict[tuple[Adapter, LoraRule], bool] = {
    ("full", "ffa"): True,
    ("full", "fedit"): True,
    ("lora", "ffa"): True,
    ("lora", "fedit"): False,
    ("lora", "rolora"): True,
    ("lora", "fedsvd"): True,
    ("lora", "mr-mtl"): True,
}
"""Whether the mean of what is sent equals the mean of what it stands for, by adapter and rule."""


class RunningSum:
    """A running sum of additive contributions: a vector summed over records, and their weight.

    >>> total = RunningSum(size=1)
    >>> total.add(np.array([1.0]), weight=1.0)
    >>> total.add(np.array([8.0]), weight=2.0)
    >>> total.mean()
    array([3.])
    """

    def __init__(self, *, size: int) -> None:
        self.vector = np.zeros(size)
        self.weight = 0.0
        self.contributions = 0

    @classmethod
    def of(cls, vector: NDArray[np.float64], *, weight: float, contributions: int) -> "RunningSum":
        """Return a sum that was made elsewhere, over `contributions` terms of `weight` in all.

        >>> RunningSum.of(np.array([9.0]), weight=3.0, contributions=2).mean()
        array([3.])
        """
        total = cls(size=0)
        total.vector, total.weight, total.contributions = vector, weight, contributions
        return total

    def add(self, vector: NDArray[np.floating], *, weight: float) -> None:
        """Fold one contribution in.

        Args:
            vector: Summed over the contributor's records, shape `[size]`.
            weight: What the vector counts for, above 0.

        Raises:
            ProtocolError: Wrong shape, a value that is not finite, or a weight that is not above 0.
        """
        if vector.shape != self.vector.shape:
            raise ProtocolError(f"expected an update of {len(self.vector)} values, got shape {vector.shape}")
        if not (np.isfinite(vector).all() and np.isfinite(weight) and weight > 0):
            raise ProtocolError("expected a finite update with a weight above 0, got another")
        self.vector += vector.astype(np.float64)
        self.weight += weight
        self.contributions += 1

    def mean(self) -> NDArray[np.float64]:
        """Return the mean over the weight, shape `[size]`.

        Raises:
            SiteFailureError: Nothing was added.
        """
        if self.contributions == 0:
            raise SiteFailureError("expected at least one update to aggregate, got none")
        return self.vector / self.weight


def refactored(b: NDArray[np.floating], a: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return factors of the same product `b @ a`, of which the second has orthonormal rows.

    They are the singular values and vectors of the product (FedSVD, Lee et al. 2025), found through two small QR
    decompositions: the product itself is never formed. Where `a` has orthonormal rows already, the new ones span
    the same space: the refresh is then a rotation.

    Args:
        b: Shape `[out, rank]`.
        a: Shape `[rank, in]`, of full rank.

    Returns:
        `U S` of shape `[out, rank]` and `V^T` of shape `[rank, in]`, with singular values in falling order. Each row
        of the second has its largest entry above zero, so that equal products have equal factors.

    >>> b, a = refactored(np.array([[1.0], [1.0]]), np.array([[0.0, 3.0]]))
    >>> (b @ a).round(6).tolist(), (a @ a.T).round(6).tolist()
    ([[0.0, 3.0], [0.0, 3.0]], [[1.0]])
    """
    left, upper = np.linalg.qr(b.astype(np.float64))
    rows, lower = np.linalg.qr(a.astype(np.float64).T)
    u, singular, vt = np.linalg.svd(upper @ lower.T)
    new_a = vt @ rows.T
    largest = np.abs(new_a).argmax(axis=1)
    signs = np.where(new_a[np.arange(len(new_a)), largest] < 0, -1.0, 1.0)
    return left @ (u * singular) * signs, new_a * signs[:, None]
