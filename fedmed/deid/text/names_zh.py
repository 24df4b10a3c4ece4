"""Chinese names of people: found by the words around them, never by a list of people.

Why it exists: a Chinese name is a surname and one or two characters inside running text; what tells is who
is spoken of before it (患者, 医师, 术者 …) and what is said after it (诉, ，男, 主任医师 …).

Rules:
    * A label with a colon (姓名：) is believed: what follows up to the next mark is a name.
    * A word such as 患者 without a colon is believed if a surname follows and no common word begins there.
    * A name found once is found everywhere in the note.
    * In doubt about the last character it is taken: one character too many is better than one left.

What it does not do: names without any context in the middle of a sentence (a tagger may), or names in Latin letters.
"""

import re
from collections.abc import Collection, Iterator

from fedmed.deid.text import lexicon_zh as words
from fedmed.deid.text.name_shape_zh import (
    FOLLOWING,
    HARD,
    NO_NAME,
    RUN,
    SURNAMES,
    TITLE,
    TITLES,
    is_clear,
    is_given,
    parted,
    surname_size,
)
from fedmed.deid.text.patterns import any_of, listed
from fedmed.deid.text.reading import CJK
from fedmed.deid.text.spans import FILLER, ROLES, Role, Span

ROLE_OF: dict[str, Role] = (
    dict[str, Role](dict.fromkeys(words.ANYBODY_WORDS.split(), "other"))
    | dict.fromkeys(words.DOCTOR_WORDS.split(), "doctor")
    | dict.fromkeys(words.RELATIVE_WORDS.split(), "relative")
    | {f"其{word}": "relative" for word in words.RELATIVE_WORDS.split() if len(word) == 2 and word[0] not in "其之"}
    | dict.fromkeys([*words.PATIENT_WORDS.split(), "姓名", "曾用名"], "patient")
)
_NAMING = frozenset(listed("姓名 名字 签名 签字 签章 签署人 曾用名 别名 名叫 名为 联系人"))
_CONTEXT = re.compile(
    rf"({any_of(ROLE_OF)})(?P<name>(?:的|之)?(?:姓名|名字|签名|签字|签章|签署|名)?"
    r"(?P<called>(?:(?<=名)|(?<=名字))[是为]|叫[做作]?)?)"
    r"(?:\([^()\n]{1,10}\))?(?P<colon> ?[:=][ _]*)?(?P<gap> ?)"
)
_SURNAME_TITLES = frozenset(TITLES) - {"诉", "代诉", "签名", "签字", "自述", "主刀", "助手", "双人核对", "核对"}
_DOCTOR_TITLES = _SURNAME_TITLES - {"先生", "女士", "小姐", "同志", "阿姨", "大爷", "大妈", "大叔", "老师"}
_SEX = re.compile(r"[男女](?=性?[，,、 0-9;。)/]|性?$)")
_CLAUSE_END = re.compile(r"[ (，,。;、:\n]|$")
_BEFORE_TWO = frozenset(
    listed("主任 今日 昨日 明日 次日 当日 今晨 今晚 昨晚 上午 下午 中午 夜间 现由 首席 特邀 我科 本科")
)
_BEFORE = frozenset(
    "请由经与和及同、向对让嘱叫是为即系予师生士员者属长因遵找据见人科室院的有在于父母子女妻夫儿妹弟姐哥友名姓字主告知"
)
_OPENING = re.compile(
    rf"[{''.join(sorted(SURNAMES | {name[0] for name in words.COMPOUND_SURNAMES}))}](?<![{CJK}].)(?=[{CJK}])"
)
_AFTER_BARE = re.compile(
    r" ?(?:[，,、(]? ?[男女][，,性、 0-9;。)]|因|于|自|由|诉|入院|来院|就诊|出院|主诉|查房|会诊|签"
    r"|[(]?(?:签名|代)|主任|医师|医生|护士|教授|[0-9]{1,3}岁|[，,] ?[0-9]{1,3} ?岁)"
)
_LINE_END = re.compile(r" *(?:$|\n|[/|]|(?:19|20)[0-9]{2}|\ue000)")
_LIST = re.compile(r"(?:、|[/，,] ?| |和|与|及|以及|\+|;) ?")
_LIST_END = re.compile(rf"(?:[^{CJK}]|$|和|与|及|等|{any_of(TITLES)})")
_SPACED = re.compile(
    rf"(?:{any_of(words.COMPOUND_SURNAMES)}|[{''.join(sorted(SURNAMES))}]) {{1,3}}[{CJK}](?: {{0,"
    rf"2}}[{CJK}])?(?![{CJK}])"
)
_DOTTED = re.compile(rf"[{CJK}]{{1,14}}(?:·[{CJK}]{{1,14}})+")
_DOTTED_LEFT = re.compile(rf"{any_of(w for w in ROLE_OF if len(w) > 1)}|[请由经与及为是系叫在于对向嘱让名称者属]")
_EPONYM = re.compile(
    r"(?:综合[征症]|氏|病|征|试验|反应|现象|体征|反射|手术|术|法|评分|分级|分期|分型|定律|囊|线|缝|细胞|小体|淋巴瘤)"
)


