"""One English name, from its first letter to its last: initials, particles, hyphens, suffixes, "LAST, First".

Why it exists: every context of `names_en` and `subjects_en` ends where a name begins; what one looks like is said once.

Rules:
    * A word that can't be a name ends it. Words that are both (Young, Ward, Law) are believed where the context is sure
      and the name ends with them.
    * A line may break inside a name after an initial or a first name, where the next line goes on with a capital.
    * An eponym before its noun (Foley catheter) is no name.

What it does not do: decide whether a context is sure.
"""

import re

from fedmed.deid.text import contexts_en as context
from fedmed.deid.text.lexicon_en import (
    AMBIGUOUS,
    CLEAR_FIRST_NAMES,
    CLINICAL_NOUNS,
    EPONYMS,
    FIRST_NAMES,
    NOT_NAMES,
    SURNAME_WORDS,
)
from fedmed.deid.text.patterns import listed

SUFFIX = re.compile(r",? (?:Jr\.?|Sr\.?|I{2,3}|Ii{1,2}|IV|JR\.?|SR\.?)(?![A-Za-z])")
CREDENTIAL = re.compile(r",? ?(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|PA-?C?|Ph\.?D\.?)(?![A-Za-z])")
_CREDENTIAL_BEGINS, _SUFFIX_BEGINS, _NEXT_BEGINS = frozenset(" ,MDRNP"), frozenset(" ,"), frozenset("' -")
PARTICLE_BEGINS = frozenset(
    listed("va vo be ab de di da do la le bi ib al el te st ul ad ar as at an")
)  # the first two letters of `PARTICLE`; `re` folds some letters that aren't ASCII to these, so they are no sign
_DAY = re.compile(r" [0-9]")
_ENDS = re.compile(r"(?:'s)?(?:[.,;:)|\n\t]|  |$| \(|,? (?:Jr|Sr|and|on|at|was|is|has|can|who|[0-9])(?![a-z]))")
_MOST_PARTS = 5
_FIRST = (FIRST_NAMES | {"j", "m"}) - {"may", "will"}


def take(view: str, at: int, *, sure: bool = False, plain: bool = False, most: int = 4) -> tuple[int, list[str]]:
    """Return where the name that starts at `at` ends and its parts in small letters; no parts: no name.

    Args:
        view: The note, with capitals on every word if `plain`.
        at: Where the first part would start.
        sure: Whether the context says that a name comes: words that may be names (Young, White) are believed.
        plain: Whether capitals tell nothing.
        most: How many words of more than one letter a name has at most.
    """
    end, parts, words = at, list[str](), 0
    while len(parts) < _MOST_PARTS and words < most:
        if parts and view[at : at + 1] in _CREDENTIAL_BEGINS and CREDENTIAL.match(view, at):
            break
        begins = view[at : at + 2].lower()
        particle = context.PARTICLE.match(view, at) if begins in PARTICLE_BEGINS or not begins.isascii() else None
        token = context.TOKEN.match(view, particle.end() if particle else at)
        if token is None:
            break
        word = token[0].lower().removesuffix("'s")
        if not _belongs(view, token, word, parts, sure=sure, plain=plain):
            break
        parts.append(word.rstrip("."))
        words += len(parts[-1]) > 1
        end = token.end() - (2 if token[0].lower().endswith("'s") else 0)  # not by the word: İ becomes two letters
        at = token.end() + _gap(view, token.end(), parts, plain=plain)
        if at == token.end():
            break
    while parts and len(parts[-1]) == 1 and len(parts) == 1:
        parts.pop()
    if not parts or is_eponym(view, end, parts):
        return end, []
    suffix = SUFFIX.match(view, end) if view[end : end + 1] in _SUFFIX_BEGINS else None
    return (suffix.end() if suffix else end), parts


def is_eponym(view: str, end: int, parts: list[str]) -> bool:
    """Say whether the words that end at `end` name a disease, a tool or a procedure."""
    behind = view[end : end + 2]
    follows = context.NEXT_WORD.match(view, end) if behind[:1] in _NEXT_BEGINS else None
    named = " ".join(parts) in context.PHRASES or (
        not behind.isascii() and context.ZH_NOUN.match(view, end) is not None
    )
    return named or (follows is not None and follows[1].lower() in CLINICAL_NOUNS)


def is_person(parts: list[str], *, plain: bool) -> bool:
    """Say whether the parts of a name are enough where only a weak word stands before it."""
    if not parts or all(part in EPONYMS for part in parts):
        return False
    if parts[0] in CLEAR_FIRST_NAMES or (len(parts[0]) == 1 and len(parts) > 1):
        return True
    return len(parts) >= 2 and not plain


def is_word(word: str) -> bool:
    """Say whether a word in small letters is known to be no name by itself."""
    return word in NOT_NAMES or word in CLINICAL_NOUNS or word in EPONYMS or word in AMBIGUOUS


def _belongs(view: str, token: re.Match[str], word: str, parts: list[str], *, sure: bool, plain: bool) -> bool:
    """Say whether the word of a token can be the next part of a name."""
    if word in {"i", "a"}:  # an initial only between or before other parts, and not the article of a plain note
        return not plain and (sure or bool(parts)) and _goes_on(view, token.end())
    known = (word in NOT_NAMES and len(word) > 1) or word in CLINICAL_NOUNS
    if not known:
        return True
    if sure and word in AMBIGUOUS and not _DAY.match(view, token.end()) and word not in CLINICAL_NOUNS:
        return True
    if not (sure and word in SURNAME_WORDS):
        return False
    return bool(parts) and _ENDS.match(view, token.end()) is not None


def _goes_on(view: str, at: int) -> bool:
    """Say whether one more word of a name follows the space at `at`."""
    token = context.TOKEN.match(view, at + 1) if view[at : at + 1] == " " else None
    return token is not None and len(token[0]) > 2 and not token[0].isupper() and token[0].lower() not in NOT_NAMES


def _gap(view: str, at: int, parts: list[str], *, plain: bool) -> int:
    """Return how many characters stand between a part of a name and the next; 0 where the name ends."""
    following = view[at : at + 1]
    if following == " ":
        return 1
    if following == "\n" and (len(parts[-1]) == 1 or (not plain and parts[-1] in FIRST_NAMES)) and len(parts) <= 2:
        token = context.TOKEN.match(view, at + 1)
        named = token is not None and len(token[0]) > 1 and view[token.end() : token.end() + 1] not in {":", "\t", "|"}
        return 1 if token is not None and named and not is_word(token[0].lower()) else 0
    comma = 2 if view[at : at + 2] == ", " else following == ","
    return comma if comma and len(parts) == 1 and _is_first(view, at + comma) else 0


def _is_first(view: str, at: int) -> bool:
    """Say whether a first name stands after "LAST, "; credentials and new sentences don't count."""
    token = context.TOKEN.match(view, at)
    return token is not None and token[0].lower() in _FIRST
