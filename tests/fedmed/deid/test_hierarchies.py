"""Ladders: what each level says, that levels only merge, and that nothing unread passes."""

import datetime as dt
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.deid.hierarchies import LEVELS, SUPPRESSED, HierarchyName, as_dates, as_numbers, labels

AGES = st.one_of(st.none(), st.floats(-5, 130))
DATES = st.one_of(st.none(), st.dates(dt.date(1900, 1, 1), dt.date(2100, 12, 31)))
PIECES = st.sampled_from(
    [
        "广东省",
        "广东",
        "深圳市",
        "深圳",
        "南山区",
        "吉林省",
        "吉林市",
        "吉林",
        "北京市",
        "朝阳区",
        "朝阳市",
        "辽宁省",
        "海南",
        "12号",
        "李雷",
    ]
)
ADDRESSES = st.one_of(st.none(), st.lists(PIECES, max_size=5).map("".join), st.text(max_size=10))
ZIPS = st.one_of(st.none(), st.from_regex(r"\A[0-9]{5}(-[0-9]{4})?\Z"), st.text(max_size=6))
CODES = st.one_of(st.none(), st.from_regex(r"\A[0-9]{6}\Z"), st.text(max_size=6))
LADDERS = [("age", AGES), ("date", DATES), ("address-cn", ADDRESSES), ("zip-us", ZIPS), ("division-cn", CODES)]


def column(values: list[object], hierarchy: HierarchyName) -> pl.Series:
    """Return values with the type that the ladder takes."""
    return pl.Series(values, dtype={"age": pl.Float64, "date": pl.Date}.get(hierarchy, pl.String))


def one(value: object, hierarchy: HierarchyName, level: int) -> str | None:
    """Return the label of one value."""
    return labels(column([value], hierarchy), hierarchy, level).to_list()[0]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(LADDERS))
def test_each_level_is_a_function_of_the_one_below(
    data: st.DataObject, ladder: tuple[HierarchyName, st.SearchStrategy[object]]
):
    """Two values in one class stay in one class on every higher level: classes only merge."""
    hierarchy, values = ladder
    series = column(data.draw(st.lists(values, min_size=2, max_size=30)), hierarchy)
    levels = [labels(series, hierarchy, level).to_list() for level in range(len(LEVELS[hierarchy]))]
    for lower, upper in pairwise(levels):
        assert len(set(zip(lower, upper, strict=True))) == len(set(lower))
    assert set(levels[-1]) == {SUPPRESSED}


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0.0, ["0", "0-4", "0-9", "0-19"]),
        (47.9, ["47", "45-49", "40-49", "40-59"]),
        (89.0, ["89", "85-89", "80-89", "80-89"]),
        (89.9, ["89", "85-89", "80-89", "80-89"]),
        (90.0, ["90+"] * 4),
        (104.0, ["90+"] * 4),
        (-1.0, [SUPPRESSED] * 4),
        (float("nan"), [SUPPRESSED] * 4),
        (None, [None] * 4),
    ],
)
def test_ages(age: float | None, expected: list[str | None]):
    """Bands of 5, 10 and 20 years; 90 and above is one group on every level."""
    assert [one(age, "age", level) for level in range(4)] == expected


