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

from fedmed.models.scoring import area_under_curve, macro_f1
from fedmed.models.survival import concordance
from fedmed.records import Plan
from fedmed.released import StudyResult
from fedmed.secagg.roster import Roster
from fedmed_server.shared_noise import honest_sites
from fedmed_sim.leaks import LeakReport
from fedmed_site.datasets import RecordCounts
from fedmed_site.evaluations import FINAL, EvaluationRecord
from fedmed_site.measures import TITLES, Measure, Measures, mean_of

SUMMARY_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """How the released model does on held-out records of the last study: by site, their mean, and pooled."""

    accuracy: dict[str, float]
    accuracy_mean: float | None
    auc_pooled: float | None
    auc_mean: float | None
    macro_f1_mean: float | None
    macro_f1_pooled: float | None
    c_index_mean: float | None
    c_index_pooled: float | None
    perplexity_mean: float | None
    exact_match_mean: float | None
    measures: dict[str, Measures]


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
    records: dict[str, RecordCounts]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    machine: str | None = None
    """What computed, and in what precision; null in summaries of older versions."""
    left_out: dict[str, int] | None = None
    """Rows of a publisher's files of all sites that no site got, by reason; null where each site has its own."""


Evaluations = Mapping[str, Sequence[EvaluationRecord]]
"""The evaluations of one study by site."""


def final_of(evaluations: Evaluations) -> Final:
    """Return every figure of the released model: by site, the mean over sites, and over all records together."""
    accuracy = accuracy_by_site(evaluations, view=0)
    records = final_records(evaluations, view=0)
    measures = {site: record.measures for site, record in records.items()}
    mean, pooled = mean_of(measures.values()), _pooled(list(records.values()))
    return Final(
        accuracy=accuracy,
        accuracy_mean=_mean(accuracy),
        auc_pooled=pooled.auc,
        auc_mean=mean.auc,
        macro_f1_mean=mean.macro_f1,
        macro_f1_pooled=pooled.macro_f1,
        c_index_mean=mean.c_index,
        c_index_pooled=pooled.c_index,
        perplexity_mean=mean.perplexity,
        exact_match_mean=mean.exact_match,
        measures=measures,
    )


def accuracy_by_site(evaluations: Evaluations, *, view: int) -> dict[str, float]:
    """Return the accuracy of the released model by site on one view."""
    return {site: record.accuracy for site, record in final_records(evaluations, view=view).items()}


def final_records(evaluations: Evaluations, *, view: int) -> dict[str, EvaluationRecord]:
    """Return the evaluation of the released model on one view, by site, of those that evaluated it."""
    return {
        site: record
        for site, records in sorted(evaluations.items())
        for record in records
        if record.stage == FINAL and record.view == view
    }


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
    plans: Sequence[Plan],
    results: Sequence[StudyResult],
    *,
    secure: bool,
    keys_from_seed: bool,
    roster: Roster | None = None,
) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers.

    Args:
        plans: Of all studies.
        results: Theirs.
        secure: Whether aggregation was.
        keys_from_seed: Whether keys and masks repeat.
        roster: What secure aggregation stood on.
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
            f" with the coordinator than the roster's max_corrupt{_counted(plan, roster)};"
            " one site's own upload is hidden by masks only"
        )
    for study, result in zip(plans, results, strict=True):
        missing = sorted(set(result.sites) - set(result.evaluated))
        if missing:
            found.append(f"{study.study}: {', '.join(missing)} did not evaluate the released model")
    return tuple(found)


def _counted(plan: Plan, roster: Roster | None) -> str:
    """Return the figures that a promise of shared noise stands on."""
    if roster is None:
        return ""
    policy, cohort = roster.policy, plan.aggregation.sites_per_round or len(roster.sites)
    honest = honest_sites(policy, cohort=cohort)
    return (
        f" ({policy.max_corrupt} of {cohort}; each sum covers at least {policy.gate(policy.threshold_floor(cohort))}"
        f" sites and has the shares of {honest} honest ones, or of {honest - 1} against one of them)"
    )


def _mean(accuracy: Mapping[str, float]) -> float | None:
    return float(np.mean(list(accuracy.values()))) if accuracy else None


def _pooled(records: Sequence[EvaluationRecord]) -> Measures:
    """Return AUC, macro F1 and C-index over all sites' held-out records together, of those that the sites took.

    AUC is of two classes, whatever the model, as it was before there were other measures.
    """
    widths = {len(row) for record in records for row in record.scores}
    if len(widths) != 1:
        return Measures()
    scores = np.array([row for record in records for row in record.scores])
    labels = np.array([label for record in records for label in record.labels])
    taken = {name for record in records for name in record.measures.named()}
    return Measures(
        auc=area_under_curve(scores, labels),
        macro_f1=macro_f1(scores, labels) if "macro_f1" in taken else None,
        c_index=concordance(scores, labels) if "c_index" in taken else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRow:
    """One row of the table of results: a site, or what is over all of them; cells as they are shown."""

    name: str
    accuracy: str
    measures: tuple[str, ...]
    epsilon: str


def measures_shown(summary: Summary) -> tuple[Measure, ...]:
    """Return which measures at least one site could take, in order."""
    taken = {name for measures in summary.final.measures.values() for name in measures.named()}
    return tuple(name for name in TITLES if name in taken)


def figure_rows(summary: Summary) -> list[FigureRow]:
    """Return the table of results: one row a site, their mean, and all held-out records together."""
    names, final = measures_shown(summary), summary.final
    rows = [
        FigureRow(
            name=site,
            accuracy=shown(final.accuracy.get(site)),
            measures=tuple(shown(final.measures.get(site, Measures()).named().get(name)) for name in names),
            epsilon=_spent(summary.privacy.epsilon[site]),
        )
        for site in summary.sites
    ]
    mean = tuple(shown(getattr(final, f"{name}_mean")) for name in names)
    rows.append(FigureRow(name="mean", accuracy=shown(final.accuracy_mean), measures=mean, epsilon=""))
    pooled = {name: getattr(final, f"{name}_pooled", None) for name in names}
    if any(value is not None for value in pooled.values()):
        cells = tuple("" if value is None else shown(value) for value in pooled.values())
        rows.append(FigureRow(name="pooled", accuracy="", measures=cells, epsilon=""))
    return rows


def _spent(epsilon: float | None) -> str:
    return "without limit" if epsilon is None else f"{epsilon:.3f}"
