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
from collections.abc import Iterable, Iterator

from fedmed.deid.text.lexicon_en import AMBIGUOUS, CLINICAL_NOUNS, EPONYMS, FIRST_NAMES, NOT_NAMES
from fedmed.deid.text.patterns import at_word_start
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import ROLES, Role, Span

_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏ̀-ͯ"
_UPPER = "A-ZÀ-ÖØ-Þ"
_WORD = rf"[{_UPPER}][{_LETTERS}]*(?:['\-][{_LETTERS}]+)*"
_TOKEN = re.compile(rf"(?:[{_UPPER}]\.){{1,3}}(?![{_LETTERS}]{{2}}\.)|{_WORD}")
_PARTICLE = re.compile(rf"(?:van der|van den|van|von|ben|abu|de la|de los|del|della|de|der|den|di|da|dos|la|le|bin|ibn|al|el|ter|st\.) (?=[{_UPPER}])")
_CAPITAL = re.compile(rf"[{_UPPER}](?<![{_LETTERS}'].)[{_LETTERS}]{{2,}}(?:['\-][{_UPPER}][{_LETTERS}]+)*")
_LATIN_WORD = re.compile(rf"[{_LETTERS}]+(?:'[{_LETTERS}]+)*")
_NEXT_WORD = re.compile(r"(?:'s)?[ \-]([A-Za-z\-]+)")
_ZH_NOUN = re.compile(" ?(?:试验|实验|征|综合[征症]|病|评分|分级|分型|分期|手术|术|法|心功能|量表|指数|公式|反应|反射|骨折|细胞|小体|氏|导管|钳)")
_PLACE_BEFORE = ("Santa ", "San ", "St. ", "St ", "Saint ", "Fort ", "Port ", "Lake ", "Mount ", "New ")
_SMALL = re.compile(r"[a-z][a-z'\-]{2,}")
_PHRASES = frozenset(("marcus gunn", "austin flint", "jackson pratt", "brown sequard", "graham steell", "carey coombs"))

_TITLE = re.compile(
    rf"(?P<title>{at_word_start('mr,mrs,ms,miss,mx,dr,drs,doctor,doctors,prof,professor,nurse,sister,rev,reverend,rabbi,sir,madam,judge,officer,dear'.split(','))})"
    r"(?P<dot>\.?) +(?:dr\.? +)?(?=[a-zà-ɏ])"
)
_DOCTOR_TITLES = frozenset(("dr", "drs", "doctor", "doctors", "prof", "professor", "nurse"))
_PATIENT_LABELS = (
    "patient name, patient's name, name of patient, patient, pt, pt name, name, full name, last name, first name, surname, given name, family name,"
    " maiden name, alias, aka, preferred name, re, client, member name, subject name, patient/guardian"
)
_RELATIVE_LABELS = (
    "mother, father, wife, husband, spouse, son, daughter, sister, brother, guardian, next of kin, nok, emergency contact, contact, contact person,"
    " caregiver, partner, parent, parents, friend, health care proxy, healthcare proxy, proxy, power of attorney, poa, informant, historian, accompanied by,"
    " mother's name, father's name, spouse name, contact name, relative, aunt, uncle, grandmother, grandfather, niece, nephew, cousin, roommate, neighbor"
)
_DOCTOR_LABELS = (
    "physician, attending, attending physician, attending md, attending surgeon, surgeon, surgeons, co-surgeon, assistant, assistants, first assistant, second assistant,"
    " assistant surgeon, anesthesiologist, anesthetist, referring physician, referring md, referred by, consulting physician, consultant, consultants, primary care physician,"
    " primary physician, primary care provider, primary care, pcp, provider, resident, fellow, intern, nurse, rn, scrub nurse, circulating nurse, scrub, circulator, dictated by, dictator,"
    " dictating physician, transcribed by, transcriptionist, signed by, electronically signed by, electronically signed, signed, signature, e-signed, authenticated by, reviewed by,"
    " verified by, prepared by, interpreted by, read by, reported by, performed by, ordered by, ordering physician, ordering provider, requesting physician, operator,"
    " author, authored by, entered by, cc, copy to, copies to, seen by, cosigned by, co-signed by, therapist, psychologist, psychiatrist, pathologist, radiologist, cardiologist,"
    " technologist, technician, sonographer, examiner, evaluator, witness, witnessed by, supervisor, preceptor, doctor, dr, admitting physician, discharge physician, family physician,"
    " family doctor, treating physician, medical director, counselor, case manager, social worker, pharmacist, perfusionist, midwife, dentist, staff, s"
)


