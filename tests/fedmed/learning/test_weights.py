"""Importance of an adapted layer's weights: measured as bounded, and pulled on through whichever factor is trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedmed.data.source import Cohort
from fedmed.errors import ModelError
from fedmed.learning.ewc import Knowledge
from fedmed.learning.local import fisher_sum
from fedmed.learning.weights import WeightPull, weight_layout
from fedmed.models import Architecture, Layout, attach_adapter, build_module, enter_round, frozen_factors
from fedmed.models.build import record_losses
from fedmed.models.lora import factors_of, layer_of, round_layouts
from fedmed.privacy.noise import SeededNoise
from fedmed.records import ContinualSpec, LoraRule, ModelSpec, PrivacySpec

SPEC = ModelSpec(family="tabular-transformer", adapter="lora", width=8, depth=1, heads=2, lora_rank=2)
CONTINUAL = ContinualSpec(strength=1.0, release_fisher=True, fisher="delta-w", fisher_clip_norm=1e6)
OPEN = PrivacySpec(trust_model="none")


def adapted(rule: LoraRule = "ffa", *, number: int = 0) -> tuple[nn.Module, ModelSpec]:
    """Return a module in round `number`, every factor and the head away from zero."""
    spec = replace(SPEC, lora_rule=rule)
    module = attach_adapter(build_module(Architecture.of(spec, features=3, classes=2), seed=0), spec, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    frozen = None
    if spec.refreshed:
        _, layout = round_layouts(module, spec, number=number)
        frozen = layout.read(module)
    enter_round(module, spec, number=number, frozen=frozen)
    return module, spec


def knowledge_of(module: nn.Module, spec: ModelSpec) -> Knowledge:
    """Return knowledge of random importance at a random anchor, with other factors than the module's."""
    rng = np.random.default_rng(2)
    reference, frozen = round_layouts(module, spec)
    return Knowledge(
        anchor=rng.normal(size=reference.size),
        fisher=rng.exponential(size=weight_layout(module).size),
        frozen=rng.normal(size=frozen.size),
        kind="delta-w",
    )


def pull_of(module: nn.Module, spec: ModelSpec, knowledge: Knowledge) -> torch.Tensor:
    """Return `sum F (B A - B* A*)^2 / 2`, and that of the head, by its definition."""
    reference, frozen = round_layouts(module, spec)
    anchor = reference.parts(knowledge.anchor) | frozen.parts(np.asarray(knowledge.frozen))
    fisher = weight_layout(module).parts(knowledge.fisher)
    parameters = dict(module.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for name, importance in fisher.items():
        layer = layer_of(name)
        if layer is None:
            found, target = parameters[name], anchor[name]
        else:
            a, b, _ = factors_of(layer)
            found, target = parameters[b] @ parameters[a], anchor[b] @ anchor[a]
        total = total + (torch.tensor(importance) * (found - torch.tensor(target)).square()).sum() / 2
    return total


ROUNDS = [("ffa", 0), ("fedsvd", 0), ("rolora", 0), ("rolora", 1)]


@pytest.mark.parametrize(("rule", "number"), ROUNDS)
def test_the_gradient_is_that_of_the_quadratic_on_the_product(rule: LoraRule, number: int):
    """For B and for A, whichever is trained, and for the head."""
    module, spec = adapted(rule, number=number)
    knowledge = knowledge_of(module, spec)
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    found = WeightPull.of(module, spec, knowledge).gradient(strength=3.0)(trained)
    expected = torch.autograd.grad(3.0 * pull_of(module, spec, knowledge), list(trained.values()))
    for name, gradient in zip(trained, expected, strict=True):
        assert torch.allclose(found[name].detach(), gradient, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(("rule", "number"), ROUNDS)
def test_the_closed_form_minimises_distance_and_pull(rule: LoraRule, number: int):
    """At the result, the gradient of the distance from the aggregate and that of the pull cancel."""
    module, spec = adapted(rule, number=number)
    knowledge = knowledge_of(module, spec)
    layout = Layout.of(module)
    aggregate = layout.read(module).astype(np.float64)
    pull = WeightPull.of(module, spec, knowledge)
    found = pull.minimise(aggregate, strength=5.0)
    assert np.abs(found - aggregate).max() > 0.1
    layout.write(module, found)
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    slope = torch.autograd.grad(5.0 * pull_of(module, spec, knowledge), list(trained.values()))
    left = layout.flat({name: value.double().numpy() for name, value in zip(trained, slope, strict=True)})
    assert np.abs(left + (found - aggregate)).max() < 1e-4 * max(1, np.abs(left).max())
    assert np.array_equal(pull.minimise(aggregate, strength=0.0), aggregate)


def cohort(records: int) -> Cohort:
    """Return records of three features."""
    values = np.random.default_rng(0).normal(size=(records, 3)).astype(np.float32)
    labels = (values[:, 0] > 0).astype(np.int64)
    return Cohort(features=values, labels=labels, feature_names=("a", "b", "c"), classes=("no", "yes"))


def fisher_of(module: nn.Module, spec: ModelSpec, data: Cohort, **changes: float) -> np.ndarray:
    """Return the sum of a site, without noise."""
    return fisher_sum(
        module,
        Layout.of(module).read(module),
        data,
        continual=replace(CONTINUAL, **changes),  # type: ignore[arg-type]
        privacy=OPEN,
        noise=SeededNoise(b"a"),
        spec=spec,
    )


def test_the_fisher_of_weights_is_the_squared_gradient_of_the_product():
    """Against a loop over single records, in units of B A; the adapter's own parameters are frozen meanwhile only."""
    module, spec = adapted()
    data = cohort(7)
    before = Layout.of(module)
    found = weight_layout(module).parts(fisher_of(module, spec, data))
    assert Layout.of(module) == before
    assert frozen_factors(module).size > 0
    weights = {name: value for name, value in module.named_parameters() if name in found}
    for value in weights.values():
        value.requires_grad = True
    expected = {name: np.zeros(value.shape) for name, value in weights.items()}
    for row in range(7):
        outputs = module(torch.from_numpy(data.features[row : row + 1]))
        loss = record_losses(outputs, torch.from_numpy(data.labels[row : row + 1])).sum()
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            scale = 1.0 if layer_of(name) is None else spec.lora_alpha / spec.lora_rank
            expected[name] += (scale * gradient.numpy()) ** 2
    for name, value in expected.items():
        assert np.allclose(found[name], value, rtol=1e-3, atol=1e-8), name


def test_one_record_moves_the_fisher_of_weights_by_at_most_the_clip_norm():
    """Without clipping it would move it by more."""
    module, spec = adapted()
    many, fewer = cohort(12), cohort(12)
    fewer = replace(fewer, features=fewer.features[:-1], labels=fewer.labels[:-1])
    free = fisher_of(module, spec, many) - fisher_of(module, spec, fewer)
    clip_norm = float(np.linalg.norm(free)) / 3
    bounded = fisher_of(module, spec, many, fisher_clip_norm=clip_norm) - fisher_of(
        module, spec, fewer, fisher_clip_norm=clip_norm
    )
    assert 0.99 * clip_norm <= np.linalg.norm(bounded) <= clip_norm * (1 + 1e-6)  # the others, in another batch


def test_knowledge_of_coordinates_pulls_on_no_weight():
    """Importance of a factor's coordinates says nothing about another factor's."""
    module, spec = adapted()
    size = Layout.of(module).size
    with pytest.raises(ModelError, match="knowledge of weights"):
        WeightPull.of(module, spec, Knowledge(anchor=np.zeros(size), fisher=np.zeros(size)))
