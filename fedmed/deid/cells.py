"""From the cells of one column, as text, to values or to a reason for each cell that has none.

Why it exists: what may pass is decided here and nowhere else: a number in its
range, one of the listed values, a date. Everything else becomes a reason.

Rules:
    * A cell is missing (null, no reason), a value, or null with a reason; never copied through.
    * Full-width digits and outer white space are normal in hospital exports and are no fault (NFKC).
    * A date that is none is removed and counted, because nothing can be trained on it.
    * Of a place only what its ladder can read passes: a district, never a street; the rest is removed and counted.

What it does not do: decide about rows, or read files.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from fedmed.deid.hierarchies import SUPPRESSED, HierarchyName, labels
from fedmed.deid.policy import PLACES, ColumnFacts

NOT_A_NUMBER = "not a number"
OUT_OF_RANGE = "out of range"
NOT_ALLOWED = "not an allowed value"
NOT_A_CODE = "not an ICD-10 code"
NO_KEY = "no patient key"

_DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%Y年%m月%d日")
# A category, its four-digit and national extensions (I10.x00x002), dagger and asterisk; or a morphology code.
ICD10 = r"^(?:[A-Z][0-9][0-9A-Z](?:\.[0-9A-Zx]{1,4}(?:x[0-9]{2,3})?)?[*+†]?|M[0-9]{4,5}/[0-9])$"
_TIME_OF_DAY = r"[T\s]+\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parsed:
    """One column of a batch: `values`, and `reasons` (null where the cell is a value or missing)."""

    values: pl.Series
    reasons: pl.Series
    dates_removed: int = 0
    places_removed: int = 0


def parse_cells(column: ColumnFacts, cells: Sequence[str], missing: Sequence[str]) -> Parsed:
    """Parse `cells` as `column` says; `missing` are the schema's tokens for every column.

    >>> from fedmed.data.schema import Column
    >>> age = Column(name="age", kind="number", role="feature", centre=55, scale=10, low=0, high=120)
    >>> parsed = parse_cells(age, ["６３", "?", "old", "13800138000"], ["?"])
    >>> parsed.values.to_list(), parsed.reasons.to_list()
    ([63.0, None, None, None], [None, None, 'not a number', 'out of range'])
    """
    text = pl.col("cell").str.normalize("NFKC").str.strip_chars()
    absent = [_plain(token) for token in ("", *missing, *column.missing)]
    frame = pl.DataFrame({"cell": cells}, schema={"cell": pl.String}).select(
        cell=pl.when(text.is_in(absent)).then(None).otherwise(text)
    )
    if column.kind == "number":
        spoken = {_plain(spelling): value for spelling, value in column.synonyms.items()}  # such as "> 89"
        return _numbers(frame.with_columns(pl.col("cell").replace(spoken)), low=column.low, high=column.high)
    if column.kind == "date":
        return _dates(frame)
    if column.kind == "icd10":
        return _codes(frame)
    for place in PLACES:
        if column.kind == place:
            return _places(frame, place)
    return _choices(frame, _spellings(column), values=column.values, binary=column.kind == "binary")


def _numbers(frame: pl.DataFrame, *, low: float | None, high: float | None) -> Parsed:
    number = pl.col("cell").cast(pl.Float64, strict=False)
    within = number.is_between(-float("inf") if low is None else low, float("inf") if high is None else high)
    reason = (
        pl.when(pl.col("cell").is_null() | number.is_nan())
        .then(None)
        .when(number.is_null())
        .then(pl.lit(NOT_A_NUMBER))
        .when(~(number.is_finite() & within))
        .then(pl.lit(OUT_OF_RANGE))
        .otherwise(None)
    )
    done = frame.select(
        value=pl.when(reason.is_null() & ~number.is_nan()).then(number).otherwise(None), reason=reason.cast(pl.String)
    )
    return Parsed(values=done["value"], reasons=done["reason"])


def _dates(frame: pl.DataFrame) -> Parsed:
    day = pl.col("cell").str.replace(_TIME_OF_DAY, "")
    done = frame.select(
        value=pl.coalesce(day.str.to_date(pattern, strict=False) for pattern in _DATE_FORMATS),
        given=pl.col("cell").is_not_null(),
    )
    removed = int((done["given"] & done["value"].is_null()).sum())
    reasons = pl.Series("reason", [None] * done.height, dtype=pl.String)
    return Parsed(values=done["value"], reasons=reasons, dates_removed=removed)


def _codes(frame: pl.DataFrame) -> Parsed:
    reason = pl.when(~pl.col("cell").str.contains(ICD10)).then(pl.lit(NOT_A_CODE)).otherwise(None)
    done = frame.select(value=pl.when(reason.is_null()).then("cell").otherwise(None), reason=reason.cast(pl.String))
    return Parsed(values=done["value"], reasons=done["reason"])


def _places(frame: pl.DataFrame, place: HierarchyName) -> Parsed:
    read = labels(frame["cell"], place, 0)
    values = read.to_frame("read").select(pl.when(pl.col("read") != SUPPRESSED).then("read")).to_series()
    reasons = pl.Series("reason", [None] * len(values), dtype=pl.String)
    return Parsed(values=values, reasons=reasons, places_removed=int((read == SUPPRESSED).sum()))


def _choices(frame: pl.DataFrame, spellings: Mapping[str, str], *, values: Sequence[str], binary: bool) -> Parsed:
    value = pl.col("cell").replace_strict(spellings, default=None, return_dtype=pl.String)
    reason = pl.when(pl.col("cell").is_not_null() & value.is_null()).then(pl.lit(NOT_ALLOWED)).otherwise(None)
    done = frame.select(value=value, reason=reason.cast(pl.String))
    if not binary:
        return Parsed(values=done["value"], reasons=done["reason"])
    one = done.select(value=(pl.col("value") == values[1]).cast(pl.Int8))
    return Parsed(values=one["value"], reasons=done["reason"])


def _spellings(column: ColumnFacts) -> dict[str, str]:
    """Map each accepted spelling to its value; a whole number may also be written with a point (`1.0` for `1`)."""
    spellings = {f"{value}.0": value for value in column.values if value.isdigit()}
    spellings |= {_plain(value): value for value in column.values}
    return spellings | {_plain(spelling): value for spelling, value in column.synonyms.items()}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()
