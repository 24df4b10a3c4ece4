"""Dates in notes: found in the forms that clinicians write, so that they can be masked or moved.

Why it exists: dates link a note to a calendar and to other records; the time
between them is what research needs.

Rules:
    * Found: year-month-day in any order and with any usual mark, year and month, month and day, a bare year
      that reads as one (2019年, "since 2019"), Chinese numerals, English months, a weekday beside a date.
    * Left alone: durations (3年前), times of day, ratios, blood pressures, scores, dosages.
    * What looks like a date and is none (2023-02-31) is found too, so that it is masked.
    * A year of an era (民国113年, 113年3月), a day of the lunar calendar and a list of days (3月5、6日) are
      found, and not to be moved: no shift by whole days of the Gregorian calendar gives what is meant.

What it does not do: weekdays, feasts and seasons on their own; relative dates (yesterday); move dates (see `shifts`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

from fedmed.deid.text.patterns import PlacedSearch, WordSearch, any_of, digit_runs, listed
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDate:
    """One date of the view, and where its parts are written.

    `parts` maps y, m, d (year, month, day), d2 (the last day of a range), o (ordinal suffix) and w
    (weekday) to their start and end. What doesn't move is masked.
    """

    span: Span
    parts: dict[str, tuple[int, int]]
    moves: bool = True


def find_dates(reading: Reading) -> list[WrittenDate]:
    """Return the dates in order; where two forms overlap, the one that starts first, or else is longer."""
    view, lower = reading.view, reading.lower
    found: list[Iterator[WrittenDate]] = [_numeric(view, lower)]
    if "年" in view or "月" in view:
        found.append(_chinese(view))
    found += [_around_month(view, lower, month) for month in _MONTH_WORD.finditer(lower)]
    if "19" in view or "20" in view:
        found.append(_from_run([match.span(part) for part in (1, 2, 3)], "ymd") for match in _SPACED.finditer(view))
        found.append(_from_run([match.span("y")], "y") for match in _BARE_YEAR.finditer(lower))
    dates: list[WrittenDate] = []
    for date in sorted(chain.from_iterable(found), key=lambda date: (date.span.start, -date.span.end)):
        if not dates or date.span.start >= dates[-1].span.end:
            dates.append(date)
    return dates


def _written(match: re.Match[str], *, moves: bool = True) -> WrittenDate:
    names = ("y", "m", "d", "d2", "o", "w")
    parts = {name: match.span(name) for name in names if name in match.re.groupindex and match[name] is not None}
    span = Span(start=match.start(), end=match.end(), kind="DATE")
    return WrittenDate(span=span, parts=parts, moves=moves)


# --- Chinese --------------------------------------------------------------------------------------------------

_ZERO = "〇零○"
_NUMERAL = f"{_ZERO}一二三四五六七八九"
_ZH_ONES = "[一二三四五六七八九]"
_ZH_DAY = f"[0-9]{{1,2}}|三十一?|二十{_ZH_ONES}?|廿{_ZH_ONES}?|[初一]?十{_ZH_ONES}?|[初{_ZERO}]?{_ZH_ONES}"
_ZH_MONTH = f"[0-9]{{1,2}}|一?十[一二]?|[{_ZERO}]?{_ZH_ONES}|元|正|腊|冬"
_ZH_DAYS = rf"(?P<list>(?: ?[日号]? ?[、和及] ?(?:{_ZH_DAY})(?= ?[、和及日号])){{1,9}} ?[日号](?![后前内间来]))"
_ZH_WEEKDAY = r"(?: ?\(? ?(?:星期|周|礼拜)(?P<w>[一二三四五六日天]) ?\)?)?"
_ZH_REST = rf"(?: ?(?:-|~|至|到) ?(?P<d2>{_ZH_DAY}) ?[日号])?{_ZH_WEEKDAY}"
_ZH_YEAR = re.compile(  # the first character is consumed before it is looked at: so the search skips to it at once
    rf"(?P<y>[0-9{_NUMERAL}](?<![0-9.{_NUMERAL}十].)(?:(?:(?<=1)9|(?<=2)0)[0-9]{{2}}"
    rf"|(?<=[一二])[{_ZERO}九一][{_NUMERAL}]{{2}}|(?<=1)[0-3][0-9]"
    rf"|(?<=一)(?:百[零〇一二三]?(?:十{_ZH_ONES}?|{_ZH_ONES})|[〇零一二][{_NUMERAL}])|[0-9{_NUMERAL}])) ?年"
    rf"(?: ?(?P<m>{_ZH_MONTH}) ?月(?:份|底|初(?!{_ZH_DAY})|[上中下]旬)?"
    rf"(?: ?(?P<d>{_ZH_DAY})(?:{_ZH_DAYS}|(?: ?[日号]|(?![0-9:])){_ZH_REST}))?)?"
)
_ZH_MONTH_DAY = re.compile(
    rf"(?P<m>[0-9十一二三四五六七八九元正腊冬{_ZERO}](?<![0-9.{_NUMERAL}十].)"
    rf"(?:(?<=[01])[0-9]|(?<=十)[一二]|(?<=一)十[一二]?|(?<=[{_ZERO}]){_ZH_ONES})?)"
    rf" ?月份? ?(?P<d>{_ZH_DAY})(?:{_ZH_DAYS}|(?: ?[日号]|(?= ?[\-~至到] ?(?:{_ZH_DAY}) ?[日号])){_ZH_REST})"
)
_LUNAR_DAY = f"(?:三十|二?十{_ZH_ONES}?|廿{_ZH_ONES}?|初十|初{_ZH_ONES})(?: ?[日号])?"
_ZH_LUNAR = re.compile(  # 三月初五, 腊月廿三, 正月十五
    rf"[闰0-9十一二三四五六七八九正腊冬](?<![0-9.{_NUMERAL}十].)(?:(?<=闰)[十一二三四五六七八九正])?"
    rf"(?:(?<=十)[一二]|(?<=1)[0-2])?月(?:(?=[初廿])|(?<=[正腊冬]月)){_LUNAR_DAY}"
)
_ERAS = listed("民国 明治 大正 昭和 平成 令和 同治 光绪 宣统 农历 阴历 旧历 古历 夏历")
_ERA_YEAR = f"(?:元|[0-9]{{1,4}}|[{_NUMERAL}十百廿卅]{{1,7}}) ?年度?"
_ZH_DAY_OF_MONTH = f"闰?(?:{_ZH_MONTH}) ?月(?: ?(?:{_ZH_DAY})(?: ?[日号])?)?"
_ZH_ERA = re.compile(  # 民国一百一十三年三月五日, 令和元年, 农历正月十五
    rf"(?:{any_of(_ERAS)}) ?(?:{_ERA_YEAR}(?: ?{_ZH_DAY_OF_MONTH})?|{_ZH_DAY_OF_MONTH})"
)
_NO_YEAR = re.compile(  # a duration, or the year of a guideline, which is nobody's
    "[以之]?[内余多来前后龄资]|[余多]| ?(?:病史|间|期)"
    "|(?: ?[A-Z]{2}|[）)》]|.{0,12}(?:版|指南|标准|共识|分类|分型|诊断依据))"
)


def _chinese(view: str) -> Iterator[WrittenDate]:
    """Yield the dates with 年 and 月; a year of two digits needs a day, or a word such as 于 before it."""
    for match in _ZH_YEAR.finditer(view):
        year, month = match["y"], match["m"]
        if len(year) == 3 or "百" in year:  # of the Republic of China: 113年3月5日
            if month is not None:
                span = Span(start=match.start(), end=match.end(), kind="DATE")
                yield WrittenDate(span=span, parts={}, moves=False)
            continue
        since = month is not None and view[match.start() - 1 : match.start()] in _SINCE
        if match["d"] is None and len(year) == 2 and not since:
            continue
        if month is None and _NO_YEAR.match(view, match.end()):
            continue
        yield _written(match, moves=not (match["list"] or _is_lunar(match)))
    for match in _ZH_MONTH_DAY.finditer(view):
        yield _written(match, moves=not (match["list"] or _is_lunar(match)))
    if _OTHER_SIGN.search(view):
        for pattern in (_ZH_ERA, _ZH_LUNAR):
            yield from (_written(match, moves=False) for match in pattern.finditer(view))


def _is_lunar(match: re.Match[str]) -> bool:
    """Say whether only the lunar calendar writes a month or day so: 正月十五日, 三月初五日."""
    return match["m"] in _LUNAR_MONTHS or (match["d"] or "").startswith("初")


_OTHER_SIGN = re.compile(f"初|廿|[正腊冬闰]月|{any_of(_ERAS)}")
_LUNAR_MONTHS = ("正", "腊", "冬")
_SINCE = frozenset("于自从在至到")

# --- digits ---------------------------------------------------------------------------------------------------


def _before_marks(view: str) -> Iterator[int]:
    """Yield where digits begin that a mark between the parts of a date follows, or that are a date by themselves."""
    for start, end in digit_runs(view):
        behind = view[end : end + 1]
        if (
            behind in _MARKS_BEHIND
            or end - start >= _COMPACT_DIGITS
            or (behind == " " and view[end + 1 : end + 2] in _MARKS_BEHIND)
        ):
            yield start


_MARKS_BEHIND, _COMPACT_DIGITS = frozenset("/.-~至到"), 8
_RUN = PlacedSearch(
    r"[0-9](?<![0-9].)(?:(?<![0-9][.,].)[0-9]*(?:(?:(?:[/.]| ?[\-~至到] ?)[0-9]+)+|(?<=[0-9]{8})(?:[T_ "
    r"](?:[01][0-9]|2[0-3])[0-5][0-9]){0,1})(?![0-9])"
    r"|(?:(?<=1)9|(?<=2)0)[0-9]{12}(?![0-9]))",
    _before_marks,
)
_SPACED = re.compile(  # 2024 03 05
    r"([12](?<![0-9.,:/\-].)(?:(?<=1)9|(?<=2)0)[0-9]{2}) (0[1-9]|1[0-2]) (0[1-9]|[12][0-9]|3[01])"
    r"(?![0-9]|[.,:/\- ][0-9])"
)
_COMPACT = re.compile(r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_UNIT = re.compile(
    r" ?(?:%|(?:m[gl]|mcg|ug|ng|pg|g|kg|mm|cm|ml|l|dl|cc|iu|u|units?|kcal|cal|calories|ms|copies|cells"
    r"|hours?|times|weeks?|months?|years?"
    r"|scale|strength|grade|murmur|of|to|pounds?|lbs?|mmhg|kpa)(?![a-z])|[×*^]|毫|克|升|单位|个|次|分|岁|天|周|小时)"
)
_BEFORE_DAY = re.compile(
    r"(?<![a-z])(?:on|since|until|dated?|as of|dob|seen|admitted|discharged|visit|last|scheduled for"
    r"|due|labs?|comparison|diagnosed|follow[ \-]up|dictated|transcribed|exam|service|dos|[dt])(?: "
    r"on)?[ :]{1,2}$|[于至自从]$"
)
_DAY_OF = (
    "入院|出院|入科|出科|转入|转出|转科|就诊|来诊|来院|发病|起病|采样|采集|采血|送检|收样|标本|报告|登记"
    "|记录|签名|签字|审核|申请|复诊|随访|会诊|死亡|分娩"
)
_MOMENT = re.compile(  # a label of a day: a month and a day may stand alone behind it
    rf"(?:(?:日期|生日|出生[日时]|末次月经|(?:{_DAY_OF})(?:日|时间?))(?: ?[:=] ?| )?|(?:{_DAY_OF}): ?)$"
)
_AT_TIME = re.compile(r" (?:[01]?[0-9]|2[0-3]):[0-5][0-9](?![0-9])")
_AMOUNT = re.compile(r" ?(?:[a-z%~\-+×*]|[年月周天日次分小秒个级度例岁支片粒克毫块条])")
_CHINESE = re.compile("[一-鿿]")
_LEAST_ROC, _LAST_ROC, _LEAST_DENOMINATOR = 90, 135, 5
_NO_DENOMINATORS = frozenset((13, 14, 17, 18, 19, 21, 22, 23, 25, 26, 27, 28, 29, 31))  # no scale ends there
_SCORE = re.compile(r"(?:score|scale|gcs|strength|grade|vision|acuity|ratio)[a-z :]*$")
_BEFORE_MONTH = re.compile(r"[于自从在曾约]$")


def _numeric(view: str, lower: str) -> Iterator[WrittenDate]:
    """Yield the dates among the runs of digits: a run is read as a whole, so that 1.2.3.4 holds no date."""
    digits, first = digit_runs(view), 0
    for run in _RUN.finditer(view):
        while digits[first][0] < run.start():
            first += 1
        after = first
        while after < len(digits) and digits[after][0] < run.end():
            after += 1
        spans, first = list(digits[first:after]), after
        marks = [view[left[1] : right[0]].strip() or " " for left, right in pairwise(spans)]
        after_letter = view[run.start() - 1 : run.start()].isalpha() and view[run.start() - 1].isascii()
        at, last = 0, ""
        while at < len(spans):
            start, end = spans[at]
            order = ""
            if end - start in {8, 14} and _plausible(view, spans[at]):
                if _COMPACT.match(view, start + 4):
                    yield _from_run([(start, start + 4), (start + 4, start + 6), (start + 6, start + 8)], "ymd")
            elif at == 2 and last == "md" and _is_range(view, lower, spans, marks):
                order = "md"
            elif at == 0 or marks[at - 1] != _next(marks, at):
                order = _order(view, lower, spans[at : at + _AHEAD], marks[at : at + _AHEAD], until=run.end())
            if len(order) >= (3 if after_letter and at == 0 else 1):
                yield _from_run(spans[at : at + len(order)], order)
            at, last = at + max(1, len(order)), order


_AHEAD, _CHINESE_AHEAD = 5, 256
"""How many numbers, and characters, of a run the reading of its next numbers looks at: a run may be all of a note."""


def _next(marks: list[str], at: int) -> str:
    return marks[at] if at < len(marks) else ""


def _order(view: str, lower: str, spans: list[tuple[int, int]], marks: list[str], *, until: int) -> str:
    """Return which parts of a date the first numbers of a run are, in their order: "ymd", "mdy", "ym" … or ""."""
    sizes = [end - start for start, end in spans]
    values = [int(view[start:end]) if end - start <= 4 else 9999 for start, end in spans]
    mark = marks[0] if marks else ""
    if len(spans) >= 3 and mark in "-/." and marks[1] == mark and (len(marks) < 3 or marks[2] != mark):
        if sizes[0] == 4 and _plausible(view, spans[0]):
            return "ymd" if max(sizes[1:3]) <= 2 else ""
        return _order_of_three(view, lower, spans, sizes, values, until=until)
    if len(spans) >= 2 and (len(marks) < 2 or marks[1] != mark) and not _UNIT.match(lower, spans[1][1]):
        return "md" if _is_range(view, lower, spans, marks) else _order_of_two(view, lower, spans, mark)
    return ""


def _order_of_three(
    view: str, lower: str, spans: list[tuple[int, int]], sizes: list[int], values: list[int], *, until: int
) -> str:
    """Return the order of three numbers with one mark between them, the first of which is no year of four digits."""
    mark = view[spans[0][1] : spans[1][0]].strip()
    long_year = sizes[2] == 4 and _plausible(view, spans[2])
    short_year = sizes[2] == 2 and (mark == "/" or sizes[:2] == [2, 2] or (mark == "-" and values[2] >= 10))
    if max(sizes[:2]) <= 2 and min(values[:2]) >= 1 and (long_year or short_year):
        if values[1] <= 12 < values[0] <= 31:
            return "dmy" if long_year or values[2] > 31 or not _in_chinese(view, spans[0][0], until) else "ymd"
        if long_year or (values[0] <= 12 and values[1] <= 31):
            return "mdy"
    return "ymd" if _year_first(sizes, values, mark) and not _UNIT.match(lower, spans[2][1]) else ""


def _year_first(sizes: list[int], values: list[int], mark: str) -> bool:
    """Say whether a run begins with a year of two digits, or one of the Republic of China: 24/3/5, 113/03/05."""
    if not (1 <= values[1] <= 12 and 1 <= values[2] <= 31 and max(sizes[1:3]) <= 2):
        return False
    padded = sizes[1:3] == [2, 2]
    if sizes[0] == 3:
        return _LEAST_ROC <= values[0] <= _LAST_ROC and (mark == "/" or padded)
    return sizes[0] == 2 and (values[0] > 12 if mark == "/" else padded and values[0] > 31 and mark == "-")


def _in_chinese(view: str, start: int, until: int) -> bool:
    """Say whether a run that goes on from `start` to `until` stands in Chinese."""
    return _CHINESE.search(view, max(0, start - 16), min(until, start + _CHINESE_AHEAD) + 16) is not None


def _is_range(view: str, lower: str, spans: list[tuple[int, int]], marks: list[str]) -> bool:
    """Say whether a run is from one day to a later one: 3/5-3/8. Scores end in one number, fractions in small ones."""
    if len(spans) != 4 or marks[0] != "/" or marks[2] != "/" or marks[1] not in _TO:
        return False
    if max(end - start for start, end in spans) > 2:
        return False
    first, second = ((int(view[slice(*spans[at])]), int(view[slice(*spans[at + 1])])) for at in (0, 2))
    days = all(1 <= month <= 12 and 1 <= day <= 31 for month, day in (first, second)) and first < second
    score = first[1] == second[1] or max(first[1], second[1]) < _LEAST_DENOMINATOR
    before = lower[max(0, spans[0][0] - 16) : spans[0][0]]
    return days and not score and not _UNIT.match(lower, spans[3][1]) and not _SCORE.search(before)


_TO = frozenset("-~至到")


def _order_of_two(view: str, lower: str, spans: list[tuple[int, int]], mark: str) -> str:
    (start, middle), (second, end) = spans[:2]
    sizes, number = (middle - start, end - second), int(view[second:end]) if end - second <= 4 else 9999
    before = lower[max(0, start - 16) : start]
    if sizes[0] == 4 and _plausible(view, spans[0]):
        if mark in "-/" and sizes[1] == 2 and 1 <= number <= 12:
            return "ym"
        if sizes[1] == 4 and mark in "-~至到" and _plausible(view, spans[1]):
            return "y"  # a range of years: the second is read next
        return "ym" if mark == "." and 1 <= number <= 12 and _BEFORE_MONTH.search(before) else ""
    if sizes[0] > 2 or not 1 <= int(view[start:middle]) <= 12:
        return ""
    if sizes[1] == 4 and mark in "/-" and _plausible(view, spans[1]):
        return "my"
    day = sizes[1] <= 2 and 1 <= number <= 31
    return "md" if day and mark in "/-." and _is_dated(lower, before, end, mark, number) else ""


def _is_dated(lower: str, before: str, end: int, mark: str, number: int) -> bool:
    """Say whether the words around a month and a day, or the numbers themselves, tell that they are a date."""
    plain = mark == "/" and number in _NO_DENOMINATORS and not _SCORE.search(before)
    if mark != "." and (plain or _BEFORE_DAY.search(before)):
        return True
    if mark == "-" and _AT_TIME.match(lower, end):
        return True
    return not before.isascii() and not _AMOUNT.match(lower, end) and _MOMENT.search(before) is not None


def _plausible(view: str, span: tuple[int, int]) -> bool:
    return view[span[0] : span[0] + 2] in {"19", "20"}


def _from_run(spans: list[tuple[int, int]], order: str) -> WrittenDate:
    span = Span(start=spans[0][0], end=spans[-1][1], kind="DATE")
    moves = order[0] != "y" or spans[0][1] - spans[0][0] != 3
    return WrittenDate(span=span, parts=dict(zip(order, spans, strict=True)) if moves else {}, moves=moves)


# --- English --------------------------------------------------------------------------------------------------

_MONTH = (
    r"(?P<m>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![a-z])\.?"
)
_MONTH_WORD = WordSearch(
    listed(
        "jan(?:uary)?,feb(?:ruary)?,mar(?:ch)?,apr(?:il)?,may,june?,july?,aug(?:ust)?,sept?(?:ember)?,"
        "oct(?:ober)?,"
        "nov(?:ember)?,dec(?:ember)?",
        by=",",
    ),
    rest="(?![a-z])",
    border="a-z",
)
_WEEKDAY = r"(?:(?<![a-z])(?P<w>(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?)\.?,? )?(?<![a-z])"
_DAY = r"(?P<d>3[01]|[12][0-9]|0?[1-9])(?P<o>st|nd|rd|th)?"
_FULL_YEAR = r"(?P<y>(?:19|20)[0-9]{2})(?![0-9])"
_ENGLISH = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_WEEKDAY}{_MONTH}[ \-]?{_DAY}(?![0-9a-z])(?![./][0-9])(?:[, \-]{{1,2}}(?:of )?{_FULL_YEAR})?",
        (
            rf"{_WEEKDAY}(?<![0-9./])(?:the )?{_DAY}[ \-]?(?:day )?(?:of )?{_MONTH}(?:[, \-]{{0,2}}(?P<y>(?:19"
            rf"|20)[0-9]{{2}}|(?<=-)[0-9]{{2}})(?![0-9]))?"
        ),
        rf"(?<![a-z]){_MONTH},?[ \-](?:of )?{_FULL_YEAR}",
        rf"(?<![0-9a-z./]){_FULL_YEAR}[ \-,]{{1,2}}{_MONTH}[ \-]{_DAY}(?![0-9a-z])",
        rf"(?<![a-z]){_MONTH} ?'(?P<y>[0-9]{{2}})(?![0-9])",
    )
)
_WEEKDAY_BEFORE = re.compile(_WEEKDAY.removesuffix(")?(?<![a-z])") + ")$")
_BARE_YEAR = WordSearch(
    listed(
        "in,since,until,circa,during,from,early,late,mid,year,born,through,by,of,after,before,around,and,to", by=","
    ),
    rest=r"[ \-](?:the year |early |late |mid-? ?|about |approximately )?(?P<y>(?:19[2-9]|20[0-4])[0-9])"
    r"(?![0-9a-z/:])(?![.,][0-9]|-[0-9]{5})(?! ?(?:%|m[gl]|mcg|units?|cc|grams?|g|kcal|cal|hours|mm|ml"
    r"|feet|people|patients|steps"
    r"|words|meters|iu)(?![a-z]))",
)


def _around_month(view: str, lower: str, month: re.Match[str]) -> Iterator[WrittenDate]:
    """Yield the dates that a month's name is part of; only the characters around it are searched."""
    at, end = month.start(), month.end() + 26
    weekday = _WEEKDAY_BEFORE.search(lower, max(0, at - 26), at)
    firsts = (weekday.start() if weekday else at, None, at, at - 5, at)
    for pattern, first in zip(_ENGLISH, firsts, strict=True):
        if first is None:
            found = [match for match in pattern.finditer(lower, max(0, at - 26), end) if match.start("m") == at]
        else:
            places = (first, first - 1) if first == at - 5 else (first,)
            tried = (pattern.match(lower, place, end) for place in places if place >= 0)
            found = [match for match in tried if match is not None and match.start("m") == at]
        for match in found:
            if _is_month(view, match):
                yield _written(match)


def _is_month(view: str, match: re.Match[str]) -> bool:
    """A month has a capital: "may 5 times", "mar 3" and "march 2 miles" are none."""
    start, _ = match.span("m")
    sure = any(match.re.groupindex.get(part) and match[part] for part in ("y", "w", "o"))
    if not sure and match["m"] != "may" and "d" in match.re.groupindex and view[:400].islower():
        return True  # a note without capitals
    return view[start].isupper() or sure or match["m"] not in {"may", "mar", "march", "dec", "sep", "jan"}