def test_dates():
    """Day, month, quarter, year."""
    assert [one(dt.date(2024, 5, 9), "date", level) for level in range(5)] == [
        "2024-05-09", "2024-05", "2024-Q2", "2024", SUPPRESSED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("浙江省宁波市鄞州区百丈路 8 号", ["浙江省宁波市鄞州区", "浙江省宁波市", "浙江省"]),
        ("浙江宁波鄞州区", ["浙江省宁波市鄞州区", "浙江省宁波市", "浙江省"]),
        ("宁波市鄞州区百丈路", ["浙江省宁波市鄞州区", "浙江省宁波市", "浙江省"]),
        ("天津市和平区南京路", ["天津市和平区", "天津市", "天津市"]),
        ("重庆市市辖区江北区", ["重庆市江北区", "重庆市", "重庆市"]),
        (
            "新疆乌鲁木齐市新市区北京路",
            ["新疆维吾尔自治区乌鲁木齐市新市区", "新疆维吾尔自治区乌鲁木齐市", "新疆维吾尔自治区"],
        ),
        ("吉林市龙潭区", ["吉林省吉林市龙潭区", "吉林省吉林市", "吉林省"]),
        ("海南藏族自治州贵德县", ["青海省海南藏族自治州贵德县", "青海省海南藏族自治州", "青海省"]),
        ("广东省中山市石岐街道", ["广东省中山市", "广东省中山市", "广东省"]),
        ("湖南省某地", ["湖南省"] * 3),
    ],
)
def test_chinese_addresses(address: str, expected: list[str]):
    """Full and short spellings of one place have one label, and the street is gone on the first level."""
    assert [one(address, "address-cn", level) for level in range(3)] == expected


@pytest.mark.parametrize(
    "address", ["", "韩梅梅家中", "同上", "韩梅梅 宁波市鄞州区", "12 Elm Street", "鄞州区百丈路", "13912345678", "*"]
)
def test_what_is_no_known_place_is_suppressed(address: str):
    """A name in front of the city, a street alone and a telephone number never come through."""
    assert {one(address, "address-cn", level) for level in range(4)} == {SUPPRESSED}


def test_a_long_text_before_a_district_does_not_pass_as_one():
    """Only short district names are read, so a name between city and district is not copied."""
    assert one("浙江省宁波市韩梅梅住在鄞州区", "address-cn", 0) == "浙江省宁波市"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("330212", ["330212", "3302**", "33****"]),
        ("330212001000", ["330212", "3302**", "33****"]),
        (" 330212 ", ["330212", "3302**", "33****"]),
        ("990212", [SUPPRESSED] * 3),
        ("33021", [SUPPRESSED] * 3),
        ("330212199001011234", [SUPPRESSED] * 3),
    ],
)
def test_division_codes(code: str, expected: list[str]):
    """Six digits of a known province, cut from the right; a resident number is none."""
    assert [one(code, "division-cn", level) for level in range(3)] == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("60614", ["60614", "606", "6"]),
        ("60614-2345", ["60614", "606", "6"]),
        ("02139", ["02139", "021", "0"]),
        ("2139", [SUPPRESSED] * 3),
        ("6061", [SUPPRESSED] * 3),
        ("60614x", [SUPPRESSED] * 3),
    ],
)
def test_zip_codes(code: str, expected: list[str]):
    """Five, three and one digit; what is no ZIP code, or lost its zero in a spreadsheet, is suppressed."""
    assert [one(code, "zip-us", level) for level in range(3)] == expected


def test_zip_areas_with_few_people_are_000():
    """The seventeen areas of 20,000 people or fewer (HHS, census of 2000), and no other."""
    small = [area for area in range(1000) if one(f"{area:03d}15", "zip-us", 1) == "000"]
    assert small == [0, 36, 59, 63, 102, 203, 556, 692, 790, 821, 823, 830, 831, 878, 879, 884, 890, 893]
    assert one("82190", "zip-us", 2) == "000"


def test_labels_of_a_category_are_its_values():
    """A value or nothing."""
    assert [one("B", "category", level) for level in range(2)] == ["B", SUPPRESSED]


def test_bands_and_periods_become_numbers_and_dates_again():
    """A model that takes numbers gets the middle of a band; a date, the first day of a period; `*` is missing."""
    assert as_numbers(pl.Series(["47", "45-49", "40-59", "90+", "*", None])).to_list() == [47, 47, 49.5, 90, None, None]
    periods = pl.Series(["2024-05-09", "2024-05", "2024-Q4", "2024", "*", None])
    assert as_dates(periods).to_list() == [
        dt.date(2024, 5, 9), dt.date(2024, 5, 1), dt.date(2024, 10, 1), dt.date(2024, 1, 1), None, None,
    ]  # fmt: skip
