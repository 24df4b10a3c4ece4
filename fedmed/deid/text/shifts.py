"""A date moved by whole days and written again as it was: same order, marks, zeros, numerals and language.

Why it exists: intervals between events are what research keeps; a date that
changes its look is a trace of the tool, and a weekday that stays would undo the shift modulo seven.

Rules:
    * Year, month, day, the end of a range, ordinal suffix and weekday are rewritten; all other characters stay.
    * A year and month move as their 15th, a bare year as its 1 July; a month and day take the year of the last
      full date before them (else 2001), because the text doesn't tell it.
    * A date that does not exist, or that its finder says doesn't move (an era's year, a lunar day, a list of days), is
      not moved: the answer is None, and the caller masks it.

What it does not do: find dates (see `dates`) or know keys (see `fedmed.deid.pseudonyms`).
"""

import calendar
import datetime as dt
import re

from fedmed.deid.text.dates import WrittenDate
from fedmed.deid.text.spellings import FORMAL

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ZH_WEEKDAYS = "一二三四五六日"
_ZH_DIGITS = "〇一二三四五六七八九"
_ZH_VALUES = {character: value for value, character in enumerate(_ZH_DIGITS)} | {"零": 0, "○": 0}
_FORMAL_SIGNS = frozenset(FORMAL.values())
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
_NO_YEAR = 2001


def shift_date(written: WrittenDate, view: str, note: str, *, days: int, year: int | None) -> str | None:
    """Return the date moved by `days`, written as it was, or None where there is no such date.

    Args:
        written: Where the date and its parts are.
        view: The note as the rules see it.
        note: The note itself, where it has the same indices as the view; else the view.
        days: Whole days to move by.
        year: The year that a date without one is taken to be in.
    """
    read = {name: view[start:end] for name, (start, end) in written.parts.items()}
    dates = _dates(read, year) if written.moves else None
    if dates is None:
        return None
    new = [date + dt.timedelta(days=days) for date in dates]
    pieces, at = [], written.span.start
    for name, (start, end) in sorted(written.parts.items(), key=lambda part: part[1]):
        piece = _part(name, read, new)
        pieces += [note[at:start], _dressed(piece, note[start:end])]
        at = end
    return "".join([*pieces, note[at : written.span.end]])


def _dressed(piece: str, old: str) -> str:
    """Write digits full-width, and numerals formally, if the part of the note that they replace has some so."""
    if any("０" <= character <= "９" for character in old):
        return piece.translate(_FULL_WIDTH)
    return piece if _FORMAL_SIGNS.isdisjoint(old) else piece.translate(FORMAL)


def year_of(written: WrittenDate, view: str) -> int | None:
    """Return the year that is written in a date, if one is."""
    return _year(view[slice(*written.parts["y"])]) if "y" in written.parts else None


def _dates(read: dict[str, str], year: int | None) -> list[dt.date] | None:
    """Return the date, and the last day of the range where there is one."""
    at = _year(read["y"]) if "y" in read else year or _NO_YEAR
    month = _month(read["m"]) if "m" in read else 7
    if at is None or month is None:
        return None
    days = [_number(read[name]) for name in ("d", "d2") if name in read] or [15 if "m" in read else 1]
    if "y" not in read and (month, days[0]) == (2, 29) and not calendar.isleap(at):
        at = 2000
    try:
        return [dt.date(at, month, day or 0) for day in days]
    except ValueError:
        return None


def _part(name: str, read: dict[str, str], new: list[dt.date]) -> str:
    """Return one part of the new date in the style of the old."""
    old, date = read[name], new[0]
    if name == "y":
        return _year_as(old, date.year)
    if name == "m":
        return _month_as(old, date.month, read)
    if name == "d":
        return _number_as(old, date.day, read)
    if name == "d2":
        last = _number_as(old, new[-1].day, read)
        return last if new[-1].month == date.month else f"{_month_as(read['m'], new[-1].month, read)}月{last}"
    if name == "o":
        suffix = "th" if 11 <= date.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
        return _cased(old, suffix)
    return _weekday_as(old, date)


def _year(text: str) -> int | None:
    digits = "".join(str(_ZH_VALUES.get(character, character)) for character in text.strip("'"))
    if not digits.isdecimal():
        return None
    value = int(digits)
    return value if value >= 100 else value + (2000 if value <= 40 else 1900)


def _month(text: str) -> int | None:
    if text[0].isascii() and text[0].isalpha():
        return next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(text[:3].lower()))
    return {"元": 1, "正": 1, "冬": 11, "腊": 12}.get(text) or _number(text)


def _number(text: str) -> int | None:
    """Return what 17, 十七, 二十, 廿三 or 初五 says."""
    if text.isascii():
        return int(text)
    text = text.lstrip("初〇零○").replace("廿", "二十")
    tens, ten, ones = text.rpartition("十")
    if any(character not in _ZH_VALUES for character in tens + ones):
        return None
    value = _ZH_VALUES[ones] if ones else 0
    return value + (10 * (_ZH_VALUES[tens] if tens else 1) if ten else 0)


def _year_as(old: str, year: int) -> str:
    digits = str(year)[-len(old.strip("'")) :]
    if old.strip("'").isascii():
        return old[: len(old) - len(old.lstrip("'"))] + digits
    zero = next((character for character in old if character in "零○〇"), "〇")
    return "".join(_ZH_DIGITS[int(digit)] for digit in digits).replace("〇", zero)


def _month_as(old: str, month: int, read: dict[str, str]) -> str:
    if not (old[0].isascii() and old[0].isalpha()):
        return _number_as(old, month, read)
    name = _MONTHS[month - 1]
    return _cased(old, name if len(old) > 4 or old.lower() in {"june", "july"} else name[:3])


def _number_as(old: str, number: int, read: dict[str, str]) -> str:
    """Write a month or day: Chinese numerals stay so, and zeros stay where the date as written has them."""
    if old.isascii():
        padded = any(read.get(name, "").startswith("0") for name in ("m", "d"))
        both_long = len(read.get("m", "")) == len(read.get("d", read.get("m", ""))) == 2
        plain_words = re.fullmatch("[a-z]+", read.get("m", ""), re.IGNORECASE) is not None
        return (
            f"{number:02d}"
            if padded or (both_long and len(read.get("y", "")) == 4 and not plain_words)
            else str(number)
        )
    tens, ones = divmod(number, 10)
    text = ("" if tens == 0 else "十" if tens == 1 else f"{_ZH_DIGITS[tens]}十") + (_ZH_DIGITS[ones] if ones else "")
    return f"初{text}" if old.startswith("初") and number <= 10 else text


def _weekday_as(old: str, date: dt.date) -> str:
    if not old.isascii():
        return _ZH_WEEKDAYS[date.weekday()]
    name = _WEEKDAYS[date.weekday()]
    return _cased(old, name if old.lower().endswith("day") else name[:3])


def _cased(old: str, new: str) -> str:
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new
