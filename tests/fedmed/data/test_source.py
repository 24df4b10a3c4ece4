"""Cohorts and views: what the learner may rely on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedmed.data.source import Cohort, View, standardise

NAMES = ("a", "b")
FEATURES = arrays.arrays(np.float32, st.tuples(st.integers(2, 30), st.just(2)), elements=st.floats(-4, 4, width=32))


def cohort(features: np.ndarray) -> Cohort:
    """Return a cohort with these features and labels of one class."""
    labels = np.zeros(len(features), dtype=np.int64)
    return Cohort(features=features, labels=labels, feature_names=NAMES, classes=("no", "yes"))


@given(FEATURES)
def test_standardising_by_own_statistics_centres_and_scales(features: np.ndarray):
    """Each feature has mean 0, and standard deviation 1 or 0."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(scale < 1e-3, 0.0, scale)
    result = standardise(cohort(features), mean, scale)
    assert result.features.dtype == np.float32
    np.testing.assert_allclose(result.features.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(result.features.std(axis=0)[scale > 0], 1, atol=1e-2)


def test_a_constant_feature_is_centred_and_not_divided():
    """A scale of 0 counts as 1."""
    result = standardise(cohort(np.full((3, 2), 2, np.float32)), np.array([2.0, 1.0]), np.array([0.0, 0.0]))
    assert result.features.tolist() == [[0.0, 1.0]] * 3


@pytest.mark.parametrize(
    ("mean", "scale"), [([0.0], [1.0, 1.0]), ([0.0, np.nan], [1.0, 1.0]), ([0.0, 0.0], [1.0, -1.0])]
)
def test_statistics_of_another_shape_or_value_are_refused(mean: list[float], scale: list[float]):
    """A wrong statistic does not become a silent broadcast."""
    with pytest.raises(ValueError, match=r"mean|scale"):
        standardise(cohort(np.zeros((2, 2), np.float32)), np.array(mean), np.array(scale))


@pytest.mark.parametrize(
    "features",
    [np.zeros((3, 2)), np.zeros((3, 1), np.float32), np.zeros(3, np.float32), np.full((3, 2), np.nan, np.float32)],
)
def test_a_cohort_of_another_type_shape_or_value_cannot_exist(features: np.ndarray):
    """Features are finite float32 [n, d]."""
    with pytest.raises(ValueError, match="features must"):
        cohort(features)


def test_labels_are_int64():
    """What torch takes as class indices."""
    with pytest.raises(ValueError, match="labels must be int64"):
        Cohort(
            features=np.zeros((1, 2), np.float32), labels=np.zeros(1, np.int8), feature_names=NAMES, classes=("n", "y")
        )


def test_a_view_names_column_and_values_together():
    """A cohort without a column, or a column without values, is a mistake."""
    for half in ({"cohort": ("x",)}, {"cohort_column": "ward"}):
        with pytest.raises(ValueError, match="set together"):
            View(target="t", **half)
