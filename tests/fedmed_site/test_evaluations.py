"""Held-out results stay at the site, the latest of each, and only the last with scores."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmed.errors import IntegrityError
from fedmed.learning.local import Evaluation
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    digest,
)
from fedmed_site.evaluations import EvaluationLog
from fedmed_site.measures import Measures

PLAN = Plan(
    study="s",
    seed=0,
    data=DataSpec(schema="s", schema_digest="0" * 64, target="t"),
    model=ModelSpec(family="linear", adapter="full"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=4, local_steps=1, sample_rate=1.0, learning_rate=1.0),
    privacy=PrivacySpec(trust_model="none"),
    aggregation=AggregationSpec(kind="insecure"),
    continual=ContinualSpec(strength=0.0, release_fisher=False),
)


def evaluation(correct: int, *, loss: float = 0.5) -> Evaluation:
    """Return an evaluation on four records."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]], dtype=np.float32)
    return Evaluation(records=4, correct=correct, loss=loss, scores=scores, labels=np.array([0, 1, 0, 1]))


def test_a_study_that_was_not_evaluated_has_no_results(tmp_path: Path):
    """Reading makes no file."""
    assert EvaluationLog(tmp_path).read(digest(PLAN)) == ()
    assert list(tmp_path.iterdir()) == []


def test_rounds_come_back_in_order_without_scores(tmp_path: Path):
    """Accuracy and loss by round; scores of single patients aren't kept for every round."""
    log = EvaluationLog(tmp_path)
    for number in range(3):
        log.add_round(PLAN, number, evaluation(number, loss=1.0 / (number + 1)))
    found = EvaluationLog(tmp_path).read(digest(PLAN))
    assert [(r.stage, r.round, r.view, r.records, r.accuracy) for r in found] == [
        ("round", 0, 0, 4, 0.0), ("round", 1, 0, 4, 0.25), ("round", 2, 0, 4, 0.5),
    ]  # fmt: skip
    assert [r.loss for r in found] == [1.0, 0.5, 1.0 / 3]
    assert all(r.scores == () and r.labels == () for r in found)


def test_the_final_evaluation_keeps_scores_and_labels_of_each_view(tmp_path: Path):
    """The last one is what a curve over patients is drawn from, for this study and for earlier ones."""
    log = EvaluationLog(tmp_path)
    log.add_final(PLAN, 0, evaluation(3))
    log.add_final(PLAN, 1, evaluation(1))
    own, earlier = log.read(digest(PLAN))
    assert [(r.stage, r.round, r.view, r.accuracy) for r in (own, earlier)] == [
        ("final", 4, 0, 0.75), ("final", 4, 1, 0.25),
    ]  # fmt: skip
    assert np.array_equal(np.float32(own.scores), evaluation(3).scores)
    assert own.labels == (0, 1, 0, 1)


def test_a_repeated_evaluation_replaces_the_earlier_one(tmp_path: Path):
    """A round that was run again after a crash counts once, with its latest numbers."""
    log = EvaluationLog(tmp_path)
    log.add_round(PLAN, 0, evaluation(1))
    log.add_final(PLAN, 0, evaluation(2))
    log.add_round(PLAN, 0, evaluation(4))
    log.add_final(PLAN, 0, evaluation(3))
    assert {r.stage: r.accuracy for r in log.read(digest(PLAN))} == {"round": 1.0, "final": 0.75}


def test_studies_do_not_mix(tmp_path: Path):
    """A plan that differs in anything has its own results."""
    other = replace(PLAN, seed=1)
    log = EvaluationLog(tmp_path)
    log.add_round(PLAN, 0, evaluation(1))
    log.add_round(other, 0, evaluation(4))
    assert [r.accuracy for r in log.read(digest(PLAN))] == [0.25]
    assert [r.accuracy for r in log.read(digest(other))] == [1.0]


def test_results_are_for_the_sites_owner_only(tmp_path: Path):
    """Scores are by patient."""
    EvaluationLog(tmp_path).add_final(PLAN, 0, evaluation(3))
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


def test_damaged_results_are_refused(tmp_path: Path):
    """A line of something else is not skipped."""
    EvaluationLog(tmp_path).add_round(PLAN, 0, evaluation(1))
    path = next(tmp_path.iterdir())
    path.write_bytes(b'{"stage": "round"}\n' + path.read_bytes())
    with pytest.raises(IntegrityError, match="EvaluationRecord"):
        EvaluationLog(tmp_path).read(digest(PLAN))


def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(tmp_path: Path):
    """The round is evaluated again after the restart, and every other result is still there."""
    log = EvaluationLog(tmp_path)
    log.add_round(PLAN, 0, evaluation(1))
    log.add_round(PLAN, 1, evaluation(2))
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    log.add_round(PLAN, 1, evaluation(3))
    assert [(r.round, r.accuracy) for r in log.read(digest(PLAN))] == [(0, 0.25), (1, 0.75)]


@pytest.mark.parametrize(
    ("model", "scores", "labels", "expected"),
    [
        (ModelSpec(family="linear", adapter="full"), [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1],
         Measures(auc=1.0, macro_f1=2 / 3)),
        (ModelSpec(family="mlp", adapter="full"), [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], [0, 1], Measures(macro_f1=1.0)),
        (ModelSpec(family="linear", adapter="full"), [[0.9, 0.1], [0.2, 0.8]], [1, 1], Measures(macro_f1=1 / 3)),
        (ModelSpec(family="survival", adapter="full"), [[0.1, 0.8, 0.05, 0.05], [0.4, 0.1, 0.4, 0.1]], [1, 2],
         Measures(c_index=1.0)),
        (ModelSpec(family="causal-lm", adapter="lora", path="x", characters=9), [[1, 0], [0, 1], [0, 1], [0, 1]],
         [1, 1, 1, 1], Measures(perplexity=math.exp(0.5), exact_match=0.75)),
    ],
    ids=["two classes", "three classes", "one class seen", "survival", "answers"],
)  # fmt: skip
def test_each_model_has_the_measures_of_its_field(
    tmp_path: Path, model: ModelSpec, scores: list[list[float]], labels: list[int], expected: Measures
):
    """AUC and macro F1 of classes, Harrell's C of times, perplexity and exact match of answers; others are None."""
    found = Evaluation(
        records=len(labels), correct=1, loss=0.5, scores=np.array(scores, np.float32), labels=np.array(labels)
    )
    plan = replace(PLAN, model=model)
    EvaluationLog(tmp_path).add_personal(plan, found)
    (record,) = EvaluationLog(tmp_path).read(digest(plan))
    assert record.measures.named() == pytest.approx(expected.named())


def test_a_line_of_before_has_no_measures(tmp_path: Path):
    """Evaluations that an earlier version wrote are read as they were."""
    EvaluationLog(tmp_path).add_round(PLAN, 0, evaluation(2))
    path = next(tmp_path.iterdir())
    line = json.loads(path.read_text())
    del line["measures"]
    path.write_text(json.dumps(line) + "\n")
    (record,) = EvaluationLog(tmp_path).read(digest(PLAN))
    assert (record.accuracy, record.measures) == (0.5, Measures())


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_model_that_diverged_can_be_read_about(tmp_path: Path, loss: float):
    """An infinite loss is a bad result, not a damaged file: the run still ends with its report."""
    EvaluationLog(tmp_path).add_round(PLAN, 0, evaluation(1, loss=loss))
    assert [r.accuracy for r in EvaluationLog(tmp_path).read(digest(PLAN))] == [0.25]
