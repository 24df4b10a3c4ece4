"""The people, days and values of one note: what its slots are filled with.

Why it exists: one note speaks of one patient, a few doctors and relatives, and
days around one admission; the same slot must mean the same person throughout.

Rules:
    * A slot that identifies is filled with marked text; a value that looks like a date or an ID is a marked decoy.
    * People of a note have different surnames where they have surnames, so that a short mention is unambiguous.
    * Only ages over 89 are entities.

What it does not do: put sentences in order.
"""

from collections.abc import Callable, Mapping
from datetime import date, timedelta

from numpy.random import Generator

from fedmed_sim.phantoms import wording_en, wording_zh
from fedmed_sim.phantoms.days import draw_style, written_day
from fedmed_sim.phantoms.draws import between, chance, day_between, digits, pick
from fedmed_sim.phantoms.markup import Kind, decoy, mark
from fedmed_sim.phantoms.names import PersonName, draw_name
from fedmed_sim.phantoms.people import TODAY, Person, broken_id, draw_person, written_identity, written_phone
from fedmed_sim.phantoms.places import draw_city, draw_hospital

_ICD = ("I21.902", "E11.900", "J18.9", "K80.2", "C34.1", "S52.5", "I10.x00", "N18.5", "Z51.1", "F20.0", "M51.2")


class Stage:
    """Fills slots by name: `template.format_map(stage)`."""

    def __init__(self, rng: Generator, patient: Person) -> None:
        self._rng = rng
        self._patient = patient
        self._zh = patient.language == "zh"
        self._cast: dict[str, tuple[PersonName, int]] = {"patient": (patient.name, 1)}
        self._kept: dict[str, str] = {}
        self._style = draw_style(rng, patient.language)
        self._relative = draw_person(rng, patient.language)
        first = max(TODAY - timedelta(days=2500), patient.birth)
        self.day = day_between(rng, first, TODAY)
        self._patient_form = self._form(patient.name)
        if not self._zh and chance(rng, 0.3):
            turned = f"{patient.name.family}, {patient.name.given}"
            self._patient_form = pick(rng, (turned, turned.upper()))

    def __getitem__(self, slot: str) -> str:
        return _SLOTS[slot](self)

    def full(self, role: str) -> str:
        """Return the full name of the person in this role, marked."""
        name, who = self._person(role)
        return mark("NAME", self._patient_form if role == "patient" else self._form(name), who)

    def short(self, role: str) -> str:
        """Return the surname of the person in this role, marked; the whole name where there is no surname."""
        name, who = self._person(role)
        return mark("NAME", name.family or name.full, who)

    def given(self, role: str) -> str:
        """Return the given name of the person in this role, marked."""
        name, who = self._person(role)
        return mark("NAME", name.given, who)

    def dated(self, day: date) -> str:
        """Return a day, marked."""
        return mark("DATE", written_day(self._rng, day, self._patient.language, self._style))

    def within(self, low: int, high: int) -> str:
        """Return a marked day from `low` to `high` days after the note's day, never before the patient's birth."""
        day = self.day + timedelta(days=between(self._rng, low, high))
        return self.dated(max(day, self._patient.birth))

    def once(self, slot: str, kind: Kind, draw: Callable[[], str]) -> str:
        """Return what `draw` gave when this slot was first asked for, marked."""
        if slot not in self._kept:
            self._kept[slot] = draw()
        return mark(kind, self._kept[slot])

    def age(self) -> str:
        """Return the patient's age, marked where it is over 89."""
        years = self._patient.age_on(self.day)
        return mark("AGE", str(years)) if years > 89 else str(years)

    def identity(self) -> str:
        """Return the patient's identity in some spelling; now and then with a wrong checksum."""
        identity = self._patient.identity
        if self._zh and chance(self._rng, 0.08):
            return mark("ID", broken_id(self._rng, identity))
        return mark("ID", written_identity(self._rng, identity))

    def phone(self, number: str) -> str:
        """Return a phone number in some spelling, marked."""
        return mark("PHONE", written_phone(self._rng, number, self._patient.language))

    def value(self, *forms: Callable[[Generator], str]) -> str:
        """Return a clinical value in one of these forms, marked as a decoy."""
        return decoy(pick(self._rng, forms)(self._rng))

    def word(self, english: tuple[str, ...], chinese: tuple[str, ...]) -> str:
        """Return one word of the pool of the note's language."""
        return pick(self._rng, chinese if self._zh else english)

    @property
    def patient(self) -> Person:
        """The patient."""
        return self._patient

    @property
    def relative(self) -> Person:
        """The relative with whom the hospital speaks."""
        return self._relative

    @property
    def rng(self) -> Generator:
        """The generator of the note."""
        return self._rng

    def _person(self, role: str) -> tuple[PersonName, int]:
        if role not in self._cast:
            taken = {name.family for name, _ in self._cast.values()}
            name = self._relative.name if role == "relative" else self._stranger()
            while name.family and name.family in taken:
                name = self._stranger()
            self._cast[role] = (name, len(self._cast) + 1)
        return self._cast[role]

    def _stranger(self) -> PersonName:
        return draw_name(self._rng, self._patient.language, "F" if chance(self._rng, 0.5) else "M")

    def _form(self, name: PersonName) -> str:
        if self._zh:
            return name.full
        plain = f"{name.given} {name.family}"
        initial = f"{name.given[0]}. {name.family}"
        return pick(self._rng, (name.full, name.full, plain, plain, initial))


