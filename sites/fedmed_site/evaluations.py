"""How models did on a site's held-out records; kept at the site.

Why it exists: a hospital and its researcher need accuracy by round; a coordinator
has no claim to it, because a metric of held-out patients is a release like any other.

Rules:
    * One JSON line per evaluation, appended; a repeated round replaces the earlier one on reading.
    * Only the final evaluation of a study keeps per-record scores.

What it does not do: leave the site. A simulation reads it because it owns every site.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmed.files import append_durable
from fedmed.records import Plan, canonical_json, decode, digest
from fedmed_site.measures import Measures, measures_of

if TYPE_CHECKING:
    from fedmed.learning.local import Evaluation  # it imports torch

FINAL = "final"
PERSONAL = "personal"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """One evaluation; `view` 0 is the study's own cohort, 1 and on are those of earlier studies."""

    version: int = 1
    stage: str
    """`round` for the model that a round started from, `final` for the released one, `personal` for the site's own."""
    round: int
    view: int
    records: int
    accuracy: float
    loss: float | None
    """Mean cross-entropy; None where it is not finite, as of a model that diverged."""
    measures: Measures = field(default_factory=Measures)
    """The measures of the field that this model has; empty in lines of FedMed before they were taken."""
    scores: tuple[tuple[float, ...], ...] = ()
    labels: tuple[int, ...] = ()


class EvaluationLog:
    """The evaluations of one site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add_round(self, plan: Plan, round_number: int, evaluation: "Evaluation") -> None:
        """Record how the model that a round starts from does on the study's own cohort."""
        self._append(plan, _record(plan, "round", round_number, 0, evaluation))

    def add_final(self, plan: Plan, view: int, evaluation: "Evaluation") -> None:
        """Record how the released model does on one view, with its scores."""
        finite = bool(np.isfinite(evaluation.scores).all())
        whole = replace(
            _record(plan, FINAL, plan.training.rounds, view, evaluation),
            scores=tuple(tuple(float(value) for value in row) for row in evaluation.scores) if finite else (),
            labels=tuple(int(label) for label in evaluation.labels) if finite else (),
        )
        self._append(plan, whole)

    def add_personal(self, plan: Plan, evaluation: "Evaluation") -> None:
        """Record how this site's own model does on the study's own cohort."""
        self._append(plan, _record(plan, PERSONAL, plan.training.rounds, 0, evaluation))

    def add_stage(self, plan: Plan, stage: str, evaluation: "Evaluation") -> None:
        """Record how a model that no study evaluates does, such as a department's, under a name of its own."""
        self._append(plan, _record(plan, stage, plan.training.rounds, 0, evaluation))

    def read(self, plan_digest: str) -> tuple[EvaluationRecord, ...]:
        """Return the evaluations of a study, the latest of each stage, round and view."""
        path = self._path(plan_digest)
        if not path.is_file():
            return ()
        latest: dict[tuple[str, int, int], EvaluationRecord] = {}
        for line in path.read_bytes().split(b"\n"):
            if not line.endswith(b"}"):  # the end, or a line that a kill cut short: its round was evaluated again
                continue
            record = decode(line, EvaluationRecord)
            latest[record.stage, record.round, record.view] = record
        return tuple(latest.values())

    def _append(self, plan: Plan, record: EvaluationRecord) -> None:
        path = self._path(digest(plan))
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        append_durable(path, b"\n" * torn + canonical_json(record) + b"\n")

    def _path(self, plan_digest: str) -> Path:
        return self._folder / f"{plan_digest}.jsonl"


def _record(plan: Plan, stage: str, round_number: int, view: int, evaluation: "Evaluation") -> EvaluationRecord:
    loss = evaluation.loss if math.isfinite(evaluation.loss) else None
    return EvaluationRecord(
        stage=stage,
        round=round_number,
        view=view,
        records=evaluation.records,
        accuracy=evaluation.accuracy,
        loss=loss,
        measures=measures_of(plan.model, evaluation.scores, evaluation.labels, loss=loss),
    )
