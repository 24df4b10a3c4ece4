"""Figures of an evaluation agree with scikit-learn's, and what can't be said is None."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from fedmed.models.scoring import accuracy, area_under_curve, macro_f1, perplexity


@given(count=st.integers(1, 40), classes=st.integers(2, 5), seed=st.integers(0, 1000))
def test_figures_are_those_of_scikit_learn(count: int, classes: int, seed: int):
    """On any scores and labels, also where classes are missing."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((count, classes)), rng.integers(classes, size=count)
    predicted = scores.argmax(axis=1)
    assert accuracy(scores, labels) == pytest.approx(accuracy_score(labels, predicted))
    assert macro_f1(scores, labels) == pytest.approx(f1_score(labels, predicted, average="macro"))
    if classes == 2 and len(set(labels.tolist())) == 2:
        assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores[:, 1]))
    else:
        assert area_under_curve(scores, labels) is None


def test_nobody_gives_no_figure():
    """Not zero, which would be a result."""
    empty = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert accuracy(*empty) is None
    assert macro_f1(*empty) is None
    assert perplexity(None) is None
    assert perplexity(math.nan) is None


def test_scores_of_other_records_are_refused():
    """As many labels as rows."""
    with pytest.raises(ValueError, match="same records"):
        accuracy(np.zeros((2, 2)), np.zeros(3, np.int64))
