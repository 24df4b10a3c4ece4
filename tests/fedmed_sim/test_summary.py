"""Numbers for scripts: means over sites, a pooled AUC, and what a reader must know first."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from sklearn.metrics import f1_score

from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    canonical_json,
    digest,
)
from fedmed.released import StudyResult
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment
from fedmed_sim.summary import accuracy_by_site, final_of, mean_accuracy, warnings_of
from fedmed_site.evaluations import EvaluationRecord
from fedmed_site.measures import Measures

PRIVATE = PrivacySpec(trust_model="local", epsilon=8.0, noise_multiplier=1.0, release_noise_multiplier=3.0)
PLAN = Plan(
    study="cardiology",
    seed=0,
    data=DataSpec(schema="s", schema_digest="0" * 64, target="t"),
    model=ModelSpec(family="linear", adapter="full"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=4, local_steps=1, sample_rate=1.0, learning_rate=1.0),
    privacy=PRIVATE,
    aggregation=AggregationSpec(kind="insecure"),
    continual=ContinualSpec(strength=0.0, release_fisher=False),
)


def final(accuracy: float, *positives: float, labels: tuple[int, ...] = (), view: int = 0) -> EvaluationRecord:
    """Return a final evaluation with these scores of the positive class."""
    return EvaluationRecord(
        stage="final",
        round=4,
        view=view,
        records=max(1, len(labels)),
        accuracy=accuracy,
        loss=0.5,
        scores=tuple((1 - p, p) for p in positives),
        labels=labels,
    )


def of_round(number: int, accuracy: float) -> EvaluationRecord:
    """Return a round's evaluation."""
    return EvaluationRecord(stage="round", round=number, view=0, records=4, accuracy=accuracy, loss=0.5)


def result(plan: Plan = PLAN, **changes: Any) -> StudyResult:
    """Return the facts of a finished study in which every site evaluated."""
    facts = StudyResult(
        plan_digest=digest(plan), rounds=4, sites=("a", "b", "c"), evaluated=("a", "b", "c"), aggregation="insecure",
        bytes_up=1, bytes_down=2, seconds={},
    )  # fmt: skip
    return replace(facts, **changes)


def test_final_accuracy_is_by_site_and_its_mean_counts_sites_alike():
    """A large hospital's accuracy doesn't hide a small one's; rounds and earlier views don't count."""
    found = final_of({"b": [of_round(0, 0.1), final(0.5), final(0.9, view=1), of_round(1, 0.2)], "a": [final(1.0)]})
    assert found.accuracy == {"a": 1.0, "b": 0.5}
    assert found.accuracy_mean == 0.75


def test_accuracy_on_an_earlier_study_is_its_own_view():
    """What consolidation protects is read off the view of the earlier study."""
    evaluations = {"a": [final(1.0), final(0.5, view=1)], "b": [final(0.8), final(0.7, view=1)]}
    assert accuracy_by_site(evaluations, view=1) == {"a": 0.5, "b": 0.7}
    assert mean_accuracy(evaluations, view=1) == pytest.approx(0.6)
    assert mean_accuracy(evaluations, view=0) == pytest.approx(0.9)


def test_the_auc_is_over_all_sites_patients_together():
    """Pooled, not averaged: scores of different sites are compared with each other."""
    evaluations = {
        "a": [of_round(0, 0.0), final(1.0, 0.6, 0.7, labels=(0, 1))],
        "b": [final(1.0, 0.1, 0.2, labels=(0, 1)), final(0.0, 0.9, 0.1, labels=(0, 1), view=1)],
    }
    assert final_of(evaluations).auc_pooled == pytest.approx(0.75)


@pytest.mark.parametrize(
    "records",
    [
        [final(1.0, 0.6, 0.7, labels=(1, 1))],
        [replace(final(1.0), scores=((0.2, 0.3, 0.5), (0.5, 0.3, 0.2)), labels=(2, 0))],
        [final(1.0)],
    ],
    ids=["one class", "three classes", "no scores"],
)
def test_an_auc_that_means_nothing_is_null(records: list[EvaluationRecord]):
    """What was not measured is null, never zero."""
    assert final_of({"a": records}).auc_pooled is None


