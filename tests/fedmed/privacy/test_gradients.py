"""The trial on synthetic records: quiet about good modules, loud about bad ones, blind to data."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.privacy.gradients import check_per_record, record_losses, trainable, training_mode

Loss = Callable[[Tensor, Tensor], Tensor]
Records = tuple[Tensor, Tensor]


def capture_by_loop(
    module: nn.Module, loss: Loss, factor: float = 1.0
) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    """Return a right capture for `factor` 1, and a wrong one for another."""
    parameters = dict(module.named_parameters())

    def capture(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        rows = [
            torch.autograd.grad(loss(module(inputs[row : row + 1]), labels[row : row + 1]).sum(), parameters.values())
            for row in range(len(inputs))
        ]
        return {
            name: factor * torch.stack(column) for name, column in zip(parameters, zip(*rows, strict=True), strict=True)
        }

    return capture


def test_a_right_capture_passes(records: Records, loss: Loss):
    """Nothing is raised for gradients that are the records' own."""
    module = nn.Linear(5, 1)
    check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))


@pytest.mark.parametrize("factor", [0.99, 1.01, 2.0, 0.0])
def test_a_capture_that_is_off_by_a_factor_is_refused(records: Records, loss: Loss, factor: float):
    """A mean over the batch, or a double count, changes the scale."""
    module = nn.Linear(5, 1)
    capture = capture_by_loop(module, loss, factor)
    with pytest.raises(ModelError, match="isn't that record's own"):
        check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture)


def test_the_trial_does_not_look_at_records(records: Records, loss: Loss):
    """What the capture is shown is the same for any data of the same shape."""
    shown: list[Tensor] = []
    module = nn.Linear(5, 1)
    right = capture_by_loop(module, loss)

    def capture(inputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        shown.extend((inputs, labels))
        return right(inputs, labels)

    for scale in (1.0, 1e9):
        check_per_record(module, loss=loss, inputs=scale * records[0], labels=records[1], capture=capture)
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])


def test_dropout_does_not_disturb_the_trial(records: Records, loss: Loss):
    """Layers without trainable parameters stand still during the trial and move again afterwards."""
    module = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 1)).train()
    check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))
    assert module[1].training


def test_the_trial_puts_every_weight_back(records: Records, loss: Loss):
    """What is stirred for the trial, frozen zeros too, comes back to the bit, even after a refusal."""
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    nn.init.zeros_(module[1].weight)  # type: ignore[arg-type]
    module[1].weight.requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ModelError):
        check_per_record(
            module, loss=loss, inputs=records[0], labels=records[1], capture=lambda inputs, _: {"0.bias": inputs}
        )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_trial_that_shows_nothing_is_refused(records: Records):
    """A gradient that isn't finite on synthetic records equals nothing, so it's no proof."""
    module = nn.Linear(5, 1)
    broken: Loss = lambda logits, labels: (logits.squeeze(-1) * 0).sqrt() + 0 * labels  # noqa: E731
    with pytest.raises(ModelError, match="isn't finite"):
        check_per_record(
            module, loss=broken, inputs=records[0], labels=records[1], capture=capture_by_loop(module, broken)
        )


def test_a_module_that_fails_is_named_as_such(records: Records, loss: Loss):
    """The cause is chained; the message holds its type only, since it could quote data."""
    module = nn.Linear(4, 1)
    with pytest.raises(ModelError, match=r"can't be captured from this module \(RuntimeError\)"):
        check_per_record(module, loss=loss, inputs=records[0], labels=records[1], capture=capture_by_loop(module, loss))


def test_modes_are_restored(records: Records):
    """Training mode holds in the block only, and normalisations stay in eval mode."""
    module = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5).requires_grad_(requires_grad=False))
    module[0].eval()
    with training_mode(module):
        assert module[0].training
        assert not module[1].training
    assert not module[0].training
    assert module[1].training


def test_trainable_parameters_are_listed_in_order():
    """Frozen ones are left out."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(requires_grad=False), nn.Linear(2, 1))
    assert list(trainable(module)) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_module_returns_one_tensor(records: Records):
    """A tuple has no record losses."""
    with pytest.raises(ModelError, match="one tensor, got a tuple"):
        record_losses(lambda outputs, _: outputs, (records[0],), records[1])  # type: ignore[arg-type]
