"""Plain training runs the same loop without clip and noise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmed.errors import ConfigError, DataError, ModelError
from fedmed.privacy.descent import train_plain
from fedmed.privacy.noise import NoiseSource, SeededNoise

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


def settings(records: Records, loss: Loss, **changes: Any) -> dict[str, Any]:
    """Return arguments of one full-batch step, with `changes`."""
    inputs, labels = records
    return {
        "loss": loss, "inputs": inputs, "labels": labels, "steps": 1, "sample_rate": 1.0,
        "expected_batch": float(len(inputs)), "learning_rate": 1.0, "momentum": 0.0, "noise": SeededNoise(b"k"),
    } | changes  # fmt: skip


def test_a_full_batch_step_is_gradient_descent(records: Records, loss: Loss):
    """One step moves by the mean gradient, whatever the physical batch."""
    module, by_hand = nn.Linear(5, 1), nn.Linear(5, 1)
    by_hand.load_state_dict(module.state_dict())
    train_plain(module, **settings(records, loss, physical_batch=4))
    loss(by_hand(records[0]), records[1]).mean().backward()
    assert by_hand.weight.grad is not None
    assert torch.allclose(module.weight, by_hand.weight - by_hand.weight.grad, rtol=1e-5, atol=1e-7)


def test_momentum_is_torchs(records: Records, loss: Loss):
    """Several steps with momentum follow torch.optim.SGD."""
    module, by_hand = nn.Linear(5, 1), nn.Linear(5, 1)
    by_hand.load_state_dict(module.state_dict())
    train_plain(module, **settings(records, loss, steps=5, momentum=0.9, learning_rate=0.1))
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        sgd.zero_grad()
        loss(by_hand(records[0]), records[1]).mean().backward()
        sgd.step()
    assert torch.allclose(module.weight, by_hand.weight, rtol=1e-5, atol=1e-6)


def test_sampling_takes_each_record_at_its_rate(records: Records, loss: Loss, no_noise: NoiseSource):
    """A record takes part when its uniform draw is below the rate."""
    report = train_plain(nn.Linear(5, 1), **settings(records, loss, sample_rate=0.5, noise=no_noise))
    assert [step.records for step in report.steps] == [6]


def test_torchs_seed_does_not_choose_the_records(records: Records, loss: Loss):
    """Sampling comes from the noise source only."""
    drawn = []
    for key in (b"one", b"two"):
        torch.manual_seed(0)
        report = train_plain(
            nn.Linear(5, 1), **settings(records, loss, sample_rate=0.5, steps=20, noise=SeededNoise(key))
        )
        drawn.append([step.records for step in report.steps])
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_records_with_a_non_finite_loss_are_left_out(records: Records, loss: Loss, bad: float):
    """The step equals the one without them, and the report counts them."""
    inputs, labels = records
    module, expected = nn.Linear(5, 1), nn.Linear(5, 1)
    expected.load_state_dict(module.state_dict())
    spoilt = inputs.clone()
    spoilt[3, 0] = bad
    report = train_plain(module, **settings((spoilt, labels), loss))
    keep = torch.arange(11) != 3
    train_plain(expected, **settings((inputs[keep], labels[keep]), loss, expected_batch=11.0))
    assert report.nonfinite == 1
    assert torch.allclose(module.weight, expected.weight, rtol=1e-5, atol=1e-7)


def test_a_batch_of_bad_records_changes_nothing(records: Records, loss: Loss):
    """All left out is a step of nothing."""
    module = nn.Linear(5, 1)
    before = module.weight.detach().clone()
    report = train_plain(module, **settings((records[0] * math.nan, records[1]), loss))
    assert report.nonfinite == 11
    assert torch.equal(module.weight, before)


def test_a_non_finite_gradient_of_finite_losses_is_an_error(records: Records):
    """A loss whose slope is infinite can't be averaged away; the message names the parameter."""

    def cusp(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.squeeze(-1) * 0).abs().sqrt() + 0 * labels

    with pytest.raises(DataError, match="parameter 'weight'"):
        train_plain(nn.Linear(5, 1), **settings(records, cusp))


def test_a_penalty_is_added_to_the_gradient(records: Records, loss: Loss):
    """The same hook as in private training, at the same place."""
    module, penalised = nn.Linear(5, 1), nn.Linear(5, 1)
    penalised.load_state_dict(module.state_dict())
    train_plain(module, **settings(records, loss))
    train_plain(penalised, **settings(records, loss, penalty_gradient=lambda p: {"bias": 2 + 0 * p["bias"]}))
    assert torch.allclose(module.bias - penalised.bias, torch.tensor([2.0]))


def test_the_module_comes_back_in_its_mode_without_gradients(records: Records, loss: Loss):
    """Evaluation after training needs no reset."""
    module = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.Linear(5, 1)).eval()
    train_plain(module, **settings(records, loss))
    assert not module.training
    assert all(value.grad is None for value in module.parameters())


def test_a_module_with_nothing_to_train_is_refused(records: Records, loss: Loss):
    """Everything frozen is a mistake."""
    with pytest.raises(ModelError, match="trainable"):
        train_plain(nn.Linear(5, 1).requires_grad_(requires_grad=False), **settings(records, loss))


def test_settings_out_of_range_are_refused(records: Records, loss: Loss):
    """The same checks as in private training."""
    with pytest.raises(ConfigError, match="sample_rate"):
        train_plain(nn.Linear(5, 1), **settings(records, loss, sample_rate=0.0))
    with pytest.raises(DataError, match="as many inputs as labels"):
        train_plain(nn.Linear(5, 1), **settings(records, loss, labels=torch.zeros(2)))
