"""What is clipped never exceeds the clip norm, at any scale of gradients, and what isn't finite adds nothing."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmed.errors import ConfigError
from fedmed.privacy.clipping import clipped_sums, clipping_factors
from fedmed.privacy.engine import train_private
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ContinualSpec, PrivacySpec, TrainingSpec

NAN, INFINITE = float("nan"), float("inf")


SCALES = [(clip_norm, exponent) for clip_norm in (1e-30, 1e-25, 1e-20, 1e-6, 1.0, 1e6)
          for exponent in (-44, -40, -30, -27, -23, -21, -20, -19, -18, -10, 0, 10, 18)
          if clip_norm / 10.0**exponent > 1e-36]  # fmt: skip
"""Of clip norms, also below those that are taken, and gradients, where float32 has the factor in full."""


@pytest.mark.parametrize(("clip_norm", "exponent"), SCALES)
def test_a_record_adds_the_clip_norm_at_most_at_any_scale(clip_norm: float, exponent: int):
    """Gradients whose squares float32 can't hold are clipped too: whoever chooses the clip norm can't switch it off."""
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(1)).mul(10.0**exponent)
    factors, wrong = clipping_factors({"one": rows[:, :30], "two": rows[:, 30:]}, clip_norm)
    norms = torch.linalg.vector_norm(rows.double(), dim=1) * factors.double()
    assert len(wrong) == 0
    assert float(norms.max()) <= clip_norm * (1 + 1e-12)


def test_what_is_below_the_clip_norm_is_left_alone():
    """Small gradients, far above what float32 can square, enter whole."""
    factors, _ = clipping_factors({"weight": torch.full((3, 4), 1e-8)}, 1e-6)
    assert torch.equal(factors, torch.ones(3))


@pytest.mark.parametrize("bad", [NAN, INFINITE, -INFINITE, 1e30])
def test_a_record_that_is_not_finite_adds_nothing_to_any_parameter(bad: float):
    """The sum is that of the other records, also for parameters where the record's own gradient is finite."""
    rows = {"a": torch.randn(5, 2, 3), "b": torch.randn(5, 4)}
    rows["b"][2, 1] = bad
    others = {name: value[[0, 1, 3, 4]].clone() for name, value in rows.items()}
    factors, wrong = clipping_factors(rows, 0.5)
    found = dict(clipped_sums(rows, factors, wrong))
    expected = dict(clipped_sums(others, *clipping_factors(others, 0.5)))
    assert wrong.tolist() == [2]
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in rows)


class Mixed(nn.Module):
    """A wide convolution on few pixels, whose rows wait, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.end = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        outputs: Tensor = self.end(self.wide(inputs).flatten(1))
        return outputs


def moved(inputs: Tensor, labels: Tensor, *, expected_batch: float = 6.0) -> Tensor:
    """Return the parameters after one private step from the same start with the same noise."""
    torch.manual_seed(1)
    module = Mixed()
    train_private(
        module, loss=lambda outputs, wanted: cross_entropy(outputs, wanted, reduction="none"), inputs=inputs,
        labels=labels, steps=1, sample_rate=1.0, expected_batch=expected_batch, clip_norm=0.5, noise_multiplier=1e-3,
        learning_rate=1.0, momentum=0.0, noise=SeededNoise(b"k"),
    )  # fmt: skip
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_training_with_a_broken_record_is_training_without_it():
    """One image of NaN changes nothing but the count of records, which nobody outside learns."""
    inputs = torch.randn(6, 8, 2, 2, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6) % 2
    broken = inputs.clone()
    broken[3, 0, 0, 0] = NAN
    kept = [0, 1, 2, 4, 5]
    assert torch.allclose(moved(broken, labels), moved(inputs[kept], labels[kept]), atol=1e-6)
    assert not torch.allclose(moved(broken, labels), moved(inputs, labels), atol=1e-4)


@pytest.mark.parametrize("clip_norm", [0.0, 1e-33, 9e-7, 2e6, INFINITE, NAN])
def test_a_clip_norm_that_float32_cant_clip_to_is_refused(clip_norm: float):
    """By the plan, so that no site is asked, and by the engine, whoever asks."""
    with pytest.raises(ValueError, match="clip_norm must be from 1e-06 to 1e"):
        PrivacySpec(trust_model="none", clip_norm=clip_norm)
    with pytest.raises(ConfigError, match="clip_norm: expected a number from 1e-06"):
        train_private(
            nn.Linear(2, 1), loss=lambda outputs, _: outputs.sum(1), inputs=torch.zeros(2, 2), labels=torch.zeros(2),
            steps=1, sample_rate=1.0, expected_batch=2.0, clip_norm=clip_norm, noise_multiplier=1.0,
            learning_rate=1.0, momentum=0.0, noise=SeededNoise(b"k"),
        )  # fmt: skip


@pytest.mark.parametrize("value", [1e24, INFINITE, NAN, 0.0])
def test_a_plan_has_no_number_that_only_an_attack_needs(value: float):
    """A learning rate that undoes a tiny clip norm, and clip norms of Fisher information beyond reason."""
    with pytest.raises(ValueError, match="learning_rate must be above 0 and at most"):
        TrainingSpec(rounds=1, local_steps=1, sample_rate=0.5, learning_rate=value)
    with pytest.raises(ValueError, match="fisher_clip_norm must be from 1e-12"):
        ContinualSpec(strength=0.0, release_fisher=True, fisher_clip_norm=value)
    assert math.isfinite(TrainingSpec(rounds=1, local_steps=1, sample_rate=0.5, learning_rate=20.0).learning_rate)
