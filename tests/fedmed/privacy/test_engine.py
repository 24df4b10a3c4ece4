"""Private training clips each record, adds noise once, and leaves the module as it was."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmed.errors import ConfigError, DataError, ModelError
from fedmed.privacy.engine import per_record_gradients, train_plain, train_private
from fedmed.privacy.noise import NoiseSource, SeededNoise

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True, params=["direct where it applies", "opacus"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with the way of capture that the engine chooses, and with Opacus' hooks alone."""
    if request.param == "opacus":
        monkeypatch.setattr("fedmed.privacy.engine.covers", lambda _: False)


def settings(records: Records, loss: Loss, noise: NoiseSource, **changes: Any) -> dict[str, Any]:
    """Return arguments of one private full-batch step, with `changes`."""
    inputs, labels = records
    return {
        "loss": loss, "inputs": inputs, "labels": labels, "steps": 1, "sample_rate": 1.0, "expected_batch": 11.0,
        "clip_norm": 0.5, "noise_multiplier": 1.0, "learning_rate": 1.0, "momentum": 0.0, "noise": noise,
    } | changes  # fmt: skip


def flat(module: nn.Module) -> Tensor:
    """Return the trainable parameters as one vector."""
    return torch.cat([value.detach().flatten() for value in module.parameters() if value.requires_grad])


