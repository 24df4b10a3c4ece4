"""What stands in the place of a span: the same words for the same person throughout a note.

Why it exists: a reader, or a model, must still see who did what to whom.

Rules:
    * [患者姓名] or [PATIENT NAME] is the patient; the first doctor is [医生姓名] or [DOCTOR NAME], the first
      relative [家属姓名] or [RELATIVE NAME], anybody else [姓名] or [NAME]. The second of a role is [医生姓名2] or
      [DOCTOR NAME 2], in the order in which they appear.
    * One person has one placeholder: 王主任 is 王某某 if one doctor of that surname is named; "Dr. Roe" is "Jane Roe".
      In doubt two mentions are two people.
    * One language for one note. Other kinds are not numbered: how many hospitals there were tells too much.

What it does not do: link people between notes; no placeholder says anything about the text that it stands for.
"""

import re
import string
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedmed.deid.text.lexicon_zh import COMPOUND_SURNAMES
from fedmed.deid.text.reading import CJK
from fedmed.deid.text.spans import ROLES, Kind, Role, Span

Language = Literal["zh", "en"]

_ROLE_WORDS: Mapping[Language, Mapping[Role, str]] = {
    "zh": {"patient": "患者姓名", "doctor": "医生姓名", "relative": "家属姓名", "other": "姓名"},
    "en": {"patient": "PATIENT NAME", "doctor": "DOCTOR NAME", "relative": "RELATIVE NAME", "other": "NAME"},
}
_KIND_WORDS: Mapping[Language, Mapping[Kind, str]] = {
    "zh": {
        "URL": "网址", "EMAIL": "邮箱", "ID": "证件号", "PHONE": "电话", "RECORD": "病历号", "ADDRESS": "地址",
        "HOSPITAL": "医院", "DATE": "日期",
    },
    "en": {
        "URL": "URL", "EMAIL": "EMAIL", "ID": "ID NUMBER", "PHONE": "PHONE", "RECORD": "RECORD NUMBER",
        "ADDRESS": "ADDRESS", "HOSPITAL": "HOSPITAL", "DATE": "DATE",
    },
}  # fmt: skip
_ALL_WORDS = sorted(
    {word for words in _ROLE_WORDS.values() for word in words.values()}
    | {word for kinds in _KIND_WORDS.values() for word in kinds.values()},
    key=len,
    reverse=True,
)
PLACEHOLDER = re.compile(rf"\[(?P<words>{'|'.join(_ALL_WORDS)})(?: ?(?P<number>[0-9]{{1,3}}))?\]")
DONE = re.compile(rf"{PLACEHOLDER.pattern}|(?<![0-9.])90(?:岁以上|\+)")  # what this module writes
_CJK = re.compile(f"[{CJK}]")
_CHINESE_RUN = re.compile(f"[{CJK}]+")
_LETTERS = string.ascii_letters.encode()
_PARTS = re.compile(r"[^\W\d_]+(?:['\-][^\W\d_]+)*")


def language_of(view: str) -> Language:
    """Return the language that a note's placeholders are in: a Chinese character weighs as three letters."""
    encoded = view.encode()
    latin = len(encoded) - len(encoded.translate(None, _LETTERS))
    chinese = 0 if view.isascii() else sum(map(len, _CHINESE_RUN.findall(view)))
    return "zh" if 3 * chinese > latin else "en"


def age_placeholder(text: str) -> str:
    """Return what stands for an age above 89 that is written as `text`."""
    return "90+" if text.isascii() else "90岁以上"


def placeholders(view: str, spans: Sequence[Span]) -> list[str]:
    """Return what stands in the place of each span of a note.

    Args:
        view: The note as the rules see it, with nothing masked yet but what was masked in a pass before.
        spans: Spans in order that don't overlap.
    """
    language = language_of(view)
    names = _names(view, [span for span in spans if span.kind == "NAME"], language)
    words = _KIND_WORDS[language]
    return [
        names[span]
        if span.kind == "NAME"
        else age_placeholder(view[span.start : span.end])
        if span.kind == "AGE"
        else f"[{words[span.kind]}]"
        for span in spans
    ]


@dataclass(slots=True, kw_only=True)
class _Person:
    """Somebody who is named: all that is known of the name, and whose name it is."""

    name: str
    parts: frozenset[str]
    role: Role
    mentions: list[Span] = field(default_factory=list)


