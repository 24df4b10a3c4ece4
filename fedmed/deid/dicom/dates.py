"""Dates moved by whole days, times checked, everything else refused.

Why it exists: intervals between examinations carry the medicine, calendar dates
carry the person. One shift per patient keeps the first and hides the second.

Rules:
    * A value that is not exactly a date, time or date-time of PS3.5 6.2 gives None: the caller then acts as if the
      option were off, so an invalid date never passes.
    * A date-time without a day cannot be moved by days and is refused; where dates are kept it stays.
    * A time zone stays as it is: whole days move the clock of every zone alike.

What it does not do: choose the shift (see `pseudonyms`).
"""

import datetime as dt
import re

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_CLOCK = r"(?:([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.\d{1,6})?)?)?)"
_TIME = re.compile(_CLOCK)
_OLD_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.\d{1,6})?)?")
_DATETIME = re.compile(rf"(\d{{8}})((?:{_CLOCK})?)((?:[+-](?:0\d|1[0-4])[0-5]\d)?)")
_COARSE_DATETIME = re.compile(r"(\d{4})(\d{2})?(?:[+-](?:0\d|1[0-4])[0-5]\d)?")
_ZONE = re.compile(r"[+-](?:0\d|1[0-4])[0-5]\d")


def shift_date(text: str, days: int) -> str | None:
    """Return the date `YYYYMMDD` (or the old `YYYY.MM.DD`) moved by `days`, or None if it is none.

    >>> shift_date("20240229", 1), shift_date("2023.02.29", 1)
    ('20240301', None)
    """
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        moved = dt.date(*map(int, match.groups())) + dt.timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04}{moved:%m%d}"


def shift_datetime(text: str, days: int) -> str | None:
    """Return the date-time `YYYYMMDD[HH[MM[SS[.F]]]][+ZZZZ]` moved by `days`, or None if it is none.

    >>> shift_datetime("20231231235959.5+0800", 1)
    '20240101235959.5+0800'
    """
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    moved = shift_date(match[1], days)
    return None if moved is None else moved + match[2] + match[6]


def valid_time(text: str) -> str | None:
    """Return `text` if it is a time `HH[MM[SS[.F]]]` (or the old `HH:MM[:SS]`), else None.

    >>> valid_time("235959.123456"), valid_time("245959")
    ('235959.123456', None)
    """
    return text if _TIME.fullmatch(text) or _OLD_TIME.fullmatch(text) else None


def valid_zone(text: str) -> str | None:
    """Return `text` if it is an offset from UTC such as `+0800`, else None."""
    return text if _ZONE.fullmatch(text) else None


def valid(vr: str, text: str) -> bool:
    """Tell whether one value of VR DA, DT or TM is one of PS3.5 6.2, so that it may be kept as it is.

    A date-time may be a year or a month here, since nothing has to move.

    >>> valid("DA", "20240229"), valid("DA", "20230229"), valid("DT", "202402")
    (True, False, True)
    """
    if vr == "DT" and (coarse := _COARSE_DATETIME.fullmatch(text)):
        return shift_date(f"{coarse[1]}{coarse[2] or '01'}01", 0) is not None
    return move(vr, text, 0) is not None


def move(vr: str, text: str, days: int) -> str | None:
    """Return one value of VR DA, DT or TM as it may be published under a shift of `days`, or None."""
    if not text:
        return ""
    if vr == "DA":
        return shift_date(text, days)
    if vr == "DT":
        return shift_datetime(text, days)
    return valid_time(text)
