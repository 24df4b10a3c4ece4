"""A penalty pulls every step towards its anchor, untouched by clip, noise and batch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmed.errors import ConfigError, ModelError
from fedmed.privacy.descent import train_plain
from fedmed.privacy.engine import train_private
from fedmed.privacy.noise import NoiseSource, SeededNoise
from fedmed.privacy.penalty import Penalty

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]

ANCHOR = np.arange(6, dtype=np.float32)
WEIGHTS = np.array([0, 1, 2, 3, 4, 5], dtype=np.float32)


def moved(train: Callable[..., Any], module: nn.Module, records: Records, loss: Loss, **changes: Any) -> Tensor:
    """Return how far a copy of `module` moves in one step, weight then bias."""
    twin = nn.Linear(5, 1)
    twin.load_state_dict(module.state_dict())
    settings: dict[str, Any] = {
        "steps": 1, "sample_rate": 1.0, "expected_batch": 11.0, "learning_rate": 0.1, "momentum": 0.0,
    } | changes  # fmt: skip
    train(twin, loss=loss, inputs=records[0], labels=records[1], **settings)
    return torch.cat(
        [(new - old).detach().flatten() for new, old in zip(twin.parameters(), module.parameters(), strict=True)]
    )


def private(module: nn.Module, **settings: Any) -> None:
    """Train with little clip norm and much noise."""
    train_private(module, clip_norm=1e-3, noise_multiplier=5.0, noise=SeededNoise(b"k"), **settings)


def plain(module: nn.Module, **settings: Any) -> None:
    """Train without either."""
    train_plain(module, noise=SeededNoise(b"k"), **settings)


@pytest.mark.parametrize("train", [private, plain])
def test_the_pull_is_added_in_full(train: Callable[..., Any], records: Records, loss: Loss):
    """With and without privacy the penalty moves the parameters by rate * strength * weights * (theta - anchor)."""
    module = nn.Linear(5, 1)
    penalty = Penalty(anchor=ANCHOR, weights=WEIGHTS, strength=30.0)
    extra = moved(train, module, records, loss, penalty=penalty) - moved(train, module, records, loss)
    start = torch.cat([value.detach().flatten() for value in module.parameters()])
    expected = -0.1 * 30 * torch.from_numpy(WEIGHTS) * (start - torch.from_numpy(ANCHOR))
    assert torch.allclose(extra, expected, rtol=1e-4, atol=1e-5)


def test_one_number_weighs_all_alike(records: Records, loss: Loss):
    """FedProx: the proximal term has weights of 1."""
    module = nn.Linear(5, 1)
    one = moved(plain, module, records, loss, penalty=Penalty(anchor=ANCHOR, weights=1.0, strength=2.0))
    ones = Penalty(anchor=ANCHOR, weights=np.ones(6, np.float32), strength=2.0)
    assert torch.equal(one, moved(plain, module, records, loss, penalty=ones))


def test_the_pull_does_not_depend_on_the_records(records: Records, loss: Loss):
    """A step on nobody gets the same pull, so it tells nothing of whether anybody was there."""
    module, penalty = nn.Linear(5, 1), Penalty(anchor=ANCHOR, weights=WEIGHTS, strength=30.0)
    nobody = {"sample_rate": 1e-12}
    extra = [
        moved(private, module, records, loss, penalty=penalty, **rate) - moved(private, module, records, loss, **rate)
        for rate in ({}, nobody)
    ]
    assert torch.allclose(*extra, rtol=1e-4, atol=1e-5)


def test_a_penalty_adds_to_a_penalty_gradient(records: Records, loss: Loss):
    """Both may be given: a site's proximal term beside a study's consolidation."""
    module, penalty = nn.Linear(5, 1), Penalty(anchor=ANCHOR, weights=1.0, strength=1.0)
    push = {"penalty_gradient": lambda parameters: {"bias": torch.ones_like(parameters["bias"])}}
    both = moved(plain, module, records, loss, penalty=penalty, **push)
    assert float(both[5] - moved(plain, module, records, loss, penalty=penalty)[5]) == pytest.approx(-0.1, rel=1e-3)


def test_many_steps_arrive_at_the_anchor(records: Records, loss: Loss, no_noise: NoiseSource):
    """A strong pull wins over clipped gradients."""
    module = nn.Linear(5, 1)
    train_private(
        module, loss=loss, inputs=records[0], labels=records[1], steps=50, sample_rate=1.0, expected_batch=11.0,
        clip_norm=1e-3, noise_multiplier=1.0, learning_rate=0.1, momentum=0.0, noise=no_noise,
        penalty=Penalty(anchor=ANCHOR, weights=1.0, strength=5.0),
    )  # fmt: skip
    end = torch.cat([value.detach().flatten() for value in module.parameters()])
    assert torch.allclose(end, torch.from_numpy(ANCHOR), atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"strength": -1.0},
        {"strength": math.inf},
        {"anchor": ANCHOR.astype(np.float64)},
        {"anchor": ANCHOR.reshape(2, 3)},
        {"anchor": np.full(6, np.nan, np.float32)},
        {"weights": np.ones(5, np.float32)},
        {"weights": -WEIGHTS},
        {"weights": math.nan},
    ],
)
def test_a_penalty_that_exists_is_valid(change: dict[str, Any]):
    """A negative weight would push away without bound."""
    with pytest.raises(ConfigError, match="penalty"):
        Penalty(**({"anchor": ANCHOR, "weights": WEIGHTS, "strength": 1.0} | change))


@pytest.mark.parametrize("train", [private, plain])
def test_an_anchor_of_another_module_is_refused(train: Callable[..., Any], records: Records, loss: Loss):
    """Before any training; nothing is broadcast or cut."""
    module = nn.Linear(5, 1)
    before = module.weight.detach().clone()
    with pytest.raises(ModelError, match="expected 6 parameters"):
        moved(train, module, records, loss, penalty=Penalty(anchor=ANCHOR[:5], weights=1.0, strength=1.0))
    assert torch.equal(module.weight, before)