def find_names(view: str) -> list[Span]:
    """Return the spans of Chinese names in the view of a note."""
    view = _unquoted(view)
    found = [*_in_context(view), *_after_colon(view), *_before_titles(view), *_bare(view)]
    if "·" in view:
        found += _dotted(view)
    if "(" in view:
        found += _in_brackets(view)
    found += [more for span in found for more in (*_listed(view, span), *_listed_before(view, span))]
    return [*found, *_everywhere(view, found)]


# --- what stands before a name --------------------------------------------------------------------------------


def _in_context(view: str) -> Iterator[Span]:
    for match in _CONTEXT.finditer(view):
        role = ROLE_OF[match[1]]
        at = match.end()
        if end := parted(view, at, labelled=bool(match["colon"] or match["called"])):
            pass
        elif match["colon"]:
            end = _labelled(
                view, at, sure=bool(match["name"]) or match[1] in _NAMING, staff=role in {"doctor", "relative"}
            )
        else:
            spaced = _SPACED.match(view, at) if match["name"] else None
            hard = len(match[1]) == 1 and not match["called"]
            end = spaced.end() if spaced else _name_end(view, at, sure=bool(match["called"]), hard=hard)
        if end:
            yield Span(start=at, end=end, kind="NAME", role=role)


def _labelled(view: str, at: int, *, sure: bool, staff: bool) -> int | None:
    """Return where the name after a label with a colon ends; after a profession the whole word is a name or none."""
    if spaced := _SPACED.match(view, at):
        return spaced.end()
    run = RUN.match(view, at)
    if run is None or NO_NAME.match(view, at):
        return None
    text = run[0]
    staff = staff and 2 <= len(text) <= 3 and all(is_given(view, index) for index in range(at, run.end()))
    end = _name_end(view, at, sure=sure or staff)
    if staff and end is None and not FOLLOWING.match(view, at):
        return run.end()  # a surname that is in no list
    if sure and (2 <= len(text) <= 4 or "·" in text) and (end is None or len(text) <= 3):
        return run.end()
    return end


def _name_end(view: str, at: int, *, sure: bool = False, hard: bool = False) -> int | None:
    """Return where a name that starts at `at` ends, or None if none starts there.

    Args:
        view: The note.
        at: Where the surname would be.
        sure: A label says that this is a name: weak surnames and common words count.
        hard: Only evidence after the name counts.
    """
    size = surname_size(view, at)
    if not size or not is_given(view, at + size):
        return None
    first = at + size
    weak = size == 1 and (view[at] in words.WEAK_SURNAMES or view[first] in words.NOT_AFTER.get(view[at], ""))
    longer = is_given(view, first + 1)
    if longer and HARD.match(view, first + 2):
        return first + 2
    if HARD.match(view, first + 1):
        return first + 1
    if (weak or hard) and not sure:
        plain = (
            longer and not hard and set(view[first : first + 2]) <= words.GIVEN and _CLAUSE_END.match(view, first + 2)
        )
        return first + 2 if plain else None
    ends = FOLLOWING.match(view, first + 1) and not (
        view[first + 1] in words.GIVEN and _CLAUSE_END.match(view, first + 2)
    )
    return first + 2 if longer and not ends else first + 1


_QUOTED = re.compile(rf"[\"'“「『【《〈](?P<name> ?[{CJK}][{CJK}·]{{1,9}} ?)[\"'”」』】》〉]")
_CALLED = (*(word for word in ROLE_OF if len(word) > 1), "叫", "姓名是", "姓名为", "名字是", "名字为")


