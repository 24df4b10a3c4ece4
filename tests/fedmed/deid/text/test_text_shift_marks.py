"""A note whose dates were moved says so under the site's key, and no pass moves them again."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.text import NoteCleaner, TextOptions
from fedmed.deid.text.shift_marks import MARK, mark_of, read_mark

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
SHIFT = TextOptions(dates="shift")
NOTE = "Admitted 2021-07-09, discharged 07/12/2021.\nDr. Imogen Thackrayson saw Mrs. Vroonhof on 3 May 2020."


@pytest.fixture(scope="module")
def shifting() -> NoteCleaner:
    """Return a cleaner that moves dates."""
    return NoteCleaner(options=SHIFT, key=KEY)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_second_pass_in_shift_mode_changes_nothing(
    language: str, gold_file: Callable[..., Path], shifting: NoteCleaner
) -> None:
    """What was cleaned with moved dates stays to the letter, whoever it is then said to be about."""
    for line in gold_file(language, 60, seed=79).read_text(encoding="utf-8").splitlines():
        note = json.loads(line)
        once = shifting.clean(note["text"], patient=note["patient"])
        assert shifting.clean(once.text, patient=note["patient"]).text == once.text
        assert shifting.clean(once.text, patient="somebody else").text == once.text


@settings(max_examples=100, deadline=None)
@given(
    st.dates(),
    st.sampled_from(["%Y-%m-%d", "%m/%d/%Y", "%d %B %Y", "%Y年%m月%d日"]),
    st.sampled_from(["", "\n", " x\r\n"]),
)
def test_any_date_moves_once(day: object, form: str, end: str) -> None:
    """Of whatever form a date is, a second pass leaves it, and what stands after the mark, as it is."""
    cleaner = NoteCleaner(options=SHIFT, key=KEY)
    once = cleaner.clean(f"seen on {day:{form}}{end}", patient="p").text
    assert cleaner.clean(once, patient="p").text == once
    assert cleaner.clean(f"{once}\n", patient="p").text == f"{once}\n"


def test_only_notes_with_moved_dates_are_marked(shifting: NoteCleaner) -> None:
    """A note without dates, or with none that exists, has no mark; nor has one whose dates are masked."""
    for note in ("No fever.", "Seen 2021-02-31."):
        assert MARK.search(shifting.clean(note, patient="p").text) is None
    assert MARK.search(NoteCleaner(options=TextOptions(), key=KEY).clean(NOTE, patient="p").text) is None
    assert MARK.search(shifting.clean(NOTE, patient="p").text) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("Admitted", "Admitted again"),
        lambda text: f"{text}\nAddendum of 2022-01-05.",
        lambda text: f"{text}\n{text}",
        lambda text: re.sub("[0-9a-f]{16}", "0123456789abcdef", text),
    ],
)
def test_a_changed_or_forged_mark_masks_all_dates(change: Callable[[str], str], shifting: NoteCleaner) -> None:
    """Where it is unclear which dates were moved, none is moved again and none is shown."""
    once = shifting.clean(NOTE, patient="p").text
    again = shifting.clean(change(once), patient="p").text
    assert not re.search(r"(?:19|20)[0-9]{2}", MARK.sub("", again))
    assert again.count("[DATE]") >= 3


def test_another_sites_mark_does_not_hold(shifting: NoteCleaner) -> None:
    """Only the key that moved the dates vouches for them."""
    once = shifting.clean(NOTE, patient="p").text
    assert "[DATE]" in NoteCleaner(options=SHIFT, key=OTHER_KEY).clean(once, patient="p").text


def test_a_stricter_second_pass_masks_moved_dates(shifting: NoteCleaner) -> None:
    """Who masks dates masks moved ones too, and the mark goes, since nothing is left that it speaks of."""
    once = shifting.clean(NOTE, patient="p").text
    masked = NoteCleaner(options=TextOptions(), key=KEY).clean(once, patient="p").text
    assert masked.count("[DATE]") == 3
    assert MARK.search(masked) is None


def test_what_a_second_pass_still_finds_is_masked_under_a_new_mark(shifting: NoteCleaner) -> None:
    """A name that is known only now is masked, the dates stay, and the new text is vouched for."""
    once = shifting.clean("Seen 2021-07-09 with quenby.", patient="p").text
    twice = shifting.clean(once, patient="p", names=("Quenby",)).text
    assert "quenby" not in twice
    assert re.findall("[0-9]{4}-[0-9-]{5}", once) == re.findall("[0-9]{4}-[0-9-]{5}", twice)
    assert shifting.clean(twice, patient="p").text == twice


def test_a_mark_tells_nothing_of_the_shift() -> None:
    """The mark depends on text and key alone."""
    pseudonyms = Pseudonyms(KEY)
    text = f"a{mark_of('a', pseudonyms, chinese=True)}"
    assert text == f"a [日期已平移 {text[-17:-1]}]"
    assert read_mark(text, pseudonyms).body == "a"
    assert read_mark(text, Pseudonyms(OTHER_KEY)).state == "unclear"
