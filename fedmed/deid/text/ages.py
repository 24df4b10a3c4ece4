"""Ages above 89: HIPAA Safe Harbor (45 CFR 164.514(b)(2)(i)(C)) puts them into one class, 90 or older.

Rules:
    * Only the number is found, so that the sentence stays readable: "92岁" and "九旬" become "90岁以上", "92-year-old"
      becomes "90+-year-old".
    * A number is an age if the words around it say so; a pulse, a weight or "90 years ago" is none.
    * In Chinese the words may say it without 岁: 年龄 and the like before it, 高龄 or 大寿 behind it, the sex before
      it; and some words are ages themselves (九旬, 期颐).

What it does not do: ages that follow from a date of birth (dates are masked or moved anyway).
"""

import re
from collections.abc import Iterator

from fedmed.deid.text.patterns import digit_runs, listed
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import Span

_ONE = "[一二三四五六七八九]"
_ZH_NUMBER = (  # its first character is consumed before it is looked at, so that a search skips to it
    r"[19一九玖](?:(?<=9)[0-9]|(?<=1)[0-3][0-9]"
    rf"|(?<=一)百(?:[零〇○单又]?{_ONE}|[一二三]?十{_ONE}?)?|(?<=一)[〇零○一][〇零○一二三四五六七八九]"
    rf"|(?<=九)十(?:[有又零]{_ONE}|{_ONE}{{1,2}})?|(?<=九)[〇零○一二三四五六七八九]|(?<=玖)拾[壹贰叁肆伍陆柒捌玖]?)"
)
_ALONE = r"(?<![0-9.一二三四五六七八九十百\-~至到<>≤≥].)(?<![<>≤≥\-~] .)"
_NEVER = "(?! ?(?:以上|及以上|前|后以))"
_OLD = "(?:[余多几来]|好几|出头)?"
_ZH = re.compile(  # 92岁, 九十二周岁, 九十多岁, 百岁老人
    rf"{_ZH_NUMBER.replace(']', ']' + _ALONE, 1)}{_OLD} ?[周虚足实]?[岁歳嵗](?:半|余|多|高龄)?{_NEVER}"
    r"|百(?<![0-9一二三四五六七八九十两几数].)[余多]?[岁歳嵗](?=老|高龄|寿|[，,。;、)]|$)"
)
_ZH_AFTER = re.compile(  # 年龄:92, 享年九十二, 高龄96, 年九十有三
    r"(?:年[龄纪](?:\(岁\))?[:为是约达= ]{1,4}|岁数[:为是约达= ]{0,4}"
    r"|(?:高龄|高寿|享年|享寿|终年|现年|时年|行年|年高|寿至|年[逾过届近满约])[:为是约达已 ]{0,3}"
    r"|年(?<![0-9一二三四五六七八九十去今明每周半近多余成].)(?=九十|一百))"
    rf"(?P<age>{_ZH_NUMBER}{_OLD})(?![0-9.%+/岁歳嵗])"
    r"(?! ?(?:天|日|周|个|月|年|次|分|秒|℃|公斤|千克|厘米|kg|mm|cm|bpm))"
)
_ZH_BEFORE = re.compile(  # 95高龄, 九十大寿
    rf"(?P<age>{_ZH_NUMBER.replace(']', ']' + _ALONE, 1)}{_OLD}(?: ?高龄|(?= ?(?:大寿|寿辰|寿诞|华诞))))"
)
_ZH_SEX = re.compile(  # 男，92，
    r"[男女](?:性|士)?[，,、/ ]{1,2}(?P<age>9[0-9]|1[0-3][0-9])(?= ?(?:[，,、。;)|]|$|[Yy](?![A-Za-z])))"
)
_ZH_WORD = re.compile(  # 年逾九旬, 期颐之年
    r"(?P<age>[九9](?<![0-9一二三四五六七八十上中下月].)旬(?:有[余一二三四五六七八九])?|九秩|(?:期颐|鲐背)(?:之年)?)"
)
_ZH_SIGN = re.compile("[九百玖]|9旬|一[〇零○一]|期颐|鲐背")  # seldom there, and fast to look for
_ZH_SIGNS = (  # each pattern, and words of which it needs one
    (
        _ZH_AFTER,
        listed(
            "年龄 年纪 岁数 高龄 高寿 享年 享寿 终年 现年 时年 行年 年高 寿至 年逾 年过 年届 年近 年满 年约"
            " 年九十 年一百"
        ),
    ),
    (_ZH_BEFORE, ("高龄", "大寿", "寿辰", "寿诞", "华诞")),
    (_ZH_SEX, ("男", "女")),
    (_ZH_WORD, ("旬", "秩", "期颐", "鲐背")),
)
_EN_NUMBER = (
    r"(?:9[0-9]|1[0-3][0-9]|ninety(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"|(?:one|a) hundred(?: and)?(?: (?:one|two|three|four|five|six|seven|eight|nine|ten))?)"
)
_EN_BEFORE = re.compile(  # 92-year-old, 92 y/o, 92 M with
    rf"(?<![0-9a-z.,/\-])(?P<age>{_EN_NUMBER})(?= ?-? ?(?:years?|yrs?|yr)\.?(?: ?-? ?old| of age|[ "
    rf"\-]o(?:ld|/)|,? (?:white|black|man|woman|male|female|gentleman|lady))"
    r"| ?-?(?:y\.?/?o\.?(?![a-z])|y/o|yo(?![a-z])|year old)| ?(?:f|m)(?= (?:with|who|presents"
    r"|presenting|admitted|c/o|s/p|h/o|pt)))"
)
_EN_LABEL = re.compile(r"(?<![a-z])(?:age|aged|age of|ages|age is|age was)[ :]{1,4}$")
_EN_AFTER = re.compile(rf"(?P<age>{_EN_NUMBER})(?![0-9.+%/a-z\-]| ?(?:days|weeks|months|hours|min|\+))")
_LONGEST_LABEL = 12
_HUNDRED = ("one ", "a ")