def explicit_gradients(module: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return per-record gradients by a loop over single records, in the mode that training uses."""
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()
    parameters = [value for value in module.parameters() if value.requires_grad]
    rows = []
    for row in range(len(inputs)):
        total = loss(module(inputs[row : row + 1]), labels[row : row + 1]).sum()
        rows.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, parameters)]))
    return torch.stack(rows)


def test_per_record_gradients_equal_an_explicit_loop(module: nn.Module, records: Records, loss: Loss):
    """On every architecture the captured rows are the gradients of single records, to 1e-5."""
    inputs, labels = records
    captured = list(per_record_gradients(module, loss=loss, inputs=inputs, labels=labels, physical_batch=4))
    assert [len(chunk) for chunk in captured] == [4, 4, 3]
    expected = explicit_gradients(module, loss, inputs, labels)
    assert torch.allclose(torch.cat(captured), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_step_is_the_clipped_sum_over_the_expected_batch(
    module: nn.Module, records: Records, loss: Loss, no_noise: NoiseSource
):
    """Without noise a step moves the parameters by the sum of clipped per-record gradients."""
    gradients = explicit_gradients(module, loss, *records)
    clip = float(gradients.norm(dim=1).median())
    factors = (clip / gradients.norm(dim=1)).clamp(max=1)
    before = flat(module)
    report = train_private(module, **settings(records, loss, no_noise, clip_norm=clip, physical_batch=3))
    assert torch.allclose(before - flat(module), factors @ gradients / 11, rtol=1e-4, atol=1e-5)
    assert [(step.records, step.nonfinite) for step in report.steps] == [(11, 0)]


def test_the_physical_batch_does_not_change_the_result(module: nn.Module, records: Records, loss: Loss):
    """Memory is bounded without a trace in the released parameters."""
    start = {name: value.clone() for name, value in module.state_dict().items()}
    ends = []
    for physical in (4, 256):
        module.load_state_dict(start)
        train_private(module, **settings(records, loss, SeededNoise(b"k"), steps=2, physical_batch=physical))
        ends.append(flat(module))
    assert torch.allclose(*ends, rtol=1e-4, atol=1e-5)


def test_the_module_comes_back_clean(module: nn.Module, records: Records, loss: Loss):
    """No hooks, no attributes, no gradients; the same layers in the same mode."""
    module.eval()
    seen = {name: set(vars(layer)) for name, layer in module.named_modules()}
    train_private(module, **settings(records, loss, SeededNoise(b"k"), steps=2, sample_rate=0.5, expected_batch=5.5))
    assert_clean(module)
    assert not any(layer.training for layer in module.modules())
    assert {name: set(vars(layer)) for name, layer in module.named_modules()} == seen


def assert_clean(module: nn.Module) -> None:
    """Check that nothing of Opacus is left."""
    for layer in module.modules():
        assert not layer._forward_hooks
        assert not layer._backward_hooks
        assert not hasattr(layer, "activations")
        assert not hasattr(layer, "autograd_grad_sample_hooks")
    for value in module.parameters():
        assert not vars(value)
        assert value.grad is None


@pytest.mark.parametrize("at", ["probe", "step"])
def test_the_module_comes_back_clean_after_an_error(records: Records, loss: Loss, at: str):
    """An exception in the forward pass, in the trial or in training, leaves no hook behind."""

    class Fragile(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) == (3 if at == "probe" else 11):
                raise RuntimeError("broken")
            return super().forward(inputs)

    module = nn.Sequential(nn.Linear(5, 5), Fragile(5, 1)).eval()
    with pytest.raises((RuntimeError, ModelError)):
        train_private(module, **settings(records, loss, SeededNoise(b"k")))
    assert_clean(module)
    assert not any(layer.training for layer in module.modules())
    train_private(
        module, **settings((records[0][:5], records[1][:5]), loss, SeededNoise(b"k"))
    ) if at == "step" else None


def test_per_record_gradients_are_without_dropout(records: Records, loss: Loss):
    """Fisher information is about the model, not about a random part of it; the mode comes back."""
    module = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 1)).train()
    inputs, labels = records
    one, other = (torch.cat(list(per_record_gradients(module, loss=loss, inputs=inputs, labels=labels))) for _ in "ab")
    assert torch.equal(one, other)
    assert module[1].training


def test_an_abandoned_iterator_cleans_up(records: Records, loss: Loss):
    """Closing the iterator of gradients early removes the hooks."""
    module = nn.Linear(5, 1)
    iterator = per_record_gradients(module, loss=loss, inputs=records[0], labels=records[1], physical_batch=2)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert_clean(module)


def test_training_learns(records: Records, loss: Loss):
    """Enough steps with little noise separate the labels."""
    module = nn.Linear(5, 1)
    train_private(module, **settings(records, loss, SeededNoise(b"k"), steps=100, noise_multiplier=0.05, momentum=0.5))
    assert float(loss(module(records[0]).detach(), records[1]).mean()) < 0.3


def test_noise_has_the_deviation_of_multiplier_times_clip_norm():
    """The released step minus the clipped sum is normal with deviation sigma * C / expected batch."""
    module = nn.Linear(20_000, 1, bias=False)
    before = flat(module)
    record = (torch.zeros(1, 20_000), torch.ones(1))
    loss: Loss = lambda logits, labels: logits.squeeze(-1) * 0 + labels  # noqa: E731  no gradient at all
    train_private(
        module, **settings(record, loss, SeededNoise(b"k"), clip_norm=2.0, noise_multiplier=1.5, expected_batch=10.0)
    )
    noise = (before - flat(module)).double()
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(noise.mean())) < 5 * 0.3 / math.sqrt(20_000)


def test_every_step_samples_anew(records: Records, loss: Loss):
    """Poisson batches differ in size from step to step and average to the rate."""
    inputs, labels = records[0].repeat(100, 1), records[1].repeat(100)
    module = nn.Linear(5, 1)
    report = train_private(
        module, **settings((inputs, labels), loss, SeededNoise(b"k"), steps=20, sample_rate=0.1, expected_batch=110.0)
    )
    sizes = [step.records for step in report.steps]
    assert len(set(sizes)) > 5
    assert np.mean(sizes) == pytest.approx(110, abs=5 * math.sqrt(1100 * 0.09 / 20))
    assert report.records == sum(sizes)


def test_privacy_off_differs_only_in_clip_and_noise(module: nn.Module, records: Records, loss: Loss):
    """With a clip norm that never bites and noise near zero, private and plain training agree, samples included."""
    start = {name: value.clone() for name, value in module.state_dict().items()}
    shared = {"steps": 2, "sample_rate": 0.5, "expected_batch": 5.5, "momentum": 0.9, "learning_rate": 0.05}
    private = train_private(
        module,
        **settings(records, loss, SeededNoise(b"k"), clip_norm=1e4, noise_multiplier=1e-12, physical_batch=2, **shared),
    )
    after = flat(module)
    module.load_state_dict(start)
    plain_settings = settings(records, loss, SeededNoise(b"k"), **shared)
    del plain_settings["clip_norm"], plain_settings["noise_multiplier"]
    plain = train_plain(module, **plain_settings)
    assert plain == private
    assert torch.allclose(flat(module), after, rtol=1e-4, atol=1e-5)


def test_unused_trainable_parameters_get_noise_only(records: Records, loss: Loss, no_noise: NoiseSource):
    """A branch that the forward pass skips doesn't break training."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(5, 1), nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs)

    module = Branches()
    before = module.unused.weight.detach().clone()
    train_private(module, **settings(records, loss, no_noise))
    assert torch.equal(module.unused.weight, before)
    train_private(module, **settings(records, loss, SeededNoise(b"k")))
    assert not torch.equal(module.unused.weight, before)


def test_tied_parameters_are_clipped_as_one(no_noise: NoiseSource, records: Records, loss: Loss):
    """A layer used twice contributes the sum of its uses, once."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.layer(torch.tanh(self.layer(inputs))))

    module = Twice()
    gradients = explicit_gradients(module, loss, *records)
    factors = (0.1 / gradients.norm(dim=1)).clamp(max=1)
    before = flat(module)
    train_private(module, **settings(records, loss, no_noise, clip_norm=0.1))
    assert torch.allclose(before - flat(module), factors @ gradients / 11, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"clip_norm": 0.0}, ConfigError),
        ({"clip_norm": math.inf}, ConfigError),
        ({"clip_norm": math.nan}, ConfigError),
        ({"noise_multiplier": 0.0}, ConfigError),
        ({"sample_rate": 0.0}, ConfigError),
        ({"sample_rate": 1.5}, ConfigError),
        ({"expected_batch": 0.0}, ConfigError),
        ({"steps": 0}, ConfigError),
        ({"learning_rate": math.nan}, ConfigError),
        ({"physical_batch": 0}, ConfigError),
        ({"labels": torch.zeros(3)}, DataError),
    ],
)
def test_numbers_out_of_range_are_refused(records: Records, loss: Loss, change: dict[str, Any], error: type[Exception]):
    """Nothing trains on a setting that breaks the guarantee."""
    module = nn.Linear(5, 1)
    before = flat(module)
    with pytest.raises(error):
        train_private(module, **settings(records, loss, SeededNoise(b"k"), **change))
    assert torch.equal(flat(module), before)
