"""English names of people: found by titles, labels, relations, credentials and first names, then everywhere else.

Why it exists: in a note most names stand beside a word that says who it is (Dr., Patient:, wife, MD); the
others repeat one of these.

Rules:
    * A title or a label is believed unless a word that can't be a name follows.
    * An eponym before its noun (Foley catheter, Crohn's disease) is no person, even where a Dr. Foley is in the note.
    * A name found once is found everywhere in the note: in full, and each part of two letters or more.

What it does not do: lone surnames without any context (a tagger may), or names in small letters but after a title.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from string import whitespace

from fedmed.deid.text import contexts_en as context
from fedmed.deid.text.lexicon_en import (
    AMBIGUOUS,
    CLEAR_FIRST_NAMES,
    CLEAR_NOT_NAMES,
    CLINICAL_NOUNS,
    EPONYMS,
    FIRST_NAMES,
    NOT_NAMES,
    WORDS_AND_EPONYMS,
    WORDS_NOT_FIRST,
)
from fedmed.deid.text.name_shape_en import CREDENTIAL, SUFFIX, is_eponym, is_person, take
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import ROLES, Role, Span
from fedmed.deid.text.subjects_en import find_subjects


def find_names(reading: Reading) -> list[Span]:
    """Return the spans of names written in Latin letters, as the English rules find them."""
    lower = reading.lower
    view, plain = reading.titled, reading.plain
    found = [
        *_after_titles(view, lower, plain=plain),
        *_after_labels(view, lower, plain=plain),
        *_after_words(view, lower, plain=plain),
        *_with_endings(view, plain=plain),
        *_first_names(view, lower, plain=plain),
    ]
    found += _in_sentences(view, lower, plain=plain)
    found += find_subjects(view, lower, plain=plain)
    return [*found, *_everywhere(view, lower, found, plain=plain)]


def _span(start: int, end: int, role: Role) -> Span:
    return Span(start=start, end=end, kind="NAME", role=role)


# --- contexts -------------------------------------------------------------------------------------------------


def _after_titles(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for match in context.TITLE.finditer(lower):
        role: Role = "doctor" if match["title"] in context.DOCTOR_TITLES else "other"
        written = view[match.start() : match.end("title")]
        if match["title"] == "ms" and _last_before(view, match.start(), whitespace).isdecimal():
            continue  # milliseconds
        most = 4 if not plain else 2 if role == "doctor" else 1
        if (
            (plain or written.isupper())
            and not match["dot"]
            and len(written) == 2
            and match["title"] in {"ms", "mr", "dr"}
        ):
            following = context.TOKEN.match(view, match.end())
            if following is None or following[0].isupper() or plain:
                continue  # MR ANGIOGRAM, MS EXACERBATION
        at = match.end()
        end, parts = take(view, at, sure=True, plain=plain, most=most)
        small = (
            context.SMALL.match(view, at)
            if view[at - 1] == " " and (match["dot"] or match["title"] in {"mr", "mrs", "dr"})
            else None
        )
        if parts:
            yield _span(at, end, role)
            yield from _more(view, end, role)
        elif small and small[0] not in NOT_NAMES and small[0] not in CLINICAL_NOUNS:
            yield _span(at, small.end(), role)


def _after_labels(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for match in context.COLON.finditer(lower):
        label = _label_before(lower, match.start())
        if label is None:
            continue
        role, at = context.ROLE_OF[label], match.end()
        title = context.TITLE.match(lower, at)
        at = title.end() if title else at
        end, parts = take(view, at, sure=True, plain=plain, most=3 if plain else 4)
        if not parts:
            continue
        comma = context.GIVEN_AFTER.match(view, end)
        if len(parts) == 1 and comma and comma[1].lower().split()[0] not in NOT_NAMES:
            end = comma.end()
        elif len(parts) == 1 and parts[0] not in FIRST_NAMES and not title and label not in context.NAMING:
            continue
        yield _span(at, end, role)
        yield from _more(view, end, role)


_LABEL_ENDS = frozenset(label[-1] for label in context.LABELS)
_LABEL_LAST_WORDS = frozenset(label.split()[-1] for label in context.LABELS)
_LONGEST_THING = max(map(len, context.THINGS)) + 64  # with the spaces behind it
_LABEL_SIZES = sorted({len(label) for label in context.LABELS}, reverse=True)


def _label_before(lower: str, at: int) -> str | None:
    """Return the label that ends at `at`, if one does: the longest, at the start of a word."""
    if ")" in lower[max(0, at - 2) : at] and (aside := context.ASIDE.search(lower, max(0, at - 24), at)):
        at = aside.start()
    while at and lower[at - 1] == " ":
        at -= 1
    if lower[at - 1 : at] not in _LABEL_ENDS:
        return None
    last = lower[max(0, at - _LABEL_SIZES[0] - 1) : at].split()[-1:]
    if last and last[0].isalpha() and last[0] not in _LABEL_LAST_WORDS:
        return None  # no label ends in this whole word, and one that ends inside it doesn't begin a word
    if not lower.endswith(context.LABELS, 0, at):
        return None
    label = next(end for size in _LABEL_SIZES if (end := lower[max(0, at - size) : at]) in context.ROLE_OF)
    start = at - len(label)
    named = label == "name" and lower[max(0, start - _LONGEST_THING) : start].rstrip().endswith(context.THINGS)
    return None if named or lower[start - 1 : start].isalnum() or lower[start - 1 : start] == "-" else label


_LETTERS = re.compile("[A-Za-z]+")
_AND = re.compile(r"(?:,? and |, | & |; ?|/)(?:dr\.? |mr\.? |ms\.? |mrs\.? )?", re.IGNORECASE)


def _more(view: str, at: int, role: Role, *, plain: bool = False) -> Iterator[Span]:
    """Yield the further names of a list."""
    for _ in range(8):
        if credential := CREDENTIAL.match(view, at):
            at = credential.end()
        mark = _AND.match(view, at)
        if mark is None:
            return
        end, parts = take(view, mark.end(), sure=not plain, plain=plain)
        known = len(parts) >= 2 or (
            parts and ("and" in mark[0] or "&" in mark[0]) and (parts[0] in FIRST_NAMES or role == "doctor")
        )
        if not known or any(part in EPONYMS for part in parts if len(parts) == 1):
            return
        yield _span(mark.end(), end, role)
        at = end


def _after_words(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    most = 2 if plain else 4
    for match in context.BY.finditer(lower):
        end, parts = take(view, match.end(), sure=True, plain=plain, most=most)
        by = match["word"].endswith(" by") and not match["word"].startswith("accompanied")
        role: Role = "doctor" if by else "patient" if match[0].startswith(("patient", "pt")) else "other"
        weak = AMBIGUOUS if plain else WORDS_NOT_FIRST if len(parts) == 1 else frozenset[str]()
        if is_person(parts, plain=False) and parts[0] not in weak:
            yield _span(match.end(), end, role)
            if len(parts) > 1:
                yield from _more(view, end, role, plain=plain)
    for match in context.RELATION.finditer(lower):
        end, parts = take(view, match.end(), sure=len(match[0]) > 4, plain=plain, most=most)
        single = len(parts) == 1 and not plain and not view[match.end() : end].isupper()
        reached = len(parts) >= 2 and context.REACHED.match(lower, end) is not None
        if is_person(parts, plain=plain) or reached or (single and parts[0] not in EPONYMS):
            yield _span(match.end(), end, "other" if match["word"].startswith(("name", "goes")) else "relative")


def _in_sentences(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    """Yield two or more capitalised words after "with", "by" and the like, and surnames after an initial."""
    for match in context.WITH.finditer(lower):
        end, parts = take(view, match.end(), sure=not plain, plain=plain, most=2 if plain else 4)
        if plain:
            if len(parts) >= 2 and context.SPECIALTY.match(lower, end):
                yield _span(match.end(), end, "doctor")
            continue
        shouted = any(word.isupper() and len(word) > 1 for word in _LETTERS.findall(view[match.end() : end]))
        known = len(parts[0]) == 1 or parts[0] in CLEAR_FIRST_NAMES if parts else False
        eponym = any(part in EPONYMS for part in parts) and not known
        if len(parts) >= 2 and not shouted and not eponym and not context.GOES_ON.match(view, end):
            yield _span(match.end(), end, "other")
    for match in context.INITIALS.finditer(view) if not plain else ():
        end, parts = take(view, match.start())
        if len(parts) >= 2 and parts[-1] not in EPONYMS and len(parts[-1]) > 2:
            yield _span(match.start(), end, "other")


def _with_endings(view: str, *, plain: bool) -> Iterator[Span]:
    for credential in (context.PLAIN_CREDENTIAL if plain else context.CREDENTIAL).finditer(view):
        at = credential.start()
        match = context.NAME_BEFORE.search(view, max(0, at - 60), at)
        if match is None:
            continue
        tokens = list(context.TOKEN.finditer(view, match.start(), match.end("name")))
        while tokens and (tokens[0][0].lower() in NOT_NAMES or (plain and len(tokens) > 3)):
            tokens.pop(0)
        clean = all(token[0].rstrip(".").lower() not in NOT_NAMES or len(token[0]) <= 2 for token in tokens)
        if tokens and clean and (len(tokens) >= 2 or match["comma"]) and len(tokens[-1][0]) > 1:
            yield _span(tokens[0].start(), match.end("name"), "doctor")
    for match in context.AGED.finditer(view) if not plain and context.AGE_SIGN.search(view) else ():
        start = match.start()
        if view[start - 1 : start].isalpha():
            continue
        words = match["name"].lower().replace(",", " ").split()
        if not any(word.strip(".") in NOT_NAMES and len(word) > 1 for word in words):
            yield _span(start, match.end("name"), "patient")


def _first_names(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    at = 0
    for match in context.CAPITAL.finditer(view):
        first = lower[match.start() : match.end()]
        if first not in FIRST_NAMES or match.start() < at:
            continue
        end, parts = take(view, match.start(), sure=True, plain=plain, most=2 if plain else 4)
        capitals = match[0].isupper()
        if len(parts) >= 2 and not (first in AMBIGUOUS and (plain or capitals)):
            at = end
            yield _span(match.start(), end, "other")
        elif (
            parts
            and not capitals
            and first not in WORDS_AND_EPONYMS
            and not view.endswith(context.PLACE_BEFORE, 0, match.start())
        ):
            yield _span(match.start(), end, "other")


# --- the same name again --------------------------------------------------------------------------------------


def _everywhere(view: str, lower: str, found: Sequence[Span], *, plain: bool) -> Iterator[Span]:
    """Yield every further occurrence of a part of a name that was found."""
    roles: dict[str, Role] = {}
    small = {view[span.start : span.end] for span in found if view[span.start].islower()}
    for span in found:
        for part in context.LATIN_WORD.findall(lower, span.start, span.end):
            word = part.removesuffix("'s")
            if (len(word) > 2 and word not in CLEAR_NOT_NAMES) or (len(word) == 2 and word not in NOT_NAMES):
                known = roles.get(word, "other")
                roles[word] = known if known == span.role else min(known, span.role, key=ROLES.index)
    if not roles:
        return
    covered = bytearray(len(view))
    for span in found:
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    for word, start in _occurrences(lower, roles):
        end = start + len(word)
        if covered[start] and (start == 0 or covered[start - 1]):
            continue
        written = view[start:end]
        common = word in AMBIGUOUS or word in EPONYMS or len(word) < 4
        if written.islower() and (common or (word not in FIRST_NAMES and word not in small)):
            continue
        if common and plain:
            continue
        if common and (written.isupper() or _opens_sentence(view, start)) and word not in CLEAR_FIRST_NAMES:
            continue
        if not is_eponym(view, end, [word]):
            before = context.PARTICLE_BEFORE.search(view, max(0, start - 14), start)
            initial = before is not None and before[0].strip() not in {"A", "I"}  # "A Smith fracture", "and I"
            suffix = SUFFIX.match(view, end)
            last = suffix.end() if suffix else end
            yield _span(before.start() if before and initial else start, last, roles[word])


_FEW_WORDS, _MOST_BORDERS = 32, 40


def _occurrences(lower: str, words: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield where each word stands by itself, a possessive s allowed."""
    if len(words) > _FEW_WORDS:
        yield from _occurrences_of_many(lower, words)
        return
    for word in words:
        start = lower.find(word)
        while start >= 0:
            before, after = lower[start - 1 : start], lower[start + len(word) : start + len(word) + 1]
            if not before.isalpha() and not after.isalpha():
                yield word, start
            start = lower.find(word, start + 1)


def _occurrences_of_many(lower: str, words: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield the same in one pass: a list of patients names thousands, and each search would read all of it."""
    for token in context.LATIN_WORD.finditer(lower):
        first, last = token.span()
        letters = [lower[first - 1 : first].isalpha(), *map(str.isalpha, token[0]), lower[last : last + 1].isalpha()]
        places = range(last - first + 1)
        starts = [first + at for at in places if not letters[at]]
        ends = [first + at for at in places if not letters[at + 1]]
        at = 0
        for start in starts:
            while at < len(ends) and ends[at] <= start:
                at += 1
            for end in ends[at : at + _MOST_BORDERS]:
                if lower[start:end] in words:
                    yield lower[start:end], start


def _opens_sentence(view: str, start: int) -> bool:
    return _last_before(view, start, " ") in {"", ".", "\n", ":", "!", "?"} or view[start - 1] == ","


def _last_before(view: str, at: int, blank: str) -> str:
    """Return the last character before `at` that is no blank; a slice would copy all that stands before."""
    while at and view[at - 1] in blank:
        at -= 1
    return view[at - 1 : at]