def _roles(listed: str, role: Role) -> dict[str, Role]:
    return {label.strip(): role for label in listed.split(",")}


ROLE_OF = _roles(_DOCTOR_LABELS, "doctor") | _roles(_RELATIVE_LABELS, "relative") | _roles(_PATIENT_LABELS, "patient")
_LABELS = tuple(sorted(ROLE_OF, key=lambda label: (-len(label), label)))
_NAMING = frozenset(label for label, role in ROLE_OF.items() if "name" in label or role == "doctor") - {"cc", "s", "staff"}
_THINGS = ("model", "brand", "generic", "trade", "drug", "product", "test", "procedure", "file", "study", "company", "facility", "device")
_COLON = re.compile(r"(?::|/s/|=)[ ,_]*(?=[a-z])")
_ASIDE = re.compile(r"(?:\(s\)| ?\([^()\n]{0,20}\)) ?$")
_GIVEN_AFTER = re.compile(rf", ({_WORD}(?: [{_UPPER}]\.?(?![{_LETTERS}]))?)")
_BY_WORDS = (
    "dictated,signed,authenticated,reviewed,verified,prepared,interpreted,reported,performed,ordered,seen,evaluated,examined,referred,authored,entered,witnessed,"
    "cosigned,assisted,supervised,administered,noted,recorded,done,obtained"
).split(",")
_MET_WORDS = (
    "saw,met,met with,meeting with,spoke to,spoke with,speaking with,spoken with,discussed with,contacted,accompanied by,referring,care of,on behalf of,"
    "sincerely,regards,yours,cordially,respectfully,patient,pt,per,attn"
).split(",")
_BY = re.compile(
    rf"(?P<by>{at_word_start(f'{word} by' for word in _BY_WORDS)})[\s,]+(?=[a-z])|(?P<met>{at_word_start(_MET_WORDS)})[\s,]+(?:dr\.? |mr\.? |ms\.? |mrs\.? |miss )?(?=[a-z])"
)
_RELATION_WORDS = (
    "wife,husband,spouse,son,daughter,mother,father,sister,brother,friend,fianc[eé]e?,partner,boyfriend,girlfriend,aunt,uncle,niece,nephew,cousin,grandson,"
    "granddaughter,grandmother,grandfather,mom,dad,neighbor,roommate,caregiver,guardian,stepfather,stepmother"
).split(",")
_RELATION = re.compile(
    rf"(?:{at_word_start(_RELATION_WORDS)}|(?P<named>{at_word_start(['named', 'goes by', 'name is'])}))"
    r"(?:-in-law)?,? (?:is |named |called |,? ?whose name is |\()?(?=[a-z])"
)
_CREDENTIAL = re.compile(
    r"[MDPRNFABCLO](?<=[ ,].)(?:(?<=M)\.?D\.?|(?<=M)(?:SN|BBS)|(?<=D)\.O\.|(?<=, D)O|(?<=D)(?:DS|MD|PM|PT|\.D\.S\.)|(?<=, D)C|(?<=P)(?:h\.?D\.?|sy\.?D\.?"
    r"|harmD|A-C|\.A\.)|(?<=R)(?:\.?N\.?|Ph|RT|D[MC]S)|(?<=N)\.?P\.?|(?<=F)(?:NP|AC[SCP]|ACOG|RCS)|(?<=B)SN|(?<=A)(?:RNP|PRN|NP|CNP)|(?<=C)(?:RNP|NM|RNA|CC)"
    rf"|(?<=L)(?:PN|VN|CSW|MFT)|(?<=, O)D)(?![{_LETTERS}])"
)
_NAME_BEFORE = re.compile(
    rf"(?<![{_LETTERS}'.])(?P<name>{_WORD}(?: (?:{_WORD}|[{_UPPER}]\.)){{0,3}})(?:,? Jr\.?|,? Sr\.?|,? I{{2,3}})?(?P<comma>,?) ?$"
)
_AGED = re.compile(
    rf"(?P<name>{_WORD}(?:,? (?:{_WORD}|[{_UPPER}]\.?)){{0,3}}),? (?:(?:is|was) (?:an? |our |the )?|an? |\()(?:[a-z]+ ){{0,2}}?"
    r"[0-9]{1,3}(?:[ \-]?(?:years?|yrs?|y\.?/?o|yo)|[MF](?![A-Za-z]))"
)


