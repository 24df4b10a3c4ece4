"""How the rules read a note: one spelling for what a person reads as one character.

Why it exists: a full-width digit, a non-breaking space or an invisible joiner inside a
number must not hide it, and yet spans must point into the note as it was written.

Rules:
    * The view has one character for each visible character of the note: full-width forms become
      ASCII, every dash '-', every space ' ', every decimal digit 0-9.
    * The Chinese comma stays: between two numbers it separates them, where ',' may group thousands.
    * Invisible format characters are left out of the view; `origins` leads back to the note.
    * A note with half a surrogate pair was decoded wrongly; it is refused, for rules can't be trusted on it.

What it does not do: find anything.
"""

import re
import string
import sys
import unicodedata
from dataclasses import dataclass

from fedmed.deid.text.spans import FILLER, Span
from fedmed.errors import DataError

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff〇\U00020000-\U000323af"

_INVISIBLE = re.compile(
    "[\r\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_DOT = re.compile(f"(?<=[{CJK}])．(?=[{CJK}])")  # a full-width full stop inside a name
_SURROGATE = re.compile("[\ud800-\udfff]")
_DASHES = "‐‑‒–—―−﹣－﹘⁃"
_TABLE: dict[int, str] = (
    {code: str(unicodedata.decimal(chr(code))) for code in range(0x80, sys.maxunicode) if chr(code).isdecimal()}
    | {code: " " for code in range(0x80, 0x3001) if unicodedata.category(chr(code)) == "Zs"}
    | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) != "，"}
    | dict.fromkeys(map(ord, _DASHES), "-")
    | dict.fromkeys(map(ord, "‘’ʼ"), "'")
    | {ord("•"): "·", ord("・"): "·", ord("‧"): "·", ord("∙"): "·", ord("﹒"): "·", ord("℡"): " ", ord("№"): "#"}
    | {ord(FILLER): "\ufffd"}
)

_OTHERS = frozenset(map(chr, _TABLE))  # no plain form is one of them, so that the order of replacing doesn't matter

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
    """

    view: str
    lower: str
    titled: str
    plain: bool
    ascii: bool
    origins: tuple[int, ...] | None = None

    def in_note(self, span: Span) -> Span:
        """Return the span of the note that a span of the view stands for."""
        if self.origins is None:
            return span
        start, end = self.origins[span.start], self.origins[span.end - 1] + 1
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
        )


def reading_of(view: str, origins: tuple[int, ...] | None = None) -> Reading:
    """Return the reading of a view."""
    titled, plain = cased(view)
    ascii_only = view.isascii() or view.replace(FILLER, "").isascii()
    return Reading(view=view, lower=lowered(view), titled=titled, plain=plain, ascii=ascii_only, origins=origins)


def read(note: str) -> Reading:
    """Return how the rules read `note`.

    >>> read("电话：１３８\u200b００").view
    '电话:13800'

    Raises:
        DataError: The note holds half a surrogate pair.
    """
    if not note.isascii() and _SURROGATE.search(note):
        raise DataError("note: expected Unicode text, got half a surrogate pair; decode the source file again")
    origins = None
    if _INVISIBLE.search(note):
        hidden = {match.start() for match in _INVISIBLE.finditer(note)}
        origins = tuple(index for index in range(len(note)) if index not in hidden)
        note = _INVISIBLE.sub("", note)
    view = note if note.isascii() else _one_spelling(_DOT.sub("·", note))
    return reading_of(view, origins)


def _one_spelling(text: str) -> str:
    """Return `text` with the plain form of each character; few are another's form, so each of these is replaced."""
    for character in _OTHERS.intersection(text):
        text = text.replace(character, _TABLE[ord(character)])
    return text


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
