"""A running sum is the weighted mean of its contributions, and takes only usable ones."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedmed.aggregation import EXACT_RULES, RunningSum
from fedmed.errors import ProtocolError, SiteFailureError
from fedmed.models import Architecture, Layout, attach_adapter, build_module
from fedmed.records import Adapter, LoraRule, ModelSpec

MATRICES = st_numpy.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-1e6, 1e6, width=32)
)


@given(MATRICES, st.data())
def test_the_mean_is_over_records_not_over_sites(updates: np.ndarray, data: st.DataObject):
    """A site with twice the records counts twice."""
    weights = data.draw(st.lists(st.floats(0.5, 1000), min_size=len(updates), max_size=len(updates)))
    total = RunningSum(size=updates.shape[1])
    for update, weight in zip(updates, weights, strict=True):
        total.add(update * weight, weight=weight)
    assert total.contributions == len(updates)
    assert np.allclose(total.mean(), np.average(updates, axis=0, weights=weights), atol=1e-6)


def test_float32_contributions_are_summed_in_float64():
    """A thousand small sites aren't lost beside a large one."""
    total = RunningSum(size=1)
    total.add(np.array([2.0**24], dtype=np.float32), weight=1.0)
    for _ in range(1000):
        total.add(np.array([1.0], dtype=np.float32), weight=1.0)
    assert total.vector[0] == 2.0**24 + 1000


@pytest.mark.parametrize(
    ("vector", "weight"),
    [
        (np.zeros(2), 1.0),
        (np.zeros(4), 1.0),
        (np.zeros((3, 1)), 1.0),
        (np.zeros(()), 1.0),
        (np.array([0, math.nan, 0]), 1.0),
        (np.array([0, math.inf, 0]), 1.0),
        (np.zeros(3), 0.0),
        (np.zeros(3), -1.0),
        (np.zeros(3), math.nan),
        (np.zeros(3), math.inf),
    ],
)
def test_an_unusable_contribution_is_refused_and_leaves_no_trace(vector: np.ndarray, weight: float):
    """Wrong size, not finite, or a weight that isn't above 0: the sum stays as it was."""
    total = RunningSum(size=3)
    total.add(np.ones(3), weight=2.0)
    with pytest.raises(ProtocolError):
        total.add(vector, weight=weight)
    assert total.vector.tolist() == [1.0, 1.0, 1.0]
    assert (total.weight, total.contributions) == (2.0, 1)


def test_the_mean_of_nothing_is_an_error():
    """No contribution is not a model of zeros."""
    with pytest.raises(SiteFailureError, match="at least one update"):
        RunningSum(size=3).mean()


@pytest.mark.parametrize(("adapter", "rule"), EXACT_RULES)
def test_the_table_of_exact_rules_is_true(adapter: Adapter, rule: LoraRule):
    """The mean of what sites send gives the mean of their weight matrices exactly where the table says so."""
    spec = ModelSpec(family="tabular-transformer", adapter=adapter, lora_rule=rule, width=8, depth=1, heads=2)
    base = Architecture.of(spec, features=3, classes=2)
    module = attach_adapter(build_module(base, seed=0), spec, seed=0)
    layout = Layout.of(module)
    sites = np.random.default_rng(0).normal(size=(2, layout.size)).astype(np.float32)
    products = []
    for vector in (*sites, sites.mean(axis=0)):
        layout.write(module, vector)
        products.append(_query_weight(module))
    exact = torch.allclose(products[2], (products[0] + products[1]) / 2, atol=1e-5)
    assert exact == EXACT_RULES[adapter, rule]


def _query_weight(module: Any) -> torch.Tensor:
    """Return the weight matrix that the queries of the first block are really computed with."""
    layer = next(part for name, part in module.named_modules() if name.endswith("blocks.0.q_proj"))
    weight = layer.weight.detach().clone()
    if hasattr(layer, "lora_A"):
        weight += layer.get_delta_weight("default").detach()
    return weight