def _names(view: str, spans: Sequence[Span], language: Language) -> dict[Span, str]:
    people = _People()
    read = {
        span: _Person(name=name, parts=_parts(name), role=span.role) for span in spans if (name := _plain(view, span))
    }
    for span, mention in sorted(
        read.items(), key=lambda item: (-len(item[1].parts), -len(item[1].name), item[0].start)
    ):
        person = people.known(mention)
        if person is None:
            people.add(mention)
            person = mention
        person.role = min(person.role, mention.role, key=ROLES.index)
        person.mentions.append(span)
    taken = _taken(view)
    words: dict[Span, str] = {}
    for person in sorted(people.all, key=lambda person: min(span.start for span in person.mentions)):
        word = _ROLE_WORDS[language][person.role]
        taken[word] += 1
        number = "" if taken[word] == 1 else f"{taken[word]}" if language == "zh" else f" {taken[word]}"
        words |= dict.fromkeys(person.mentions, f"[{word}{number}]")
    return {span: words.get(span, f"[{_ROLE_WORDS[language]['other']}]") for span in spans}


def _plain(view: str, span: Span) -> str:
    return "".join(view[span.start : span.end].lower().split()) if _is_chinese(view, span) else _lower(view, span)


def _is_chinese(view: str, span: Span) -> bool:
    return _CJK.search(view, span.start, span.end) is not None


def _lower(view: str, span: Span) -> str:
    return view[span.start : span.end].lower().removesuffix("'s")


def _parts(name: str) -> frozenset[str]:
    return frozenset(_PARTS.findall(name))


class _People:
    """Who was named so far, looked up by what a mention can share with them: a note may name a hundred thousand."""

    def __init__(self) -> None:
        self.all: list[_Person] = []
        self._named: dict[str, int] = {}
        self._alike: dict[frozenset[str], int] = {}
        self._knowing: dict[str, set[int]] = {}
        self._sorted: list[tuple[str, int]] = []

    def add(self, person: _Person) -> None:
        """Take in somebody new."""
        number = len(self.all)
        self.all.append(person)
        self._named.setdefault(person.name, number)
        self._alike.setdefault(person.parts, number)
        for part in _known_parts(person):
            self._knowing.setdefault(part, set()).add(number)
        insort(self._sorted, (person.name, number))

    def known(self, mention: _Person) -> _Person | None:
        """Return who is mentioned, if that is clear."""
        exact = [
            number for number in (self._named.get(mention.name), self._alike.get(mention.parts)) if number is not None
        ]
        if exact:
            return self.all[min(exact)]
        fits = [person for person in self._candidates(mention) if _may_be(person, mention)]
        same = [person for person in fits if person.role == mention.role]
        return same[0] if len(same) == 1 else fits[0] if len(fits) == 1 else None

    def _candidates(self, mention: _Person) -> Iterator[_Person]:
        """Yield those whose name begins as the mention, or who have all of its parts."""
        if _CJK.match(mention.name):
            short = mention.name.rstrip("某")
            for at in range(bisect_left(self._sorted, (short, 0)), len(self._sorted)):
                name, number = self._sorted[at]
                if not name.startswith(short):
                    return
                yield self.all[number]
        elif mention.parts:
            knowing = sorted((self._knowing.get(part, set()) for part in mention.parts), key=len)
            yield from (self.all[number] for number in knowing[0].intersection(*knowing[1:]))


def _known_parts(person: _Person) -> frozenset[str]:
    """Return the parts of a name, and the initials that may stand for them."""
    return person.parts | {part[0] for part in person.parts}


def _may_be(person: _Person, mention: _Person) -> bool:
    """Say whether a shorter mention can be of this person; a doctor's surname is not the patient's."""
    short = mention.name.rstrip("某")
    roles = {person.role, mention.role} - {"other"}
    if _CJK.match(mention.name):
        if len(mention.name) >= 2 and "某" not in mention.name and short not in COMPOUND_SURNAMES:
            return person.name.startswith(short)
        return person.name.startswith(short) and len(roles) <= 1
    return mention.parts <= _known_parts(person) and any(len(part) > 1 for part in mention.parts) and len(roles) <= 1


def _taken(view: str) -> Counter[str]:
    """Return the highest number of each word that an earlier pass has given."""
    taken: Counter[str] = Counter()
    for match in PLACEHOLDER.finditer(view) if "[" in view else ():
        taken[match["words"]] = max(taken[match["words"]], int(match["number"] or 1))
    return taken
