"""Patterns of the words around names in English notes: titles, labels, relations, credentials.

Why it exists: these are the contexts that `names_en` believes, in one place to read and to extend.

Rules:
    * A pattern that is searched in the note with small letters is written in small letters.
    * General words of clinical English only; no name of anybody.

What it does not do: decide what a name is.
"""

import re

from fedmed.deid.text.patterns import WordSearch, listed
from fedmed.deid.text.spans import Role

_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏ̀-ͯ"
_UPPER = "A-ZÀ-ÖØ-Þ"
_WORD = rf"[{_UPPER}][{_LETTERS}]*(?:['\-][{_LETTERS}]+)*"
NAME_WORD = _WORD
PARTICLE_WORD = (
    "(?i:van der |van den |van |von |ben |abu |de la |de los |del |della |de |der |den |di |da |dos |bin |ibn "
    r"|[ae]l[ -]|st\.? |(?:ul|ad|ar|as|an|abd)-)"
)
TOKEN = re.compile(rf"(?:[{_UPPER}]\.){{1,3}}(?![{_LETTERS}]{{2}}\.)|{_WORD}")
PARTICLE = re.compile(
    rf"(?:(?i:van der|van den|van|von|ben|abu|de la|de los|del|della|de|der|den|di|da|dos|la|le|bin|ibn|al"
    rf"|el|ter|st\.?)[ \n]|(?i:al|el|ul|ad|ar|as|ash|at|an|abd|abu)-)(?=[{_UPPER}])"
)
PARTICLE_BEFORE = re.compile(
    r"(?<![A-Za-z])(?:[A-Z]\.? ?\n?){0,2}(?:(?i:van der|van den|van|von|ben|abu|de la|de los|del|della"
    r"|de|der|den|di|da|dos|bin|ibn|al|el|st\.?) |(?i:al|el|ul|ad|ar|as|ash|at|an|abd|abu)-)?$"
)
CAPITAL = re.compile(rf"[{_UPPER}](?<![{_LETTERS}'].)[{_LETTERS}]{{2,}}(?:['\-][{_UPPER}][{_LETTERS}]+)*")
LATIN_WORD = re.compile(rf"[{_LETTERS}]+(?:'[{_LETTERS}]+)*")
NEXT_WORD = re.compile(r"(?:'s)?[ \-]([A-Za-z\-]+)")
ZH_NOUN = re.compile(
    " ?(?:试验|实验|征|综合[征症]|病|评分|分级|分型|分期|手术|术|法|心功能|量表|指数|公式|反应|反射"
    "|骨折|细胞|小体|氏|导管|钳)"
)
PLACE_BEFORE = ("Santa ", "San ", "St. ", "St ", "Saint ", "Fort ", "Port ", "Lake ", "Mount ", "New ")
SMALL = re.compile(r"[a-z][a-z'\-]{2,}")
PHRASES = frozenset(("marcus gunn", "austin flint", "jackson pratt", "brown sequard", "graham steell", "carey coombs"))

