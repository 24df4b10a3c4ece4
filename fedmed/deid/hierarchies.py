"""Ladders from an exact value to `*`: age, date, Chinese address and division code, US ZIP, category.

Why it exists: k-anonymity trades detail for company. Which detail goes first is a
decision about medicine and geography, so it is written down here, one ladder a kind.

Rules:
    * Each level is a function of the one below, so that classes only merge on the way up.
    * What a ladder cannot read becomes `*` at every level, never itself. Missing stays missing below the top.
    * Ages above 89 are one group at every level, and ZIP areas with few people are 000 (45 CFR 164.514(b)(2)(i)).
    * A street never passes: the finest address is the district, and provinces and cities are known names.

What it does not do: choose a level (see `anonymity`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl

from fedmed.deid.divisions import CITIES, PROVINCE_CODES, SMALL_ZIP_AREAS

SUPPRESSED = "*"

HierarchyName = Literal["age", "date", "address-cn", "division-cn", "zip-us", "category"]

LEVELS: Mapping[HierarchyName, tuple[str, ...]] = {
    "age": ("years", "5 years", "10 years", "20 years", SUPPRESSED),
    "date": ("day", "month", "quarter", "year", SUPPRESSED),
    "address-cn": ("district", "city", "province", SUPPRESSED),
    "division-cn": ("district", "city", "province", SUPPRESSED),
    "zip-us": ("5 digits", "3 digits", "1 digit", SUPPRESSED),
    "category": ("value", SUPPRESSED),
}
"""The levels of each ladder, finest first; the last is always `*`."""

_BAND_YEARS = (1, 5, 10, 20)
_OLDEST = 90
_OLDEST_LABEL = f"{_OLDEST}+"
_SMALL_AREA = "000"

_SUFFIXES = r"(?:省|市|壮族自治区|回族自治区|维吾尔自治区|自治区|特别行政区)$"
_SHORT_CITY = r"(?:市|地区|盟|林区)$"
_MUNICIPALITIES = tuple(name for name in PROVINCE_CODES if name not in CITIES)
# Three characters before the suffix: longer forms could hold a person's name in a badly typed address.
_ADDRESS_LETTERS = 40
_ADDRESS = pl.Struct(dict.fromkeys(("province", "city", "district"), pl.String))
_DISTRICT = r"^(\p{Han}{2,12}自治[县旗]|\p{Han}{1,3}?[区县旗]|\p{Han}{1,3}?市)"


def labels(values: pl.Series, hierarchy: HierarchyName, level: int) -> pl.Series:
    """Return the label of each value at `level` of `hierarchy`.

    >>> labels(pl.Series([47.0, 93.0, None]), "age", 2).to_list()
    ['40-49', '90+', None]
    >>> labels(pl.Series(["82190", "10025-1234", "no ZIP"]), "zip-us", 1).to_list()
    ['000', '100', '*']
    >>> labels(pl.Series(["广东省深圳市南山区科技路1号"]), "address-cn", 1).to_list()
    ['广东省深圳市']

    Args:
        values: Numbers for `age`, dates for `date`, text for the others. Text may already be a label of the same
            ladder at this level or below.
        hierarchy: The ladder.
        level: The rung, 0 the finest.

    Returns:
        Text of the same length and name; null stands where `values` is null, but for the top level.
    """
    if level == len(LEVELS[hierarchy]) - 1:
        return pl.repeat(SUPPRESSED, len(values), dtype=pl.String, eager=True).alias(values.name)
    made = pl.DataFrame({"value": values}).select(_LADDERS[hierarchy](pl.col("value"), level))
    return made.to_series().alias(values.name)


def as_numbers(bands: pl.Series) -> pl.Series:
    """Return a number for each age label, for a model that takes numbers: the middle of a band, 90 for 90+.

    >>> as_numbers(pl.Series(["47", "40-49", "90+", "*"])).to_list()
    [47.0, 44.5, 90.0, None]
    """
    first, last = pl.col("band").str.extract(r"^(\d+)"), pl.col("band").str.extract(r"-(\d+)$")
    low = first.cast(pl.Float64)
    middle = (low + pl.coalesce(last.cast(pl.Float64), low)) / 2
    return pl.DataFrame({"band": bands}, schema={"band": pl.String}).select(middle).to_series().alias(bands.name)


def as_dates(periods: pl.Series) -> pl.Series:
    """Return the first day of each date label.

    >>> as_dates(pl.Series(["2024-03-05", "2024-03", "2024-Q2", "2024", "*"])).cast(pl.String).to_list()
    ['2024-03-05', '2024-03-01', '2024-04-01', '2024-01-01', None]
    """
    period = pl.col("period")
    year = period.str.extract(r"^(\d{4})").cast(pl.Int32)
    first_month = (period.str.extract(r"Q(\d)$").cast(pl.Int32) - 1) * 3 + 1
    month = pl.coalesce(period.str.extract(r"^\d{4}-(\d{2})").cast(pl.Int32), first_month, pl.lit(1))
    day = pl.coalesce(period.str.extract(r"-(\d{2})$", 1).cast(pl.Int32), pl.lit(1))
    exact = period.str.contains(r"^\d{4}-\d{2}-\d{2}$")
    done = pl.date(year, month, pl.when(exact).then(day).otherwise(1))
    return pl.DataFrame({"period": periods}, schema={"period": pl.String}).select(done).to_series().alias(periods.name)


def _age(value: pl.Expr, level: int) -> pl.Expr:
    years, band = value.cast(pl.Float64).floor().cast(pl.Int64, strict=False), _BAND_YEARS[level]
    low = years // band * band
    # The 20-year band that holds 90 ends at 89, so that 90+ stays one group of its own.
    high = pl.min_horizontal(low + band - 1, pl.lit(_OLDEST - 1))
    text = low.cast(pl.String)
    return (
        pl.when(value.is_null())
        .then(None)
        .when(value.cast(pl.Float64).is_nan() | (value < 0) | years.is_null())
        .then(pl.lit(SUPPRESSED))
        .when(value >= _OLDEST)
        .then(pl.lit(_OLDEST_LABEL))
        .otherwise(text if band == 1 else pl.format("{}-{}", text, high))
    )


def _date(value: pl.Expr, level: int) -> pl.Expr:
    if level == 2:
        return pl.format("{}-Q{}", value.dt.year(), value.dt.quarter())
    return value.dt.to_string(("%Y-%m-%d", "%Y-%m", "", "%Y")[level])


def _address(value: pl.Expr, level: int) -> pl.Expr:
    text = _squeezed(value).str.replace(r"^(?:中国|中华人民共和国)", "").str.head(_ADDRESS_LETTERS)
    parts = ("province", "city", "district")[: 3 - level]
    read = text.map_batches(_read_addresses, return_dtype=_ADDRESS).struct
    label = pl.concat_str(read.field("province"), *(read.field(part).fill_null("") for part in parts[1:]))
    return pl.when(value.is_null()).then(None).otherwise(label.fill_null(SUPPRESSED))


def _read_addresses(text: pl.Series) -> pl.Series:
    """Return province, city and district of each address, null where they are not known."""
    frame = pl.DataFrame({"text": text}, schema={"text": pl.String})
    # 吉林市 is a city, 吉林 a province: a city by its official name alone goes before a short province.
    frame = _known_start(frame, "text", _OFFICIAL, into="alone")
    frame = _known_start(frame, "text", _PROVINCES, into="given")
    by_city = pl.col("alone").replace_strict(_OFFICIAL, default=None, return_dtype=pl.String)
    by_name = pl.col("given").replace_strict(_PROVINCES, default=None, return_dtype=pl.String)
    after = pl.when(pl.col("alone").is_null()).then(pl.col("text").str.strip_prefix(pl.col("given")))
    frame = frame.with_columns(province=pl.coalesce(by_city, by_name), after=after.otherwise(pl.col("text")))
    frame = frame.with_columns(key=pl.concat_str("province", "after"))
    frame = _known_start(frame, "key", _IN_PROVINCE, into="written")
    city = pl.col("written").replace_strict(_IN_PROVINCE, default=None, return_dtype=pl.String)
    rest = pl.coalesce(pl.col("key").str.strip_prefix(pl.col("written")), "after")
    frame = frame.with_columns(city=city, rest=rest.str.replace(r"^(?:市辖区|县|市)", ""))
    known = pl.col("city").is_not_null() | pl.col("province").is_in(_MUNICIPALITIES)
    frame = frame.with_columns(district=pl.when(known).then(pl.col("rest").str.extract(_DISTRICT)))
    return frame.select(pl.struct("province", "city", "district")).to_series()


def _known_start(frame: pl.DataFrame, column: str, names: Mapping[str, str], *, into: str) -> pl.DataFrame:
    """Add the longest start of `column` that is one of `names`, else null.

    Looking each length up in a hash table is many times faster than one regular expression of all names.
    """
    frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(into))
    for length in sorted({len(name) for name in names}):
        known = pl.lit(pl.Series([name for name in names if len(name) == length]).implode())
        start = pl.col(column).str.head(length)
        frame = frame.with_columns(pl.when(start.is_in(known)).then(start).otherwise(into).alias(into))
    return frame


def _division(value: pl.Expr, level: int) -> pl.Expr:
    code = _squeezed(value).str.extract(r"^(\d{6})(?:\d{6})?$")
    known = code.str.head(2).is_in(list(PROVINCE_CODES.values()))
    kept = code.str.head(6 - 2 * level).str.pad_end(6, SUPPRESSED)
    return pl.when(value.is_null()).then(None).when(known).then(kept).otherwise(pl.lit(SUPPRESSED))


def _zip(value: pl.Expr, level: int) -> pl.Expr:
    text = _squeezed(value)
    code = text.str.extract(r"^(\d{5})(?:-?\d{4})?$")
    area = pl.when(code.str.head(3).is_in(SMALL_ZIP_AREAS)).then(pl.lit(_SMALL_AREA)).otherwise(code.str.head(3))
    # An area of few people keeps 000 at one digit too: it does not lie where 0 begins.
    first = pl.when(area == _SMALL_AREA).then(area).otherwise(area.str.head(1))
    kept = (code, area, first)[level].fill_null(SUPPRESSED)
    return pl.when(value.is_null()).then(None).otherwise(kept)


def _category(value: pl.Expr, _: int) -> pl.Expr:
    return value.cast(pl.String)


def _squeezed(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.String).str.normalize("NFKC").str.replace_all(r"[\s/,，、*]+", "")


def _stripped(name: str, suffix: str) -> str:
    return re.sub(suffix, "", name)


def _province_spellings() -> dict[str, str]:
    short = {_stripped(name, _SUFFIXES): name for name in PROVINCE_CODES}
    return short | {name: name for name in PROVINCE_CODES}


def _cities() -> list[tuple[str, str]]:
    return [(province, city) for province, cities in CITIES.items() for city in cities.split()]


_OFFICIAL: Mapping[str, str] = {city: province for province, city in _cities()}
_PROVINCES: Mapping[str, str] = _province_spellings()
_IN_PROVINCE: Mapping[str, str] = {
    province + spelling: city for province, city in _cities() for spelling in (_stripped(city, _SHORT_CITY), city)
}
_LADDERS: Mapping[HierarchyName, Callable[[pl.Expr, int], pl.Expr]] = {
    "age": _age,
    "date": _date,
    "address-cn": _address,
    "division-cn": _division,
    "zip-us": _zip,
    "category": _category,
}
