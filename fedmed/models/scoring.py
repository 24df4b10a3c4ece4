"""Figures from what a site stored of an evaluation: scores, labels and the mean loss.

Why it exists: accuracy hides rare classes, and a model of answers has no classes at all.

Rules:
    * Everything is computed from stored scores, so that it can be asked after a run.
    * What can't be said is None, never zero.

What it does not do: release anything. A figure of held-out patients stays at its site.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fedmed.records import require


def accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Return the share of records whose class has the highest score; of a model of answers, exact match.

    Args:
        scores: Shape `[records, classes]`.
        labels: Shape `[records]`.

    >>> accuracy(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    0.5
    """
    _check(scores, labels)
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else None


def macro_f1(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Return the mean of the classes' F1 over the classes that occur as a label or are predicted.

    >>> macro_f1(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), np.array([0, 1, 1]))
    0.6666666666666666
    """
    _check(scores, labels)
    predicted = scores.argmax(axis=1)
    found = []
    for label in np.union1d(predicted, labels):
        right = int(((predicted == label) & (labels == label)).sum())
        named = int((predicted == label).sum()) + int((labels == label).sum())
        found.append(2 * right / named)
    return float(np.mean(found)) if found else None


def area_under_curve(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Return the area under the ROC curve of two classes; None for more of them, or where only one occurs.

    >>> area_under_curve(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 0, 1, 1]))
    0.75
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  it loads slowly

    _check(scores, labels)
    if scores.shape[1] != 2 or len(np.unique(labels)) != 2:
        return None
    return float(roc_auc_score(labels, scores[:, 1]))


def perplexity(loss: float | None) -> float | None:
    """Return the perplexity of a mean loss per token, infinite where it is too large for a number.

    >>> perplexity(0.0), perplexity(None), perplexity(1e4)
    (1.0, None, inf)
    """
    if loss is None or not math.isfinite(loss):
        return None
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _check(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    require(scores.ndim == 2 and labels.shape == scores.shape[:1], "scores and labels must hold the same records")
