"""From cells to values or reasons."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.schema import Column
from fedmed.deid import ConfirmedColumn
from fedmed.deid.cells import parse_cells

PRESSURE = Column(
    name="pressure", kind="number", role="feature", centre=130, scale=20, low=0, high=300, missing=("未查",)
)
WARD = Column(name="ward", kind="category", role="feature", values=("heart", "1", "2"), synonyms={"心内科": "heart"})
SEX = Column(name="sex", kind="binary", role="quasi-identifier", values=("F", "M"), synonyms={"女": "F", "男": "M"})
DAY = Column(name="day", kind="date", role="quasi-identifier")


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("120", 120.0, None),
        (" 120.5 ", 120.5, None),
        ("１２０", 120.0, None),
        ("1.2e2", 120.0, None),
        ("", None, None),
        ("?", None, None),
        ("？", None, None),
        ("未查", None, None),
        ("NaN", None, None),
        ("inf", None, "out of range"),
        ("-1", None, "out of range"),
        ("13800138000", None, "out of range"),
        ("<0.5", None, "not a number"),
        ("120 mmHg", None, "not a number"),
        ("溶血", None, "not a number"),
    ],
)
def test_a_number_is_a_value_missing_or_a_reason(cell: str, value: object, reason: str | None):
    """Units, comments and telephone numbers never become a value."""
    parsed = parse_cells(PRESSURE, [cell], ["?"])
    assert (parsed.values.to_list(), parsed.reasons.to_list()) == ([value], [reason])


def test_words_that_stand_for_a_number_become_it_and_no_others():
    """A publisher may write `> 89` where others have the age; the schema says which words mean which number."""
    age = Column(
        name="age", kind="number", role="feature", centre=65, scale=15, low=0, high=120, synonyms={"> 89": "90"}
    )
    parsed = parse_cells(age, ["> 89", "＞ 89", "71", "> 80", "90+"], [])
    assert parsed.values.to_list() == [90.0, 90.0, 71.0, None, None]
    assert parsed.reasons.to_list() == [None, None, None, "not a number", "not a number"]


@given(st.floats(0, 300, allow_nan=False))
def test_a_number_in_range_is_exact(number: float):
    """Laboratory values come through bit by bit."""
    assert parse_cells(PRESSURE, [repr(number)], []).values.to_list() == [number]


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("heart", "heart", None),
        ("心内科", "heart", None),
        ("1.0", "1", None),
        ("１", "1", None),
        ("", None, None),
        ("1.5", None, "not an allowed value"),
        ("Wang Fang", None, "not an allowed value"),
    ],
)
def test_a_category_passes_only_listed_values(cell: str, value: object, reason: str | None):
    """A name in a category column is a reason, not a new category."""
    parsed = parse_cells(WARD, [cell], [])
    assert (parsed.values.to_list(), parsed.reasons.to_list()) == ([value], [reason])


def test_a_binary_becomes_the_position_of_its_value():
    """The first listed value is 0, the second 1, synonyms included."""
    parsed = parse_cells(SEX, ["F", "M", "男", "", "x"], [])
    assert parsed.values.to_list() == [0, 1, 1, None, None]
    assert parsed.reasons.to_list() == [None] * 4 + ["not an allowed value"]


@pytest.mark.parametrize(
    "cell",
    ["2024-03-05", "2024/03/05", "20240305", "2024年3月5日", "2024-03-05 14:22", "2024-03-05T14:22:09", " 2024-3-5 "],
)
def test_a_date_may_be_written_in_the_usual_ways(cell: str):
    """Formats of English and Chinese exports give one day."""
    parsed = parse_cells(DAY, [cell], [])
    assert (parsed.values.to_list(), parsed.dates_removed) == ([dt.date(2024, 3, 5)], 0)


def test_an_invalid_date_is_removed_and_counted():
    """It is no reason to lose the row; a missing one is not counted."""
    parsed = parse_cells(DAY, ["2024-02-30", "spring", "", "2024-02-29"], [])
    assert parsed.values.to_list() == [None, None, None, dt.date(2024, 2, 29)]
    assert parsed.dates_removed == 2
    assert parsed.reasons.to_list() == [None] * 4


@pytest.mark.parametrize("code", ["I10", "E11.9", "C50.901", "I10.x00x002", "A18.0†", "M01.1*", "M8140/3"])
def test_diagnosis_codes_are_exact(code: str):
    """International and national forms come through letter by letter."""
    column = ConfirmedColumn(name="dx", kind="icd10", role="sensitive")
    parsed = parse_cells(column, [code, ""], [])
    assert (parsed.values.to_list(), parsed.reasons.to_list()) == ([code, None], [None, None])


@pytest.mark.parametrize("cell", ["高血压", "I10 王芳", "13800138000", "i10", "I1", "I10.99999", "Wang"])
def test_what_is_no_diagnosis_code_is_a_reason(cell: str):
    """Words, names and numbers do not pass as a code."""
    parsed = parse_cells(ConfirmedColumn(name="dx", kind="icd10", role="sensitive"), [cell], [])
    assert (parsed.values.to_list(), parsed.reasons.to_list()) == ([None], ["not an ICD-10 code"])


def test_of_a_place_only_the_district_passes():
    """The street is gone; what cannot be read is removed and counted, and a missing one is not."""
    column = ConfirmedColumn(name="home", kind="address-cn", role="quasi-identifier")
    parsed = parse_cells(column, ["浙江省宁波市鄞州区百丈路8号", "王芳家", ""], [])
    assert parsed.values.to_list() == ["浙江省宁波市鄞州区", None, None]
    assert parsed.places_removed == 1
    assert parsed.reasons.to_list() == [None] * 3