def _unquoted(view: str) -> str:
    """Return the view, equally long, without the quotation marks around what follows a word for a person."""
    for match in _QUOTED.finditer(view) if _QUOTE.search(view) else ():
        if view[max(0, match.start() - 8) : match.start()].rstrip(" :").endswith(_CALLED):
            view = f"{view[: match.start()]} {match['name']} {view[match.end() :]}"
    return view


_QUOTE = re.compile("[\"'“「『【《〈]")
_IN_BRACKETS = re.compile(rf"[(] ?(?P<name>[{CJK}]{{2,4}}) ?[)]")


def _in_brackets(view: str) -> Iterator[Span]:
    """Yield names in brackets behind a masked name, a word for a person, or their own surname: 小王(王…)."""
    for match in _IN_BRACKETS.finditer(view):
        start, end = match.span("name")
        before = view[max(0, match.start() - 8) : match.start()].rstrip(" ")
        size = surname_size(view, start)
        given = view[start + size : end]
        told = (
            before[-1:] == FILLER or before.endswith(_CALLED) or (size and before.endswith(view[start : start + size]))
        )
        named = 1 <= len(given) <= 2 and all(is_given(view, index) for index in range(start + size, end))
        if told and size and named and is_clear(view, start, size, given):
            yield Span(start=start, end=end, kind="NAME", role=_role_before(view, match.start()))


_COLON = re.compile(rf":(?<=[{CJK})]:) ?(?=[{CJK}])")


def _after_colon(view: str) -> Iterator[Span]:
    """Whatever label it is: two or three characters after it that make a name and stand alone are one."""
    for match in _COLON.finditer(view):
        run = RUN.match(view, match.end())
        if run is None or NO_NAME.match(view, run.start()):
            continue
        start, end = run.span()
        known = view[start : start + 2] in words.COMPOUND_SURNAMES or view[start] in words.STRONG_SURNAMES
        if known and 2 <= end - start <= 4 and _CLAUSE_END.match(view, end) and _name_end(view, start) == end:
            yield Span(start=start, end=end, kind="NAME")


# --- what stands after a name ---------------------------------------------------------------------------------


def _before_titles(view: str) -> Iterator[Span]:
    for match in TITLE.finditer(view):
        role: Role = "doctor" if match[0] in _DOCTOR_TITLES else "other"
        if start := _name_start(view, match.start(), alone=match[0] in _SURNAME_TITLES):
            yield Span(start=start - 1, end=match.start(), kind="NAME", role=role)
    for match in _SEX.finditer(view):
        end = match.start()
        while end and view[end - 1] in "，,、(/ " and match.start() - end < 3:
            end -= 1
        if start := _name_start(view, end, alone=False):
            yield Span(start=start - 1, end=end, kind="NAME", role="patient")


def _name_start(view: str, end: int, *, alone: bool) -> int | None:
    """Return 1 + where the name that ends at `end` starts: a clear border before it counts most, then its length."""
    fits = [size for size in (3, 2, 4) if size <= end and _could_be(view, end - size, end)]
    for size in fits:
        if _border(view, end - size):
            return end - size + 1
    for size in fits:
        if view[end - size] in words.STRONG_SURNAMES and set(view[end - size + 1 : end]) <= words.GIVEN:
            return end - size + 1
    for size in (2, 1) if alone else ():
        surname = view[max(0, end - size) : end]
        known = surname in (words.STRONG_SURNAMES if size == 1 else words.COMPOUND_SURNAMES)
        if known and _border(view, end - size):
            return end - size + 1
    return None


def _could_be(view: str, start: int, end: int) -> bool:
    size = surname_size(view, start)
    given = range(start + size, end)
    if not size or not 1 <= len(given) <= 2 or not all(is_given(view, index) for index in given):
        return False
    if size == 2:
        return True
    plain = set(view[start + 1 : end]) <= words.GIVEN
    known = (
        view[start] in words.STRONG_SURNAMES or plain or (len(given) == 2 and not RUN.match(view[start - 1 : start]))
    )
    return known and view[start + 1] not in words.NOT_AFTER.get(view[start], "")


def _border(view: str, start: int) -> bool:
    before = view[start - 1 : start]
    return not RUN.match(before) or before in _BEFORE or view[max(0, start - 2) : start] in _BEFORE_TWO


