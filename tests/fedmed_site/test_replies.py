"""A round is answered once: the same question gets the same bytes, another one is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed.errors import IntegrityError, RefusedError
from fedmed.exchange import Answer, Task
from fedmed_site.replies import ReplyStore, charge_id


def task(number: int = 0, **changes: Any) -> Task:
    """Return the question of a round."""
    arrays = {"model": np.full(3, number, dtype=np.float32)}
    return replace(Task(action="train.fit", plan_digest="p" * 64, round=number, arrays=arrays), **changes)


def answer(number: int = 0) -> Answer:
    """Return the answer to a round."""
    return Answer(site="a", arrays={"mean": np.full(3, number + 0.1, dtype=np.float32)}, facts={"weight": 7.0})


def test_an_answer_is_found_again_by_another_process(tmp_path: Path):
    """Bit for bit, after a restart too."""
    ReplyStore(tmp_path).keep(task(), answer())
    found = ReplyStore(tmp_path).find(task())
    assert found is not None
    assert found.answer.digest() == answer().digest()
    assert found.answer.arrays["mean"].tobytes() == answer().arrays["mean"].tobytes()


def test_a_new_question_has_no_answer(tmp_path: Path):
    """Another round, another action and another plan are each their own question."""
    store = ReplyStore(tmp_path)
    assert store.find(task()) is None
    store.keep(task(), answer())
    assert store.find(task(1)) is None
    assert store.find(task(action="train.fisher")) is None
    assert store.find(task(plan_digest="q" * 64)) is None


@pytest.mark.parametrize(
    "arrays",
    [{}, {"model": np.full(3, 1e-7, dtype=np.float32)}, {"model": np.zeros(3)}, {"other": np.zeros(3, np.float32)}],
)
def test_the_same_round_for_another_model_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]):
    """A second answer to a round would be a second release for one price, however small the difference."""
    store = ReplyStore(tmp_path)
    store.keep(task(), answer())
    with pytest.raises(RefusedError, match=r"round 0 of train\.fit was already answered for another model"):
        store.find(task(arrays=arrays))
    assert store.find(task()) is not None


def test_only_the_last_two_rounds_are_kept(tmp_path: Path):
    """A long study doesn't fill the site's disk, and a resumed one finds the round it stopped in."""
    store = ReplyStore(tmp_path)
    for number in range(5):
        store.keep(task(number), answer(number))
        assert store.find(task(number)) is not None
    assert [store.find(task(number)) is not None for number in range(5)] == [False, False, False, True, True]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_rounds_of_other_actions_and_plans_are_not_forgotten(tmp_path: Path):
    """Each study and action keeps its own two."""
    store = ReplyStore(tmp_path)
    fisher, other = task(action="train.fisher"), task(plan_digest="q" * 64)
    store.keep(fisher, answer())
    store.keep(other, answer())
    for number in range(4):
        store.keep(task(number), answer(number))
    assert store.find(fisher) is not None
    assert store.find(other) is not None


def test_a_round_that_was_forgotten_is_no_obstacle(tmp_path: Path):
    """A site that missed rounds has nothing to delete, and keeps its answer."""
    store = ReplyStore(tmp_path)
    store.keep(task(7), answer(7))
    assert store.find(task(7)) is not None


def test_stored_answers_are_for_their_owner_only(tmp_path: Path):
    """An update without noise could tell other users of the machine something."""
    ReplyStore(tmp_path / "replies").keep(task(), answer())
    for path in (tmp_path / "replies").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut", [0, 10, 64, 72, -1])
def test_a_cut_answer_is_never_half_read(tmp_path: Path, cut: int):
    """A file that lost its end isn't sent."""
    store = ReplyStore(tmp_path)
    store.keep(task(), answer())
    path = next(tmp_path.rglob("*.reply"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises((IntegrityError, RefusedError)):
        store.find(task())


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_an_answer_with_a_flipped_bit_is_refused(tmp_path: Path, data: st.DataObject):
    """What may already have left is sent again as it was, or not at all."""
    store = ReplyStore(tmp_path)
    store.keep(task(), answer())
    path = next(tmp_path.rglob("*.reply"))
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    with pytest.raises((IntegrityError, RefusedError)):
        store.find(task())


def test_work_done_anew_replaces_the_spent_one(tmp_path: Path):
    """The edition says how often a round was worked, so that each time is charged under its own name."""
    store = ReplyStore(tmp_path)
    store.keep(task(), answer())
    store.keep(task(), answer(5), edition=1)
    found = ReplyStore(tmp_path).find(task())
    assert found is not None
    assert (found.edition, found.answer.digest()) == (1, answer(5).digest())
    assert charge_id(task(), 0) != charge_id(task(), 1)
