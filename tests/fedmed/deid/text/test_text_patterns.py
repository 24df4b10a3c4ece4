"""Behaviour of fast patterns: what they find is what the plain pattern finds."""

import re

from hypothesis import given
from hypothesis import strategies as st

from fedmed.deid.text.patterns import WordSearch, at_word_start

WORDS = ("dr", "mrs?", "labell?ed", "next of kin", "june?", "in", "a")
PLAIN = re.compile(f"(?P<word>{at_word_start(WORDS)})" + r"[. ]+(?=[a-z])")
SEARCH = WordSearch(WORDS, group="word", rest=r"[. ]+(?=[a-z])")
TEXTS = st.lists(
    st.sampled_from(
        [*"abdr. \n1é", "dr", "mr", "mrs", "label", "labeled", "labelled", "next of kin", "jun", "june", "in"]
    )
).map("".join)


@given(TEXTS)
def test_a_word_search_finds_what_the_pattern_finds(text: str) -> None:
    """The same matches at the same places, none that overlap."""
    expected = [(match.span(), match["word"]) for match in PLAIN.finditer(text)]
    assert [(match.span(), match["word"]) for match in SEARCH.finditer(text)] == expected


def test_a_search_that_comes_later_finds_what_was_read_before():
    """Whichever module is imported first: a text that was looked at already has names for the new search as well."""
    text = "sister joy, brother jo"
    assert not list(SEARCH.finditer(text))
    assert [match[0] for match in WordSearch(["sister", "brother"], rest=" [a-z]+").finditer(text)] == [
        "sister joy",
        "brother jo",
    ]
