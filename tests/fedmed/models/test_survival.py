"""Survival: the loss is the likelihood of what was seen, record by record, and order of risk is found again."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.schema import Column, Schema, Target
from fedmed.errors import ModelError
from fedmed.models import Architecture, build_module, folder_digest, load_module, record_losses, scores
from fedmed.models.survival import concordance, outcomes, survival_curves
from fedmed.privacy.engine import train_private
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ModelSpec

SPEC = ModelSpec(family="survival", adapter="full", width=8, depth=1)
SPANS = 4
LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=SPANS, max_size=SPANS)


def likelihood(logits: list[float], label: int) -> float:
    """Return the negative log-likelihood of an outcome, written down plainly."""
    hazards = [1 / (1 + math.exp(-value)) for value in logits]
    span, event = divmod(label, 2)
    passed = span if event else span + 1
    found = -sum(math.log(1 - hazard) for hazard in hazards[:passed])
    return found - math.log(hazards[span]) if event else found


@given(logits=LOGITS)
def test_outcomes_are_probabilities(logits: list[float]):
    """They sum to one for any hazards."""
    total = outcomes(torch.tensor([logits], dtype=torch.float64)).exp().sum()
    assert math.isclose(float(total), 1.0, rel_tol=1e-9)


@given(one=LOGITS, other=LOGITS, label=st.integers(0, 2 * SPANS - 1))
def test_the_loss_is_the_likelihood_but_for_a_constant(one: list[float], other: list[float], label: int):
    """Two models differ in loss by exactly their difference in likelihood, so their gradients are the same."""
    losses = record_losses(outcomes(torch.tensor([one, other], dtype=torch.float64)), torch.tensor([label, label]))
    wanted = likelihood(one, label) - likelihood(other, label)
    assert math.isclose(float(losses[0] - losses[1]), wanted, rel_tol=1e-6, abs_tol=1e-6)


@given(logits=LOGITS)
def test_curves_are_found_again_in_the_scores(logits: list[float]):
    """What is stored of an evaluation gives the chance of no event by the end of each span."""
    found = survival_curves(scores(outcomes(torch.tensor([logits], dtype=torch.float64))).numpy())[0]
    wanted = np.cumprod([1 / (1 + math.exp(value)) for value in logits])
    assert np.allclose(found, wanted, rtol=1e-6)


def test_censored_records_teach_only_what_was_seen():
    """Of a record seen until the end of the first span, no later hazard has a gradient."""
    logits = torch.zeros(1, SPANS, requires_grad=True)
    record_losses(outcomes(logits), torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.tensor([[0.5, 0.0, 0.0, 0.0]]), atol=1e-6)


def world(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return records whose first feature is the risk, with independent censoring."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    time = rng.exponential(2.0 * np.exp(-1.2 * features[:, 0]))
    censored = rng.exponential(4.0, size=count)
    labels = []
    for event, lost in zip(time, censored, strict=True):
        if event <= lost and event <= SPANS:
            labels.append(2 * int(event) + 1)
        else:
            labels.append(2 * (min(SPANS, max(1, int(min(event, lost)))) - 1))
    return torch.from_numpy(features), torch.tensor(labels)


def test_risk_is_found_under_privacy():
    """C on records not seen is near that of the true risk."""
    features, labels = world(1500, seed=1)
    module = build_module(Architecture.of(SPEC, features=3, classes=2 * SPANS), seed=0)
    train_private(
        module, loss=record_losses, inputs=features, labels=labels, steps=60, sample_rate=1.0, expected_batch=1500,
        clip_norm=1.0, noise_multiplier=4.0, learning_rate=0.5, momentum=0.9, noise=SeededNoise(bytes(32)),
    )  # fmt: skip
    held, truth = world(800, seed=2)
    with torch.no_grad():
        found = concordance(scores(module(held)).numpy(), truth.numpy())
    risk = torch.stack([torch.full((800,), -1.0) + 1.2 * held[:, 0]] * SPANS, dim=1)
    best = concordance(outcomes(risk).exp().numpy(), truth.numpy())
    assert found is not None
    assert best is not None
    assert found >= best - 0.02
    assert best >= 0.7


@pytest.mark.parametrize(
    ("hazards", "labels", "wanted"),
    [
        ([2.0, -2.0], [1, 3], 1.0),  # who was given less time had it first
        ([-2.0, 2.0], [1, 3], 0.0),
        ([0.0, 0.0], [1, 3], 0.5),  # a tie
        ([2.0, -2.0], [1, 0], 1.0),  # the other one was seen to the end of the span
        ([2.0, -2.0], [3, 0], None),  # lost before the event: the order is not known
        ([2.0, -2.0], [1, 1], None),  # both in one span
        ([2.0, -2.0], [0, 2], None),  # no event at all
    ],
)
def test_concordance_counts_known_pairs(hazards: list[float], labels: list[int], wanted: float | None):
    """Censored pairs of unknown order are left out."""
    logits = torch.tensor([[hazard] * 2 for hazard in hazards])
    assert concordance(outcomes(logits).exp().numpy(), np.array(labels)) == wanted


def plainly(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return Harrell's C by its definition, pair by pair."""
    expected = survival_curves(scores).sum(axis=1)
    known = right = 0.0
    for one, first in enumerate(labels):
        for other, second in enumerate(labels):
            if first % 2 == 0 or not (second // 2 > first // 2 or (second // 2 == first // 2 and second % 2 == 0)):
                continue
            known += 1
            right += 1.0 if expected[one] < expected[other] else 0.5 * (expected[one] == expected[other])
    return right / known if known else None


@given(count=st.integers(0, 25), ties=st.booleans(), seed=st.integers(0, 500))
def test_concordance_is_that_of_the_definition(count: int, ties: bool, seed: int):  # noqa: FBT001  drawn
    """On any outcomes, censored or not, with tied predictions too."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(count, SPANS)).round(0 if ties else 9)
    given_scores = outcomes(torch.from_numpy(drawn)).exp().numpy()
    labels = rng.integers(0, 2 * SPANS, size=count)
    found, wanted = concordance(given_scores, labels), plainly(given_scores, labels)
    assert found == wanted if wanted is None else found == pytest.approx(wanted)


def test_a_target_that_is_no_time_is_refused():
    """Two classes are no spans."""
    with pytest.raises(ModelError, match="expected a target with event and bounds"):
        build_module(Architecture.of(SPEC, features=3, classes=2), seed=0)


def test_two_private_rounds(clinics: Any, tmp_path: Path):
    """A table with times, events and a record censored too early trains over the secure sum."""
    schema = Schema(
        name="tiny",
        file="{site}.csv",
        columns=(
            Column(name="id", kind="identifier", role="patient-key"),
            Column(name="risk", kind="number", role="feature", centre=0, scale=1, low=-9, high=9),
            Column(name="days", kind="number", role="target", low=0, high=9999),
            Column(name="died", kind="binary", role="target", values=("0", "1")),
        ),
        targets=(Target(name="ill", column="days", event="died", bounds=(30, 90, 365)),),
    )
    rows = [f"p{i},{i % 5 - 2},{(i * 37) % 400},{i % 2}" for i in range(40)]
    sites = clinics(schema, [["id,risk,days,died", *rows]] * 3)
    plan = sites.plan(SPEC, features=1, classes=6)
    result = sites.train(plan, tmp_path / "state")
    _, module = load_module(result / "model", expected_digest=folder_digest(result / "model"))
    assert module(torch.zeros(1, 1)).shape == (1, 6)