_TITLES = listed(
    "mr mrs ms miss mx dr drs doctor doctors prof professor nurse sister rev reverend rabbi sir madam judge officer"
    " dear"
)
TITLE = WordSearch(_TITLES, group="title", rest=r"(?P<dot>\.?)(?: +|(?<=\.)\n)(?:dr\.? +)?(?=[a-zà-ɏ])")
DOCTOR_TITLES = frozenset(("dr", "drs", "doctor", "doctors", "prof", "professor", "nurse"))
_PATIENT_LABELS = (
    "patient name, patient's name, name of patient, patient, pt, pt name, name, full name, last name, "
    "first name, surname, given name, family name,"
    " maiden name, alias, aka, preferred name, re, client, member name, subject name, patient/guardian"
)
_RELATIVE_LABELS = (
    "mother, father, wife, husband, spouse, son, daughter, sister, brother, guardian, next of kin, nok,"
    " emergency contact, contact, contact person,"
    " caregiver, partner, parent, parents, friend, health care proxy, healthcare proxy, proxy, power "
    "of attorney, poa, informant, historian, accompanied by,"
    " mother's name, father's name, spouse name, contact name, relative, aunt, uncle, grandmother, "
    "grandfather, niece, nephew, cousin, roommate, neighbor"
)
_DOCTOR_LABELS = (
    "physician, attending, attending physician, attending md, attending surgeon, surgeon, surgeons, "
    "co-surgeon, assistant, assistants, first assistant, second assistant,"
    " assistant surgeon, anesthesiologist, anesthetist, referring physician, referring md, referred by,"
    " consulting physician, consultant, consultants, primary care physician,"
    " primary physician, primary care provider, primary care, pcp, provider, resident, fellow, intern, "
    "nurse, rn, scrub nurse, circulating nurse, scrub, circulator, dictated by, dictator,"
    " dictating physician, transcribed by, transcriptionist, signed by, electronically signed by, "
    "electronically signed, signed, signature, e-signed, authenticated by, reviewed by,"
    " verified by, prepared by, interpreted by, read by, reported by, performed by, ordered by, "
    "ordering physician, ordering provider, requesting physician, operator,"
    " author, authored by, entered by, cc, copy to, copies to, seen by, cosigned by, co-signed by, "
    "therapist, psychologist, psychiatrist, pathologist, radiologist, cardiologist,"
    " technologist, technician, sonographer, examiner, evaluator, witness, witnessed by, supervisor, "
    "preceptor, doctor, dr, admitting physician, discharge physician, family physician,"
    " family doctor, treating physician, medical director, counselor, case manager, social worker, "
    "pharmacist, perfusionist, midwife, dentist, staff, s"
)


def _roles(labels: str, role: Role) -> dict[str, Role]:
    return dict.fromkeys(listed(labels, by=","), role)


