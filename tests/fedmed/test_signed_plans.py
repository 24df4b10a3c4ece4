"""Behaviour of plans with signatures."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.errors import RefusedError, UsageError
from fedmed.records import AggregationSpec, ContinualSpec, DataSpec, ModelSpec, Plan, PrivacySpec, TrainingSpec
from fedmed.signed_plans import (
    PlanSignatures,
    agree_to,
    launch,
    load_signed_plan,
    save_signed_plan,
    signatures_from_text,
    signatures_to_text,
    verify,
)

CONSORTIUM, COORDINATOR, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
PLAN = Plan(
    study="研究",
    seed=1,
    data=DataSpec(schema="tiny", schema_digest="0" * 64, target="ill"),
    model=ModelSpec(family="linear", adapter="full"),
    base_digest="1" * 64,
    training=TrainingSpec(rounds=3, local_steps=2, sample_rate=1.0, learning_rate=1.0),
    privacy=PrivacySpec(trust_model="none"),
    aggregation=AggregationSpec(kind="secure", min_sites=3),
    continual=ContinualSpec(strength=0.0, release_fisher=False),
)


def check(plan: Plan, signatures: PlanSignatures, *, with_kit: bool = True) -> None:
    """Verify as a site does that has joined; `with_kit` for one that knows its coordinator."""
    verify(
        plan,
        signatures,
        consortium=CONSORTIUM.public_key(),
        coordinator=COORDINATOR.public_key() if with_kit else None,
    )


def test_a_plan_that_both_signed_is_good():
    """The consortium agreed, the coordinator launched it."""
    signed = launch(agree_to(PLAN, CONSORTIUM), COORDINATOR)
    check(signed.plan, signatures_from_text(signatures_to_text(signed.signatures)))


def test_without_the_consortium_there_is_no_study():
    """A coordinator that signs for both, or a stranger, starts nothing."""
    for key in (COORDINATOR, STRANGER):
        signed = launch(agree_to(PLAN, key), COORDINATOR)
        with pytest.raises(RefusedError, match="not signed by this site's consortium"):
            check(PLAN, signed.signatures)


def test_an_agreed_plan_is_launched_by_the_coordinator_only():
    """A signed plan that somebody found doesn't run: nobody launched it, or not the coordinator of the kit."""
    agreed = agree_to(PLAN, CONSORTIUM)
    for signed in (agreed, launch(agreed, STRANGER), launch(agreed, CONSORTIUM)):
        with pytest.raises(RefusedError, match="not launched by the coordinator"):
            check(PLAN, signed.signatures)
    check(PLAN, agreed.signatures, with_kit=False)


def test_signatures_belong_to_one_plan():
    """One more round is another plan."""
    signed = launch(agree_to(PLAN, CONSORTIUM), COORDINATOR)
    longer = replace(PLAN, training=replace(PLAN.training, rounds=4))
    with pytest.raises(RefusedError, match="not signed"):
        check(longer, signed.signatures)


def test_the_two_signatures_can_not_take_each_others_place():
    """Each signs under a label of its own, so one key in both offices gives two different signatures."""
    both = launch(agree_to(PLAN, CONSORTIUM), CONSORTIUM)
    assert both.signatures.consortium != both.signatures.coordinator


@pytest.mark.parametrize("text", ["", "{}", "null", '{"version":1}', "\ud800".encode("utf-8", "replace").decode()])
def test_signatures_that_can_not_be_read_are_refused(text: str):
    """Whatever a coordinator writes there, the site says in one line what it expected."""
    with pytest.raises(RefusedError, match="expected the plan's signatures"):
        signatures_from_text(text)


def test_a_signed_plan_is_a_file(tmp_path: Path):
    """It is carried as it is; a file that is something else is named."""
    path = tmp_path / "plan.json"
    save_signed_plan(path, agree_to(PLAN, CONSORTIUM))
    assert load_signed_plan(path) == agree_to(PLAN, CONSORTIUM)
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"plan\.json: expected a plan signed by"):
        load_signed_plan(path)
    with pytest.raises(UsageError, match="found no file"):
        load_signed_plan(tmp_path / "none.json")