def find_names(reading: Reading) -> list[Span]:
    """Return the spans of names written in Latin letters, as the English rules find them."""
    view, lower = reading.view, reading.lower
    shouted = not any(character.islower() for character in view)
    found = [
        *_after_titles(view, lower),
        *_after_labels(view, lower),
        *_after_words(view, lower),
        *_with_endings(view),
        *_first_names(view, lower, shouted=shouted),
    ]
    return [*found, *_everywhere(view, lower, found)]


# --- one name -------------------------------------------------------------------------------------------------


def _take(view: str, at: int, *, title: bool = False) -> tuple[int, list[str]]:
    """Return where the name that starts at `at` ends and its parts in small letters; no parts: no name.

    Args:
        view: The note.
        at: Where the first part would start.
        title: Words that may be names (Young, White) are believed in the first place.
    """
    end, parts = at, []
    while len(parts) < 4:
        if parts and _OTHER_CREDENTIAL.match(view, at):
            break
        particle = _PARTICLE.match(view.lower() if title and not parts else view, at)
        token = _TOKEN.match(view, particle.end() if particle else at)
        if token is None:
            break
        word = token[0].lower().removesuffix("'s")
        if word in {"i", "a"}:
            break
        believed = title and word in AMBIGUOUS and (not parts or len(parts[-1]) == 1)
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
    token = _TOKEN.match(view, at)
    return token is not None and token[0].lower() in FIRST_NAMES | {"j", "m"} and token[0].lower() not in {"may", "will"}


def _is_eponym(view: str, end: int, parts: list[str]) -> bool:
    follows = _NEXT_WORD.match(view, end)
    named = " ".join(parts) in _PHRASES or _ZH_NOUN.match(view, end) is not None
    return named or (follows is not None and follows[1].lower() in CLINICAL_NOUNS)


def _span(start: int, end: int, role: Role) -> Span:
    return Span(start=start, end=end, kind="NAME", role=role)


# --- contexts -------------------------------------------------------------------------------------------------


def _after_titles(view: str, lower: str) -> Iterator[Span]:
    for match in _TITLE.finditer(lower):
        role: Role = "doctor" if match["title"] in _DOCTOR_TITLES else "other"
        written = view[match.start() : match.end("title")]
        if match["title"] == "ms" and view[: match.start()].rstrip()[-1:].isdecimal():
            continue  # milliseconds
        if written.isupper() and not match["dot"] and len(written) == 2 and match["title"] in {"ms", "mr", "dr"}:
            following = _TOKEN.match(view, match.end())
            if following is None or following[0].isupper():
                continue  # MR ANGIOGRAM, MS EXACERBATION
        at = match.end()
        end, parts = _take(view, at, title=True)
        small = _SMALL.match(view, at) if match["dot"] or match["title"] in {"mr", "mrs", "dr"} else None
        if parts:
            yield _span(at, end, role)
            yield from _more(view, end, role)
        elif small and small[0] not in NOT_NAMES and small[0] not in CLINICAL_NOUNS:
            yield _span(at, small.end(), role)


def _after_labels(view: str, lower: str) -> Iterator[Span]:
    for match in _COLON.finditer(lower):
        label = _label_before(lower, match.start())
        if label is None:
            continue
        role, at = ROLE_OF[label], match.end()
        title = _TITLE.match(lower, at)
        at = title.end() if title else at
        end, parts = _take(view, at, title=True)
        if not parts:
            continue
        comma = _GIVEN_AFTER.match(view, end)
        if len(parts) == 1 and comma and comma[1].lower().split()[0] not in NOT_NAMES:
            end = comma.end()
        elif len(parts) == 1 and parts[0] not in FIRST_NAMES and not title and label not in _NAMING:
            continue
        yield _span(at, end, role)
        yield from _more(view, end, role)


def _label_before(lower: str, at: int) -> str | None:
    """Return the label that ends at `at`, if one does: the longest, at the start of a word."""
    if aside := _ASIDE.search(lower, max(0, at - 24), at):
        at = aside.start()
    while at and lower[at - 1] == " ":
        at -= 1
    if not lower.endswith(_LABELS, 0, at):
        return None
    label = next(label for label in _LABELS if lower.endswith(label, 0, at))
    start = at - len(label)
    named = label == "name" and lower[:start].rstrip().endswith(_THINGS)
    return None if named or lower[start - 1 : start].isalnum() or lower[start - 1 : start] == "-" else label


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
        known = len(parts) >= 2 or (parts and ("and" in mark[0] or "&" in mark[0]) and (parts[0] in FIRST_NAMES or role == "doctor"))
        if not known or any(part in EPONYMS for part in parts if len(parts) == 1):
            return
        yield _span(mark.end(), end, role)
        at = end


