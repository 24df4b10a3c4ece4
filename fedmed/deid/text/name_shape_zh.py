"""One Chinese name: its surname, its given name, and what may stand behind it or inside it.

Why it exists: every context of `names_zh` asks where a name ends; what one looks like is said once.

Rules:
    * A surname of two characters counts before one of one; a given name has one or two characters that names may have.
    * Spaces or a line's end may part a name (王 小 明, 王小⏎明) where what follows tells that it was one.

What it does not do: decide whether a name is spoken of (see `names_zh`).
"""

import re
from functools import lru_cache

from fedmed.deid.text import lexicon_zh as words
from fedmed.deid.text.patterns import any_of, listed
from fedmed.deid.text.reading import CJK

SURNAMES = words.STRONG_SURNAMES | words.WEAK_SURNAMES
RUN = re.compile(rf"[{CJK}·]+")
FOLLOWING = re.compile(rf"(?!{any_of(words.FOLLOWING_EXCEPT.split())})(?:{any_of(words.FOLLOWING.split())})")
NO_NAME = re.compile(any_of(words.NO_NAME.split()))
TITLES = listed(
    "副主任医师 副主任护师 副主任技师 副主任药师 副主任 副教授 副院长 主任医师 主任护师 主任技师 护理师 "
    "主任药师 主任 主治医师 主治医生 主治 住院医师 住院总 医师"
    " 医生 大夫 教授 院长 护士长 护士 护师 麻醉师 技师 药师 老师 先生 女士 小姐 同志 阿姨 大爷 大妈 "
    "大叔 主刀 助手 签名 签字 双人核对 核对 代诉 诉 自述"
)
TITLE = re.compile(any_of(TITLES))
HARD = re.compile(
    rf"[ ，,、(/]{{0,2}}[男女](?:[，,性、 0-9;。)/]|$)|诉|双人|核对|展示|讲解|说明|交代|交待|告知|解释"
    rf"|陪护|陪同|巡视|查房|交班|交接|沟通|[，, ]{{0,2}}[0-9]{{1,3}} ?岁|及其|[(](?:电话|手机|患者|病人"
    rf"|其|系|[男女父母夫妻子儿配兄弟姐妹])|{any_of(TITLES)}"
)


def surname_size(view: str, at: int) -> int:
    """Return how many characters the surname at `at` has, 0 for none."""
    if view[at : at + 2] in words.COMPOUND_SURNAMES:
        return 2
    return int(view[at : at + 1] in SURNAMES)


def is_given(view: str, at: int) -> bool:
    """Say whether the character at `at` may be one of a given name."""
    return _may_be_given(view[at : at + 1])


@lru_cache(maxsize=1 << 14)
def _may_be_given(character: str) -> bool:
    return character == "某" or (bool(RUN.match(character)) and character != "·" and character not in words.NOT_GIVEN)


def is_clear(view: str, at: int, size: int, given: str) -> bool:
    """Say whether surname and given name alone tell that this is a name."""
    if size == 2:
        return True
    known = view[at] in words.STRONG_SURNAMES and given[0] not in words.NOT_AFTER.get(view[at], "")
    return known and (len(given) == 2 or set(given) <= words.GIVEN)


# --- names in parts -------------------------------------------------------------------------------------------

_PARTED = re.compile(  # 王 小 明, 欧阳\n修文, 王小\n明
    rf"(?:{any_of(words.COMPOUND_SURNAMES)}|[{''.join(sorted(SURNAMES))}])"
    rf"(?:(?: ?\n ?| {{1,2}})(?P<first>[{CJK}])(?:(?: ?\n| {{0,2}})(?P<second>[{CJK}]))?"
    rf"|(?P<one>[{CJK}]) ?\n(?P<two>[{CJK}]))"
)
_ENDS_PARTED = re.compile(r" ?(?:[，,。;、(\n]|$)")


def parted(view: str, at: int, *, labelled: bool) -> int | None:
    """Return where a name ends that spaces or a line's end part; what follows must tell, or a label and a mark."""
    match = _PARTED.match(view, at)
    if match is None:
        return None
    for part in ("second", "first", "two"):
        end, given = match.end(part), [match.start(name) for name in _GIVEN_PARTS[part]]
        if end < 0 or not all(is_given(view, index) for index in given):
            continue
        if any(FOLLOWING.match(view, index) for index in given if view[index - 1] == "\n"):
            continue  # the next line goes on with something else
        behind = end + (view[end : end + 1] == " ")
        if HARD.match(view, end) or HARD.match(view, behind) or (labelled and _ENDS_PARTED.match(view, end)):
            return end
    return None


_GIVEN_PARTS = {"second": ("first", "second"), "first": ("first",), "two": ("one", "two")}
