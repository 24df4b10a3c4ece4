"""A record with arrays comes back as it was, or not at all."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from fedmed.errors import IntegrityError
from fedmed.tensors import pack, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A record as a user of the codec has one."""

    name: str
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another one."""

    colour: str


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6)
ARRAYS = st_numpy.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
    st_numpy.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
)
WHOLE = pack(Head(name="医院", number=3), {"model": np.arange(5.0), "mean": np.ones(2, np.float32)})


@given(st.builds(Head, name=st.text(max_size=8), number=st.integers(-9, 9)), st.dictionaries(NAMES, ARRAYS, max_size=3))
def test_what_is_packed_is_unpacked(head: Head, arrays: dict[str, NDArray]):
    """Record, names, shapes, types and every bit of the values survive, NaN included."""
    found_head, found = unpack(pack(head, arrays), Head)
    assert found_head == head
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_an_array_in_another_memory_order_is_packed_by_its_values():
    """A transposed view isn't scrambled."""
    array = np.arange(6.0).reshape(2, 3).T
    assert np.array_equal(unpack(pack(Head(name="x"), {"a": array}), Head)[1]["a"], array)


def test_no_arrays_is_a_file_too():
    """A record alone can be stored."""
    assert unpack(pack(Head(name="x"), {}), Head) == (Head(name="x"), {})


def test_equal_content_has_equal_bytes():
    """A stored answer that is sent again is the same to the last bit."""
    arrays = {"b": np.ones(3), "a": np.zeros(2)}
    assert pack(Head(name="x"), arrays) == pack(Head(name="x"), dict(reversed(arrays.items())))


@given(st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_is_refused(length: int):
    """A file that lost its end is never half-read."""
    with pytest.raises(IntegrityError, match="Head"):
        unpack(WHOLE[:length], Head)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes):
    """Whatever isn't such a file is an integrity error, not a crash."""
    with pytest.raises(IntegrityError):
        unpack(data, Head)


def test_a_head_of_another_kind_is_refused():
    """An answer isn't read as a checkpoint."""
    with pytest.raises(IntegrityError, match="expected a Other record"):
        unpack(WHOLE, Other)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused(position: int, bit: int):
    """Wherever it stands, in the length, the names, the record or a value."""
    damaged = bytearray(WHOLE)
    damaged[position] ^= 1 << bit
    with pytest.raises(IntegrityError):
        unpack(bytes(damaged), Head)
