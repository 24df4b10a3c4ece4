"""Notes made to cost time: the rules' work grows as a note does, not as its square, and comes to an end."""

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from fedmed.deid.text import NoteCleaner, TextOptions, pipeline
from fedmed.errors import DataError

SIZE = 120_000
MOST = 30
"""Times the work of plain prose; each of these notes took sixty times and more while a rule read all of it anew."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红玲燕辉建国峰博文志"
NAMES = ["".join(four).title() for four in itertools.product(LETTERS[:13], LETTERS, "aeiou", LETTERS)]
CHINESE = ["".join(two) for two in itertools.product(GIVEN, GIVEN)]


def filled(unit: str, end: str = "") -> str:
    """Return a unit again and again, and an end."""
    return unit * (SIZE // len(unit.encode())) + end


HOSTILE: dict[str, Callable[[], str]] = {
    "one surname each": lambda: " ".join(f"Dr. {name}x" for name in NAMES[: SIZE // 10]),
    "first and last names": lambda: " ".join(f"Dr. {name}x {name}y" for name in NAMES[: SIZE // 16]),
    "names with a mark": lambda: " ".join(f"Dr. O'{name}" for name in NAMES[: SIZE // 11]),
    "Chinese names": lambda: "，".join(
        f"患者{family}{given}"
        for family, given in itertools.islice(itertools.product("王李张刘陈杨", CHINESE), SIZE // 18)
    ),
    "days without an end": lambda: filled("13/1/20-"),
    "a host of single letters": lambda: filled("a.", " .com"),
    "a word of capitals before a hospital": lambda: filled("A-", "  Hospital"),
    "numerals before a year": lambda: filled("一", "年"),
    "a label in each label's value": lambda: filled("家住"),
}


def seconds(note: str) -> float:
    """Return the processor time that cleaning a note takes."""
    cleaner = NoteCleaner(options=TextOptions(), key=bytes(32))
    begun = time.process_time()
    cleaner.clean(note, patient="p1")
    return time.process_time() - begun


@pytest.fixture(scope="module")
def plain() -> float:
    """Return what as much prose takes, half of it Chinese."""
    return max(0.05, seconds(filled("The patient was seen and feels well today. 患者今日一般情况可，继续观察治疗。")))


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_note_costs_the_square_of_its_length(kind: str, plain: float):
    """Many names, endless words, hosts, runs of days and labels within values cost little more than prose."""
    assert seconds(HOSTILE[kind]()) < MOST * plain


def searched(note: str) -> int:
    """Return how many characters of long texts are searched for one word while a note is cleaned, at most."""
    total = 0

    def watch(_frame: object, event: str, called: Any) -> None:
        nonlocal total
        if event == "c_call" and getattr(called, "__name__", "") == "find" and isinstance(called.__self__, str):
            total += len(called.__self__)

    cleaner = NoteCleaner(options=TextOptions(), key=bytes(32))
    sys.setprofile(watch)
    try:
        cleaner.clean(note, patient="p1")
    finally:
        sys.setprofile(None)
    return total


@pytest.mark.parametrize(
    "note",
    [
        " ".join(f"Dr. {name}x" for name in NAMES[:600]),
        "，".join(f"患者王{given}" for given in CHINESE[:500]),
    ],
    ids=["en", "zh"],
)  # fmt: skip
def test_the_names_of_a_long_list_are_not_looked_for_one_by_one(note: str):
    """A note is read a few times for all the names in it, and not once for each of hundreds."""
    assert searched(note) < 100 * len(note)


def test_a_note_that_shows_ever_more_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Where each mask shows the rules one thing more a long note is refused, and a short one is read to its end."""
    note = "现住家住区" * 200
    assert NoteCleaner(options=TextOptions(), key=bytes(32)).clean(note, patient="").counts
    monkeypatch.setattr(pipeline, "_MOST_READ", 10_000)
    with pytest.raises(DataError, match="come to an end"):
        NoteCleaner(options=TextOptions(), key=bytes(32)).clean(note, patient="")


def test_what_is_known_of_a_patient_is_no_text():
    """A name of a thousand characters and more would be looked for at each place of a note: the note is refused."""
    cleaner = NoteCleaner(options=TextOptions(), key=bytes(32))
    for more in ({"patient": "a" * 1_001}, {"patient": "p1", "names": ["王" * 1_001]}):
        with pytest.raises(DataError, match="1,000"):
            cleaner.clean("seen today", **more)


def test_a_list_of_many_names_is_masked_as_a_short_one_is():
    """Each name of a long list is masked wherever it stands by itself again, with a mark in it too."""
    cleaner = NoteCleaner(options=TextOptions(), key=bytes(32))
    listed = "".join(f"Dr. {name}x saw the patient. " for name in NAMES[:100])
    note = f"{listed}Dr. O'Quorrin called. 患者欧阳修文，{'，'.join(f'患者王{given}' for given in CHINESE[:60])}。"
    again = f"{NAMES[70]}x and O'Quorrin agree; 王{CHINESE[50]}与欧阳修文同意。{NAMES[70]}xy stays."
    masked = cleaner.clean(note + again, patient="").text
    for name in (f"{NAMES[70]}x ", "Quorrin", f"王{CHINESE[50]}", "欧阳修文"):
        assert name not in masked
    assert f"{NAMES[70]}xy stays" in masked
