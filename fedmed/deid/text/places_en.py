"""Hospitals and addresses in English notes.

Why it exists: HIPAA Safe Harbor lets only the state stay of where somebody lives.

Rules:
    * A hospital is a run of capitalised words with Hospital, Medical Center, Clinic … unless the words are only
      of a service (Pain Clinic, Emergency Hospital).
    * An address is a number and a street, a P.O. box, a city with its state, a ZIP code, or what a label says.

What it does not do: lone cities without state or context; employers.
"""

import re
import string
from collections.abc import Iterator
from itertools import chain

from fedmed.deid.text.lexicon_en import NO_PLACES, NOT_NAMES
from fedmed.deid.text.patterns import (
    PlacedSearch,
    WordSearch,
    at_word_start,
    back_by_spaces,
    digit_runs,
    listed,
)
from fedmed.deid.text.reading import Reading
from fedmed.deid.text.spans import Kind, Span

_CAP = r"[A-Z][A-Za-zÀ-ɏ'\-.]{0,79}[A-Za-z]"  # bounded: each place is tried, and may lie in one endless word
_STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC"
    "|ND|OH|OK|OR|PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|DC"
)
_STATE_NAMES = (
    "Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii"
    "|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky"
    "|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska"
    "|Nevada|New Hampshire|New Jersey|New Mexico|New York"
    "|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|South "
    "Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington"
    "|West Virginia|Wisconsin|Wyoming"
)
_STREET_TYPES = (
    "Street|St|Avenue|Ave|Av|Road|Rd|Drive|Dr|Lane|Ln|Boulevard|Blvd|Court|Ct|Way|Place|Pl|Circle|Cir"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Square|Sq|Trail|Trl|Loop|Alley|Plaza|Pike|Turnpike|Crescent"
    "|Close|Row|Walk|Run|Path"
)
_ZIP = r"[0-9]{5}(?:-[0-9]{4})?(?![0-9])"
_REST = (
    rf"(?:[, ]{{1,2}}(?:Apt|Apartment|Suite|Ste|Unit|Room|Rm|Floor|Fl|APT|UNIT|SUITE|STE|#)\.? "
    rf"?#?[A-Za-z0-9\-]+)?(?:[,\n ]{{1,3}}{_CAP}(?: {_CAP}){{0,2}})?(?:,? "
    rf"(?:{_STATES}|{_STATE_NAMES})(?![A-Za-z]))?(?:,? (?:[A-Z][a-z] )?{_ZIP})?"
)


def _before_words(view: str) -> Iterator[int]:
    """Yield where the number of a house can begin: a capital, a hyphen, or a space and then one or a digit follows."""
    for start, end in digit_runs(view):
        behind = view[end : end + 2]
        if end - start <= _HOUSE_DIGITS and (behind[:1] in _BEHIND_HOUSE or behind in _BEHIND_HOUSE):
            yield start


_HOUSE_DIGITS = 6
_BEHIND_HOUSE = frozenset(["-", *string.ascii_uppercase, *(f" {c}" for c in string.ascii_uppercase + string.digits)])
_STREET = PlacedSearch(
    rf"[0-9](?<![0-9A-Za-z.,/].)[0-9]{{0,5}}[A-Z]?(?:-[0-9]+)? (?:[NSEW]{{1,2}}\.? |North |South |East "
    rf"|West )?(?:(?:{_CAP}|[0-9]{{1,3}}(?:st|nd|rd|th)) ){{1,"
    rf"4}}(?:{_STREET_TYPES}|{_STREET_TYPES.upper()}|street|avenue|road|lane"
    rf"|boulevard)(?![A-Za-z])\.?(?: [NSEW]{{1,2}}(?![A-Za-z]))?{_REST}",
    _before_words,
)
_BOX = re.compile(rf"(?:P\.? ?O\.? ?Box|PO BOX|Post Office Box) [0-9]+{_REST}")
_CITY_END = re.compile(rf",[ \n]?(?:(?:{_STATES})(?![A-Za-z])|{_STATE_NAMES})")


