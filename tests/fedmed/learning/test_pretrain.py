"""Pretraining makes a base that represents features, from nobody's records."""

import pytest
import torch
from torch import nn

from fedmed.learning.pretrain import pretrain_base
from fedmed.models import Architecture, build_module, state_digest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one core."""
    torch.set_num_threads(1)


def base(family: str = "tabular-transformer") -> nn.Module:
    """Return a small module as a study would build it."""
    return build_module(
        Architecture(family=family, features=3, classes=2, width=16, depth=1, heads=2),  # type: ignore[arg-type]
        seed=1,
    )


def test_pretraining_lowers_the_reconstruction_error():
    """More steps give back features and products better, and well below their variance, which is guessing."""
    short = pretrain_base(base(), features=3, seed=0, steps=10, batch=64)
    longer = pretrain_base(base(), features=3, seed=0, steps=200, batch=64)
    assert longer < 0.6 * short
    assert longer < 0.5


def test_pretraining_does_not_touch_the_head():
    """The head, which no label has seen, starts where it was built; everything before it has moved."""
    module = base()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pretrain_base(module, features=3, seed=0, steps=5, batch=16)
    unmoved = {name for name, value in module.state_dict().items() if torch.equal(value, before[name])}
    assert unmoved == {"head.weight", "head.bias"}


def test_pretraining_leaves_no_gradient_behind():
    """The first federated step starts clean."""
    module = base()
    pretrain_base(module, features=3, seed=0, steps=5, batch=16)
    assert all(p.grad is None or not bool(p.grad.any()) for p in module.parameters())


def test_equal_seeds_give_equal_bases():
    """Also where other things were drawn before; another seed gives another base."""
    digests = []
    for noise, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(noise)
        module = base()
        pretrain_base(module, features=3, seed=seed, steps=5, batch=16)
        digests.append(state_digest(module))
    assert digests[0] == digests[1] != digests[2]


def test_pretraining_leaves_torchs_own_generator_alone():
    """A run that skips it because the base is there draws the same afterwards."""
    before = torch.get_rng_state()
    pretrain_base(base(), features=3, seed=0, steps=5, batch=16)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", ["linear", "mlp"])
def test_other_families_are_left_as_built(family: str):
    """There is nothing to pretrain in them."""
    module = base(family)
    before = state_digest(module)
    assert pretrain_base(module, features=3, seed=0) == 0.0
    assert state_digest(module) == before
