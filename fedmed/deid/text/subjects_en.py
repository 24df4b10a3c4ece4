"""People in English notes who do something, sign, or stand in a form without marks.

Why it exists: beside titles and colons, what tells a name is that only a person denies, smokes or is told something,
that a note ends with who wrote it, and that a form says who is meant before it says the name.

Rules:
    * A subject stands where a sentence, a line or an entry with its time begins, and its verb is one of people.
    * A signature is a line that begins with its mark (--, Sincerely) and holds a name and at most a date or degree.
    * A label without a colon begins its line or cell; in running text it begins with a capital and two names follow.

What it does not do: pronouns, or relatives and staff who are not named.
"""

import re
from collections.abc import Iterator

from fedmed.deid.text import contexts_en as context
from fedmed.deid.text.lexicon_en import (
    CLINICAL_NOUNS,
    EPONYMS,
    FIRST_NAMES,
    NOT_NAMES,
    WORDS_AND_FIRST,
    WORDS_NOT_FIRST,
)
from fedmed.deid.text.name_shape_en import CREDENTIAL, is_person, is_word, take
from fedmed.deid.text.patterns import WordSearch, listed
from fedmed.deid.text.spans import Role, Span

_VERBS = listed(
    "denies,denied,endorses,endorsed,complains of,complained of,reports,reported,states,stated,verbalizes,verbalized,"
    "understands,understand and,agrees,agreed,refuses,refused,resting,sleeping,asleep,ambulating,ambulated,voided,"
    "smokes,drinks,lives,lived,resides,works,worked,walks,walked,feels,felt,says,said,ate,slept,woke,went home,"
    "presents to,presents with,presented to,presented with,has been feeling,has been having,was told,was asked,"
    "was instructed to,was advised to,was brought in,was brought to,was taken to the,was seen,was admitted,"
    "was discharged,was transferred from,was transferred to,was referred,was counseled,was informed,was born,"
    "was accompanied,underwent,returned to clinic,returns to clinic,returns for,returns today,called,thanks",
    by=",",
)
_PLAIN_VERBS = listed(
    "denies,denied,endorses,complains of,verbalizes,understands,refuses,resting quietly,smokes,resides,"
    "was told,was instructed to,was taken to the,was transferred from,was brought in,was accompanied",
    by=",",
)
_VERB = WordSearch(_VERBS, lead="[ \n]", longest_lead=1, rest="(?![a-z])")
_PLAIN_VERB = WordSearch(_PLAIN_VERBS, lead="[ \n]", longest_lead=1, rest="(?![a-z])")
_OPENS = re.compile(r"(?:(?:^|[.!?;:\n]) *|[0-9]{1,2}:[0-9]{2}(?: ?[AaPp]\.?[Mm]\.?)? )(?=[A-ZÀ-Þ])")
_WORD = rf"{context.NAME_WORD}(?:'s)?"
_SUBJECT = re.compile(
    rf"(?P<name>(?:[A-Z]\. ?)?{_WORD}(?:(?:[ \n]|, )(?:{context.PARTICLE_WORD})?(?:{_WORD}|[A-Z]\.?)){{0,3}})"
    rf"(?:,? and (?:(?:his|her|the|their) )?[a-z]+(?: (?:[A-Z]\.|{_WORD})){{1,3}})?,?"
)
_NOBODY = re.compile(  # adverbs, services, and those who are no name
    r"[a-z]+(?:ly|ology|ologist|iatry|iatrist|surgery|iatrics|ics|cian)|also|still|never|always|otherwise|again|overall"
    r"|sometimes|often|who|and|but|they|team|mom|dad|mommy|daddy|grandma|grandpa|everybody|everyone|nobody"
)
_LONGEST = 90
_SIGNATURE = re.compile(
    r"(?m:^)(?:--+ ?|~ ?|/s/ ?|(?:rn|np|md|pa) |(?:sincerely|regards|best regards|kind regards|respectfully|yours|"
    r"yours truly|cordially|thank you|signed|electronically signed)[,: ] ?\n?)(?=[a-z])"
)
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_SIGNED_OFF = re.compile(
    rf"(?:{CREDENTIAL.pattern.lower()})?[,. ]*(?:$|\n|[0-9]|\(|(?:on |at |the )?[0-9]|(?:{_MONTHS})[a-z]*\.? ?[0-9]|"
    r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? )"
)
_NO_LABELS = listed("s,staff,contact,client,friend,partner,son,mother,father,dr", by=",")
_BARE = sorted(set(context.ROLE_OF) - set(_NO_LABELS))
_BARE_LABEL = WordSearch(
    map(re.escape, _BARE), lead=r"(?:(?m:^)|[\t|;] ?|  |\. )", longest_lead=2, group="label", rest=" {1,2}(?=[a-z])"
)
_RUNNING = listed(
    "surgeon,assistant,attending,attending physician,physician,anesthesia,anesthesiologist,signed,dictated by,"
    "transcribed by,sincerely,cc,consultant,referring physician,primary care physician,cosigned,resident physician",
    by=",",
)
_PROSE = re.compile(r" (?!(?:on|at|in|for|and|was|is|who|with|from)(?![a-z]))[a-z]")  # Surgeon Preference Card reviewed
_RUNNING_LABEL = WordSearch(_RUNNING, rest=r" (?:dr\.? )?(?=[a-z])")


