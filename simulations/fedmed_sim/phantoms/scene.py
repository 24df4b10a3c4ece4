"""One patient's imaging at one hospital: everything that the patient's files agree on.

Why it exists: files of one study share names, numbers, days and UIDs, and all of
them must be known to be searched for.

Rules:
    * Every identifying text and UID is handed out by the scene, which remembers it; `secrets_in` then
      says which of them a file holds.
    * UIDs are of the free root 2.25; some carry the study's day, as those of real scanners do.

What it does not do: build data sets.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, digits, pick
from fedmed_sim.phantoms.names import Language, PersonName, draw_name, unaccented
from fedmed_sim.phantoms.people import TODAY, Person
from fedmed_sim.phantoms.planted import Secret, SecretKind

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_CHINESE_SETS = (("GB18030",), ("ISO_IR 192",), ("GBK",), ("", "ISO 2022 IR 58"))
_LATIN_SETS = (("ISO_IR 100",), ("ISO_IR 192",), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A study: its day, numbers and people."""

    uid: str
    day: date
    clock: str
    accession: str
    frame: str
    """Frame of reference of the study's images."""

    referrer: PersonName
    operator: PersonName


class Scene:
    """Hands out what identifies one patient, and remembers it."""

    def __init__(self, rng: Generator, patient: Person) -> None:
        self.rng = rng
        self.patient = patient
        self._secrets: dict[tuple[SecretKind, str], Secret] = {}
        self._pool = [draw_name(rng, patient.language, "M") for _ in range(3)]
        self.charset = self._charset()
        self.name = self.person(patient.name)
        self.serial = self.tell("DEVICE", f"SN{digits(rng, 8)}", "device serial number")
        self.station = self.tell("DEVICE", f"STA{self._word(6)}", "station name")
        dashed = f"{patient.phone[:3]}-{patient.phone[3:7]}-{patient.phone[7:]}"
        self.phone = self.tell("PHONE", pick(rng, (patient.phone, dashed)), "phone")
        self.record = self.tell("RECORD", patient.record, "record number")
        self.identity = self.tell("ID", patient.identity, "identity number")
        self.hospital = self.tell("HOSPITAL", patient.hospital, "hospital")
        self.address = self.tell("ADDRESS", patient.address.full, "address")
        self.email = self.tell("EMAIL", patient.email, "e-mail")
        self.birth = self.day(patient.birth)

    @property
    def latin(self) -> bool:
        """Whether the files are written in Latin letters only."""
        return self.language == "en"

    @property
    def language(self) -> Language:
        """The language of the patient and of the files."""
        return self.patient.language

    def visit(self) -> Visit:
        """Draw a study of the patient."""
        day = max(TODAY - timedelta(days=between(self.rng, 0, 2000)), self.patient.birth + timedelta(days=1))
        return Visit(
            uid=self.uid(day),
            day=day,
            clock=f"{between(self.rng, 7, 19):02d}{between(self.rng, 0, 59):02d}{between(self.rng, 0, 59):02d}",
            accession=self.tell("RECORD", f"A{digits(self.rng, 9)}", "accession number"),
            frame=self.uid(),
            referrer=self._pool[0],
            operator=self._pool[1],
        )

    def tell(self, kind: SecretKind, text: str, where: str) -> str:
        """Remember `text` as a secret and return it."""
        self._secrets.setdefault((kind, text), Secret(kind=kind, where=where, text=text))
        return text

    def hide(self, raw: bytes, where: str) -> None:
        """Remember bytes that must not survive, such as those of a drawn name."""
        self._secrets[("PIXELS", raw.hex())] = Secret(kind="PIXELS", where=where, raw=raw)

    def canary(self, where: str) -> str:
        """Return a new word of eight letters and digits that stands for one hiding place."""
        return self.tell("CANARY", self._word(8), where)

    def day(self, day: date) -> str:
        """Return a day as DICOM writes it, and remember it."""
        return self.tell("DATE", f"{day:%Y%m%d}", "date")

    def uid(self, day: date | None = None) -> str:
        """Return a new UID, now and then with the day in it."""
        number = int.from_bytes(self.rng.bytes(15), "big")
        tail = f".{day:%Y%m%d}.{between(self.rng, 1, 99)}" if day and chance(self.rng, 0.5) else ""
        return self.tell("UID", f"2.25.{number}{tail}", "UID")

    def person(self, name: PersonName) -> str:
        """Return a name as a DICOM person name in this scene's character set, and remember its forms."""
        for text in (name.roman, name.full, unaccented(name.full), name.roman.replace("^", " ")):
            if len(text) > 1 and text.strip("^ "):
                self.tell("NAME", text, "person name")
        if self.latin:
            given = f"{name.given}^{name.middle}" if name.middle else name.given
            accented = f"{name.family}^{given}"
            whole = accented if self.charset else unaccented(accented)
            return self.tell("NAME", whole, "person name")
        ideographic = f"{name.family}^{name.given}" if name.family else name.given
        self.tell("NAME", ideographic, "person name")
        return f"{name.roman}={ideographic}" if chance(self.rng, 0.85) else f"{name.roman}={ideographic}="

    def label(self, canary: str) -> str:
        """Return at most 64 characters of text that begin with `canary` and name the patient."""
        name = self.patient.name
        named = name.full if self.charset or not self.latin else unaccented(name.full)
        return f"{canary} {named} {self.record}"[:64].rstrip()

    def sentence(self, canary: str) -> str:
        """Return free text that says who the patient is, with `canary` in it."""
        doctor = self._pool[2]
        self.person(doctor)
        name, physician = self.patient.name, doctor.full
        if self.latin:
            plain = name.full if self.charset else unaccented(name.full)
            physician = physician if self.charset else unaccented(physician)
            return pick(
                self.rng,
                (
                    f"{plain} MRN {self.record} tel {self.phone} {canary}",
                    f"{canary} seen by Dr {physician}, SSN {self.identity}",
                    f"Call {self.phone} for {plain} ({canary})",
                ),
            )
        return pick(
            self.rng,
            (
                f"患者{name.full}，住院号{self.record}，{canary}",
                f"{canary} 身份证{self.identity}",
                f"{physician}医师会诊，电话{self.phone}，{canary}",
            ),
        )

    def secrets_in(self, data: bytes) -> tuple[Secret, ...]:
        """Return those of the remembered secrets that occur in `data`."""
        return tuple(secret for secret in self._secrets.values() if secret.is_in(data))

    def _word(self, length: int) -> str:
        return "".join(_LETTERS[index] for index in self.rng.integers(0, len(_LETTERS), length).tolist())

    def _charset(self) -> tuple[str, ...]:
        if self.latin:
            chosen = pick(self.rng, _LATIN_SETS)
            text = "".join(name.full for name in (self.patient.name, *self._pool))
            return chosen if _fits(text, "latin-1") else ("ISO_IR 192",)
        chosen = pick(self.rng, _CHINESE_SETS)
        text = "".join(name.full for name in (self.patient.name, *self._pool))
        fits = chosen not in _CHINESE_SETS[2:] or _fits(
            text + self.patient.hospital + self.patient.address.full, "gb2312"
        )
        return chosen if fits else ("GB18030",)


def _fits(text: str, encoding: str) -> bool:
    return text.encode(encoding, "ignore").decode(encoding) == text
