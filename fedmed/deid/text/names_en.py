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
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from fedmed.deid.text import contexts_en as context
from fedmed.deid.text.lexicon_en import AMBIGUOUS, CLINICAL_NOUNS, EPONYMS, FIRST_NAMES, NOT_NAMES
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import ROLES, Role, Span


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
    if not plain:
        found += _in_sentences(view, lower)
    return [*found, *_everywhere(view, lower, found, plain=plain)]


# --- one name -------------------------------------------------------------------------------------------------


def _take(view: str, at: int, *, title: bool = False, most: int = 4) -> tuple[int, list[str]]:
    """Return where the name that starts at `at` ends and its parts in small letters; no parts: no name.

    Args:
        view: The note.
        at: Where the first part would start.
        title: Words that may be names (Young, White) are believed in the first place.
        most: How many words of more than one letter a name has at most.
    """
    end, parts = at, list[str]()
    while len(parts) < 5 and sum(len(part) > 1 for part in parts) < most:
        if parts and _OTHER_CREDENTIAL.match(view, at):
            break
        particle = context.PARTICLE.match(view, at)
        token = context.TOKEN.match(view, particle.end() if particle else at)
        if token is None:
            break
        word = token[0].lower().removesuffix("'s")
        if word in {"i", "a"}:
            break
        believed = title and word in AMBIGUOUS and not _DAY.match(view, token.end())
        if (word in NOT_NAMES and not believed and len(word) > 1) or word in CLINICAL_NOUNS:
            break
        parts.append(word.rstrip("."))
        end = token.start() + len(word)
        at = token.end()
        if view[at : at + 1] == " " or (view[at : at + 2] == ", " and len(parts) == 1 and _is_first(view, at + 2)):
            at += 1 if view[at] == " " else 2
        else:
            break
    while parts and len(parts[-1]) == 1 and len(parts) == 1:
        parts.pop()
    if not parts or _is_eponym(view, end, parts):
        return end, []
    suffix = _SUFFIX.match(view, end)
    return (suffix.end() if suffix else end), parts


def _is_first(view: str, at: int) -> bool:
    """Say whether a first name stands after "LAST, "; credentials and new sentences don't count."""
    token = context.TOKEN.match(view, at)
    return (
        token is not None and token[0].lower() in FIRST_NAMES | {"j", "m"} and token[0].lower() not in {"may", "will"}
    )


def _is_eponym(view: str, end: int, parts: list[str]) -> bool:
    follows = context.NEXT_WORD.match(view, end)
    named = " ".join(parts) in context.PHRASES or context.ZH_NOUN.match(view, end) is not None
    return named or (follows is not None and follows[1].lower() in CLINICAL_NOUNS)


def _span(start: int, end: int, role: Role) -> Span:
    return Span(start=start, end=end, kind="NAME", role=role)


# --- contexts -------------------------------------------------------------------------------------------------


