"""Dates: found as they are written, moved exactly, and clinical numbers that look like dates stay."""

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.deid.text.ages import find_ages
from fedmed.deid.text.dates import find_dates
from fedmed.deid.text.reading import read
from fedmed.deid.text.shifts import shift_date, year_of

DATES = st.dates(dt.date(1930, 1, 1), dt.date(2039, 12, 31))
DAYS = st.integers(-365, 365).filter(bool)


def found(note: str) -> list[str]:
    """Return the dates in a note."""
    reading = read(note)
    return [note[date.span.start : date.span.end] for date in find_dates(reading)]


def moved(note: str, days: int) -> list[str | None]:
    """Return the dates in a note, moved."""
    reading, year, pieces = read(note), None, []
    for date in find_dates(reading):
        pieces.append(shift_date(date, reading.view, note, days=days, year=year))
        year = year_of(date, reading.view) or year
    return pieces


@pytest.mark.parametrize(
    "date",
    [
        "2021年7月9日",
        "2021年07月09日",
        "2021-07-09",
        "2021/7/9",
        "2021.7.9",
        "20210709",
        "二〇二一年七月九日",
        "二零二一年十二月三十一日",
        "7月9日",
        "十二月二十三日",
        "2021年7月",
        "21年7月9日",
        "2021年7月9日至12日",
        "２０２１年７月９日",
        "2021年7月9日（星期五）",
        "2021 年 7 月 9 日",
        "07/09/2021",
        "7/9/21",
        "07-09-2021",
        "19/07/2021",
        "July 9, 2021",
        "July 9th",
        "9 July 2021",
        "09-Jul-2021",
        "Jul. 9, 2021",
        "July 2021",
        "the 9th of July, 2021",
        "Friday, July 9, 2021",
        "JULY 9, 2021",
        "2021 July 9",
        "July '21",
        "2021-07",
        "7/2021",
    ],
)
def test_forms_are_found_whole(date: str) -> None:
    """Each form is one date, from its first to its last character, in Chinese and in English text."""
    assert found(f"患者于{date}就诊") in ([date], [date.removesuffix("（星期五）")]) or found(
        f"seen {date}, stable"
    ) == [date]


@pytest.mark.parametrize(
    ("note", "date"),
    [
        ("seen on 7/9 again", "7/9"),
        ("自2021.7起", "2021.7"),
        ("smoker since 1999", "1999"),
        ("2019年行阑尾切除术", "2019年"),
        ("Labs 9/25: fine", "9/25"),
        ("生日7.9", "7.9"),
        ("出院时间：7-9 08:30", "7-9"),
        ("采样日期 7/9", "7/9"),
        ("末次月经：7.9", "7.9"),
        ("7-9 08:30突发", "7-9"),
    ],
)
def test_context_makes_a_date(note: str, date: str) -> None:
    """A short form is a date where the words around it say so."""
    assert found(note) == [date]


@pytest.mark.parametrize(
    "note",
    [
        "3年前，病史5年，10余年",
        "血压120/80mmHg",
        "肌力5/5级",
        "L4-5椎间盘",
        "3.5-5.5mmol/L",
        "每日2-3次",
        "1.2.3.4节",
        "符合2017年版指南",
        "BP 120/80",
        "strength 5/5",
        "a 2/6 murmur",
        "GCS 14/15",
        "pain 4/10",
        "vision 20/30",
        "may 5 times daily",
        "May improve",
        "march on",
        "2-3 tablets",
        "1-2-3",
        "Fri chips",
        "mon",
        "10:20:30",
        "in 2000 mg doses",
        "T12-L1",
        "7 to 10 days",
        "a ratio of 3/4",
        "肌力4/5-5/5，杂音2/6-3/6，1/2-3/4片，血压11/7-12/8kPa",
        "手术时间：2-3小时，凝血酶原时间 11-12秒，发病时间：3-5天，起病：3-5月余，出生体重3.5kg",
        "血钾3.5-5.5，每次2-3 次，入院体温37.2℃，报告：3-5个",
        "三个月，十二月龄，3月2次，一百零九年前",
        "1999 12 times, 2000 10 mg, 120/80/10",
        "大正、光绪年间，农历新年",
    ],
)
def test_what_looks_like_a_date_stays(note: str) -> None:
    """Durations, pressures, scores, levels, doses and guideline years are no dates."""
    assert found(note) == []


@pytest.mark.parametrize(
    ("date", "days", "expected"),
    [
        ("2020年2月28日", 2, "2020年3月1日"),
        ("二〇二〇年十二月三十日", 3, "二〇二一年一月二日"),
        ("二零一九年三月一日", 1, "二零一九年三月二日"),
        ("２０２１年７月９日", 1, "２０２１年７月１０日"),
        ("2021-07-09", -9, "2021-06-30"),
        ("7/9/21", 30, "8/8/21"),
        ("07/09/2021", 30, "08/08/2021"),
        ("19/07/2021", 1, "20/07/2021"),
        ("July 31, 2021", 1, "August 1, 2021"),
        ("Jul. 31", 1, "Aug. 1"),
        ("30-JUL-2021", 1, "31-JUL-2021"),
        ("July 31st, 2021", 1, "August 1st, 2021"),
        ("Friday, July 9, 2021", 1, "Saturday, July 10, 2021"),
        ("2021年7月9日（星期五）", 2, "2021年7月11日（星期日）"),
        ("7月30日-31日", 1, "7月31日-8月1日"),
        ("20210731", 1, "20210801"),
        ("2021年7月", 31, "2021年8月"),
        ("贰零贰壹年柒月叁拾壹日", 1, "贰零贰壹年捌月壹日"),
        ("二〇二一年〇七月三十一日", 1, "二〇二一年八月一日"),
        ("21/7/9", 30, "21/8/8"),
        ("95/12/30", 1, "95/12/31"),
        ("2021 07 31", 1, "2021 08 01"),
    ],
)
def test_written_form_is_kept(date: str, days: int, expected: str) -> None:
    """Order, marks, zeros, numerals, case, ordinals and weekdays stay in style."""
    assert moved(date, days) == [expected]


