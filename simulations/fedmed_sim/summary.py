"""`summary.json`: the result of a run for scripts, schema version 1.

Why it exists: a sweep, a benchmark or a notebook reads numbers from one documented
place (docs/reference/summary.md), not from a page.

Rules:
    * A field never changes its meaning within a version; new fields may be added.
    * What was not measured is null, never zero.

What it does not do: hold per-record scores; those stay in the sites' folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from fedmed.records import Plan
from fedmed.released import StudyResult
from fedmed_sim.leaks import LeakReport
from fedmed_site.evaluations import FINAL, EvaluationRecord

SUMMARY_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """How the released model does on held-out records of the last study."""

    accuracy: dict[str, float]
    accuracy_mean: float | None
    auc_pooled: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySummary:
    """What was promised, and what each site's ledger says was spent (null: without limit)."""

    trust_model: str
    delta: float
    epsilon: dict[str, float | None]
    noise: str
    noise_multiplier: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EwcSummary:
    """Mean accuracy over sites on the first study: at its end, and after the last study without and with EWC."""

    study1_before: float | None
    study1_after_naive: float | None
    study1_after_ewc: float | None
    study2_naive: float | None
    study2_ewc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationSummary:
    """How updates were aggregated and what it cost on the wire, over all studies.

    `bits`, `rounding_error`: of the ring, and the most that rounding can move a coordinate of a round's mean
    update when every site contributes; null without secure aggregation.
    """

    kind: str
    secure: bool
    bytes_up: int
    bytes_down: int
    bits: int | None = None
    rounding_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The whole file."""

    version: int
    plan_digest: str
    sites: tuple[str, ...]
    rounds: int
    studies: tuple[str, ...]
    model: str
    normalisation: str
    final: Final
    privacy: PrivacySummary
    ewc: EwcSummary | None
    aggregation: AggregationSummary
    leaks: LeakReport | None
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    machine: str | None = None
    """What computed, and in what precision; null in summaries of older versions."""


Evaluations = Mapping[str, Sequence[EvaluationRecord]]
"""The evaluations of one study by site."""


def final_of(evaluations: Evaluations) -> Final:
    """Return accuracy by site, its mean, and the AUC over the pooled held-out records of all sites."""
    accuracy = accuracy_by_site(evaluations, view=0)
    return Final(accuracy=accuracy, accuracy_mean=_mean(accuracy), auc_pooled=_pooled_auc(evaluations))


def accuracy_by_site(evaluations: Evaluations, *, view: int) -> dict[str, float]:
    """Return the accuracy of the released model by site on one view."""
    found: dict[str, float] = {}
    for site, records in sorted(evaluations.items()):
        for record in records:
            if record.stage == FINAL and record.view == view:
                found[site] = record.accuracy
    return found


def mean_accuracy(evaluations: Evaluations, *, view: int) -> float | None:
    """Return the mean over sites of `accuracy_by_site`, or None where no site evaluated."""
    return _mean(accuracy_by_site(evaluations, view=view))


def shown(figure: float | None) -> str:
    """Return a figure as tables show it.

    >>> shown(0.81250), shown(None)
    ('0.812', 'missing')
    """
    return "missing" if figure is None else f"{figure:.3f}"


def warnings_of(
    plans: Sequence[Plan], results: Sequence[StudyResult], *, secure: bool, keys_from_seed: bool
) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers.

    Args:
        plans: Of all studies.
        results: Theirs.
        secure: Whether aggregation was.
        keys_from_seed: Whether keys and masks repeat.
    """
    plan = plans[-1]
    found = []
    if not secure:
        found.append("aggregation was insecure: the coordinator saw every site's update and its number of records")
    elif keys_from_seed:
        found.append("keys and masks came from a seed (privacy.noise=simulated-seed): they repeat and hide nothing")
    if not plan.privacy.private:
        found.append("training had no differential privacy: the model may remember single patients")
    elif plan.privacy.noise == "simulated-seed":
        found.append("the noise came from a seed (privacy.noise=simulated-seed): it repeats and protects nobody")
    if plan.privacy.trust_model == "distributed":
        found.append(
            "the noise is shared by the sites: the promise holds for the released sums, and while no more sites side"
            " with the coordinator than the roster's max_corrupt; one site's own upload is hidden by masks only"
        )
    for study, result in zip(plans, results, strict=True):
        missing = sorted(set(result.sites) - set(result.evaluated))
        if missing:
            found.append(f"{study.study}: {', '.join(missing)} did not evaluate the released model")
    return tuple(found)


def _mean(accuracy: Mapping[str, float]) -> float | None:
    return float(np.mean(list(accuracy.values()))) if accuracy else None


def _pooled_auc(evaluations: Evaluations) -> float | None:
    """Return the AUC over all sites' held-out records, or None for more than two classes or one."""
    scores: list[float] = []
    labels: list[int] = []
    for records in evaluations.values():
        for record in records:
            if record.stage == FINAL and record.view == 0:
                if record.scores and len(record.scores[0]) != 2:
                    return None
                scores += [row[1] for row in record.scores]
                labels += record.labels
    return float(roc_auc_score(labels, scores)) if len(set(labels)) == 2 else None