def _time(rng: Generator) -> str:
    return f"{between(rng, 0, 23):02d}:{between(rng, 0, 59):02d}"


_SLOTS: Mapping[str, Callable[[Stage], str]] = {
    "patient": lambda stage: stage.full("patient"),
    "patient_family": lambda stage: stage.short("patient"),
    "patient_given": lambda stage: stage.given("patient"),
    "doctor": lambda stage: stage.full("doctor"),
    "doctor2": lambda stage: stage.full("doctor2"),
    "doctor3": lambda stage: stage.full("doctor3"),
    "nurse": lambda stage: stage.full("nurse"),
    "nurse2": lambda stage: stage.full("nurse2"),
    "relative": lambda stage: stage.full("relative"),
    "surname": lambda stage: stage.short("doctor"),
    "sex": lambda stage: (
        stage.word(("female",), ("女",)) if stage.patient.sex == "F" else stage.word(("male",), ("男",))
    ),
    "salutation": lambda stage: pick(
        stage.rng, ("Ms.", "Mrs.", "Ms", "Miss") if stage.patient.sex == "F" else ("Mr.", "Mr", "Mr.")
    ),
    "age": Stage.age,
    "birth": lambda stage: mark("DATE", draw_style(stage.rng, stage.patient.language)(stage.patient.birth)),
    "date": lambda stage: stage.dated(stage.day),
    "recent": lambda stage: stage.within(-14, -1),
    "past": lambda stage: stage.within(-900, -15),
    "past_year": lambda stage: stage.within(-6000, -900),
    "next": lambda stage: stage.within(1, 60),
    "rid": lambda stage: mark("ID", written_identity(stage.rng, stage.patient.identity)),
    "rid_any": Stage.identity,
    "phone": lambda stage: stage.phone(stage.patient.phone),
    "kin_phone": lambda stage: stage.phone(stage.relative.phone),
    "phone2": lambda stage: stage.phone(draw_person(stage.rng, stage.patient.language).phone),
    "email": lambda stage: mark("EMAIL", stage.patient.email),
    "address": lambda stage: mark("ADDRESS", stage.patient.address.full),
    "city": lambda stage: stage.once("city", "ADDRESS", lambda: draw_city(stage.rng, stage.patient.language)),
    "record": lambda stage: mark("RECORD", stage.patient.record),
    "outpatient": lambda stage: mark(
        "RECORD", pick(stage.rng, ("", "", "CT", "P", "M", "US")) + digits(stage.rng, between(stage.rng, 6, 10))
    ),
    "insurance": lambda stage: mark("ID", stage.patient.insurance),
    "hospital": lambda stage: mark("HOSPITAL", stage.patient.hospital),
    "other_hospital": lambda stage: stage.once(
        "other", "HOSPITAL", lambda: draw_hospital(stage.rng, stage.patient.language)
    ),
    "url": lambda stage: stage.once(
        "url",
        "URL",
        lambda: (
            f"{pick(stage.rng, ('https://', 'http://', 'https://www.', 'www.'))}portal.example.org/"
            f"{pick(stage.rng, ('p', 'patient', 'r'))}/{digits(stage.rng, 7)}"
        ),
    ),
    "kin": lambda stage: stage.word(wording_en.KIN, wording_zh.KIN),
    "title": lambda stage: stage.word(("Dr.",), wording_zh.TITLES),
    "ward": lambda stage: stage.word(wording_en.WARDS, wording_zh.WARDS),
    "complaint": lambda stage: stage.word(wording_en.COMPLAINTS, wording_zh.COMPLAINTS),
    "bed": lambda stage: str(between(stage.rng, 1, 60)) + ("床" if stage.patient.language == "zh" else ""),
    "work": lambda stage: stage.word(("retired", "farmer", "teacher"), ("退休", "农民", "教师", "自由职业")),
    "clock": lambda stage: _time(stage.rng),
    "bp": lambda stage: stage.value(
        lambda rng: f"{between(rng, 100, 190)}/{between(rng, 50, 96)}mmHg",
        lambda rng: f"{between(rng, 100, 190)}/{between(rng, 50, 96)}",
    ),
    "pulse": lambda stage: stage.value(
        lambda rng: f"{between(rng, 50, 130)}{'次/分' if stage.patient.language == 'zh' else ' bpm'}",
        lambda rng: f"{between(rng, 50, 130)}/min",
    ),
    "temp": lambda stage: stage.value(lambda rng: f"{between(rng, 360, 399) / 10}℃"),
    "lab": lambda stage: stage.value(
        lambda rng: f"{between(rng, 10, 199) / 10}×10^9/L",
        lambda rng: f"{between(rng, 10, 199) / 10} mmol/L",
        lambda rng: f"{between(rng, 30, 400)} μmol/L",
        lambda rng: f"{between(rng, 2, 19)}.{between(rng, 1, 99):02d}",
    ),
    "size": lambda stage: stage.value(
        lambda rng: f"{between(rng, 3, 60)}×{between(rng, 3, 60)}mm",
        lambda rng: f"{between(rng, 3, 90) / 10} x {between(rng, 3, 90) / 10} x {between(rng, 3, 90) / 10} cm",
        lambda rng: f"{between(rng, 3, 90) / 10}cm*{between(rng, 3, 90) / 10}cm",
    ),
    "icd": lambda stage: decoy(pick(stage.rng, _ICD)),
}
