"""The many ways in which notes write a day.

Why it exists: a date is the identifier with the most spellings, and a document mixes them.

Rules:
    * A style is a function of a day; `draw_style` draws the style that a note keeps to.
    * What is written identifies at least a month; a year alone is no identifier here.

What it does not do: times of day, which stand beside a date and are no part of it.
"""

from collections.abc import Callable, Sequence
from datetime import date

from numpy.random import Generator

from fedmed_sim.phantoms.draws import chance, pick, words
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.people import FULL_WIDTH

Style = Callable[[date], str]

_HAN = "〇一二三四五六七八九"
_MONTHS = words("January February March April May June July August September October November December")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def han_number(number: int) -> str:
    """Return 1 to 99 in Chinese numerals.

    >>> [han_number(n) for n in (3, 10, 12, 20, 31)]
    ['三', '十', '十二', '二十', '三十一']
    """
    tens, ones = divmod(number, 10)
    head = "" if tens == 0 else "十" if tens == 1 else f"{_HAN[tens]}十"
    return head + (_HAN[ones] if ones else "")


def _han_day(day: date) -> str:
    year = "".join(_HAN[int(digit)] for digit in str(day.year))
    return f"{year}年{han_number(day.month)}月{han_number(day.day)}日"


def _ordinal(number: int) -> str:
    tail = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{tail}"


def _month(day: date) -> str:
    return _MONTHS[day.month - 1]


ZH_STYLES: Sequence[Style] = (
    lambda day: f"{day.year}年{day.month}月{day.day}日",
    lambda day: f"{day.year}年{day.month:02d}月{day.day:02d}日",
    lambda day: f"{day:%Y-%m-%d}",
    lambda day: f"{day:%Y/%m/%d}",
    lambda day: f"{day.year}.{day.month}.{day.day}",
    lambda day: f"{day.year}-{day.month}-{day.day}",
    lambda day: f"{day.year} 年 {day.month} 月 {day.day} 日",
    lambda day: f"{day.year}年{day.month}月{day.day}日".translate(FULL_WIDTH),
    lambda day: f"{day:%Y%m%d}",
    _han_day,
    lambda day: f"{day.year}年{day.month}月{day.day}号",
)
ZH_SHORT: Sequence[Style] = (
    lambda day: f"{day.month}月{day.day}日",
    lambda day: f"{day.year}年{day.month}月",
    lambda day: f"{han_number(day.month)}月{han_number(day.day)}日",
    lambda day: f"{day.month}月{day.day}号",
)
EN_STYLES: Sequence[Style] = (
    lambda day: f"{day:%m/%d/%Y}",
    lambda day: f"{day.month}/{day.day}/{day.year}",
    lambda day: f"{day.month}/{day.day}/{day:%y}",
    lambda day: f"{_month(day)} {day.day}, {day.year}",
    lambda day: f"{day.day} {_month(day)} {day.year}",
    lambda day: f"{day.day:02d}-{_month(day)[:3]}-{day.year}",
    lambda day: f"{day:%Y-%m-%d}",
    lambda day: f"{_month(day)[:3]} {day.day}, {day.year}",
    lambda day: f"{_month(day)} {_ordinal(day.day)}, {day.year}",
    lambda day: f"{_DAYS[day.weekday()]} {day.day} {_month(day)[:3]} {day.year}",
    lambda day: f"{day:%d.%m.%Y}",
    lambda day: f"the {_ordinal(day.day)} of {_month(day)}, {day.year}".removeprefix("the "),
)
EN_SHORT: Sequence[Style] = (
    lambda day: f"{_month(day)} {day.day}",
    lambda day: f"{_month(day)} {day.year}",
    lambda day: f"{day.day} {_month(day)[:3]}",
    lambda day: f"{_month(day)} {_ordinal(day.day)}",
    lambda day: f"{day.month}/{day.day}",
)


def draw_style(rng: Generator, language: Language) -> Style:
    """Draw one of the full styles of this language."""
    return pick(rng, ZH_STYLES if language == "zh" else EN_STYLES)


def written_day(rng: Generator, day: date, language: Language, usual: Style) -> str:
    """Write `day` in the note's usual style, now and then in another or without year or day."""
    if chance(rng, 0.7):
        return usual(day)
    if chance(rng, 0.5):
        return draw_style(rng, language)(day)
    return pick(rng, ZH_SHORT if language == "zh" else EN_SHORT)(day)
