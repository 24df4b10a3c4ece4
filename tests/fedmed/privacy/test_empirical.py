"""An empirical audit of the whole step: 2,000 canaries, one training, and no trust in the code.

Each canary's gradient lies on a coordinate of its own. Half of them, by coin flips, are in the
data. From the released parameters, the separation of those in from those out, in units of the
noise, must be that of a Gaussian mechanism: 1 / sigma (one-shot Gaussian separation, after
Andrew et al., arXiv:2302.03098). Twenty of twenty broken mechanisms are flagged; of twenty
correct ones, none.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.privacy import engine
from fedmed.privacy.engine import private_sum, train_private
from fedmed.privacy.noise import SeededNoise

CANARIES = 2000
CLIP = 0.5
TRIALS = range(20)


class HalvedNoise(SeededNoise):
    """A source that draws half of what it should."""

    def normal(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return draws from N(0, 1/4)."""
        return super().normal(shape) / 2


def released_step(present: NDArray[np.bool_], sigma: float, noise: SeededNoise) -> NDArray[np.float64]:
    """Return what one private step on the present canaries releases, by coordinate."""
    module = nn.Linear(CANARIES, 1, bias=False)
    before = module.weight.detach().clone()
    inputs = torch.eye(CANARIES)[present]
    train_private(
        module,
        loss=lambda logits, labels: -3 * CLIP * logits.squeeze(-1) + 0 * labels,  # three times over the clip norm
        inputs=inputs,
        labels=torch.zeros(len(inputs)),
        steps=1,
        sample_rate=1.0,
        expected_batch=1.0,
        clip_norm=CLIP,
        noise_multiplier=sigma,
        learning_rate=1.0,
        momentum=0.0,
        noise=noise,
    )
    return (module.weight.detach() - before).squeeze(0).double().numpy()


def released_sum(present: NDArray[np.bool_], sigma: float, noise: SeededNoise) -> NDArray[np.float64]:
    """Return what a one-shot release of the present canaries releases, by coordinate."""
    return private_sum(3 * CLIP * torch.eye(CANARIES)[present], clip_norm=CLIP, noise_multiplier=sigma, noise=noise)


def alarm(release: Callable[..., NDArray[np.float64]], noise: SeededNoise, trial: int, sigma: float) -> bool:
    """Return whether a release separates members by more than its noise allows (false alarm: 3e-5)."""
    present = np.random.default_rng(trial).random(CANARIES) < 0.5
    scores = release(present, sigma, noise)
    inside, outside = scores[present], scores[~present]
    deviation = math.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
    separation = (inside.mean() - outside.mean()) / deviation
    claimed = 1 / sigma
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + claimed**2 / (2 * CANARIES))
    return bool(separation > claimed + 4 * error)


@pytest.mark.parametrize("release", [released_step, released_sum])
def test_a_correct_mechanism_raises_no_alarm(release: Callable[..., NDArray[np.float64]]):
    """The real mechanisms separate members exactly as much as the accountant was told."""
    assert not any(alarm(release, SeededNoise(b"%d" % trial), trial, 1.0) for trial in TRIALS)


@pytest.mark.parametrize("release", [released_step, released_sum])
def test_halved_noise_is_flagged(release: Callable[..., NDArray[np.float64]]):
    """Half the noise, twice the separation: 20 of 20."""
    assert all(alarm(release, HalvedNoise(b"%d" % trial), trial, 1.0) for trial in TRIALS)


def test_missing_clipping_in_a_step_is_flagged(monkeypatch: pytest.MonkeyPatch):
    """Gradients that enter the sum unclipped: 20 of 20."""

    def unclipped(
        self: engine._PrivateOptimizer, parameters: Mapping[str, torch.nn.Parameter], captured: Mapping[str, Tensor]
    ) -> int:
        for name, value in parameters.items():
            total = captured[name].sum(0)
            value.summed_grad = total if value.summed_grad is None else value.summed_grad + total  # type: ignore[attr-defined]
        return 0

    monkeypatch.setattr(engine._PrivateOptimizer, "add_clipped", unclipped)
    assert all(alarm(released_step, SeededNoise(b"%d" % trial), trial, 1.0) for trial in TRIALS)


def test_missing_clipping_in_a_release_is_flagged(monkeypatch: pytest.MonkeyPatch):
    """Vectors that enter the sum unclipped: 20 of 20."""

    def unclipped(vectors: Tensor, clip_norm: float) -> Tensor:
        return vectors.double().sum(0)

    monkeypatch.setattr("fedmed.privacy.release.clipped_sum", unclipped)
    assert all(alarm(released_sum, SeededNoise(b"%d" % trial), trial, 1.0) for trial in TRIALS)