ROLE_OF = _roles(_DOCTOR_LABELS, "doctor") | _roles(_RELATIVE_LABELS, "relative") | _roles(_PATIENT_LABELS, "patient")
LABELS = tuple(sorted(ROLE_OF, key=lambda label: (-len(label), label)))
NAMING = frozenset(label for label, role in ROLE_OF.items() if "name" in label or role == "doctor") - {
    "cc",
    "s",
    "staff",
}
THINGS = (
    "model",
    "brand",
    "generic",
    "trade",
    "drug",
    "product",
    "test",
    "procedure",
    "file",
    "study",
    "company",
    "facility",
    "device",
)
COLON = re.compile(r"(?::|/s/|=)[ ,_\"'“\[]*\n?(?=[a-z])")
ASIDE = re.compile(r"(?:\(s\)| ?\([^()\n]{0,20}\)) ?$")
GIVEN_AFTER = re.compile(rf",(?:[ \n]|(?=[{_UPPER}][{_LETTERS}]{{2}}))({_WORD}(?: [{_UPPER}]\.?(?![{_LETTERS}]))?)")
_BY_WORDS = listed(
    "dictated,signed,authenticated,reviewed,verified,prepared,interpreted,reported,performed,ordered,"
    "seen,read,evaluated,examined,referred,authored,entered,witnessed,"
    "cosigned,assisted,submitted,signed out,brought in,escorted,supervised,administered,noted,recorded,done,obtained",
    by=",",
)
_MET_WORDS = listed(
    "saw,met,met with,reviewed with,follow up with,check with,family member,meeting with,spoke to,"
    "spoke with,speaking with,spoken with,discussed with,telephoned to,called to,paged to,relayed to,told to,"
    "communicated to,endorsed to,signed out to,handed over to,report to,check with,contacted,accompanied by,"
    "referring,care of,on behalf of,"
    "sincerely,regards,yours,cordially,respectfully,patient,pt,per,attn",
    by=",",
)
BY = WordSearch(
    [*(f"{word} by" for word in _BY_WORDS), *_MET_WORDS],
    group="word",
    rest=r"[\s,]+(?:dr\.? |mr\.? |ms\.? |mrs\.? |miss )?(?=[a-z])",
)
_RELATION_WORDS = listed(
    "wife,husband,spouse,son,daughter,mother,father,sister,brother,friend,fianc[eé]e?,partner,"
    "boyfriend,girlfriend,aunt,uncle,niece,nephew,cousin,grandson,"
    "granddaughter,grandmother,grandfather,mom,dad,neighbor,roommate,caregiver,guardian,stepfather,"
    "stepmother,next of kin,emergency contact",
    by=",",
)
_NAMED = ("named", "goes by", "name is")
RELATION = WordSearch(
    [*_RELATION_WORDS, *_NAMED],
    group="word",
    rest=r"(?:-in-law)?(?:,? |,\n)(?:is |named |called |,? ?whose name is |\()?(?=[a-z])",
)
CREDENTIAL = re.compile(
    r"[MDPRNFABCLO](?<=[ ,].)(?=[.A-Zhs])(?:(?<=M)\.?D\.?|(?<=M)(?:SN|BBS)|(?<=D)\.O\.|(?<=, D)O|(?<=D)(?:DS|MD|PM"
    r"|PT|\.D\.S\.)|(?<=, D)C|(?<=P)(?:h\.?D\.?|sy\.?D\.?"
    r"|harmD|A-C|\.A\.)|(?<=R)(?:\.?N\.?|Ph|RT|D[MC]S)|(?<=N)\.?P\.?|(?<=F)(?:NP|AC[SCP]|ACOG|RCS)"
    r"|(?<=B)SN|(?<=A)(?:RNP|PRN|NP|CNP)|(?<=C)(?:RNP|NM|RNA|CC)"
    rf"|(?<=L)(?:PN|VN|CSW|MFT)|(?<=, O)D)(?![{_LETTERS}])"
)
PLAIN_CREDENTIAL = re.compile(
    r"M(?<=[ ,].)\.?[Dd]\.?(?![A-Za-z])|(?<=, )(?:Do|Rn|Np|Phd|Pa)(?![A-Za-z])|(?<=, )(?:R\.N\.|D\.O\.|N\.P\.)"
)
NAME_BEFORE = re.compile(
    rf"(?<![{_LETTERS}'.])(?P<name>(?:[{_UPPER}]\. ?){{0,2}}{_WORD}(?: (?:{_WORD}|[{_UPPER}]\.)){{0,"
    rf"3}})(?:,? Jr\.?|,? Sr\.?|,? I{{2,3}})?(?P<comma>,?) ?$"
)
REACHED = re.compile(  # what follows somebody whom the hospital can call
    r"(?:,? ?\(?\+?[0-9]|,? ?(?:phone|tel|cell|mobile|home)(?![a-z])| at (?:bedside|the bedside|[0-9])"
    r"|,? can be reached|,? (?:number|who|whom|understands?|is (?:the|at|his|her|aware|present)"
    r"|was (?:called|told|notified|present|informed))"
    r"(?![a-z]))"
)
SPECIALTY = re.compile(r" \((?:[a-z]+ )?[a-z]*(?:ology|surgery|medicine|iatry|iatrics|ics|care|therapy)\)")
WITH = WordSearch(
    listed(
        "with by and consult see seeing labell?ed called contact informed notified paged told asked per "
        "under to from cosigned signed female male man woman"
    ),
    rest=r",?\s",
)
GOES_ON = re.compile(rf"(?: (?:of|and|&|at))? (?:[{_UPPER}]|disease|syndrome)|[®™]|-[0-9]")
INITIALS = re.compile(rf"[{_UPPER}](?:(?<=[a-z:(\-] .)|(?<=[:(].)|(?<=[a-z], .))\. ?(?:[{_UPPER}]\. ?)?(?={_WORD})")
AGE_SIGN = re.compile(r"[0-9](?:[ \-]?y|[MF](?![A-Za-z]))")  # what `AGED` ends with
AGED = re.compile(
    rf"(?P<name>[{_UPPER}](?<![{_LETTERS}].)[{_LETTERS}]*(?:['\-][{_LETTERS}]+)*"
    rf"(?:,? (?:{_WORD}|[{_UPPER}]\.?)){{0,3}}),? (?:(?:is|was) (?:an? |our |the )?"
    rf"|an? |\()(?:[a-z]+ ){{0,2}}?"
    r"[0-9]{1,3}(?:[ \-]?(?:years?|yrs?|y\.?/?o|yo)|[MF](?![A-Za-z]))"
)
