"""What follows from a round has the same products, in factors that the next round can train."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedmed.aggregation import refactored
from fedmed.errors import ModelError
from fedmed.learning.rules import LoraRounds, Start
from fedmed.models import Architecture, attach_adapter, build_module, enter_round
from fedmed.models.lora import factors_of, is_a, layer_of, round_layouts
from fedmed.records import LoraRule, ModelSpec


@given(st.integers(1, 9), st.integers(1, 4), st.integers(4, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_new_factors_have_the_same_product(out: int, rank: int, inputs: int, seed: int, empty: bool):  # noqa: FBT001
    """For any shape, also where B is zero; rows of A are orthonormal, columns of B orthogonal."""
    rng = np.random.default_rng(seed)
    b, a = rng.normal(size=(out, rank)) * (not empty), rng.normal(size=(rank, inputs))
    if out < rank:
        return
    new_b, new_a = refactored(b, a)
    assert (new_b.shape, new_a.shape) == (b.shape, a.shape)
    assert np.allclose(new_b @ new_a, b @ a, atol=1e-9)
    assert np.allclose(new_a @ new_a.T, np.eye(rank), atol=1e-9)
    gram = new_b.T @ new_b
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-9)


def rounds_of(rule: LoraRule) -> tuple[LoraRounds, nn.Module, ModelSpec]:
    """Return the rounds of a rule over a small adapter."""
    spec = ModelSpec(
        family="tabular-transformer", adapter="lora", width=8, depth=2, heads=2, lora_rank=2, lora_rule=rule
    )
    module = attach_adapter(build_module(Architecture.of(spec, features=3, classes=2), seed=0), spec, seed=0)
    return LoraRounds(module, spec), module, spec


def products(module: nn.Module, spec: ModelSpec, start: Start, number: int) -> dict[str, np.ndarray]:
    """Return B A of every layer, and the head."""
    trained, frozen = round_layouts(module, spec, number=number)
    assert start.frozen is not None
    parts = trained.parts(start.model) | frozen.parts(start.frozen)
    found = {name: value for name, value in parts.items() if layer_of(name) is None}
    for name in parts:
        if is_a(name):
            a, b, weight = factors_of(str(layer_of(name)))
            found[weight] = parts[b] @ parts[a]
    return found


@pytest.mark.parametrize("rule", ["fedsvd", "rolora"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_follows_and_what_is_released_is_the_same_model(rule: LoraRule, number: int):
    """Refreshing and taking turns change factors, sizes and order, and no product."""
    rounds, module, spec = rounds_of(rule)
    trained, frozen = round_layouts(module, spec, number=number)
    rng = np.random.default_rng(0)
    start = Start(model=rng.normal(size=trained.size), frozen=rng.normal(size=frozen.size))
    before = products(module, spec, start, number)
    following = rounds.following(start, number=number)
    for found, at in ((following, number + 1), (rounds.released(following, number=number + 1), 0)):
        after = products(module, spec, found, at)
        assert before.keys() == after.keys()
        assert all(np.allclose(after[name], value, atol=1e-10) for name, value in before.items())


def test_rolora_takes_turns():
    """B is trained in even rounds and A in odd ones; the head always."""
    rounds, module, spec = rounds_of("rolora")
    even, odd = (round_layouts(module, spec, number=number)[0] for number in (0, 1))
    assert all(("lora_B" in name) != ("head" in name) for name in even.names)
    assert all(("lora_A" in name) != ("head" in name) for name in odd.names)
    assert rounds.size == even.size


@pytest.mark.parametrize("rule", ["ffa", "fedit", "mr-mtl"])
def test_other_rules_send_nothing_but_the_model(rule: LoraRule):
    """What is frozen follows from the seed, so nothing of it travels, and the aggregate is the next model."""
    rounds, _, _ = rounds_of(rule)
    first = rounds.first()
    assert first.frozen is None
    assert rounds.following(first, number=0) is first
    assert rounds.released(first, number=1) is first


@pytest.mark.parametrize(("rule", "came"), [("ffa", True), ("fedsvd", False), ("rolora", False)])
def test_frozen_factors_come_with_the_rules_that_change_them(rule: LoraRule, came: bool):  # noqa: FBT001
    """A round that brings none where they change, or some where they don't, is refused."""
    _, module, spec = rounds_of(rule)
    with pytest.raises(ModelError, match="frozen factors with lora_rule"):
        enter_round(module, spec, number=0, frozen=np.zeros(64) if came else None)
