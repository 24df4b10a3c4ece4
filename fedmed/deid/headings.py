"""Whether what stands where headings belong are headings, or the values of a first patient.

Why it exists: many an export has no heading line. Then a first patient's cells would become the names of columns,
which go where no value may go: into outputs, logs and lists; and that patient's row would be lost.

Rules:
    * A heading that reads by itself as a number, a date, a telephone number, an identity number, an address to the
      district or a mail address is a value, whatever stands below it.
    * So is one that looks like what stands below it: it recurs there beside other values, or is a record number, a
      diagnosis code or a person's name as they are.
    * One such heading refuses the table. A message says which column it is, and never what stands there.

What it does not do: guess headings, or look further than the sample.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress

import polars as pl

from fedmed.deid.cells import ICD10
from fedmed.deid.hierarchies import SUPPRESSED, labels
from fedmed.deid.readers import TableReader
from fedmed.deid.resident_ids import is_resident_id
from fedmed.deid.text.lexicon_en import CLEAR_FIRST_NAMES
from fedmed.deid.text.lexicon_zh import COMPOUND_SURNAMES, NOT_GIVEN, STRONG_SURNAMES, WEAK_SURNAMES
from fedmed.errors import DataError

SAMPLE_ROWS = 500

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIME = r"(?:[t\s]+\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:z|[+-]\d{2}:?\d{2})?)?"
_NUMBER = re.compile(r"[<>≤≥~=]*\s*[-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?\s*%?")
_DATE = re.compile(
    rf"(?:(?:\d{{4}}|\d{{1,2}})\s*([-/.])\s*\d{{1,2}}\s*\1\s*(?:\d{{4}}|\d{{1,2}})"
    rf"|\d{{1,2}}[\s-]*{_MONTH}[\s,-]*\d{{2,4}}|{_MONTH}\s*\d{{1,2}}(?:st|nd|rd|th)?[\s,]+\d{{4}}"
    rf"|\d{{2,4}}\s*年\s*\d{{1,2}}\s*月\s*\d{{1,2}}\s*日?){_TIME}"
)
_MAIL = re.compile(r"[^\s@]@[^\s@]+\.[a-z]{2}")  # what stands before and behind adds nothing, and costs its square
_LONG_NUMBER = re.compile(r"\+?\(?\d[\d\s()./*x-]{5,}[\dx*]")
_YEARS = re.compile(r"(?:19|20)\d\d\s*[-/]\s*(?:19|20)\d\d")
_LONG_DIGITS = 7
_FEW_DIGITS, _SAME_LETTERS_DIGITS = 4, 3
_MOST, _SOME = 0.8, 0.3
_NAMES_APART = 3
_HAN = re.compile(r"[\u4e00-\u9fff]+")
_SURNAMES = COMPOUND_SURNAMES | STRONG_SURNAMES | WEAK_SURNAMES
_DISTRICT_ENDS = frozenset("区县旗市")
_MOST_LEARNT = 1 << 15
_districts: dict[str, bool] = {}
"""Which headings are addresses down to the district, of those that were asked for."""


class HeadingsError(DataError):
    """A table's first line holds values."""


def check_headings(name: str, header: Sequence[str], cells: Mapping[str, Sequence[str]]) -> None:
    """Raise if a heading is a value.

    Args:
        name: What the message calls the table.
        header: The headings as they stand there.
        cells: What stands below each, as far as it was read.

    Raises:
        HeadingsError: One of them is; the message has its place alone.
    """
    ours = _without_repeated_headings(header, cells)
    _learn_districts(header)
    for at, heading in enumerate(header, start=1):
        kind = value_kind(heading) or _like_those_below(heading, ours.get(heading, ()))
        if kind is not None:
            raise HeadingsError(
                f"{name}: heading {at} of {len(header)} reads as {kind}, so the first line holds a patient's values, "
                "not the names of columns; put a line of names above it and export the table again"
            )


def check_table(table: TableReader) -> None:
    """Raise as `check_headings`, for an open reader, whose first rows are read.

    Raises:
        HeadingsError: The first line holds values.
    """
    cells: Mapping[str, Sequence[str]] = {}
    with closing(table.batches(table.header, SAMPLE_ROWS)) as batches, suppress(DataError):  # lists in Parquet, say
        cells = next((batch.cells for batch in batches), {})
    check_headings(table.name, table.header, cells)


