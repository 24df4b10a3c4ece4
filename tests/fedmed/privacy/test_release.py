"""A clipped sum moves by at most the clip norm when one record comes or goes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedmed.errors import ConfigError, DataError
from fedmed.privacy.noise import SeededNoise
from fedmed.privacy.release import clipped_sum, private_sum

MATRICES = st_numpy.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 5e-324]),
)


class NoNoise:
    """A source of zeros, to see what noise hides."""

    def normal(self, shape: int | tuple[int, ...]) -> np.ndarray:
        """Return zeros."""
        return np.zeros(shape)

    def uniform(self, count: int) -> np.ndarray:
        """Return zeros."""
        return np.zeros(count)


@given(MATRICES, st.floats(1e-3, 1e3), st.data())
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(matrix: np.ndarray, clip: float, data: st.DataObject):
    """For any data, also non-finite and huge: the sensitivity is the clip norm."""
    row = data.draw(st.integers(0, len(matrix) - 1))
    vectors = torch.from_numpy(matrix)
    without = torch.cat([vectors[:row], vectors[row + 1 :]])
    moved = float((clipped_sum(vectors, clip) - clipped_sum(without, clip)).norm())
    assert moved <= clip * (1 + 1e-9)


def test_short_vectors_are_summed_as_they_are():
    """Clipping only scales down."""
    vectors = torch.tensor([[0.1, 0.2], [0.3, -0.1]], dtype=torch.float64)
    assert torch.equal(clipped_sum(vectors, 1.0), vectors.sum(0))


def test_long_vectors_keep_their_direction():
    """A clipped vector is parallel to the original and as long as the clip norm."""
    total = clipped_sum(torch.tensor([[30.0, 40.0]]), 2.0)
    assert torch.allclose(total, torch.tensor([1.2, 1.6], dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_record_counts_as_zero(bad: float):
    """Breach 6: one broken record doesn't spoil the others."""
    vectors = torch.tensor([[0.5, 0.0], [bad, 0.0], [0.0, 0.5]])
    assert clipped_sum(vectors, 1.0).tolist() == [0.5, 0.5]


def test_no_records_are_pure_noise():
    """An empty site releases noise, not an error that tells it is empty."""
    released = private_sum(torch.zeros(0, 3), clip_norm=2.0, noise_multiplier=1.5, noise=SeededNoise(b"k"))
    assert np.allclose(released, 3.0 * SeededNoise(b"k").normal(3))


def test_noise_is_scaled_by_clip_norm_and_multiplier():
    """The release is the clipped sum plus noise of that deviation, in float64."""
    vectors = torch.full((4, 20_000), 1e-6)
    released = private_sum(vectors, clip_norm=2.0, noise_multiplier=1.5, noise=SeededNoise(b"k"))
    assert released.dtype == np.float64
    assert released.std() == pytest.approx(3.0, rel=0.03)
    clean = private_sum(vectors, clip_norm=2.0, noise_multiplier=1.5, noise=NoNoise())
    assert np.allclose(clean, 4e-6)


@pytest.mark.parametrize("number", [0.0, -1.0, math.inf, math.nan])
def test_numbers_out_of_range_are_refused(number: float):
    """No noise is no release."""
    with pytest.raises(ConfigError, match="noise_multiplier"):
        private_sum(torch.zeros(1, 1), clip_norm=1.0, noise_multiplier=number, noise=SeededNoise(b"k"))
    with pytest.raises(ConfigError, match="clip_norm"):
        private_sum(torch.zeros(1, 1), clip_norm=number, noise_multiplier=1.0, noise=SeededNoise(b"k"))


def test_a_vector_is_not_a_matrix():
    """One record is one row."""
    with pytest.raises(DataError, match="records, d"):
        clipped_sum(torch.zeros(3), 1.0)