def _after_words(view: str, lower: str) -> Iterator[Span]:
    for match in _BY.finditer(lower):
        end, parts = _take(view, match.end())
        role: Role = "doctor" if match["by"] else "patient" if match[0].startswith(("patient", "pt")) else "other"
        if len(parts) >= 2 or (parts and parts[0] in FIRST_NAMES - AMBIGUOUS):
            yield _span(match.end(), end, role)
    for match in _RELATION.finditer(lower):
        end, parts = _take(view, match.end())
        shouted = view[match.end() : end].isupper()
        if parts and (parts[0] in FIRST_NAMES or not shouted) and parts[0] not in EPONYMS - FIRST_NAMES:
            yield _span(match.end(), end, "other" if match["named"] else "relative")


def _with_endings(view: str) -> Iterator[Span]:
    for credential in _CREDENTIAL.finditer(view):
        at = credential.start()
        match = _NAME_BEFORE.search(view, max(0, at - 60), at)
        if match is None:
            continue
        tokens = list(_TOKEN.finditer(view, match.start(), match.end("name")))
        while tokens and tokens[0][0].lower() in NOT_NAMES:
            tokens.pop(0)
        clean = all(token[0].rstrip(".").lower() not in NOT_NAMES or len(token[0]) <= 2 for token in tokens)
        if tokens and clean and (len(tokens) >= 2 or match["comma"]) and len(tokens[-1][0]) > 1:
            yield _span(tokens[0].start(), match.end("name"), "doctor")
    for match in _AGED.finditer(view):
        start = match.start()
        if view[start - 1 : start].isalpha():
            continue
        words = match["name"].lower().replace(",", " ").split()
        if not any(word.strip(".") in NOT_NAMES and len(word) > 1 for word in words):
            yield _span(start, match.end("name"), "patient")


def _first_names(view: str, lower: str, *, shouted: bool) -> Iterator[Span]:
    at = 0
    for match in _CAPITAL.finditer(view):
        first = lower[match.start() : match.end()]
        if match.start() < at or first not in FIRST_NAMES:
            continue
        end, parts = _take(view, match.start(), title=True)
        capitals = match[0].isupper()
        if len(parts) >= 2 and not (first in AMBIGUOUS and (shouted or capitals)):
            at = end
            yield _span(match.start(), end, "other")
        elif parts and not capitals and first not in AMBIGUOUS | EPONYMS and not view.endswith(_PLACE_BEFORE, 0, match.start()):
            yield _span(match.start(), end, "other")


# --- the same name again --------------------------------------------------------------------------------------


def _everywhere(view: str, lower: str, found: Iterable[Span]) -> Iterator[Span]:
    """Yield every further occurrence of a part of a name that was found."""
    roles: dict[str, Role] = {}
    small = {view[span.start : span.end] for span in found if view[span.start].islower()}
    for span in found:
        for part in _LATIN_WORD.findall(lower, span.start, span.end):
            word = part.removesuffix("'s")
            if len(word) > 2 and word not in NOT_NAMES - AMBIGUOUS or (len(word) == 2 and word not in NOT_NAMES):
                roles[word] = min(roles.get(word, "other"), span.role, key=ROLES.index)
    if not roles:
        return
    for match in _LATIN_WORD.finditer(lower):
        word, (start, end) = match[0].removesuffix("'s"), match.span()
        if word not in roles:
            continue
        end = start + len(word)
        written = view[start:end]
        common = word in AMBIGUOUS or word in EPONYMS or len(word) < 4
        if written.islower() and (common or (word not in FIRST_NAMES and word not in small)):
            continue
        if common and (written.isupper() or _opens_sentence(view, start)) and word not in FIRST_NAMES - AMBIGUOUS:
            continue
        if not _is_eponym(view, end, [word]):
            yield _span(start, end, roles[word])


def _opens_sentence(view: str, start: int) -> bool:
    return view[:start].rstrip(" ")[-1:] in {"", ".", "\n", ":", "!", "?"} or view[start - 1] == ","
