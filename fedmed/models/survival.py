"""Discrete-time survival: the chance of the event in each span of time, of those who reached it.

Why it exists: how long patients live, relapse-free or at all, is known only in part: many are censored. A Cox loss
compares a record with all that are still at risk, so it is no loss of one record and can't be clipped record by
record; this one is.

Rules:
    * Label 2 k: seen without the event until the end of span k. Label 2 k + 1: the event fell into span k.
    * Outputs are the logarithms of the probabilities of those outcomes where, after each span but the last, half of
      the patients are lost from sight, whatever their risk. They sum to one, so the ordinary cross-entropy is the
      likelihood of a discrete-time model (Singer and Willett 1993) plus a constant that no weight changes.

What it does not do: handle censoring that depends on the risk, or competing events.
"""

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedmed.errors import ModelError
from fedmed.models.architecture import Architecture

_LOST = 0.5


class Hazards(nn.Module):
    """A perceptron of `depth` hidden layers (1 for none) with one logit of the hazard per span."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.classes % 2 or architecture.classes < 4:
            raise ModelError(
                f"expected a target with event and bounds for model=survival, got {architecture.classes} classes;"
                " choose a target that is a time"
            )
        sizes = [architecture.features, *[architecture.width] * (architecture.depth - 1)]
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], architecture.classes // 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probability of every outcome, shape `[records, 2 * spans]`."""
        return outcomes(self.hazards(features))

    def hazards(self, features: Tensor) -> Tensor:
        """Return the logit of the event in each span, of those who reached it, shape `[records, spans]`."""
        for layer in self.body:
            features = torch.tanh(layer(features))
        return self.head(features)  # type: ignore[no-any-return]


def outcomes(logits: Tensor) -> Tensor:
    """Return log-probabilities of outcomes, shape `[records, 2 * spans]`, from hazards' logits `[records, spans]`.

    >>> bool(torch.isclose(outcomes(torch.tensor([[0.3, -1.0, 2.0]])).exp().sum(), torch.tensor(1.0)))
    True
    """
    happens, passes = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    reached = torch.cumsum(passes + math.log(1 - _LOST), dim=1) - (passes + math.log(1 - _LOST))
    lost = torch.full_like(logits, math.log(_LOST))
    lost = torch.cat([lost[:, :-1], torch.zeros_like(lost[:, -1:])], dim=1)
    return torch.stack([reached + passes + lost, reached + happens], dim=2).flatten(1)


def survival_curves(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the chance of no event by the end of each span, `[records, spans]`, from scores `[records, 2 * spans]`.

    >>> survival_curves(outcomes(torch.zeros(1, 2)).exp().numpy()).round(3).tolist()
    [[0.5, 0.25]]
    """
    passes, happens = scores[:, 0::2].astype(np.float64), scores[:, 1::2].astype(np.float64)
    lost = np.full(passes.shape[1], _LOST)
    lost[-1] = 1.0
    passes = passes / lost
    total = passes + happens
    return np.asarray(np.cumprod(np.divide(passes, total, out=np.ones_like(total), where=total > 0), axis=1))


def concordance(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Return Harrell's C: of the pairs whose order is known, how often who had the event first was given less time.

    A tie of predictions counts half. A pair is known if the earlier of both had the event and the other one was seen
    without it until that span's end, or had it in a later span. Predictions are ordered by the expected number of
    spans without the event.

    Args:
        scores: Probabilities of the outcomes, shape `[records, 2 * spans]`.
        labels: Outcomes, shape `[records]`.

    Returns:
        C in [0, 1]; None where no pair is known.
    """
    predicted = survival_curves(scores).sum(axis=1)
    span, event = labels // 2, labels % 2 == 1
    pairs, right = 0, 0.0
    for one in np.flatnonzero(event):  # a row of pairs at a time: n^2 of them need not be in memory
        known = (span > span[one]) | ((span == span[one]) & ~event)
        pairs += int(known.sum())
        later = predicted[known]
        right += float((later > predicted[one]).sum()) + 0.5 * float((later == predicted[one]).sum())
    return right / pairs if pairs else None
