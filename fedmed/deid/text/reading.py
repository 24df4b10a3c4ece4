"""How the rules read a note: one spelling for what a person reads as one character.

Why it exists: a full-width digit, a non-breaking space or an invisible joiner inside a
number must not hide it, and yet spans must point into the note as it was written.

Rules:
    * The view has one character for each visible character of the note: full-width forms become
      ASCII, every dash '-', every space ' ', every decimal digit 0-9.
    * The Chinese comma stays: between two numbers it separates them, where ',' may group thousands.
    * Invisible characters are left out of the view, and combining marks are part of the letter before them;
      `origins` and `ends` lead back to the note.
    * Numbers that are spelled or dressed up, traditional characters and look-alike letters: see `spellings`.
    * A note with half a surrogate pair was decoded wrongly; it is refused, for rules can't be trusted on it.

What it does not do: find anything.
"""

import re
import string
import sys
import unicodedata
from dataclasses import dataclass

from fedmed.deid.text.spans import FILLER, Span
from fedmed.deid.text.spellings import LOOKALIKE_SIGNS, PLAIN_FORMS, SPELLED_SIGNS, with_digits, with_latin
from fedmed.errors import DataError

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff〇\U00020000-\U000323af"

_CONTROL = re.compile(r"[\x00-\x08\r\x0e-\x1f\x7f-\x84\x86-\x9f]")
_BLANK_RANGES = (  # letters without ink
    (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2065, 0x2065),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF),
)  # fmt: skip
_BLANK = {chr(code) for start, end in _BLANK_RANGES for code in range(start, end + 1)}
_CATEGORIES = {character: unicodedata.category(character) for character in map(chr, range(0x20000))}
_INVISIBLE = frozenset(_BLANK | {character for character, category in _CATEGORIES.items() if category == "Cf"})
_MARKS = frozenset(c for c, category in _CATEGORIES.items() if category in {"Mn", "Me"}) - _INVISIBLE
_UNSEEN = _INVISIBLE | _MARKS
_FULL_STOP = "．"
_DOT = re.compile(f"(?<=[{CJK}])．(?=[{CJK}])")  # a full-width full stop inside a name
_SURROGATE = re.compile("[\ud800-\udfff]")
_DASHES = "‐‑‒–—―−﹣－﹘⁃"
_TABLE: dict[int, str] = (
    {code: str(unicodedata.decimal(chr(code))) for code in range(0x80, sys.maxunicode) if chr(code).isdecimal()}
    | {code: " " for code in range(0x80, 0x3001) if unicodedata.category(chr(code)) == "Zs"}
    | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) != "，"}
    | dict.fromkeys(map(ord, _DASHES), "-")
    | dict.fromkeys(map(ord, "‘’ʼ"), "'")
    | dict.fromkeys(map(ord, "\x0b\x0c\x85\u2028\u2029"), "\n")
    | {ord("\u2800"): " "}
    | {ord("•"): "·", ord("・"): "·", ord("‧"): "·", ord("∙"): "·", ord("﹒"): "·", ord("℡"): " ", ord("№"): "#"}
    | {ord(FILLER): "\ufffd"}
    | PLAIN_FORMS
)

# no plain form is itself replaced, so that the order of replacing doesn't matter
_STRANGE = frozenset(map(chr, _TABLE)) | SPELLED_SIGNS | LOOKALIKE_SIGNS | _UNSEEN

