"""Consolidation pulls towards what mattered before, coordinate by coordinate, and never past it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedmed.errors import IntegrityError
from fedmed.learning.ewc import (
    Knowledge,
    accumulate,
    consolidate,
    fisher_from_sum,
    knowledge_from_bytes,
    knowledge_to_bytes,
)
from fedmed.tensors import pack

VALUES = st.floats(-1e6, 1e6)
STRENGTHS = st.floats(0, 1e6)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, Knowledge]:
    """Draw an aggregate, and knowledge of the same size."""
    size = draw(st.integers(1, 6))

    def vector(elements: Any) -> np.ndarray:
        return draw(st_numpy.arrays(np.float64, size, elements=elements))

    return vector(VALUES), Knowledge(anchor=vector(VALUES), fisher=vector(st.floats(0, 1e6)))


@given(problems())
def test_strength_zero_is_the_identity(problem: tuple[np.ndarray, Knowledge]):
    """Switched off, consolidation changes no bit."""
    aggregate, knowledge = problem
    assert np.array_equal(consolidate(aggregate, knowledge, strength=0.0), aggregate)


@given(problems(), STRENGTHS)
def test_a_first_study_has_nothing_to_remember(problem: tuple[np.ndarray, Knowledge], strength: float):
    """Without knowledge the aggregate is the model."""
    assert np.array_equal(consolidate(problem[0], None, strength=strength), problem[0])


@given(problems(), STRENGTHS)
def test_the_result_lies_between_aggregate_and_anchor(problem: tuple[np.ndarray, Knowledge], strength: float):
    """In every coordinate, for any importance: the pull never overshoots."""
    aggregate, knowledge = problem
    found = consolidate(aggregate, knowledge, strength=strength)
    low, high = np.minimum(aggregate, knowledge.anchor), np.maximum(aggregate, knowledge.anchor)
    slack = 1e-12 * (1 + np.abs(low) + np.abs(high))
    assert bool((found >= low - slack).all())
    assert bool((found <= high + slack).all())


@given(problems(), STRENGTHS)
def test_no_importance_leaves_the_aggregate(problem: tuple[np.ndarray, Knowledge], strength: float):
    """What earlier studies did not need is free to move."""
    aggregate, knowledge = problem
    forgotten = Knowledge(anchor=knowledge.anchor, fisher=np.zeros_like(knowledge.fisher))
    assert np.array_equal(consolidate(aggregate, forgotten, strength=strength), aggregate)


@given(problems(), st.floats(1e-3, 1e3))
def test_boundless_importance_holds_the_anchor(problem: tuple[np.ndarray, Knowledge], strength: float):
    """In the limit the earlier model stays where it was."""
    aggregate, knowledge = problem
    held = Knowledge(anchor=knowledge.anchor, fisher=np.full_like(knowledge.fisher, 1e18))
    assert np.allclose(consolidate(aggregate, held, strength=strength), knowledge.anchor, rtol=1e-8, atol=1e-8)


@given(problems(), st.floats(1e-3, 1e3))
def test_more_strength_pulls_closer(problem: tuple[np.ndarray, Knowledge], strength: float):
    """The distance to the anchor never grows with lambda."""
    aggregate, knowledge = problem
    weak, strong = (
        np.abs(consolidate(aggregate, knowledge, strength=value) - knowledge.anchor)
        for value in (strength, 2 * strength)
    )
    assert bool((strong <= weak + 1e-9 * (1 + np.abs(aggregate) + np.abs(knowledge.anchor))).all())


@given(problems(), st.floats(0.01, 100))
def test_the_result_minimises_the_penalised_distance(problem: tuple[np.ndarray, Knowledge], strength: float):
    """It is the minimum of |x - aggregate|^2 + lambda F |x - anchor|^2: the gradient there is zero."""
    aggregate, knowledge = problem
    found = consolidate(aggregate, knowledge, strength=strength)
    pull = strength * knowledge.fisher
    gradient = (found - aggregate) + pull * (found - knowledge.anchor)
    assert np.allclose(gradient, 0, atol=1e-9 * float(1 + (pull + 1).max() * 2e6))


@pytest.mark.parametrize("size", [1, 3])
def test_knowledge_of_another_size_is_refused(size: int):
    """It belongs to another model, also where arrays of one value would be stretched to fit."""
    knowledge = Knowledge(anchor=np.zeros(2), fisher=np.ones(2))
    with pytest.raises(ValueError, match="differ in shape"):
        consolidate(np.zeros(size), knowledge, strength=1.0)


@pytest.mark.parametrize(
    ("anchor", "fisher"),
    [
        ([0.0, 0.0], [1.0]),
        ([[0.0]], [[1.0]]),
        ([np.nan], [1.0]),
        ([np.inf], [1.0]),
        ([0.0], [-1e-9]),
        ([0.0], [np.nan]),
        ([0.0], [np.inf]),
    ],
)
def test_knowledge_is_finite_and_importance_is_not_negative(anchor: Any, fisher: Any):
    """A negative importance would push away from the anchor."""
    with pytest.raises(ValueError, match=r"anchor|fisher"):
        Knowledge(anchor=np.array(anchor), fisher=np.array(fisher))


@given(st_numpy.arrays(np.float64, 4, elements=VALUES), st.floats(0.5, 1e6))
def test_a_fisher_from_a_noisy_sum_is_never_negative(noisy: np.ndarray, weight: float):
    """Noise below zero means no importance; what is above zero is the mean over records."""
    found = fisher_from_sum(noisy, weight)
    assert bool((found >= 0).all())
    assert np.array_equal(found[noisy > 0], noisy[noisy > 0] / weight)
    assert bool((found[noisy <= 0] == 0).all())


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan])
def test_a_fisher_over_no_records_is_refused(weight: float):
    """There is no mean over nobody."""
    with pytest.raises(ValueError, match="total_weight must be above 0"):
        fisher_from_sum(np.ones(2), weight)


@given(problems(), problems(), st.floats(0, 1))
def test_importance_adds_up_over_studies(
    first: tuple[np.ndarray, Knowledge], second: tuple[np.ndarray, Knowledge], decay: float
):
    """A later study keeps its own model, and the earlier importance fades by the decay: 0 forgets, 1 keeps all."""
    previous = first[1]
    anchor = first[0]
    fisher = np.resize(second[1].fisher, previous.fisher.shape)
    found = accumulate(previous, anchor=anchor, fisher=fisher, decay=decay)
    assert np.array_equal(found.anchor, anchor)
    assert np.allclose(found.fisher, fisher + decay * previous.fisher)
    assert np.array_equal(accumulate(previous, anchor=anchor, fisher=fisher, decay=0.0).fisher, fisher)
    assert np.array_equal(accumulate(None, anchor=anchor, fisher=fisher, decay=decay).fisher, fisher)


@given(problems())
def test_knowledge_survives_its_file(problem: tuple[np.ndarray, Knowledge]):
    """The next study pulls towards exactly what this one left, to the last bit of float64."""
    knowledge = problem[1]
    again = knowledge_from_bytes(knowledge_to_bytes(knowledge))
    assert (again.anchor.dtype, again.fisher.dtype) == (np.float64, np.float64)
    assert np.array_equal(again.anchor, knowledge.anchor)
    assert np.array_equal(again.fisher, knowledge.fisher)


STORED = knowledge_to_bytes(Knowledge(anchor=np.arange(4.0), fisher=np.ones(4)))


@given(st.integers(0, len(STORED) - 1))
def test_a_cut_knowledge_file_is_refused(length: int):
    """A file that lost its end is never half-read."""
    with pytest.raises(IntegrityError):
        knowledge_from_bytes(STORED[:length])


@given(st.integers(0, len(STORED) - 1), st.integers(0, 7))
def test_a_knowledge_file_with_a_flipped_bit_is_refused(position: int, bit: int):
    """A study doesn't start from a model that nobody trained."""
    damaged = bytearray(STORED)
    damaged[position] ^= 1 << bit
    with pytest.raises(IntegrityError):
        knowledge_from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("head", "arrays"),
    [
        ({"version": 1}, {}),
        ({"version": 1}, {"anchor": np.zeros(2)}),
        ({"version": 1}, {"anchor": np.zeros(2), "fisher": np.zeros(3)}),
        ({"version": 1}, {"anchor": np.zeros(2), "fisher": np.full(2, -1.0)}),
        ({"version": 2}, {"anchor": np.zeros(2), "fisher": np.zeros(2)}),
        ({"site": "a"}, {"anchor": np.zeros(2), "fisher": np.zeros(2)}),
    ],
)
def test_a_file_of_something_else_is_refused(head: dict[str, Any], arrays: dict[str, np.ndarray]):
    """An answer, a later version or impossible numbers aren't knowledge."""
    with pytest.raises(IntegrityError):
        knowledge_from_bytes(pack(head, arrays))
