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

from fedmed.deid.text import contexts_en, labels, names_zh, places_zh
from fedmed.deid.text.patterns import listed
from fedmed.deid.text.reading import CJK, lowered

_ZH_NUMBERS = [f"{word}号" for word in (*labels.ZH_ID, *labels.ZH_RECORD)]
_ZH_PEOPLE = [word for word in names_zh.ROLE_OF if len(word) > 1]
_ZH_LABELS = (
    *_ZH_NUMBERS,
    *_ZH_PEOPLE,
    *(f"{word}{ending}" for word in _ZH_PEOPLE for ending in ("姓名", "签名")),
    *places_zh.LABELS,
    *listed(
        "身份证 身份证号码 年龄 性别 电话 联系电话 手机 手机号 手机号码 本人电话 家属电话 出生日期 生日 邮箱"
        " 电子邮箱 床号 科室 病区 民族 婚姻 职业 日期 入院时间 入院日期 出院日期"
    ),
)
_SPACED = re.compile(r"([姓性年电住籍民婚职床科日地病单]) {1,3}([名别龄话址贯族姻业号室期区位])")
_EN_WORDS = listed(
    "age,dob,date of birth,d.o.b.,address,home address,birthplace,place of birth,city,email,e-mail,zip,hospital,"
    "facility,date,visit,admitted,discharged,date of service,dos,gender,sex,occupation,room,bed,ward",
    by=",",
)
_EN_LABELS = tuple(
    f"{label}{number}"
    for label in (*contexts_en.ROLE_OF, *labels.EN_ID, *labels.EN_RECORD, *labels.EN_PHONE, *_EN_WORDS)
    for number in ("", " number", " no", " no.", "#", " id", " code", " phone", " name")
)
_EN_ENDS, _ZH_ENDS = (frozenset(label[-1] for label in known) for known in (_EN_LABELS, _ZH_LABELS))
_KNOWN = frozenset((*_ZH_LABELS, *_EN_LABELS))
_MARK = re.compile(rf"[|\t ](?<!  )(?: *[|\t] *|(?<=[|\t]) *| +(?:- )?|- |(?<=[{CJK})] ))(?=[^ |\t\n])")
_TO_LAST_MARK = re.compile(r"(?s:.*)(?:[|\t\n;,(>:]|\. |  )")
_CELL_TEXT = re.compile(r"[^|\t\n:]{1,24}?(?= *(?:[|\t:\n]|  |$))")
_CELL = re.compile(r"[^|\t\n]+")
_UNIT_BEHIND = re.compile(r" ?\((?:周?岁|years?|yrs?|y)\)$")
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
    if not any(
        mark in view for mark in ("|", "\t", "  ", " - ", "名 ", "号 ", "址 ", "龄 ", "话 ", "师 ", "姓 ", "年 ")
    ):
        return view
    view = _SPACED.sub(lambda match: " " * (len(match[0]) - 2) + match[1] + match[2], view)
    lower, places = lowered(view), []
    for mark in _MARK.finditer(view):
        start, end = mark.span()
        if _is_labelled(view, lower, start, mark[0]) and not _is_heading(view, end):
            places.append((start, end))
    characters = list(view)
    for start, end in places:
        characters[start:end] = ":" + " " * (end - start - 1)
    return "".join(characters)


def _is_labelled(view: str, lower: str, end: int, mark: str) -> bool:
    """Say whether a known label stands before a mark; one space is a mark after Chinese labels only."""
    if view[end - 1 : end] == ")":
        end = view.rfind("(", max(0, end - 11), end)
    if view[max(0, end - 1) : end].isascii():
        before = lower[max(0, end - 8) : max(0, end)].rstrip(" \n")
        if mark == " " or (before and before[-1] not in _EN_ENDS):
            return False
        return _since_mark(lower[max(0, end - 40) : max(0, end)]) in _KNOWN
    return view[end - 1 : end] in _ZH_ENDS and view.endswith(_ZH_LABELS, 0, end)


def _since_mark(text: str) -> str:
    """Return what stands since the last mark, gap or full stop of `text`, which may end in spaces or a line.

    >>> _since_mark("seen. pt. no.: home  phone no. "), _since_mark("age; d.o.b.")
    ('', 'd.o.b.')
    """
    text = text.removesuffix("\n")
    bare = text.rstrip(" ")
    mark = _TO_LAST_MARK.match(bare if len(bare) == len(text) else f"{bare} ")
    return bare[mark.end() :].strip() if mark else bare.strip()


def _is_heading(view: str, start: int) -> bool:
    """Say whether a label stands at `start` too: then this is a row of headings, and no value."""
    cell = _CELL_TEXT.match(view, start)
    return cell is not None and _is_label(cell[0])


def cells(view: str) -> Iterator[Cell]:
    """Yield the cells of the tables of a note that stand under a known label."""
    if view.count("|") < 4 and view.count("\t") < 2:
        return
    heading, closed = list[str](), False
    at = 0
    for line in view.split("\n"):
        found = [
            (match[0].strip(), match.start() + len(match[0]) - len(match[0].lstrip())) for match in _CELL.finditer(line)
        ]
        row = [(text, start) for text, start in found if text]
        if closed and len(row) == len(heading) + 1 and not line.rstrip().endswith("|"):
            row.pop()  # the note goes on behind the table's last bar
        if (
            len(row) >= 2
            and sum(_is_label(text) for text, _ in row) * 2 >= len(row)
            and not any(c.isdecimal() for c in line)
        ):
            heading, closed = [text for text, _ in row], line.rstrip().endswith("|")
        elif heading and len(row) == len(heading):
            for label, (text, start) in zip(heading, row, strict=True):
                if _is_label(label):
                    yield Cell(label=_plain_label(label), text=text, start=at + start)
        elif not _ROW_MARK.match(line):
            heading = []
        at += len(line) + 1


def _is_label(text: str) -> bool:
    bare = _UNIT_BEHIND.sub("", text.strip(" *:")).lower()
    return bare in _KNOWN or (not text.isascii() and bare.replace(" ", "") in _KNOWN)


def _plain_label(text: str) -> str:
    """Return a heading as running text has it: 年 龄(岁) is 年龄."""
    bare = _UNIT_BEHIND.sub("", text)
    return bare if bare.isascii() else bare.replace(" ", "")