def _bare(view: str) -> Iterator[Span]:
    """Names that open a clause and are followed by what people do, and names alone on a line or after its date."""
    for match in _OPENING.finditer(view):
        at = match.start()
        size = surname_size(view, at)
        first = at + size
        if not is_given(view, first) or TITLE.match(view, first):
            continue
        before = view[max(0, at - 8) : at].rstrip(" ")[-1:]
        for end in (first + 2, first + 1) if is_given(view, first + 1) else (first + 1,):
            given = view[first:end]
            signed = before == FILLER and (size == 2 or len(given) == 2 or view[at] in words.STRONG_SURNAMES)
            alone = before in {"", "\n", "/", "|", "。", FILLER} and _LINE_END.match(view, end)
            if alone and (signed or is_clear(view, at, size, given)):
                yield Span(start=at, end=end, kind="NAME")
                break
            if _AFTER_BARE.match(view, end) and is_clear(view, at, size, given):
                yield Span(start=at, end=end, kind="NAME")
                break


def _listed(view: str, span: Span) -> Iterator[Span]:
    """Yield the names that follow in the same list: 王某、李某 and 张某."""
    at = span.end
    while mark := _LIST.match(view, at):
        end = _name_end(view, mark.end())
        if end is None or not _LIST_END.match(view, end):
            return
        if mark[0].strip() not in {"、", "/"} and not set(view[mark.end() + 1 : end]) <= words.GIVEN | {"某"}:
            return
        yield Span(start=mark.end(), end=end, kind="NAME", role=span.role if span.role == "doctor" else "other")
        at = end


def _listed_before(view: str, span: Span) -> Iterator[Span]:
    """Yield the names that stand in a list before a name: what is said after the last is said of all."""
    at = span.start
    while at and view[at - 1] in "、/和与及 ，":
        start = _name_start(view, at - 1, alone=False)
        if start is None or (view[at - 1] in " ，" and not set(view[start : at - 1]) <= words.GIVEN):
            return
        yield Span(start=start - 1, end=at - 1, kind="NAME", role=span.role if span.role == "doctor" else "other")
        at = start - 1


# --- names with a dot, and the same name again ----------------------------------------------------------------


def _dotted(view: str) -> Iterator[Span]:
    for match in _DOTTED.finditer(view):
        start = match.start() + max(
            (left.end() for left in _DOTTED_LEFT.finditer(match[0].partition("·")[0])), default=0
        )
        end = view.rindex("·", match.start(), match.end()) + 1
        while end < match.end() and _in_dotted(view, end):
            end += 1
        if not _EPONYM.search(view, start, end + 4) and view[start] != "·" and end > start + 2:
            yield Span(start=start, end=end, kind="NAME", role=_role_before(view, start))


def _in_dotted(view: str, at: int) -> bool:
    if HARD.match(view, at):
        return False
    if view[at] in words.TRANSLITERATED:
        return True
    return view[at] not in words.NOT_GIVEN and not FOLLOWING.match(view, at)


def _role_before(view: str, start: int) -> Role:
    before = view[max(0, start - 8) : start].rstrip(" :")
    return next((role for word, role in ROLE_OF.items() if role != "other" and before.endswith(word)), "other")


def _everywhere(view: str, found: list[Span]) -> Iterator[Span]:
    roles: dict[str, Role] = {}
    for span in found:
        written = view[span.start : span.end]
        parts = written.split()
        for name in (written,) if len(parts) == 1 else (written, "".join(parts)):
            if len(name) >= 2 and "某" not in name:
                roles[name] = min(roles.get(name, "other"), span.role, key=ROLES.index)
    for name, at in _occurrences(view, roles):
        yield Span(start=at, end=at + len(name), kind="NAME", role=roles[name])


_FEW_NAMES, _SHORT_NAME = 32, 16


def _occurrences(view: str, names: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield where each name stands; many are looked up at each place, for each search would read all of the note."""
    many = len(names) > _FEW_NAMES
    for size in sorted({len(name) for name in names if len(name) <= _SHORT_NAME}) if many else ():
        places = range(len(view) - size + 1)
        yield from ((name, at) for at in places if (name := view[at : at + size]) in names)
    for name in names:
        at = -1 if many and len(name) <= _SHORT_NAME else view.find(name)
        while at >= 0:
            yield name, at
            at = view.find(name, at + 1)
