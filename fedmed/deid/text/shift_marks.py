"""The mark of a note whose dates were moved: keyed, at its end, so that no second pass moves them again.

Why it exists: a moved date looks like any date. Cleaned twice, a note would be off by twice the shift, without a trace.

Rules:
    * The mark is a keyed hash of the very text before it: only this site can write it, and no edit goes unnoticed.
    * A mark that holds says: these dates are moved; they are left as they are.
    * A mark that doesn't hold, or stands elsewhere than at the end (notes put together), says that some dates may be
      moved and some not: then none is moved, and all are masked.

What it does not do: say by how much or whose dates were moved; notes cleaned before there were marks have none.
"""

import hmac
import re
from dataclasses import dataclass
from typing import Literal

from fedmed.deid.pseudonyms import Pseudonyms

MARK = re.compile(r"(?:(?<=\n)|(?<= ))\[(?:DATES SHIFTED|日期已平移) (?P<code>[0-9a-f]{16})\]")
_AT_END = re.compile(rf"[\n ]{MARK.pattern}\s*\Z")
_PURPOSE = b"note with shifted dates 1\0"
_CODE_HEX = 16

State = Literal["never", "shifted", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A note without the mark at its end, that end, and what is known of the note's dates."""

    body: str
    tail: str
    state: State


def read_mark(note: str, pseudonyms: Pseudonyms) -> Marked:
    """Return a note and what its mark says; a mark that doesn't hold stays in the body."""
    if "[" not in note:
        return Marked(body=note, tail="", state="never")
    last = _AT_END.search(note)
    if last is not None:
        body = note[: last.start()]
        if hmac.compare_digest(_code(body, pseudonyms), last["code"]):  # then no other mark is in it
            return Marked(body=body, tail=note[last.start() :], state="shifted")
    return Marked(body=note, tail="", state="never" if MARK.search(note) is None else "unclear")


def mark_of(text: str, pseudonyms: Pseudonyms, *, chinese: bool) -> str:
    """Return the mark to append to a note whose dates were moved, with the space before it."""
    words = "日期已平移" if chinese else "DATES SHIFTED"
    space = "\n" if "\n" in text else " "
    return f"{space}[{words} {_code(text, pseudonyms)}]"


def _code(text: str, pseudonyms: Pseudonyms) -> str:
    keyed = pseudonyms.content_hash()
    keyed.update(_PURPOSE + text.encode("utf-8", "surrogatepass"))
    return keyed.hexdigest()[:_CODE_HEX]
