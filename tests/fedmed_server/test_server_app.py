"""Behaviour of the coordinator's Flower room: the plan it runs is the plan that was announced."""

from dataclasses import replace
from pathlib import Path

import pytest
from federation import PRIVATE
from flwr.app import Context, RecordDict

from fedmed.errors import ProtocolError, UsageError
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    TrainingSpec,
    canonical_json,
    digest,
)
from fedmed_server.server_app import aggregator_for, plan_from

PLAN = Plan(
    study="s",
    seed=1,
    data=DataSpec(schema="tiny", schema_digest="0" * 64, target="ill"),
    model=ModelSpec(family="linear", adapter="full"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=1, local_steps=1, sample_rate=1.0, learning_rate=1.0),
    privacy=PRIVATE,
    aggregation=AggregationSpec(kind="insecure"),
    continual=ContinualSpec(strength=0.0, release_fisher=False),
)


def context(plan_json: str, plan_digest: str) -> Context:
    """Return a context with this run configuration."""
    config = {"plan": plan_json, "plan-digest": plan_digest}
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)


def test_the_plan_travels_in_the_run_configuration() -> None:
    """What was launched is what is run, Chinese names and nested fields included."""
    assert plan_from(context(canonical_json(PLAN).decode(), digest(PLAN))) == PLAN


def test_a_changed_plan_is_refused() -> None:
    """A plan that was altered after its digest was announced does not run."""
    changed = canonical_json(PLAN).decode().replace('"rounds":1', '"rounds":9')
    with pytest.raises(ProtocolError, match="differ"):
        plan_from(context(changed, digest(PLAN)))


def test_the_insecure_aggregator_says_what_it_is() -> None:
    """No report can mistake a sum in the clear for a secure one."""
    aggregator = aggregator_for(PLAN, roster=None, state=Path("unused"))
    assert (aggregator.kind, aggregator.secure) == ("insecure", False)


def test_secure_aggregation_without_a_roster_is_refused() -> None:
    """The coordinator says what is missing; it never falls back to sums in the clear."""
    secure = replace(PLAN, aggregation=AggregationSpec(kind="secure"))
    with pytest.raises(UsageError, match="signed roster"):
        aggregator_for(secure, roster=None, state=Path("unused"))