def find_subjects(view: str, lower: str, *, plain: bool) -> list[Span]:
    """Return the spans of names that a verb of people, a signature's mark or a label without a colon tells.

    Args:
        view: The note, with capitals on every word if `plain`.
        lower: The note in small letters.
        plain: Whether the note has capitals throughout or nowhere.
    """
    return [
        *_subjects(view, lower, plain=plain),
        *_signatures(view, lower, plain=plain),
        *_bare_labels(view, lower, plain=plain),
    ]


def _subjects(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for verb in (_PLAIN_VERB if plain else _VERB).finditer(lower):
        for opening in _OPENS.finditer(view, max(0, verb.start() - _LONGEST), verb.start()):
            subject = _SUBJECT.fullmatch(view, opening.end(), verb.start())
            if subject is None:
                continue
            start, end = subject.span("name")
            if not plain and view[start:end].isupper():
                continue  # PMI felt in the fifth space
            words = [word.lower().removesuffix("'s") for word in context.LATIN_WORD.findall(view, start, end)]
            if _names_somebody(words, plain=plain):
                yield Span(start=start, end=end, kind="NAME")


def _names_somebody(words: list[str], *, plain: bool) -> bool:
    """Say whether the words before a verb of people are a name: none is an ordinary word but a first name."""
    if not words or all(len(word) == 1 for word in words):
        return False
    for index, word in enumerate(words):
        first = index == 0 and word in WORDS_AND_FIRST and not plain
        if len(word) > 1 and not first and (word in NOT_NAMES or word in CLINICAL_NOUNS or word in WORDS_NOT_FIRST):
            return False
    return not (
        _NOBODY.fullmatch(words[-1]) or _NOBODY.fullmatch(words[0]) or (len(words) == 1 and words[0] in EPONYMS)
    )


def _signatures(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for match in _SIGNATURE.finditer(lower):
        end, parts = take(view, match.end(), sure=True, plain=plain)
        last = next((at for at, part in enumerate(parts) if at and part[:3] in _MONTHS.split("|")), None)
        if len(parts) < 2 or (last is not None and last < 2):
            continue
        if _SIGNED_OFF.match(lower, end) or (not plain and CREDENTIAL.match(view, end)):
            yield Span(start=match.end(), end=end, kind="NAME", role="doctor")


def _bare_labels(view: str, lower: str, *, plain: bool) -> Iterator[Span]:
    for match in _BARE_LABEL.finditer(lower):
        end, parts = take(view, match.end(), sure=True, plain=plain, most=2 if plain else 4)
        if _fits(parts, plain=plain) and (plain or _PROSE.match(view, end) is None):
            role: Role = context.ROLE_OF[match["label"]]
            yield Span(start=match.end(), end=end, kind="NAME", role=role)
    for match in _RUNNING_LABEL.finditer(lower) if not plain else ():
        if view[match.start()].isupper():
            end, parts = take(view, match.end(), sure=True)
            heading = view[match.end() : end].isupper() or _PROSE.match(view, end) is not None
            if _fits(parts, plain=False) and not heading:
                yield Span(start=match.end(), end=end, kind="NAME", role="doctor")


def _fits(parts: list[str], *, plain: bool) -> bool:
    """Say whether two or more words can only be a name after a label that nothing sets off."""
    if len(parts) < 2 or not is_person(parts, plain=plain):
        return False
    return not any(is_word(part) and part not in FIRST_NAMES for part in parts[:-1] if len(part) > 1)
