"""Ages above 89: HIPAA Safe Harbor (45 CFR 164.514(b)(2)(i)(C)) puts them into one class, 90 or older.

Rules:
    * Only the number is found, so that the sentence stays readable: "92岁" becomes "90岁以上", "92-year-old"
      becomes "90+-year-old".
    * A number is an age if the words around it say so; a pulse, a weight or "90 years ago" is none.

What it does not do: ages that follow from a date of birth (dates are masked or moved anyway).
"""

import re

from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import Span

_ZH_NUMBER = (
    "(?:9[0-9]|1[0-3][0-9])|一百(?:零?[一二三四五六七八九]|[一二]?十[一二三四五六七八九]?)?|九十[一二三四五六七八九]?"
)
_ZH = re.compile(
    rf"(?<![0-9.一二三四五六七八九十百\-~至到<>＜＞≤≥])(?<![<>≤≥\-~] )(?:{_ZH_NUMBER}) ?(?:周"
    rf"|虚)?岁(?:半|余|多|高龄)?(?! ?(?:以上|及以上|前|后以))"
    rf"|(?<=年龄)[:为 ]{{1,4}}(?:{_ZH_NUMBER})(?![0-9.+岁])"
)
_EN_NUMBER = (
    r"(?:9[0-9]|1[0-3][0-9]|ninety(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"|(?:one|a) hundred(?: and)?(?: (?:one|two|three|four|five|six|seven|eight|nine|ten))?)"
)
_EN = re.compile(
    rf"(?<![0-9a-z.,/\-])(?P<before>{_EN_NUMBER})(?= ?-? ?(?:years?|yrs?|yr)\.?(?: ?-? ?old| of age|[ "
    rf"\-]o(?:ld|/)|,? (?:white|black|man|woman|male|female|gentleman|lady))"
    r"| ?-?(?:y\.?/?o\.?(?![a-z])|y/o|yo(?![a-z])|year old)| ?(?:f|m)(?= (?:with|who|presents"
    r"|presenting|admitted|c/o|s/p|h/o|pt)))"
    rf"|(?<![a-z])(?:age|aged|age of|ages|age is|age was)[ :]{{1,"
    rf"4}}(?P<after>{_EN_NUMBER})(?![0-9.+%/a-z\-]| ?(?:days|weeks|months|hours|min|\+))"
)

_NUMBER_WORD = re.compile(r"9[0-9]|1[0-3][0-9]|ninety|hundred")  # seldom there, and fast to look for


def find_ages(reading: Reading) -> list[Span]:
    """Return the spans of ages above 89, the numeral 岁 included in Chinese."""
    spans: list[Span] = []
    if "岁" in reading.view or "年龄" in reading.view:
        for match in _ZH.finditer(reading.view):
            start = match.start() + len(match[0]) - len(match[0].lstrip(":为 "))
            spans.append(Span(start=start, end=match.end(), kind="AGE"))
    if _NUMBER_WORD.search(reading.lower):
        for match in _EN.finditer(reading.lower):
            group = "before" if match["before"] else "after"
            spans.append(Span(start=match.start(group), end=match.end(group), kind="AGE"))
    return spans