def _before_states(view: str) -> Iterator[int]:
    """Yield where a city before a state can begin: three words and a preposition stand before the comma at most."""
    at = 0
    for end in _CITY_END.finditer(view):
        first = max(at, back_by_spaces(view, end.start(), 4))
        at = end.start()
        yield from (start for start in range(first, at) if "A" <= view[start] <= "Z" or view[start] in "ifant")


_CITY_STATE = PlacedSearch(
    rf"(?P<where>(?:in|from|at|near|to) )?[A-Z](?<![A-Za-z].)(?:[a-z]+|[A-Z]{{3,}})(?<![A-Z]\.)(?: {_CAP}){{0,2}},[ "
    rf"\n]?(?:(?:{_STATE_NAMES})(?![a-z])(?:,? {_ZIP})?"
    rf"|(?P<degree>MD|PA|MA|MS)(?![A-Za-z])(?P<zip>,? {_ZIP})?|(?:{_STATES})(?![A-Za-z])(?:,? {_ZIP})?)",
    _before_states,
)
_FROM_STATE = re.compile(
    rf"(?:(?:from|in|of|to) |: ?(?=[^\n,]{{2,24}} (?!MD|PA|MA"
    rf"|MS)[A-Z]{{2}}(?![A-Za-z])))(?P<place>[A-Z][a-z]+(?: {_CAP})?,? (?:{_STATES})(?![A-Za-z]))"
)
_LONGEST_STATE = max(map(len, _STATE_NAMES.split("|")))


def _before_zips(view: str) -> Iterator[int]:
    """Yield where a state before a ZIP code can begin."""
    for start, end in digit_runs(view):
        if end - start == _ZIP_DIGITS and view[start - 1 : start] == " ":
            yield from (at for at in range(max(0, start - _LONGEST_STATE - 2), start) if "A" <= view[at] <= "Z")


_ZIP_DIGITS = 5
_STATE_ZIP = PlacedSearch(
    rf"{at_word_start([*_STATES.split('|'), *_STATE_NAMES.split('|')], border='A-Za-z')},? {_ZIP}", _before_zips
)
_LABELS = listed(
    "home address,mailing address,street address,address,residence,city,town,county,employer,place of birth,birthplace,"
    "school",
    by=",",
)
_ZIP_LABEL = WordSearch(
    ("zip", "zip code", "postal code", "postcode"),
    rest=r"[ :#]{1,3}([0-9]{5}(?:-[0-9]{4})?|[a-z][0-9][a-z0-9]? ?[0-9][a-z0-9]{2})",
)
_LIVES_WORDS = (
    "lives? in,living in,lived in,resides? in,residing in,resident of,moved (?:from|to),native of,born "
    "in,raised in,grew up in,hometown is,home in,"
    "relocated (?:from|to),travell?ed (?:from|to),visiting from,comes from,works? (?:at|for),employed "
    "(?:at|by),attends,teaches at,student at,retired from"
)
_LIVES = WordSearch(_LIVES_WORDS.split(","), rest="(?: the)?(?: city of| town of)? ")
_COARSE = re.compile(
    rf"[A-Z]{{1,3}}|{_STATE_NAMES}|United States|America|Canada|Mexico"
)  # may stay, or no place at all
_LABEL = WordSearch(_LABELS, rest="(?:/[a-z]+)? ?: *")
_LINE = re.compile(r"[A-Za-z0-9][^\n;|]{2,80}?(?=\s{2,}|[\n;|]|$|\. | (?:[Pp]hone|[Tt]el|DOB|MRN|[Dd]ate|SSN)\b)")
_PLACE_NAME = re.compile(rf"{_CAP}(?:(?: (?:of|and|the|at|de|del|la)| &)? {_CAP}){{0,4}}")