_CAPITAL, _SMALL = string.ascii_uppercase.encode(), string.ascii_lowercase.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A note as the rules see it.

    Attributes:
        view: One character for each visible one of the note, in its plain form.
        lower: The view in small letters, equally long.
        titled: The view, with a capital on every word if `plain`.
        plain: Whether the note has capitals throughout or nowhere, so that they tell nothing.
        ascii: Whether the view is ASCII but for what is masked.
        origins: Where each character of the view is in the note; None where the indices are the same.
        ends: Where each ends there, its combining marks included; None where no mark is.
    """

    view: str
    lower: str
    titled: str
    plain: bool
    ascii: bool
    origins: tuple[int, ...] | None = None
    ends: tuple[int, ...] | None = None

    def in_note(self, span: Span) -> Span:
        """Return the span of the note that a span of the view stands for."""
        if self.origins is None:
            return span
        start = self.origins[span.start]
        end = self.origins[span.end - 1] + 1 if self.ends is None else self.ends[span.end - 1]
        return Span(start=start, end=end, kind=span.kind, role=span.role)

    def replaced(self, old: str, new: str) -> "Reading":
        """Return the reading with one mark in the place of another."""
        return Reading(
            view=self.view.replace(old, new),
            lower=self.lower.replace(old, new),
            titled=self.titled.replace(old, new),
            plain=self.plain,
            ascii=self.ascii,
            origins=self.origins,
            ends=self.ends,
        )


def reading_of(view: str, origins: tuple[int, ...] | None = None, ends: tuple[int, ...] | None = None) -> Reading:
    """Return the reading of a view."""
    titled, plain = cased(view)
    ascii_only = view.isascii() or view.replace(FILLER, "").isascii()
    return Reading(
        view=view, lower=lowered(view), titled=titled, plain=plain, ascii=ascii_only, origins=origins, ends=ends
    )


def read(note: str) -> Reading:
    """Return how the rules read `note`.

    >>> read("电话：１３８\u200b００").view
    '电话:13800'

    Raises:
        DataError: The note holds half a surrogate pair.
    """
    if not note.isascii() and _SURROGATE.search(note):
        raise DataError("note: expected Unicode text, got half a surrogate pair; decode the source file again")
    origins = ends = None
    strange = frozenset[str]() if note.isascii() else _STRANGE.intersection(note)
    control = _CONTROL.search(note) is not None
    if not strange.isdisjoint(_MARKS):
        note, origins, ends = _composed(note)
    elif control or not strange.isdisjoint(_INVISIBLE):
        hidden = (strange & _INVISIBLE).union(_CONTROL.findall(note))
        origins = tuple([index for index, character in enumerate(note) if character not in hidden])
        note = "".join([character for character in note if character not in hidden])
    return reading_of(_one_spelling(note, strange), origins, ends)


def _composed(note: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return what is seen of `note`, each mark with its letter, and where each character begins and ends there."""
    seen, origins, ends = list[str](), list[int](), list[int]()
    for index, character in enumerate(note):
        if character in _MARKS and seen:
            whole = unicodedata.normalize("NFC", seen[-1] + character)
            seen[-1], ends[-1] = whole if len(whole) == 1 else seen[-1], index + 1
        elif character not in _UNSEEN and not _CONTROL.match(character):
            seen.append(character)
            origins.append(index)
            ends.append(index + 1)
    return "".join(seen), tuple(origins), tuple(ends)


def _one_spelling(text: str, strange: frozenset[str]) -> str:
    """Return `text` with the plain form of each strange character; few are, so each of these is replaced."""
    if not strange:
        return text
    if _FULL_STOP in strange:
        text = _DOT.sub("·", text)
    for character in strange:
        if (form := _TABLE.get(ord(character))) is not None:
            text = text.replace(character, form)
    if not strange.isdisjoint(SPELLED_SIGNS):
        text = with_digits(text, strange)
    return text if strange.isdisjoint(LOOKALIKE_SIGNS) else with_latin(text)


def cased(view: str) -> tuple[str, bool]:
    """Return `view` with a capital on every word if the note has capitals throughout or nowhere, and whether it has.

    Where everything or nothing is a capital, capitals tell nothing; the rules then ask for stronger contexts.
    """
    encoded = view.encode()  # no byte of a longer character is a letter
    small = len(encoded) - len(encoded.translate(None, _SMALL))
    capitals = len(encoded) - len(encoded.translate(None, _CAPITAL))
    letters = capitals + small
    if letters < 40 or 0.03 * letters <= capitals <= 0.85 * letters:
        return view, False
    titled = view.title()
    return (titled if len(titled) == len(view) else view), True


def lowered(text: str) -> str:
    """Return `text` in small letters, equally long: İ becomes two characters in Python, here it stays one."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
