"""The trainable part of a module as a vector: there and back, or refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedmed.errors import ModelError
from fedmed.models import Layout, state_digest


def module() -> nn.Module:
    """Return a module with a frozen parameter between two trained ones."""
    built = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False), nn.LayerNorm(2))
    built[1].requires_grad_(requires_grad=False)
    return built


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=12, max_size=12))
def test_what_is_written_is_read(values: list[float]):
    """Every float32 survives, and the frozen parameter isn't touched."""
    target = module()
    frozen = target[1].weight.clone()  # type: ignore[union-attr, operator]
    layout = Layout.of(target)
    vector = np.array(values, dtype=np.float32)
    layout.write(target, vector)
    found = layout.read(target)
    assert (found.dtype, found.shape) == (np.float32, (layout.size,))
    assert np.array_equal(found, vector)
    assert torch.equal(target[1].weight, frozen)  # type: ignore[arg-type, union-attr]


def test_the_order_is_that_of_the_parameters():
    """Both ends agree on the layout from the module alone."""
    target = module()
    layout = Layout.of(target)
    assert layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert layout.shapes == ((2, 3), (2,), (2,), (2,))
    layout.write(target, np.arange(12.0))
    assert target[0].weight.tolist() == [[0, 1, 2], [3, 4, 5]]  # type: ignore[union-attr, operator]
    assert target[2].bias.tolist() == [10, 11]  # type: ignore[union-attr, operator]


def test_reading_is_a_copy():
    """Training on doesn't change a model that was read before."""
    target = module()
    layout = Layout.of(target)
    before = layout.read(target)
    kept = before.copy()
    layout.write(target, before + 1)
    assert np.array_equal(before, kept)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(11), np.zeros(13), np.zeros((12, 1)), np.zeros(0), np.zeros(())],
    ids=["short", "long", "matrix", "empty", "scalar"],
)
def test_a_vector_of_another_size_is_refused(vector: np.ndarray):
    """A model of another study doesn't fit, and nothing of it is written."""
    target = module()
    before = state_digest(target)
    with pytest.raises(ModelError, match="expected a vector of 12 values, got shape"):
        Layout.of(target).write(target, vector)
    assert state_digest(target) == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 5, 11])
def test_a_vector_that_is_not_finite_is_refused(bad: float, position: int):
    """A diverged model is not trained on, and nothing of it is written."""
    target = module()
    before = state_digest(target)
    vector = np.zeros(12)
    vector[position] = bad
    with pytest.raises(ModelError, match="finite"):
        Layout.of(target).write(target, vector)
    assert state_digest(target) == before


def test_a_value_too_large_for_float32_is_refused():
    """What would become infinite in the module is not finite."""
    with pytest.raises(ModelError, match="finite"):
        Layout.of(module()).write(module(), np.full(12, 1e39))


def test_a_module_without_trainable_parameters_is_refused():
    """There is nothing to send."""
    with pytest.raises(ModelError, match="trainable parameters"):
        Layout.of(module().requires_grad_(requires_grad=False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_trainable_parameters_are_float32(dtype: torch.dtype):
    """Half precision would round the noise away; the message names the parameter."""
    with pytest.raises(ModelError, match=r"float32 for trainable 0\.weight"):
        Layout.of(module().to(dtype))


def test_the_state_digest_sees_frozen_parameters_and_buffers():
    """Two sites with equal digests hold the same function, not only the same adapter."""
    target = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    target[0].requires_grad_(requires_grad=False)
    digests = {state_digest(target)}
    with torch.no_grad():
        target[0].bias[0] += 1e-6
    digests.add(state_digest(target))
    target[1].running_mean[1] = 1.0  # type: ignore[union-attr, operator, index]
    digests.add(state_digest(target))
    assert len(digests) == 3


def test_the_state_digest_does_not_depend_on_what_is_trained():
    """It names a function, not a training."""
    target = module()
    before = state_digest(target)
    target.requires_grad_(requires_grad=False)
    assert state_digest(target) == before