@given(first=DATES, second=DATES, days=DAYS)
def test_intervals_are_exact(first: dt.date, second: dt.date, days: int) -> None:
    """Between two moved dates lie as many days as between the two, and both moved by just the shift."""
    pieces = moved(f"{first:%Y-%m-%d}入院，{second.year}年{second.month}月{second.day}日出院", days)
    a = dt.date.fromisoformat(str(pieces[0]))
    b = dt.date(*map(int, re.findall("[0-9]+", str(pieces[1]))))
    assert (a - first).days == (b - second).days == days


@given(date=DATES, days=DAYS)
def test_forms_of_one_date_move_together(date: dt.date, days: int) -> None:
    """A date written in digits and with an English month moves to the same day."""
    pieces = moved(f"{date:%m/%d/%Y} and {date:%B} {date.day}, {date.year}", days)
    assert dt.datetime.strptime(str(pieces[0]), "%m/%d/%Y").date() == date + dt.timedelta(days)  # noqa: DTZ007
    form = "%b %d, %Y" if date.month == 5 else "%B %d, %Y"  # May is long and short at once
    assert dt.datetime.strptime(str(pieces[1]), form).date() == date + dt.timedelta(days)  # noqa: DTZ007


def test_day_without_year_takes_the_last_one() -> None:
    """A month and day moves in the year of the full date before it, so that 29 February exists in a leap year."""
    assert moved("2020年1月5日入院，2月28日出院", 1) == ["2020年1月6日", "2月29日"]
    assert moved("2021年1月5日入院，2月28日出院", 1) == ["2021年1月6日", "3月1日"]


@pytest.mark.parametrize("behind", ["to 9/1/2021", "of last year", "l", "6 months"])
def test_a_full_date_needs_no_words(behind: str) -> None:
    """Whatever follows a date with a year, it is one."""
    assert found(f"on 8/7/2021 {behind}")[0] == "8/7/2021"


def test_range_of_short_days() -> None:
    """Two days with a mark between them are a range, whose ends move alike."""
    assert moved("7/9-7/12 fever", 30) == ["8/8", "8/11"]
    assert found("fever 7/9~8/2") == ["7/9", "8/2"]


@pytest.mark.parametrize("date", ["2021-02-31", "2021年13月5日", "2021年4月31日", "2021-13-45", "45/67/2021"])
def test_date_that_does_not_exist_is_not_moved(date: str) -> None:
    """An impossible date is found, if it looks like one, and its move is None: the caller masks it."""
    assert moved(date, 3) == [None]


@pytest.mark.parametrize(
    "date",
    [
        "民国109年7月9日",
        "民國一百零九年七月九日",
        "民国 109 年 7 月",
        "昭和63年12月1日",
        "令和元年10月8日",
        "平成30年",
        "109年7月9日",
        "一〇九年七月九日",
        "109/07/09",
        "109.07.09",
        "农历二〇二一年五月三十",
        "阴历五月三十",
        "正月十六",
        "冬月廿一日",
        "四月初九",
        "2021年四月初九",
        "7月9、10、12日",
        "7月9日、12日",
        "2021年7月9日和12日",
    ],
)
def test_no_shift_moves_what_another_calendar_counts(date: str) -> None:
    """A reader would take a moved year of an era, lunar day or list of days for true, so none of these is moved."""
    assert found(f"于{date}就诊") == [date]
    assert moved(f"于{date}就诊", 40) == [None]


def test_a_year_of_an_era_is_no_year_for_the_next_date() -> None:
    """A date without a year behind a year of an era moves as one without any year before it does."""
    assert moved("民国109年7月9日入院，7月12日出院", 1)[1] == moved("7月12日出院", 1)[0]


def test_a_list_of_days_tells_its_year() -> None:
    """A date behind a list of days moves in the year of the list, and days after a day (12日后) are none of a list."""
    assert moved("2020年1月9、12日复查，3月1日出院", -1) == [None, "2月29日"]
    assert found("7月9日和12日后复查") == ["7月9日"]


def test_a_short_year_stands_first_in_chinese() -> None:
    """21/07/09 in a Chinese sentence is 9 July 2021; in an English one the year is last."""
    assert moved("于21/07/09入院", 30) == ["21/08/08"]
    assert moved("seen 21/07/09 again", 30) == ["20/08/09"]


@pytest.mark.parametrize(
    ("note", "ages"),
    [
        ("男，93岁", ["93岁"]),
        ("年龄：104", ["104"]),
        ("九十五岁", ["九十五岁"]),
        ("一百零一岁", ["一百零一岁"]),
        ("89岁", []),
        ("18-90岁", []),
        ("a 92-year-old man", ["92"]),
        ("aged 90", ["90"]),
        ("91 y/o", ["91"]),
        ("ninety-four-year-old", ["ninety-four"]),
        ("95F with", ["95"]),
        ("89-year-old", []),
        ("90 years ago", []),
        ("HR 95", []),
        ("92%", []),
        ("90岁以上", []),
        ("age 90+", []),
    ],
)
def test_ages_above_89(note: str, ages: list[str]) -> None:
    """Ages from 90 are found with the words that make them ages; others, and ages that are capped already, stay."""
    assert [note[span.start : span.end] for span in find_ages(read(note))] == ages
