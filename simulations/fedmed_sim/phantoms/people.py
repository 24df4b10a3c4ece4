"""Invented people: whatever a hospital keeps to know and to reach a person.

Why it exists: notes, tables and images about one patient must agree with each
other, so they are all written from one record.

Rules:
    * An identity is canonical; `written_identity` and `written_phone` give the spellings found in files.
    * A Chinese resident ID follows GB 11643 (MOD 11-2) with a county code that is not assigned; a US
      security number has an area above 899. Both look real and belong to nobody.

What it does not do: families; a relative is one more person with the same surname or another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, day_between, digits, pick, words
from fedmed_sim.phantoms.names import Language, PersonName, Sex, draw_name
from fedmed_sim.phantoms.places import Address, draw_address, draw_hospital

TODAY = date(2025, 6, 30)
"""The day on which the phantoms live; no date of a file lies behind it by more than a few months."""

FULL_WIDTH = str.maketrans("0123456789Xx", "０１２３４５６７８９Ｘｘ")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_PROVINCE_CODES = words("11 13 21 23 31 32 33 34 35 36 37 41 42 43 44 45 51 52 53 61 62 65")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person and the identifiers that a hospital keeps."""

    name: PersonName
    sex: Sex
    birth: date
    identity: str
    """Resident ID of 18 characters, or a US security number `9NN-NN-NNNN`."""

    phone: str
    """Digits only; US numbers have ten."""

    email: str
    address: Address
    record: str
    """The hospital's medical record number."""

    insurance: str
    hospital: str

    @property
    def language(self) -> Language:
        """The language of the name."""
        return self.name.language

    def age_on(self, day: date) -> int:
        """Return the age in completed years."""
        return day.year - self.birth.year - ((day.month, day.day) < (self.birth.month, self.birth.day))


def draw_person(rng: Generator, language: Language, *, adult: bool = True) -> Person:
    """Draw a person; a child too where `adult` is False. One in fifteen is over 89 years old."""
    sex: Sex = "F" if chance(rng, 0.5) else "M"
    birth = _birth(rng, youngest=19 if adult else 0)
    name = draw_name(rng, language, sex)
    return Person(
        name=name,
        sex=sex,
        birth=birth,
        identity=resident_id(rng, birth, sex) if language == "zh" else security_number(rng),
        phone=_phone(rng, language),
        email=_email(rng, name),
        address=draw_address(rng, language),
        record=_record(rng),
        insurance=pick(rng, ("YB", "A", "XNH", "W", "") if language == "zh" else ("HMO", "W", "")) + digits(rng, 10),
        hospital=draw_hospital(rng, language),
    )


def population(rng: Generator, language: Language, count: int) -> Iterator[Person]:
    """Draw `count` people with different identities, record numbers and names."""
    seen: set[str] = set()
    made = 0
    while made < count:
        person = draw_person(rng, language)
        keys = {person.identity, person.record, person.name.full}
        if seen.isdisjoint(keys):
            seen |= keys
            made += 1
            yield person


def resident_id(rng: Generator, birth: date, sex: Sex) -> str:
    """Return a resident ID of 18 characters with a right checksum (GB 11643-1999)."""
    order = between(rng, 0, 499) * 2 + (sex == "M")
    body = f"{pick(rng, _PROVINCE_CODES)}{between(rng, 1, 9):02d}{between(rng, 95, 98)}{birth:%Y%m%d}{order:03d}"
    return body + check_character(body)


def check_character(body: str) -> str:
    """Return the check character of the 17 digits `body` (ISO 7064 MOD 11-2, as GB 11643 uses it).

    >>> check_character("11010519491231002")
    'X'
    """
    return _CHECKS[sum(int(digit) * weight for digit, weight in zip(body, _WEIGHTS, strict=True)) % 11]


def broken_id(rng: Generator, identity: str) -> str:
    """Return a resident ID with another last character, so that its checksum is wrong."""
    return identity[:-1] + pick(rng, [check for check in _CHECKS if check != identity[-1]])


def short_id(identity: str) -> str:
    """Return the 15-digit form that was given out before 1999."""
    return identity[:6] + identity[8:17]


def security_number(rng: Generator) -> str:
    """Return a number in the form of a US security number, with an area that is not given out."""
    return f"9{digits(rng, 2)}-{digits(rng, 2)}-{digits(rng, 4)}"


def written_identity(rng: Generator, identity: str) -> str:
    """Return one of the spellings of a valid identity: spaces, full-width digits, lower-case x, 15 digits."""
    if "-" in identity:
        return pick(rng, (identity, identity, identity, identity.replace("-", " "), identity.replace("-", "")))
    form = rng.random()
    if form < 0.6:
        return identity
    spaced = (
        f"{identity[:6]} {identity[6:14]} {identity[14:]}",
        " ".join(identity[at : at + 4] for at in range(0, 18, 4)),
    )
    if form < 0.75:
        return pick(rng, spaced)
    if form < 0.92:
        return pick(rng, (identity.lower(), identity.translate(FULL_WIDTH)))
    return short_id(identity) if identity[6:8] == "19" else identity


def written_phone(rng: Generator, phone: str, language: Language) -> str:
    """Return one of the spellings of a phone number."""
    if language == "en":
        area, exchange, line = phone[:3], phone[3:6], phone[6:]
        forms = ("({}) {}-{}", "{}-{}-{}", "{}.{}.{}", "{} {} {}", "+1 {} {} {}", "1-{}-{}-{}", "{}{}{}")
        return pick(rng, forms).format(area, exchange, line)
    if phone.startswith("0"):
        return pick(rng, (f"{phone[:4]}-{phone[4:]}", phone, f"（{phone[:4]}）{phone[4:]}", f"{phone[:4]} {phone[4:]}"))
    spaced = f"{phone[:3]} {phone[3:7]} {phone[7:]}"
    dashed = spaced.replace(" ", "-")
    return pick(rng, (phone, phone, phone, spaced, dashed, f"+86 {phone}", f"86-{phone}", phone.translate(FULL_WIDTH)))


def _birth(rng: Generator, *, youngest: int) -> date:
    low, high = (90, 103) if chance(rng, 1 / 15) else (youngest, 88)
    return day_between(rng, TODAY - timedelta(days=high * 365), TODAY - timedelta(days=low * 365 + 450))


def _phone(rng: Generator, language: Language) -> str:
    if language == "en":
        return f"{between(rng, 2, 9)}{between(rng, 0, 8)}{between(rng, 1, 9)}55501{between(rng, 0, 99):02d}"
    if chance(rng, 0.15):
        return f"0{between(rng, 3, 9)}{between(rng, 10, 99)}{digits(rng, 8)}"
    return f"1{between(rng, 3, 9)}{between(rng, 0, 9)}{digits(rng, 8)}"


def _email(rng: Generator, name: PersonName) -> str:
    given, family = (
        "".join(letter for letter in part.lower() if letter.isascii() and letter.isalnum())
        for part in (name.roman_given, name.roman_family)
    )
    local = pick(
        rng, (f"{given}.{family}", f"{given[:1]}{family}", f"{family}_{given}", f"{family}{between(rng, 1, 999)}")
    )
    return f"{local}@{pick(rng, ('example.com', 'mail.example.org', 'example.net', 'post.example'))}"


def _record(rng: Generator) -> str:
    number = digits(rng, between(rng, 7, 10))
    return pick(
        rng,
        (number, number, f"ZY{number}", f"{pick(rng, 'BHKMP')}{number}", f"{number[:2]}-{number[2:5]}-{number[5:]}"),
    )