def test_the_mean_auc_is_of_the_sites_own():
    """A site's own ranking counts, each site alike; who holds one class only is left out of the mean."""
    evaluations = {
        "a": [replace(final(1.0, 0.6, 0.7, labels=(0, 1)), measures=Measures(auc=1.0, macro_f1=0.5))],
        "b": [replace(final(1.0, 0.1, 0.2, labels=(0, 1)), measures=Measures(auc=0.5, macro_f1=1.0))],
        "c": [replace(final(1.0, 0.9, labels=(1,)), measures=Measures(macro_f1=1.0))],
    }
    found = final_of(evaluations)
    assert found.auc_mean == 0.75
    assert found.macro_f1_mean == pytest.approx(5 / 6)
    assert found.macro_f1_pooled == pytest.approx(f1_score([0, 1, 0, 1, 1], [1, 1, 0, 0, 1], average="macro"))
    assert found.measures["c"] == Measures(macro_f1=1.0)
    assert (found.c_index_mean, found.perplexity_mean, found.exact_match_mean) == (None, None, None)


def test_survival_has_its_own_pooled_measure():
    """C over all sites' pairs, and no macro F1 of spans."""
    early, late = (0.1, 0.8, 0.05, 0.05), (0.4, 0.1, 0.4, 0.1)
    records = {
        "a": [replace(final(1.0), scores=(early,), labels=(1,), measures=Measures())],
        "b": [replace(final(1.0), scores=(late, early), labels=(2, 1), measures=Measures(c_index=1.0))],
    }
    found = final_of(records)
    assert (found.c_index_mean, found.c_index_pooled, found.macro_f1_pooled, found.auc_pooled) == (1.0, 1.0, None, None)


def test_an_accuracy_that_was_not_measured_is_null():
    """Where no site could evaluate the released model the run still ends with its summary."""
    found = final_of({"a": [of_round(0, 0.5)]})
    assert msgspec.json.decode(canonical_json(found))["accuracy_mean"] is None


def test_a_private_and_secure_run_needs_no_warning():
    """Warnings are for what weakens a promise."""
    assert warnings_of([PLAN], [result()], secure=True, keys_from_seed=False) == ()


def test_insecure_aggregation_is_said_first():
    """Who saw what comes before any number."""
    (warning,) = warnings_of([PLAN], [result()], secure=False, keys_from_seed=False)
    assert warning.startswith("aggregation was insecure: the coordinator saw every site's update")


def test_a_promise_of_shared_noise_says_what_it_stands_on():
    """How many sites may lie, how many a sum covers at least, and how many honest shares that leaves."""
    training = replace(PLAN.training, local_steps=1, sample_rate=1.0)
    privacy = replace(PRIVATE, trust_model="distributed", noise="system")
    plan = replace(PLAN, privacy=privacy, training=training, aggregation=AggregationSpec(kind="secure"))
    segment = Segment(name="delta", bits=32, kind="signed", clip=1.0, fraction_bits=20, max_length=9)
    roster = Roster(
        serial=1,
        sites=tuple(RosterEntry(site=f"h{place}", signing_key=bytes(31) + bytes([place])) for place in range(7)),
        policy=Policy(n_min=4, max_corrupt=2, segments=(segment,), max_weight=1.0),
    )
    (said,) = warnings_of([plan], [result(plan)], secure=True, keys_from_seed=False, roster=roster)
    assert "max_corrupt (2 of 7; each sum covers at least 5 sites and has the shares of 3 honest ones, or of 2" in said


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        (PrivacySpec(trust_model="none"), "no differential privacy: the model may remember single patients"),
        (replace(PRIVATE, noise="simulated-seed"), "it repeats and protects nobody"),
        (replace(PRIVATE, noise="simulated-seed"), "keys and masks came from a seed"),
        (replace(PRIVATE, trust_model="distributed"), "the noise is shared by the sites"),
    ],
)
def test_a_weakened_promise_is_said(privacy: PrivacySpec, expected: str):
    """No noise, or noise that anybody can repeat."""
    training = replace(PLAN.training, local_steps=1, sample_rate=1.0)
    plan = replace(PLAN, privacy=privacy, training=training, aggregation=AggregationSpec(kind="secure"))
    assert any(expected in warning for warning in warnings_of([plan], [result(plan)], secure=True, keys_from_seed=True))


def test_sites_that_did_not_evaluate_are_named_by_study():
    """An accuracy over fewer hospitals than took part isn't the accuracy of the model."""
    second = replace(PLAN, study="endocrinology")
    results = [result(evaluated=("b",)), result(second)]
    assert warnings_of([PLAN, second], results, secure=True, keys_from_seed=False) == (
        "cardiology: a, c did not evaluate the released model",
    )


def test_all_warnings_come_together():
    """One doesn't hide another."""
    plan = replace(PLAN, privacy=PrivacySpec(trust_model="none"))
    assert len(warnings_of([plan], [result(plan, evaluated=())], secure=False, keys_from_seed=False)) == 3


def test_every_plan_has_its_result():
    """A study without a result isn't passed over in silence."""
    with pytest.raises(ValueError, match="zip"):
        warnings_of([PLAN, PLAN], [result()], secure=True, keys_from_seed=False)
