"""A module is a function of its architecture and seed, record by record."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedmed.models import Architecture, build_module, record_losses, scores, state_digest
from fedmed.records import Family, ModelSpec

FAMILIES = get_args(Family)
SEEDED = ("mlp", "tabular-transformer")


def architecture(family: Any, **changes: Any) -> Architecture:
    """Return a small architecture."""
    settings = {"family": family, "features": 5, "classes": 2, "width": 8, "depth": 2, "heads": 2}
    return Architecture(**settings | changes)


def lively(family: Any, **changes: Any) -> torch.nn.Module:
    """Return a module whose every parameter, the head's too, is away from zero."""
    module = build_module(architecture(family, **changes), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


@pytest.fixture
def records() -> Tensor:
    """Return seven records of five features."""
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3)])
def test_two_classes_have_one_logit_and_more_have_one_each(records: Tensor, family: Any, classes: int, outputs: int):
    """The shape of the output follows from the number of classes."""
    module = build_module(architecture(family, classes=classes), seed=0)
    assert module(records).shape == (7, outputs)
    assert scores(module(records)).shape == (7, classes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_no_record_touches_another_ones_logits(records: Tensor, family: Any, training: bool):  # noqa: FBT001  a case
    """Changing one record of a batch changes its logits and no other's: per-record clipping bounds it."""
    module = lively(family).train(training)
    changed = records.clone()
    changed[3] = 100.0
    with torch.no_grad():
        before, after = module(records), module(changed)
    others = [row for row in range(7) if row != 3]
    assert torch.allclose(before[others], after[others], atol=1e-6)
    assert not torch.allclose(before[3], after[3], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_record_alone_has_the_logits_that_it_has_in_a_batch(records: Tensor, family: Any):
    """Evaluation doesn't depend on who else is evaluated, in any order."""
    module = lively(family)
    with torch.no_grad():
        batch = module(records)
        alone = torch.cat([module(record[None]) for record in records])
        backwards = module(records.flip(0)).flip(0)
    assert torch.allclose(batch, alone, atol=1e-5)
    assert torch.allclose(batch, backwards, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_feature_counts(records: Tensor, family: Any):
    """No feature of the schema is lost on the way to the logit."""
    module = lively(family)
    inputs = records.clone().requires_grad_()
    module(inputs).sum().backward()
    assert inputs.grad is not None
    assert bool((inputs.grad.abs().sum(0) > 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_modules(family: Any):
    """A site and the coordinator start from the same function."""
    one, other = (build_module(architecture(family), seed=4) for _ in range(2))
    assert state_digest(one) == state_digest(other)


@pytest.mark.parametrize("family", SEEDED)
def test_other_seeds_give_other_modules(family: Any):
    """The seed is not ignored."""
    one, other = (build_module(architecture(family), seed=seed) for seed in (4, 5))
    assert state_digest(one) != state_digest(other)


@pytest.mark.parametrize("family", FAMILIES)
def test_building_leaves_torchs_own_generator_alone(family: Any):
    """Nor does what was drawn before matter."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_module(architecture(family), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert state_digest(build_module(architecture(family), seed=4)) == state_digest(one)


@pytest.mark.parametrize("family", ["linear", "tabular-transformer"])
def test_a_first_model_prefers_no_class(records: Tensor, family: Any):
    """Heads start at zero, so a first step has no direction of its own."""
    assert torch.equal(build_module(architecture(family), seed=4)(records), torch.zeros(7, 1))


def test_a_linear_model_is_logistic_regression(records: Tensor):
    """It has one weight a feature and a bias, and all start at zero."""
    module = build_module(architecture("linear"), seed=4)
    assert [tuple(p.shape) for p in module.parameters()] == [(1, 5), (1,)]
    assert all(bool((p == 0).all()) for p in module.parameters())


@pytest.mark.parametrize("classes", [2, 3])
def test_losses_are_the_cross_entropy_of_the_scores(classes: int):
    """One loss a record: minus the logarithm of the true class' probability."""
    logits = torch.randn(6, 1 if classes == 2 else classes, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([0, 1, 0, 1, 1, classes - 1])
    probabilities = scores(logits)
    assert torch.allclose(probabilities.sum(1), torch.ones(6))
    expected = functional.nll_loss(probabilities.log(), labels, reduction="none")
    assert torch.allclose(record_losses(logits, labels), expected, atol=1e-6)


def test_a_certain_mistake_has_a_finite_loss():
    """Large logits don't overflow into a record that would be dropped."""
    logits = torch.tensor([[1000.0], [-1000.0]])
    assert record_losses(logits, torch.tensor([0, 1])).tolist() == [1000.0, 1000.0]


def test_an_architecture_follows_from_specification_and_schema():
    """Equal specifications on equal schemas mean equal functions."""
    spec = ModelSpec(family="mlp", adapter="full", width=16, depth=3, heads=4)
    found = Architecture.of(spec, features=9, classes=3)
    assert found == Architecture(family="mlp", features=9, classes=3, width=16, depth=3, heads=4)


@pytest.mark.parametrize("change", [{"features": 0}, {"classes": 1}, {"version": 2}])
def test_an_architecture_without_inputs_or_classes_is_refused(change: dict[str, int]):
    """There is nothing to learn from no feature, or about one class; and a later form isn't read as this one."""
    with pytest.raises(ValueError, match=next(iter(change))):
        architecture("linear", **change)
