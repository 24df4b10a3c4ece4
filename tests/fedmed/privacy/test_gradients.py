"""What a module is held in while gradients are computed, and what it may not be."""

import pytest
from torch import Tensor, nn

from fedmed.errors import ModelError
from fedmed.privacy.gradients import record_losses, trainable, training_mode

Records = tuple[Tensor, Tensor]


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
