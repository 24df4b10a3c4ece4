"""Questions and answers are named by everything they say, and stored answers come back bit for bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedmed.errors import IntegrityError
from fedmed.exchange import Answer, Task, answer_from_bytes, answer_to_bytes
from fedmed.tensors import pack

TASK = Task(action="train.fit", plan_digest="p", round=1, arrays={"model": np.arange(3, dtype=np.float32)})
ANSWER = Answer(site="a", arrays={"sum": np.arange(3, dtype=np.float32)}, facts={"weight": 3.0, "fedmed": "0.1"})

ANSWERS = st.builds(
    Answer,
    site=st.text(max_size=8),
    arrays=st.dictionaries(
        st.sampled_from(["sum", "model", "mean"]),
        st_numpy.arrays(st.sampled_from([np.float32, np.float64]), st.integers(0, 5)),
        max_size=3,
    ),
    facts=st.dictionaries(
        st.text(max_size=8), st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
)


@given(ANSWERS)
def test_a_stored_answer_comes_back_bit_for_bit(answer: Answer):
    """A site sends the same answer again after a restart: facts, arrays and digest are unchanged."""
    again = answer_from_bytes(answer_to_bytes(answer))
    assert (again.site, dict(again.facts)) == (answer.site, dict(answer.facts))
    assert again.digest() == answer.digest()
    assert answer_to_bytes(again) == answer_to_bytes(answer)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "train.fisher"},
        {"plan_digest": "q"},
        {"round": 2},
        {"arrays": {}},
        {"arrays": {"other": TASK.arrays["model"]}},
        {"arrays": {"model": TASK.arrays["model"].astype(np.float64)}},
        {"arrays": {"model": TASK.arrays["model"][:, None]}},
        {"arrays": {"model": np.nextafter(TASK.arrays["model"], np.float32(9))}},
        {"arrays": {"model": TASK.arrays["model"], "mean": np.zeros(0)}},
    ],
)
def test_a_task_is_named_by_all_it_says(change: dict[str, Any]):
    """A question that differs in anything, to the last bit of the model, is another question."""
    assert replace(TASK, **change).digest() != TASK.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"site": "b"},
        {"facts": {}},
        {"facts": {"weight": 3.5, "fedmed": "0.1"}},
        {"facts": {"weight": 3.0, "fedmed": "0.2"}},
        {"arrays": {}},
        {"arrays": {"sum": ANSWER.arrays["sum"].astype(np.float64)}},
        {"arrays": {"sum": ANSWER.arrays["sum"] + np.float32(1e-6)}},
    ],
)
def test_an_answer_is_named_by_all_it_says(change: dict[str, Any]):
    """The ledger's digest of what left covers every fact and every bit."""
    assert replace(ANSWER, **change).digest() != ANSWER.digest()


def test_the_order_of_arrays_does_not_name_a_task():
    """Transports may reorder a mapping."""
    arrays = {"model": np.ones(2), "mean": np.zeros(1)}
    swapped = replace(TASK, arrays=dict(reversed(arrays.items())))
    assert swapped.digest() == replace(TASK, arrays=arrays).digest()


def test_a_task_and_an_answer_never_share_a_name():
    """The two digests come from different domains."""
    assert Task(action="train.fit", plan_digest="").digest() != Answer(site="").digest()


def test_rounds_count_from_zero():
    """There is no round before the first."""
    with pytest.raises(ValueError, match="round must be at least 0, got -1"):
        Task(action="train.fit", plan_digest="p", round=-1)


@given(st.data())
def test_a_cut_answer_is_refused(data: st.DataObject):
    """A stored answer that lost its end is never half-read."""
    whole = answer_to_bytes(ANSWER)
    with pytest.raises(IntegrityError):
        answer_from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.data())
def test_an_answer_with_a_flipped_bit_is_refused(data: st.DataObject):
    """A bad disk doesn't change what a site says."""
    damaged = bytearray(answer_to_bytes(ANSWER))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IntegrityError):
        answer_from_bytes(bytes(damaged))


def test_an_answer_of_another_version_is_refused():
    """A later form of stored answers is not read as this one."""
    with pytest.raises(IntegrityError, match="version"):
        answer_from_bytes(pack({"version": 2, "site": "a", "facts": {}}, {}))