def value_kind(heading: str) -> str | None:
    """Return what kind of value `heading` reads as by itself, or None.

    >>> value_kind("1950-03-01"), value_kind("39.5"), value_kind("HbA1c (%)"), value_kind("2024 Q1")
    ('a date', 'a number', None, None)
    """
    text = _plain(heading)
    squeezed = re.sub(r"[\s-]", "", text)
    if not text:
        return None
    for kind, found in (
        ("a date", _DATE.fullmatch(text)),
        ("a number", _NUMBER.fullmatch(text)),
        ("a mail address", _MAIL.search(text)),
        ("an identity number", is_resident_id(squeezed)),
        ("a telephone or record number", _is_long_number(text)),
        ("an address", _district(heading)),
    ):
        if found:
            return kind
    return None


def _is_long_number(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    return digits >= _LONG_DIGITS and bool(_LONG_NUMBER.fullmatch(text)) and not _YEARS.fullmatch(text)


def _like_those_below(heading: str, cells: Iterable[str]) -> str | None:
    text = _plain(heading)
    below = [plain for cell in cells if (plain := _plain(cell))]
    if not text or not below:
        return None
    if text in below and any(cell != text for cell in below):  # alone it may be a finding, present or not
        return "a value that recurs below"
    for kind, alike, share in _LIKENESSES:
        if alike(text, (text,)) and sum(alike(text, (cell,)) for cell in below) >= share * len(below):
            return kind
    if _is_name_zh(text) and _are_names_zh(below):
        return "a person's name"
    return None


def _same_shape(text: str, cells: Sequence[str]) -> bool:
    """Say whether a cell is a code of the same form: the same letters and as many digits, or more digits and any."""
    digits = sum(character.isdigit() for character in text)
    if digits < _SAME_LETTERS_DIGITS:
        return False
    alike = all(_shape(cell) == _shape(text) for cell in cells)
    return alike and (digits >= _FEW_DIGITS or all(_letters(cell) == _letters(text) for cell in cells))


def _is_code(_: str, cells: Sequence[str]) -> bool:
    return all(re.fullmatch(ICD10, cell.upper()) is not None for cell in cells)


def _is_name_en(_: str, cells: Sequence[str]) -> bool:
    """Say whether a cell holds two words or more, one of which is known as a first name and as nothing else."""
    words = [re.findall(r"[^\W\d_]+", cell) for cell in cells]
    return all(len(found) > 1 and not _FIRST_NAMES.isdisjoint(found) for found in words)


_Likeness = Callable[[str, Sequence[str]], bool]
_FIRST_NAMES = frozenset(name.casefold() for name in CLEAR_FIRST_NAMES)
_LIKENESSES: Sequence[tuple[str, _Likeness, float]] = (
    ("a number like those below", _same_shape, _MOST),
    ("a diagnosis code", _is_code, _MOST),
    ("a person's name", _is_name_en, _SOME),
)


def _is_name_zh(text: str) -> bool:
    surname = next((name for name in (text[:2], text[:1]) if name in _SURNAMES), "")
    given = text[len(surname) :]
    return bool(surname) and 1 <= len(given) <= 2 and bool(_HAN.fullmatch(given)) and NOT_GIVEN.isdisjoint(given)


def _are_names_zh(below: Sequence[str]) -> bool:
    """Say whether most are of the form of a name, of several families: the kinds of one thing begin alike."""
    named = [cell for cell in below if _is_name_zh(cell)]
    families = {cell[0] for cell in named}
    return len(named) >= _MOST * len(below) and len(families) >= min(_NAMES_APART, len(set(below)))


def _district(heading: str) -> bool:
    """Say whether `heading` is an address down to the district: a city's name alone may head a column."""
    if not _DISTRICT_ENDS.intersection(heading):
        return False
    _learn_districts([heading])
    return _districts[heading]


def _learn_districts(headings: Sequence[str]) -> None:
    """Find out which headings are such addresses, all in one go: each call of the ladder costs as much as hundreds."""
    new = [one for one in dict.fromkeys(headings) if one not in _districts and _DISTRICT_ENDS.intersection(one)]
    if not new:
        return
    if len(_districts) + len(new) > _MOST_LEARNT:
        _districts.clear()
    values = pl.Series(new, dtype=pl.String)
    finest, city = (labels(values, "address-cn", level) for level in (0, 1))
    _districts.update(
        (one, bool(low not in {SUPPRESSED, high})) for one, low, high in zip(new, finest, city, strict=True)
    )


def _without_repeated_headings(header: Sequence[str], cells: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the cells but for lines that repeat the headings, as files that were put together have them."""
    known = [name for name in dict.fromkeys(header) if name in cells]
    rows = zip(*(cells[name] for name in known), strict=True)
    kept = [row for row in rows if any(cell.strip() != name for cell, name in zip(row, known, strict=True))]
    return {name: [row[at] for row in kept] for at, name in enumerate(known)}


def _shape(text: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d", "9", text))


def _letters(text: str) -> str:
    return re.sub(r"\d", "9", text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()