_YEARS = ("岁", "歳", "嵗")
_WORDS = ("ninety", "hundred")  # seldom there, and fast to look for


def find_ages(reading: Reading) -> list[Span]:
    """Return the spans of ages above 89, the numeral 岁 included in Chinese."""
    spans: list[Span] = []
    view = reading.view
    numbers = list(_digits(view))
    if not reading.ascii and (numbers or _ZH_SIGN.search(view)):
        if any(sign in view for sign in _YEARS):
            spans += [Span(start=match.start(), end=match.end(), kind="AGE") for match in _ZH.finditer(view)]
        for pattern, signs in _ZH_SIGNS:
            if not any(sign in view for sign in signs):
                continue
            spans += [Span(start=m.start("age"), end=m.end("age"), kind="AGE") for m in pattern.finditer(view)]
    spans += _english(view, reading.lower)
    return spans


def _digits(view: str) -> Iterator[int]:
    """Yield where digits say a number from 90 to 139; an age has no digit before or behind it."""
    for start, end in digit_runs(view):
        if (end - start == 2 and view[start] == "9") or (end - start == 3 and "100" <= view[start:end] < "140"):
            yield start


def _may_be_ages(view: str, lower: str) -> Iterator[int]:
    """Yield where a number from 90 to 139 begins: digits that no digit follows, or a word."""
    yield from _digits(view)
    for word in _WORDS:
        at = lower.find(word)
        while at >= 0:
            hundreds = (len(one) for one in _HUNDRED if lower.endswith(one, 0, at))
            yield at - next(hundreds, 0) if word == "hundred" else at
            at = lower.find(word, at + 1)


def _english(view: str, lower: str) -> Iterator[Span]:
    """Yield English ages: each number that may be one is looked at with the words around it."""
    for start in _may_be_ages(view, lower):
        match = _EN_BEFORE.match(lower, start)
        if match is None and _EN_LABEL.search(lower, max(0, start - _LONGEST_LABEL), start):
            match = _EN_AFTER.match(lower, start)
        if match is not None:
            yield Span(start=match.start("age"), end=match.end("age"), kind="AGE")