def _after_titles(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for match in context.TITLE.finditer(lower):
        role: Role = "doctor" if match["title"] in context.DOCTOR_TITLES else "other"
        written = view[match.start() : match.end("title")]
        if match["title"] == "ms" and view[: match.start()].rstrip()[-1:].isdecimal():
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
        end, parts = _take(view, at, title=True, most=most)
        small = context.SMALL.match(view, at) if match["dot"] or match["title"] in {"mr", "mrs", "dr"} else None
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
        end, parts = _take(view, at, title=True, most=3 if plain else 4)
        if not parts:
            continue
        comma = context.GIVEN_AFTER.match(view, end)
        if len(parts) == 1 and comma and comma[1].lower().split()[0] not in NOT_NAMES:
            end = comma.end()
        elif len(parts) == 1 and parts[0] not in FIRST_NAMES and not title and label not in context.NAMING:
            continue
        yield _span(at, end, role)
        yield from _more(view, end, role)


def _label_before(lower: str, at: int) -> str | None:
    """Return the label that ends at `at`, if one does: the longest, at the start of a word."""
    if aside := context.ASIDE.search(lower, max(0, at - 24), at):
        at = aside.start()
    while at and lower[at - 1] == " ":
        at -= 1
    if not lower.endswith(context.LABELS, 0, at):
        return None
    label = next(label for label in context.LABELS if lower.endswith(label, 0, at))
    start = at - len(label)
    named = label == "name" and lower[:start].rstrip().endswith(context.THINGS)
    return None if named or lower[start - 1 : start].isalnum() or lower[start - 1 : start] == "-" else label


_DAY = re.compile(r" [0-9]")
_SUFFIX = re.compile(r",? (?:Jr\.?|Sr\.?|I{2,3}|IV|JR\.?|SR\.?)(?![A-Za-z])")
_AND = re.compile(r"(?:,? and |, | & |; ?|/)(?:dr\.? |mr\.? |ms\.? |mrs\.? )?", re.IGNORECASE)
_OTHER_CREDENTIAL = re.compile(r",? ?(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|PA-?C?|Ph\.?D\.?)(?![A-Za-z])")


def _more(view: str, at: int, role: Role) -> Iterator[Span]:
    """Yield the further names of a list."""
    for _ in range(8):
        if credential := _OTHER_CREDENTIAL.match(view, at):
            at = credential.end()
        mark = _AND.match(view, at)
        if mark is None:
            return
        end, parts = _take(view, mark.end())
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
        end, parts = _take(view, match.end(), title=True, most=most)
        by = match["word"].endswith(" by") and not match["word"].startswith("accompanied")
        role: Role = "doctor" if by else "patient" if match[0].startswith(("patient", "pt")) else "other"
        if _is_person(parts, plain=False) and parts[0] not in AMBIGUOUS - FIRST_NAMES:
            yield _span(match.end(), end, role)
    for match in context.RELATION.finditer(lower):
        end, parts = _take(view, match.end(), title=len(match[0]) > 4, most=most)
        single = len(parts) == 1 and not plain and not view[match.end() : end].isupper()
        if _is_person(parts, plain=plain) or (single and parts[0] not in EPONYMS):
            yield _span(match.end(), end, "other" if match["word"].startswith(("name", "goes")) else "relative")


def _is_person(parts: list[str], *, plain: bool) -> bool:
    """Say whether the parts of a name are enough where only a weak word stands before it."""
    if not parts or all(part in EPONYMS for part in parts):
        return False
    if parts[0] in FIRST_NAMES - AMBIGUOUS or (len(parts[0]) == 1 and len(parts) > 1):
        return True
    return len(parts) >= 2 and not plain


def _in_sentences(view: str, lower: str) -> Iterator[Span]:
    """Yield two or more capitalised words after "with", "by" and the like, and surnames after an initial."""
    for match in chain(context.WITH.finditer(lower), context.SIGNED.finditer(lower)):
        end, parts = _take(view, match.end())
        text = view[match.end() : end]
        shouted = any(word.isupper() and len(word) > 1 for word in re.findall(r"[A-Za-z]+", text))
        if (
            len(parts) >= 2
            and not shouted
            and not any(part in EPONYMS for part in parts)
            and not context.GOES_ON.match(view, end)
        ):
            yield _span(match.end(), end, "other")
    for match in context.INITIALS.finditer(view):
        end, parts = _take(view, match.start())
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
    for match in context.AGED.finditer(view) if not plain else ():
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
        if match.start() < at or first not in FIRST_NAMES:
            continue
        end, parts = _take(view, match.start(), title=True, most=2 if plain else 4)
        capitals = match[0].isupper()
        if len(parts) >= 2 and not (first in AMBIGUOUS and (plain or capitals)):
            at = end
            yield _span(match.start(), end, "other")
        elif (
            parts
            and not capitals
            and first not in AMBIGUOUS | EPONYMS
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
            if (len(word) > 2 and word not in NOT_NAMES - AMBIGUOUS) or (len(word) == 2 and word not in NOT_NAMES):
                roles[word] = min(roles.get(word, "other"), span.role, key=ROLES.index)
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
        if common and (written.isupper() or _opens_sentence(view, start)) and word not in FIRST_NAMES - AMBIGUOUS:
            continue
        if not _is_eponym(view, end, [word]):
            before = context.PARTICLE_BEFORE.search(view, max(0, start - 14), start)
            initial = before is not None and before[0].strip() not in {"A", "I"}  # "A Smith fracture", "and I"
            yield _span(before.start() if before and initial else start, end, roles[word])


def _occurrences(lower: str, words: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield where each word stands by itself, a possessive s allowed."""
    for word in words:
        start = lower.find(word)
        while start >= 0:
            before, after = lower[start - 1 : start], lower[start + len(word) : start + len(word) + 1]
            if not before.isalpha() and not after.isalpha():
                yield word, start
            start = lower.find(word, start + 1)


def _opens_sentence(view: str, start: int) -> bool:
    return view[:start].rstrip(" ")[-1:] in {"", ".", "\n", ":", "!", "?"} or view[start - 1] == ","
