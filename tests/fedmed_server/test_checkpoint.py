"""A killed study resumes from exactly where it was, under its own plan, or not at all."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmed.errors import IntegrityError
from fedmed.tensors import pack
from fedmed_server.checkpoint import Progress, load_progress, save_progress

PROGRESS = Progress(
    plan_digest="p" * 64,
    round=3,
    model=np.array([1 / 3, -1e-300, 2.0**60 + 1]),
    average=np.array([0.1, 0.2, 0.3]),
    averaged=2,
    mean=np.array([0.5], dtype=np.float32),
    scale=np.array([2.0], dtype=np.float32),
    bytes_up=10,
    bytes_down=20,
    seconds={"rounds": 0.1},
)
HEAD = {
    "version": 1, "plan_digest": "p" * 64, "round": 3, "averaged": 0, "bytes_up": 0, "bytes_down": 0, "seconds": {},
}  # fmt: skip


def load(path: Path) -> Progress:
    """Return the checkpoint of the plan."""
    found = load_progress(path, plan_digest="p" * 64)
    assert found is not None
    return found


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path):
    """So a resumed run has the same bits as one that was never killed."""
    save_progress(tmp_path / "c", PROGRESS)
    found = load(tmp_path / "c")
    for name in ("model", "average", "mean", "scale"):
        one, other = getattr(found, name), getattr(PROGRESS, name)
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    for name in ("plan_digest", "round", "averaged", "bytes_up", "bytes_down", "seconds"):
        assert getattr(found, name) == getattr(PROGRESS, name)


def test_no_statistics_stay_none(tmp_path: Path):
    """A study that normalises by public ranges has none to resume with."""
    save_progress(tmp_path / "c", replace(PROGRESS, mean=None, scale=None))
    assert (load(tmp_path / "c").mean, load(tmp_path / "c").scale) == (None, None)


def test_a_study_that_has_not_begun_has_no_checkpoint(tmp_path: Path):
    """The first round starts from the plan."""
    assert load_progress(tmp_path / "c", plan_digest="p" * 64) is None


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path):
    """A study isn't continued under other settings than it began with; the message says what to do."""
    save_progress(tmp_path / "c", PROGRESS)
    with pytest.raises(IntegrityError, match="belongs to another plan; resume with the settings it began with"):
        load_progress(tmp_path / "c", plan_digest="q" * 64)


def test_a_later_round_replaces_the_earlier_one(tmp_path: Path):
    """One file, with the state after the last finished round."""
    save_progress(tmp_path / "c", PROGRESS)
    save_progress(tmp_path / "c", replace(PROGRESS, round=4))
    assert load(tmp_path / "c").round == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]


def test_a_kill_while_saving_leaves_the_round_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The study resumes one round earlier and loses nothing else."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    save_progress(tmp_path / "c", PROGRESS)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_progress(tmp_path / "c", replace(PROGRESS, round=4))
    assert load(tmp_path / "c").round == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "c"]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, data: st.DataObject):
    """A file that lost its end is never half-read."""
    save_progress(tmp_path / "c", PROGRESS)
    whole = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(IntegrityError):
        load(tmp_path / "c")


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path, data: st.DataObject):
    """A study doesn't go on from a model, a round or an average that was never there."""
    save_progress(tmp_path / "c", PROGRESS)
    damaged = bytearray((tmp_path / "c").read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "c").write_bytes(damaged)
    with pytest.raises(IntegrityError):
        load(tmp_path / "c")


@pytest.mark.parametrize("arrays", [{}, {"model": np.zeros(2)}, {"average": np.zeros(2)}])
def test_a_checkpoint_without_its_arrays_is_refused(tmp_path: Path, arrays: dict[str, Any]):
    """A file of something else isn't a study's state."""
    (tmp_path / "c").write_bytes(pack(HEAD, arrays))
    with pytest.raises(IntegrityError):
        load(tmp_path / "c")


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path):
    """A later form of checkpoints is not read as this one."""
    (tmp_path / "c").write_bytes(pack(HEAD | {"version": 2}, {"model": np.zeros(2), "average": np.zeros(2)}))
    with pytest.raises(IntegrityError, match="version"):
        load(tmp_path / "c")
