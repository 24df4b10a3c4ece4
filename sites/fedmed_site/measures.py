"""The measures of the field for one evaluation: AUC, macro F1, C-index, perplexity, exact match.

Why it exists: accuracy hides rare classes, says nothing of time, and is no word for what a language model knows.

Rules:
    * Which measures a model has follows from its plan alone, so all sites of a study have the same ones.
    * What can't be said of these records is None, never zero.

What it does not do: leave the site (ADR 0007), or compute anything itself (see `fedmed.models.scoring`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from fedmed.model_spec import ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Measure = Literal["auc", "macro_f1", "c_index", "perplexity", "exact_match"]
TITLES: Final[dict[Measure, str]] = {
    "auc": "AUC",
    "macro_f1": "macro F1",
    "c_index": "C-index",
    "perplexity": "perplexity",
    "exact_match": "exact match",
}
"""What people call each measure, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What is said of one evaluation beside accuracy and loss."""

    auc: float | None = None
    """Area under the ROC curve, of two classes."""
    macro_f1: float | None = None
    """Mean F1 of the classes that occur or are predicted."""
    c_index: float | None = None
    """Harrell's C, of a model of survival."""
    perplexity: float | None = None
    """exp(loss) of a causal model that learns answers in the text."""
    exact_match: float | None = None
    """Share of answers that greedy decoding would give word for word."""

    def named(self) -> dict[Measure, float]:
        """Return the measures that could be taken, by name and in order."""
        found: dict[Measure, float] = {}
        for name in TITLES:
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        return found


def measures_of(
    spec: ModelSpec, scores: "NDArray[np.floating]", labels: "NDArray[np.integer]", *, loss: float | None
) -> Measures:
    """Return the measures of one evaluation.

    Args:
        spec: Of the model.
        scores: Shape `[records, classes]`; of a model of answers, `[records, 2]`, the second its exact matches.
        labels: Shape `[records]`.
        loss: The mean loss, or None where it is not finite.
    """
    from fedmed.models.scoring import area_under_curve, macro_f1, perplexity  # noqa: PLC0415  their package needs torch
    from fedmed.models.survival import concordance  # noqa: PLC0415  likewise

    if len(labels) == 0 or not np.isfinite(scores).all():
        return Measures()
    if spec.family == "survival":
        return Measures(c_index=concordance(scores, labels))
    if spec.family == "causal-lm" and not spec.answers:
        found = perplexity(loss)
        bounded = None if found is None or math.isinf(found) else found
        return Measures(perplexity=bounded, exact_match=float(scores[:, 1].mean()))
    return Measures(auc=area_under_curve(scores, labels), macro_f1=macro_f1(scores, labels))


def mean_of(measures: Iterable[Measures]) -> Measures:
    """Return the unweighted mean of each measure over those who could take it.

    >>> mean_of([Measures(auc=0.5), Measures(auc=1.0), Measures()])
    Measures(auc=0.75, macro_f1=None, c_index=None, perplexity=None, exact_match=None)
    """
    all_of_them = tuple(measures)
    found: dict[str, float | None] = {}
    for field in fields(Measures):
        values = [value for one in all_of_them if (value := getattr(one, field.name)) is not None]
        found[field.name] = float(np.mean(values)) if values else None
    return Measures(**found)