_KINDS = (
    "Hospitals?|Medical Cent(?:er|re)|Health ?[Cc]are Cent(?:er|re)|Health Cent(?:er|re)|Cancer "
    "Cent(?:er|re)|Health System|Clinic|Infirmary|Nursing Home"
    "|Nursing Facility|Rehabilitation Cent(?:er|re)|Surgery Cent(?:er|re)|Surgical Cent(?:er|re)"
    "|Hospice|Sanatorium|Healthcare|Medical Group|Medical Associates"
    "|Family Practice|Family Medicine|Care Cent(?:er|re)|Imaging Cent(?:er|re)|Dialysis Cent(?:er|re)"
    "|Assisted Living|Manor|General|Memorial|Medical College"
    "|Medical School|School of Medicine|VAMC|Institute|Laboratories|Pharmacy"
)
_HOSPITAL_WORD = re.compile(rf"(?:{_KINDS})(?![A-Za-z])")


def _before_kinds(view: str) -> Iterator[int]:
    """Yield where the name of a hospital can begin: six words stand before Hospital, Clinic … at most."""
    at = 0
    for kind in _HOSPITAL_WORD.finditer(view):
        first = max(at, back_by_spaces(view, kind.start(), 7))
        at = kind.end()
        yield from (start for start in range(first, at) if "A" <= view[start] <= "Z")


_HOSPITAL = PlacedSearch(
    rf"(?P<head>[A-Z](?<![A-Za-z'.].)[A-Za-zÀ-ɏ'\-.]{{0,80}}(?: (?:{_CAP}|&|of|and|the|de|[A-Z]\.)){{0,5}}? "
    rf")(?P<kind>{_KINDS})(?![A-Za-z])(?: (?:Hospital|Medical Cent(?:er|re)|Clinic|Health "
    rf"System)(?![A-Za-z]))?(?: (?:of|at|in|for) (?:the )?{_CAP}(?: {_CAP}){{0,3}})?",
    _before_kinds,
)
_PLAIN_OF = re.compile(rf"University Of (?:{_CAP} ){{1,3}}(?:{_KINDS})(?![A-Za-z])")
_PLAIN_CITY = re.compile(
    rf"(?:from|in|of|to|at|:|\|) ?(?P<place>[a-z]+(?: [a-z]+)?, (?:{_STATES.lower()})(?![a-z])(?:,? {_ZIP})?)"
)
_BEFORE = re.compile(r"(?:^|(?<= ))(?:To|At|From|In|By|With|The|For|Was|Is|On|Via|And)(?= ) ")
_OF = re.compile(
    rf"(?:Hospital|University|Children's Hospital|Hospital and Clinics|Clinic|Institute|College) (?:of"
    rf"|for) (?:the )?{_CAP}(?:(?: (?:of|and|the|at|for)| &)? {_CAP}){{0,5}}"
)
_OPENING = frozenset(listed("old new st saint mount good north south east west"))
_GENERIC = frozenset(
    listed(
        "emergency pain outpatient inpatient anticoagulation coumadin cardiology dermatology orthopedic "
        "orthopaedic surgical surgery medical medicine family primary"
        " care urgent wound memory diabetes diabetic eye ear dental speech hearing pediatric pediatrics "
        "neurology oncology cancer sleep allergy asthma hypertension lipid"
        " heart failure walk-in walk in local county community city regional state general university "
        "teaching tertiary veterans day free sick well baby well-baby ob gyn"
        " ob/gyn obstetric prenatal women's men's health mental psychiatric behavioral rehabilitation "
        "rehab skilled nursing long term long-term acute adult children"
        " children's private public outside referring this that the our your their his her my a an any "
        "each other another first second final previous same current admitting in at of and for to"
        " from by on per via with was is were are transferred admitted hospital hospitals clinic clinics "
        "center centre burn trauma stroke transplant infusion dialysis imaging radiology x-ray hematology"
        " renal kidney liver gi gastroenterology pulmonary lung chest tuberculosis tb std hiv travel "
        "vaccine flu fracture hand foot spine back podiatry plastic vascular vein urology endocrine"
        " rheumatology arthritis osteoporosis infectious disease id headache epilepsy seizure movement "
        "disorder als ms concussion balance vestibular fertility ivf breast gynecologic colposcopy "
        "lactation voice"
        " weight loss bariatric nutrition fitness smoking cessation methadone suboxone detox substance "
        "abuse follow-up followup follow up postoperative preoperative preop pre-op pacemaker device icd "
        "arrhythmia lipids attending resident"
        " dr doctor discharge admission course chief complaint history past major minor routine laboratory "
        "labs blood physical he she it they patient pt i we and/or please"
    )
)

