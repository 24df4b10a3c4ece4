"""Tokens and date shifts: functions of the patient and the key, and of nothing else."""

from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed.errors import UsageError

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SITE, ELSEWHERE = Pseudonyms(KEY), Pseudonyms(OTHER)
NUMBERS = st.text("0123456789ABCDEFXMRabcxyz", min_size=1, max_size=20)
SPACES = st.sampled_from(["", " ", "\u3000", "\t", "\u00a0", "\u200b", "\ufeff"])


def _full_width(text: str) -> str:
    return text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})


@given(NUMBERS, SPACES, st.integers(0, 20), st.sampled_from([str.lower, str.upper, _full_width, str.title]))
def test_one_person_written_differently_has_one_token_and_one_shift(
    number: str, space: str, at: int, way: Callable[[str], str]
):
    """Case, white space, invisible characters and full-width forms do not make another patient."""
    written = space + way(number[:at]) + space + way(number[at:]) + space
    assert SITE.token(written) == SITE.token(number)
    assert SITE.shift_days(written, limit=365) == SITE.shift_days(number, limit=365)


@given(NUMBERS, NUMBERS)
def test_two_people_have_two_tokens(one: str, other: str):
    """Identifiers that differ after normalisation have different tokens."""
    assume(normalise(one) != normalise(other))
    assert SITE.token(one) != SITE.token(other)


@given(NUMBERS)
def test_another_key_gives_another_token(number: str):
    """Two sites that hold the same patient cannot link them by token."""
    assert SITE.token(number) != ELSEWHERE.token(number)


@given(st.text(max_size=30))
@example("A\u00a8")  # a space between a letter and its mark
def test_normalising_twice_changes_nothing(text: str):
    """The normal spelling is a fixed point."""
    assert normalise(normalise(text)) == normalise(text)


@given(NUMBERS, st.integers(30, 2000))
def test_a_shift_is_never_zero_and_within_its_limit(number: str, limit: int):
    """Every patient's dates move, and not farther than the policy says."""
    assert 0 < abs(SITE.shift_days(number, limit=limit)) <= limit


def test_shifts_differ_between_patients_and_use_the_whole_range():
    """Two thousand patients spread over the 60 possible shifts, on both sides."""
    shifts = {SITE.shift_days(str(number), limit=30) for number in range(2000)}
    assert shifts == set(range(-30, 31)) - {0}


def test_token_is_stable_across_releases():
    """A stored token stays valid: the vector was written down, not computed here."""
    assert SITE.token("MR000123") == "f2f8d52a6a3aa508aa5c290a61a493ee"
    assert SITE.shift_days("MR000123", limit=365) == 280


def test_subkeys_of_different_purposes_are_unrelated():
    """The keyed hash of a file that holds just an identifier is not that patient's token."""
    running = SITE.content_hash()
    running.update(b"mr000123")
    assert not running.hexdigest().startswith(SITE.token("MR000123"))


def test_the_key_shows_nowhere():
    """Neither the repr nor the key id nor an error holds key bytes."""
    assert repr(SITE) == f"Pseudonyms(key_id={SITE.key_id!r})"
    assert SITE.key_id not in KEY.hex()
    with pytest.raises(UsageError, match="must have 32 bytes, got 5") as error:
        Pseudonyms(b"short")
    assert "short" not in str(error.value)
