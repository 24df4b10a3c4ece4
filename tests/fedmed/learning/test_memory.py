"""A pull joins after clip and noise: it moves the model as a quadratic would, and nothing that is noised."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedmed.data.source import Cohort
from fedmed.errors import ModelError
from fedmed.learning.ewc import Knowledge
from fedmed.learning.local import train_locally
from fedmed.learning.memory import Memory, combined, memory_of, proximal
from fedmed.models import Architecture, Layout, attach_adapter, build_module
from fedmed.privacy.noise import SeededNoise
from fedmed.privacy.penalty import Penalty
from fedmed.records import ContinualSpec, ModelSpec, PrivacySpec, TrainingSpec

SPEC = ModelSpec(family="linear", adapter="full")
OPEN = PrivacySpec(trust_model="none")
LOCAL = PrivacySpec(trust_model="local", epsilon=8.0, clip_norm=0.1, noise_multiplier=1.0, release_noise_multiplier=2.0)
SHARED = PrivacySpec(
    trust_model="distributed", epsilon=8.0, clip_norm=0.1, noise_multiplier=1.0, release_noise_multiplier=2.0
)
START = np.array([0.5, -0.5, 1.0, 0.25], dtype=np.float32)
ANCHOR = np.array([2.0, 1.0, 0.0, -1.0], dtype=np.float32)
FISHER = np.array([0.0, 1.0, 0.5, 2.0], dtype=np.float32)


def module() -> nn.Module:
    """Return a logistic regression of three features."""
    return attach_adapter(build_module(Architecture.of(SPEC, features=3, classes=2), seed=0), SPEC, seed=0)


def update(privacy: PrivacySpec, *, steps: int, mu: float = 0.0, memory: Memory | None = None) -> np.ndarray:
    """Train on thirty records from `START` and return the update."""
    values = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    labels = (values[:, 0] > 0).astype(np.int64)
    cohort = Cohort(features=values, labels=labels, feature_names=("a", "b", "c"), classes=("no", "yes"))
    training = TrainingSpec(rounds=1, local_steps=steps, sample_rate=1.0, learning_rate=0.5, proximal=mu)
    noise = SeededNoise(b"a")
    return train_locally(module(), START, cohort, training=training, privacy=privacy, noise=noise, memory=memory).delta


@pytest.mark.parametrize("privacy", [OPEN, LOCAL], ids=["plain", "local"])
def test_the_proximal_term_holds_a_site_near_the_rounds_model(privacy: PrivacySpec):
    """With the same records and noise, a larger mu ends nearer to where the round began."""
    distances = [np.linalg.norm(update(privacy, steps=8, mu=mu)) for mu in (0.0, 0.5, 1.5)]
    assert distances[0] > 1.2 * distances[1] > 1.2 * distances[2]


@pytest.mark.parametrize("privacy", [OPEN, LOCAL, SHARED], ids=["plain", "local", "distributed"])
def test_a_pull_leaves_clipped_sum_and_noise_as_they_are(privacy: PrivacySpec):
    """One step with it differs from one without by exactly its own gradient, far beyond the clip norm."""
    memory = Penalty(anchor=ANCHOR, weights=FISHER, strength=10.0)
    moved = update(privacy, steps=1, memory=memory) - update(privacy, steps=1)
    expected = -0.5 * 10.0 * FISHER * (START - ANCHOR)
    assert np.linalg.norm(expected) > 10 * privacy.clip_norm
    assert np.allclose(moved, expected, atol=1e-4)


def test_pull_and_proximal_term_act_as_one_quadratic():
    """Its gradient is the sum of theirs, also where neither pulls."""
    one, other = Penalty(anchor=ANCHOR, weights=FISHER, strength=3.0), proximal(START, strength=0.0)
    assert combined(one, other) is one
    assert combined(None, None) is None
    near = Penalty(anchor=START, weights=np.array([0, 1, 1, 1], dtype=np.float32), strength=2.0)
    joined = combined(one, near)
    assert joined is not None
    at = {"x": torch.tensor([3.0, -1.0, 0.5, 2.0])}
    found, first, second = (pull.for_parameters(at)(at)["x"] for pull in (joined, one, near))
    assert torch.allclose(found, first + second, atol=1e-5)


def test_earlier_studies_and_the_rounds_model_pull_together():
    """A site ends between both, and with no importance only the proximal term is left."""
    memory = Penalty(anchor=ANCHOR, weights=FISHER, strength=1.0)
    both = update(OPEN, steps=6, mu=0.5, memory=memory)
    expected = {name: update(OPEN, steps=6, **kinds) for name, kinds in KINDS.items()}
    assert not any(np.allclose(both, other, atol=1e-3) for other in expected.values())
    assert np.array_equal(
        update(OPEN, steps=6, mu=0.5, memory=Penalty(anchor=ANCHOR, weights=0 * FISHER, strength=1.0)),
        expected["proximal"],
    )


KINDS: dict[str, dict[str, Any]] = {
    "neither": {},
    "proximal": {"mu": 0.5},
    "memory": {"memory": Penalty(anchor=ANCHOR, weights=FISHER, strength=1.0)},
}


def test_knowledge_of_another_model_is_refused():
    """A pull of another length belongs to another model, whichever part of it is longer."""
    continual = ContinualSpec(strength=0.0, release_fisher=False, penalty=1.0)
    size = Layout.of(module()).size
    for anchor, frozen in ((size + 1, None), (size, np.zeros(3))):
        knowledge = Knowledge(anchor=np.zeros(anchor), fisher=np.zeros(anchor), frozen=frozen)
        with pytest.raises(ModelError, match="another model"):
            memory_of(module(), SPEC, continual, knowledge)
