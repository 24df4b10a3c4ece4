"""Forms and tables read as sentences: "姓 名 | 王某 | 年 龄 | 94" says the same as "姓名：王某，年龄：94".

Why it exists: the rules know labels by the colon after them; forms use bars, tabs, dashes or gaps instead, and
tables put the label into a row of its own.

Rules:
    * A laid-out view is as long as the view: a mark after a known label becomes a colon, nothing moves
      but the space inside a label (年 龄).
    * A cell of a table is read with the heading of its column, if that is a known label.

What it does not do: find anything; it needs a known label on the left or above.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fedmed.deid.text import identifiers, names_en, names_zh, places_zh
from fedmed.deid.text.patterns import any_of, at_word_start
from fedmed.deid.text.reading import lowered

_ZH_NUMBERS = [f"{word}号" for word in (*identifiers.ZH_ID, *identifiers.ZH_RECORD)]
_ZH_PEOPLE = [word for word in names_zh.ROLE_OF if len(word) > 1]
_ZH_LABELS = any_of(
    [
        *_ZH_NUMBERS, *_ZH_PEOPLE, *(f"{word}姓名" for word in _ZH_PEOPLE), *(f"{word}签名" for word in _ZH_PEOPLE), *places_zh.LABELS,
        "身份证", "身份证号码", "年龄", "性别", "电话", "联系电话", "手机", "手机号", "手机号码", "本人电话", "家属电话", "出生日期", "生日", "邮箱", "电子邮箱",
        "床号", "科室", "病区", "民族", "婚姻", "职业", "日期", "入院时间", "入院日期", "出院日期", "医院", "单位",
    ]
)  # fmt: skip
_SPACED = re.compile(r"([姓性年电住籍民婚职床科日地病单]) {1,3}([名别龄话址贯族姻业号室期区位])")
_ZH = re.compile(rf"(?P<label>{_ZH_LABELS})(?:\([^()\n]{{0,8}}\))?(?P<mark> *[|\t] *| - | +)(?! *(?:{_ZH_LABELS}) *(?:[|\t:]|$))(?=\S)")
_EN_LABELS = at_word_start(
    map(
        re.escape,
        [
            *names_en.ROLE_OF, *identifiers.EN_ID, *identifiers.EN_RECORD, *identifiers.EN_PHONE, "age", "dob", "date of birth", "d.o.b.", "address",
            "home address", "birthplace", "place of birth", "city", "email", "e-mail", "zip", "hospital", "facility", "date", "visit", "admitted",
            "discharged", "date of service", "dos", "gender", "sex", "occupation", "room", "bed", "ward",
        ],
    )
)  # fmt: skip
_EN_NUMBER = r"(?: ?(?:number|no\.?|#|id|code|phone|name))?"
_EN = re.compile(rf"(?P<label>{_EN_LABELS}{_EN_NUMBER})(?P<mark> *[|\t] *| - | {{2,}})(?! *{_EN_LABELS}{_EN_NUMBER} *(?:[|\t:]|$))(?=\S)")
_OPENS = frozenset("|\t\n;.,(> ")
_CELL = re.compile(r"[^|\t\n]+")
_ROW_MARK = re.compile(r"^[ |:\-+]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell under a heading: its text starts at `start` of the view."""

    label: str
    text: str
    start: int


def lay_out(view: str) -> str:
    """Return `view`, equally long, with a colon after each known label that another mark sets off.

    >>> lay_out("姓 名 | 甲乙 | 病房  3")
    ' 姓名: 甲乙 | 病房  3'
    """
    if not any(mark in view for mark in ("|", "\t", "  ", " - ", "名 ", "号 ", "址 ", "龄 ", "话 ", "师 ", "姓 ", "年 ")):
        return view
    view = _SPACED.sub(lambda match: " " * (len(match[0]) - 2) + match[1] + match[2], view)
    places = [(match.start("mark"), match.end("mark")) for match in _ZH.finditer(view)]
    if any(mark in view for mark in ("|", "\t", "  ", " - ")):
        places += [
            (match.start("mark"), match.end("mark"))
            for match in _EN.finditer(lowered(view))
            if match.start() == 0 or view[match.start() - 1] in _OPENS
        ]
    characters = list(view)
    for start, end in places:
        characters[start:end] = ":" + " " * (end - start - 1)
    return "".join(characters)


def cells(view: str) -> Iterator[Cell]:
    """Yield the cells of the tables of a note that stand under a known label."""
    if view.count("|") < 4 and view.count("\t") < 2:
        return
    heading: list[str] = []
    at = 0
    for line in view.split("\n"):
        found = [(match[0].strip(), match.start() + len(match[0]) - len(match[0].lstrip())) for match in _CELL.finditer(line)]
        row = [(text, start) for text, start in found if text]
        if len(row) >= 2 and sum(_is_label(text) for text, _ in row) * 2 >= len(row) and not any(c.isdecimal() for c in line):
            heading = [text for text, _ in row]
        elif heading and len(row) == len(heading):
            for label, (text, start) in zip(heading, row, strict=True):
                if _is_label(label):
                    yield Cell(label=label, text=text, start=at + start)
        elif not _ROW_MARK.match(line):
            heading = []
        at += len(line) + 1


def _is_label(text: str) -> bool:
    bare = text.strip(" *:").replace(" ", "") if not text.isascii() else text.strip(" *:").lower()
    return bool(re.fullmatch(_ZH_LABELS, bare) or re.fullmatch(rf"{_EN_LABELS}{_EN_NUMBER}", bare))
