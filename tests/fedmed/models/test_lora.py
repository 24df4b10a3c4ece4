"""An adapter starts as the identity, equal at every site, and trains what its rule says."""

from typing import Any

import pytest
import torch
from torch import nn

from fedmed.models import Architecture, Layout, attach_adapter, build_module, state_digest
from fedmed.models.lora import is_adapted
from fedmed.records import ModelSpec

LORA = ModelSpec(family="tabular-transformer", adapter="lora", width=8, depth=2, heads=2, lora_rank=3)
FULL = ModelSpec(family="tabular-transformer", adapter="full", width=8, depth=2, heads=2)
FEDIT = ModelSpec(
    family="tabular-transformer", adapter="lora", width=8, depth=2, heads=2, lora_rank=3, lora_rule="fedit"
)
RECORDS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def base() -> nn.Module:
    """Return a base with a head that says something."""
    module = build_module(Architecture.of(LORA, features=5, classes=2), seed=3)
    with torch.no_grad():
        module.head.weight.copy_(torch.linspace(-1, 2, 8)[None])  # type: ignore[union-attr, operator]
    return module


def kinds(names: tuple[str, ...]) -> set[str]:
    """Return which parts of an adapter the names belong to."""
    return {part for name in names for part in ("lora_A", "lora_B", "head") if part in name} | {
        "base" for name in names if not any(part in name for part in ("lora_A", "lora_B", "head"))
    }


@pytest.mark.parametrize(
    ("spec", "trained"),
    [
        (LORA, {"lora_B", "head"}),
        (FEDIT, {"lora_A", "lora_B", "head"}),
        (FULL, {"base", "head"}),
    ],
)
def test_each_rule_trains_its_parts(spec: ModelSpec, trained: set[str]):
    """FFA trains B and the head, FedIT A as well; the base only without an adapter."""
    assert kinds(Layout.of(attach_adapter(base(), spec, seed=0)).names) == trained


def test_every_block_is_adapted_at_queries_and_values():
    """Two projections of each block, the head's weight and bias, and nothing else."""
    names = Layout.of(attach_adapter(base(), LORA, seed=0)).names
    assert sum("q_proj" in name for name in names) == sum("v_proj" in name for name in names) == LORA.depth
    assert len(names) == 2 * LORA.depth + 2


@pytest.mark.parametrize("spec", [LORA, FEDIT])
def test_an_adapter_starts_as_the_identity(spec: ModelSpec):
    """The first round's model is the public base, whatever the seed."""
    with torch.no_grad():
        expected = base()(RECORDS)
        assert float(expected.abs().max()) > 0.1
        for seed in (0, 1):
            assert torch.allclose(attach_adapter(base(), spec, seed=seed)(RECORDS), expected, atol=1e-6)


def test_a_trained_adapter_is_not_the_identity():
    """B and the head both reach the logits."""
    adapted = attach_adapter(base(), LORA, seed=0)
    with torch.no_grad():
        start = adapted(RECORDS)
        for part in ("lora_B", "modules_to_save"):
            parameter = next(p for name, p in adapted.named_parameters() if part in name)
            before = parameter.clone()
            parameter.add_(torch.arange(parameter.numel()).view_as(parameter) / 8)
            assert not torch.allclose(adapted(RECORDS), start, atol=1e-3)
            parameter.copy_(before)


def test_a_step_leaves_a_and_the_base_as_they_are():
    """A gradient step under FFA moves B and the head only."""
    adapted = attach_adapter(base(), LORA, seed=0)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    adapted(RECORDS).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_B" in name or "head.modules_to_save" in name for name in moved)


def test_a_has_orthonormal_rows():
    """So that B sees every direction of its input at the same scale."""
    adapted = attach_adapter(base(), LORA, seed=0)
    found = [p.detach() for name, p in adapted.named_parameters() if ".lora_A." in name]
    assert len(found) == 2 * LORA.depth
    for a in found:
        assert a.shape == (3, 8)
        assert torch.allclose(a @ a.T, torch.eye(3), atol=1e-5)


def test_two_sites_with_one_seed_start_from_the_same_adapter():
    """Also where other things were drawn before."""
    torch.manual_seed(1)
    one = attach_adapter(base(), LORA, seed=5)
    torch.manual_seed(2)
    assert state_digest(attach_adapter(base(), LORA, seed=5)) == state_digest(one)


def test_another_seed_is_another_adapter():
    """A mismatch shows in the digest, although both compute the base's function."""
    one, other = (attach_adapter(base(), LORA, seed=seed) for seed in (5, 6))
    assert state_digest(one) != state_digest(other)


def test_attaching_leaves_torchs_own_generator_where_it_would_be():
    """The adapter's seed is not left behind in torch's generator."""
    states = []
    for seed in (5, 6):
        torch.manual_seed(1)
        attach_adapter(base(), LORA, seed=seed)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(("spec", "adapted"), [(LORA, True), (FULL, False)])
def test_only_lora_wraps_the_module(spec: ModelSpec, adapted: Any):
    """Full training has no PEFT in it."""
    assert is_adapted(attach_adapter(base(), spec, seed=0)) == adapted


def test_full_training_also_thaws_what_was_frozen():
    """A base that comes frozen is trained in whole."""
    module = base().requires_grad_(requires_grad=False)
    layout = Layout.of(attach_adapter(module, FULL, seed=0))
    assert layout.size == sum(p.numel() for p in module.parameters())
