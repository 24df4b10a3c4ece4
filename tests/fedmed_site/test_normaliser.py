"""A view's statistics are fixed once, stored, and the same for training, evaluation and later studies."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import build_consortium

from fedmed.data.source import Cohort
from fedmed.errors import FedMedError, IntegrityError, RefusedError
from fedmed.exchange import Answer, Failure, Task
from fedmed.records import DataSpec, canonical_json, digest
from fedmed_site.agent import SiteAgent
from fedmed_site.normaliser import Normaliser, Statistics

PUBLIC = DataSpec(schema="s", schema_digest="0" * 64, target="t")
SITE = replace(PUBLIC, normalisation="site")
FEDERATED = replace(PUBLIC, normalisation="federated")


def statistics(mean: float) -> Statistics:
    """Return statistics of two features."""
    return Statistics(mean=np.float32([mean, 0]), scale=np.float32([2, 1]))


def task(mean: float, scale: float = 2.0, size: int = 2) -> Task:
    """Return a first round's task with federated statistics."""
    arrays = {"mean": np.full(size, mean, np.float32), "scale": np.full(size, scale, np.float32)}
    return Task(action="train.fit", plan_digest="p", arrays=arrays)


class Computed:
    """Counts how often a site's own statistics were made, which costs budget each time."""

    def __init__(self) -> None:
        self.views: list[DataSpec] = []

    def __call__(self, data: DataSpec) -> Statistics:
        self.views.append(data)
        return statistics(float(len(self.views)))


def never(data: DataSpec) -> Statistics:
    """Fail where nothing may be computed from patients."""
    raise AssertionError("computed from patients")


def test_public_ranges_need_no_statistics(tmp_path: Path):
    """Nothing is computed from patients, whatever the coordinator sends, and nothing is stored."""
    assert Normaliser(tmp_path).statistics(PUBLIC, task(1.0), never) is None
    assert list(tmp_path.iterdir()) == []


def test_own_statistics_are_made_once_a_view(tmp_path: Path):
    """Training, evaluation and a later study see the same numbers, and the budget is charged once."""
    compute = Computed()
    first = Normaliser(tmp_path).statistics(SITE, task(9.0), compute)
    again = Normaliser(tmp_path).statistics(SITE, None, compute)
    assert compute.views == [SITE]
    assert first is not None
    assert again is not None
    assert first.mean.tolist() == again.mean.tolist() == [1.0, 0.0]
    assert again.scale.tolist() == [2.0, 1.0]


def test_another_view_has_its_own_statistics(tmp_path: Path):
    """Patients of another ward have another mean."""
    compute = Computed()
    ward = replace(SITE, cohort_column="ward", cohort=("a",))
    normaliser = Normaliser(tmp_path)
    found = [normaliser.statistics(view, None, compute) for view in (SITE, ward, SITE)]
    assert compute.views == [SITE, ward]
    assert [s.mean[0] for s in found if s is not None] == [1.0, 2.0, 1.0]


def test_federated_statistics_are_pinned_by_the_first_task(tmp_path: Path):
    """A coordinator can't move a site's features from round to round to look at them from many sides."""
    normaliser = Normaliser(tmp_path)
    for later in (task(1.0), task(3.0), None):
        found = Normaliser(tmp_path).statistics(FEDERATED, later, never)
        assert found is not None
        assert found.mean.tolist() == [1.0, 1.0]
    assert normaliser.statistics(replace(FEDERATED, target="u"), task(3.0), never).mean[0] == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "sent", [None, Task(action="train.fit", plan_digest="p"),
             Task(action="train.fit", plan_digest="p", arrays={"mean": np.zeros(2)})],
    ids=["no task", "no statistics", "no scale"],
)  # fmt: skip
def test_missing_federated_statistics_are_refused(tmp_path: Path, sent: Task | None):
    """The site doesn't fall back to something else, and computes nothing of its own."""
    with pytest.raises(RefusedError, match="expected federated statistics with the first round"):
        Normaliser(tmp_path).statistics(FEDERATED, sent, never)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "broken",
    [task(math.nan), task(math.inf), task(0.0, scale=math.nan), task(0.0, scale=-1.0)],
    ids=["mean nan", "mean infinite", "scale nan", "scale negative"],
)
def test_broken_federated_statistics_are_refused_and_not_pinned(tmp_path: Path, broken: Task):
    """A broken or malicious coordinator can't spoil a view at a site for good."""
    with pytest.raises(FedMedError):
        Normaliser(tmp_path).statistics(FEDERATED, broken, never)
    found = Normaliser(tmp_path).statistics(FEDERATED, task(1.0), never)
    assert found is not None
    assert found.mean.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("mean", "scale"),
    [([1.0] * 5, [2.0] * 5), ([1.0] * 3, [2.0]), ([1.0] * 3, [1e-40] * 3), ([3e38] * 3, [0.1] * 3)],
    ids=["other features", "one scale for all", "scale of almost nothing", "mean beyond everything"],
)
def test_statistics_that_do_not_fit_the_view_do_not_spoil_it(tmp_path: Path, mean: list[float], scale: list[float]):
    """A site that was sent such statistics says no, and trains when the right ones come."""
    consortium = build_consortium(tmp_path, sites=1, rows=60)
    plan = consortium.plan(data=replace(consortium.plan().data, normalisation="federated"))
    agent = SiteAgent.open(consortium.homes[0])

    def fit(mean: list[float], scale: list[float]) -> Answer | Failure:
        arrays = {"model": np.zeros(4, np.float32), "mean": np.float32(mean), "scale": np.float32(scale)}
        return agent.respond(canonical_json(plan), Task(action="train.fit", plan_digest=digest(plan), arrays=arrays))

    assert isinstance(fit(mean, scale), Failure)
    assert isinstance(fit([0.0] * 3, [1.0] * 3), Answer)


def test_statistics_standardise_a_cohort():
    """Features become (x - mean) / scale; labels stay."""
    cohort = Cohort(
        features=np.float32([[3, 1], [1, -1]]), labels=np.int64([0, 1]), feature_names=("a", "b"), classes=("n", "y")
    )
    found = statistics(1.0).apply(cohort)
    assert found.features.tolist() == [[1, 1], [0, -1]]
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:0], lambda data: data[:-1] + bytes([data[-1] ^ 1])],
    ids=["cut", "empty", "flipped bit"],
)
def test_damaged_statistics_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]):
    """A study doesn't go on with other numbers than it began with."""
    Normaliser(tmp_path).statistics(FEDERATED, task(1.0), never)
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    for later in (task(1.0), None):
        with pytest.raises(IntegrityError):
            Normaliser(tmp_path).statistics(FEDERATED, later, never)