_BEFORE_NAME = (_GENERIC | NOT_NAMES) - _OPENING
_TWO_CAPITALS = re.compile("[A-Z](?<=[A-Za-z,] .)[A-Z](?![A-Za-z])")


def find_places(lines: Reading, flat: Reading) -> list[Span]:
    """Return the spans of hospitals and addresses written in English.

    Args:
        lines: The note.
        flat: The note with its lines joined, for what a line's end divides.
    """
    found = [*_hospitals(lines), *_after_words(lines.view, lines.lower)]
    if "\n" in lines.view:
        found += [span for span in _hospitals(flat) if "\n" in lines.view[span.start : span.end]]
    for match in _CITY_STATE.finditer(lines.view):
        if not match["degree"] or match["where"] or match["zip"]:  # "Roe, MD" is no town in Maryland
            found.append(_span(match.end("where") if match["where"] else match.start(), match.end(), "ADDRESS"))
    if _TWO_CAPITALS.search(lines.view):
        found += [_span(*match.span("place"), "ADDRESS") for match in _FROM_STATE.finditer(lines.view)]
    view = flat.titled
    if flat.plain:
        found += [_span(*match.span("place"), "ADDRESS") for match in _PLAIN_CITY.finditer(flat.lower)]
    boxes = _BOX.finditer(view) if "Box" in view or "BOX" in view else ()
    for match in chain(_STREET.finditer(view), boxes, _STATE_ZIP.finditer(view)):
        found.append(_span(match.start(), match.end(), "ADDRESS"))
    return found


def _span(start: int, end: int, kind: Kind) -> Span:
    return Span(start=start, end=end, kind=kind)


def _hospitals(lines: Reading) -> Iterator[Span]:
    view, plain = lines.titled, lines.plain
    for match in _HOSPITAL.finditer(view):
        start, text = match.start(), match["head"]
        if plain:  # no capital says where the name begins; a preposition may
            for preposition in _BEFORE.finditer(text):
                start, text = match.start() + preposition.end(), match["head"][preposition.end() :]
        while text:  # what stands before the first word of the name: a sentence's start, a service, an article
            word, _, rest = text.partition(" ")
            if word.lower().strip(".,") not in _BEFORE_NAME:
                break
            start, text = start + len(word) + 1, rest
        if len(text.strip()) > 2:
            yield _span(start, match.end(), "HOSPITAL")
    for match in (_PLAIN_OF if plain else _OF).finditer(view):
        yield _span(match.start(), match.end(), "HOSPITAL")


def _after_words(view: str, lower: str) -> Iterator[Span]:
    for match in _LIVES.finditer(lower):
        place = _PLACE_NAME.match(view, match.end())
        if place and place[0].lower() not in NO_PLACES and not _COARSE.fullmatch(place[0]):
            yield _span(place.start(), place.end(), "ADDRESS")
    for match in _LABEL.finditer(lower):
        line = _LINE.match(view, match.end())
        if line:
            yield _span(line.start(), line.end(), "ADDRESS")
    for match in _ZIP_LABEL.finditer(lower):
        yield _span(*match.span(1), "ADDRESS")
