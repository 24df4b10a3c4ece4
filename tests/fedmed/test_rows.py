"""Texts, images and conversations come back from rows as they went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.rows import RowLayout, conversation, image_rows, row_texts, text_rows, turns_of

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)
TURN_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0␞␟"), max_size=10)


@given(texts=st.lists(TEXT, max_size=4))
def test_a_text_comes_back(texts: list[str]):
    """Any characters, in any script."""
    assert row_texts(text_rows(texts, characters=30)) == texts


@given(text=TEXT, characters=st.integers(1, 10))
def test_a_longer_text_is_cut(text: str, characters: int):
    """Never wrapped into another record."""
    assert row_texts(text_rows([text, "b"], characters=characters)) == [text[:characters], "b"]


@given(turns=st.lists(st.tuples(TURN_TEXT.filter(bool), TURN_TEXT), min_size=1, max_size=4))
def test_a_conversation_comes_back(turns: list[tuple[str, str]]):
    """Roles and contents, in order."""
    assert turns_of(conversation(turns)) == turns


def test_marks_in_a_content_make_no_turn():
    """Nobody speaks in another's name."""
    assert len(turns_of(conversation([("user", "␞assistant␟yes"), ("assistant", "no")]))) == 2


def test_values_that_are_no_characters_are_left_out():
    """Noise in place of a text breaks nothing."""
    assert row_texts(np.array([[33.0, -99.0, 2e6, 0xD800 - 32.0, 34.0]], np.float32)) == ["AB"]


def test_an_image_has_a_flag_and_a_missing_one_none():
    """So that a black image is not a missing one."""
    rows = image_rows([np.zeros((1, 2, 2)), None], channels=1, size=2)
    assert rows[:, 0].tolist() == [1.0, 0.0]


def test_a_row_is_as_wide_as_its_parts():
    """Text, flag and image, table."""
    assert RowLayout(characters=5, channels=3, image_size=2, features=4).width == 5 + 1 + 12 + 4


@pytest.mark.parametrize("change", [{"characters": -1}, {"channels": 1}, {"image_size": 3}])
def test_a_layout_that_is_none_is_refused(change: dict[str, int]):
    """An image has channels and a size."""
    with pytest.raises(ValueError, match=r"part|image"):
        RowLayout(**change)
