"""Dates so long ago that they tell an age above 89.

Why it exists: a year of birth says how old somebody is as well as an age does, so capping ages alone hides nobody.
HIPAA's list names all elements of dates that indicate such an age (45 CFR 164.514(b)(2)(i)(C)).

Rules:
    * Every date counts, whatever its column is called: people of more than 89 years were born before any that is kept.
    * Ages are those of the day of the run. Who is 90 by then was not so in an old record, and is in the group too.

What it does not do: look at numbers; a year of birth that a table keeps as a number has the range that the site gives.
"""

import datetime as dt

import polars as pl

from fedmed.deid.policy import AGE_CAP


def latest_birth(today: dt.date | None = None) -> dt.date:
    """Return the last day on which somebody was born who is 90 or older.

    >>> latest_birth(dt.date(2024, 2, 29)), latest_birth(dt.date(2026, 7, 1))
    (datetime.date(1934, 2, 28), datetime.date(1936, 7, 1))
    """
    day = today or dt.datetime.now(dt.UTC).date()
    return day.replace(year=day.year - AGE_CAP, day=28 if (day.month, day.day) == (2, 29) else day.day)


def floored(days: pl.Series, unit: str) -> tuple[pl.Series, int]:
    """Return dates cut to `unit` (`1y` or `1mo`), none before that of 90 years ago, and how many lay before."""
    cut = days.dt.truncate(unit)
    floor = pl.Series([latest_birth()]).dt.truncate(unit)[0]
    return pl.select(pl.max_horizontal(pl.lit(cut), pl.when(cut.is_not_null()).then(pl.lit(floor)))).to_series(), int(
        (cut < floor).sum()
    )


def without_old(days: pl.Series) -> tuple[pl.Series, int]:
    """Return dates without those that tell an age above 89, and how many those were."""
    old = (days <= latest_birth()).fill_null(value=False)
    return pl.select(pl.when(~old).then(pl.lit(days))).to_series(), int(old.sum())
