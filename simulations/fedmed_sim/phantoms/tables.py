"""Hospital tables: identifiers in their columns, and more of them in the remarks.

Why it exists: a table is de-identified column by column, and what a ward writes in
the remarks column (备注) is where that goes wrong.

Rules:
    * A person may have several rows, spelled differently each time: spaces, full width, letter case, a
      trailing `^`. The facts say which rows are one person.
    * Diagnosis codes and laboratory values are told as written; they must come out exact.
    * A few ages are over 89, and one district has two rows.
    * A remark is a note with gold, or empty.

What it does not do: plant errors of typing; a misspelled name is another name here.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from numpy.random import Generator

from fedmed.errors import UsageError
from fedmed_sim.phantoms import wording_en, wording_zh
from fedmed_sim.phantoms.days import EN_STYLES, ZH_STYLES
from fedmed_sim.phantoms.draws import between, chance, day_between, pick, some
from fedmed_sim.phantoms.markup import Note, read
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.people import FULL_WIDTH, TODAY, Person, population, written_phone
from fedmed_sim.phantoms.places import draw_address
from fedmed_sim.phantoms.planted import Secret, SecretKind
from fedmed_sim.phantoms.stage import Stage

Encoding = Literal["utf-8", "utf-8-sig", "gb18030"]
Role = Literal[
    "record", "name", "identity", "phone", "address", "birth", "age", "sex", "district", "admitted", "diagnosis",
    "haemoglobin", "creatinine", "glucose", "remarks",
]  # fmt: skip
EXACT: tuple[Role, ...] = ("diagnosis", "haemoglobin", "creatinine", "glucose")

_TITLES: Mapping[Language, Mapping[Role, tuple[str, ...]]] = {
    "zh": {
        "record": ("病案号", "住院号", "病历号"),
        "name": ("姓名", "患者姓名"),
        "identity": ("身份证号", "身份证", "证件号码"),
        "phone": ("联系电话", "手机"),
        "address": ("家庭住址", "现住址"),
        "birth": ("出生日期", "出生年月日"),
        "age": ("年龄",),
        "sex": ("性别",),
        "district": ("区县", "所在区县"),
        "admitted": ("入院日期", "就诊日期"),
        "diagnosis": ("诊断编码", "ICD编码"),
        "haemoglobin": ("血红蛋白", "血红蛋白(g/L)"),
        "creatinine": ("肌酐", "血肌酐"),
        "glucose": ("血糖", "空腹血糖"),
        "remarks": ("备注", "附注"),
    },
    "en": {
        "record": ("mrn", "Medical Record Number", "patient_no"),
        "name": ("name", "Patient Name"),
        "identity": ("ssn", "SSN"),
        "phone": ("phone", "Telephone"),
        "address": ("address", "Home Address"),
        "birth": ("dob", "Birth Date"),
        "age": ("age", "Age"),
        "sex": ("sex", "Gender"),
        "district": ("zip", "ZIP code"),
        "admitted": ("admitted", "Admission Date"),
        "diagnosis": ("icd10", "Diagnosis code"),
        "haemoglobin": ("hemoglobin", "hgb"),
        "creatinine": ("creatinine", "creat"),
        "glucose": ("glucose", "fasting_glucose"),
        "remarks": ("remarks", "comments"),
    },
}
_CODES = ("I21.902", "E11.900", "J18.9", "K80.200", "C34.1", "I10.x00", "N18.5", "S52.500", "I63.9")
_SECRET: Mapping[str, SecretKind] = {
    kind: kind for kind in ("NAME", "ID", "PHONE", "EMAIL", "RECORD", "ADDRESS", "HOSPITAL", "URL")
}
_BANKS = ("closing", "plan", "nursing", "history")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV file with its facts; rows are counted from 0 without the header."""

    payload: bytes
    language: Language
    encoding: Encoding
    columns: Mapping[Role, str]
    """The heading of each column, in the order of the file."""

    cells: Mapping[Role, tuple[str, ...]]
    """What each column holds, as written."""

    person_of_row: tuple[int, ...]
    """Which person a row is about; rows with one number are one person, spelled differently."""

    remarks: tuple[Note, ...]
    """The remark of each row with its gold; an empty remark has no entities."""

    old_rows: tuple[int, ...]
    """Rows with an age over 89."""

    rare_district: str
    """The district that has two rows."""

    secrets: tuple[Secret, ...]
    """Identifying texts of all cells and remarks, each of two characters or more."""


def draw_table(rng: Generator, language: Language, *, rows: int, encoding: Encoding = "utf-8") -> Table:
    """Draw a table.

    Args:
        rng: The generator.
        language: Language of headings, names and remarks.
        rows: Number of rows, at least 20.
        encoding: Encoding of the file; `utf-8-sig` begins with a byte order mark.

    Raises:
        UsageError: Fewer than 20 rows.
    """
    if rows < 20:
        raise UsageError(f"table: expected at least 20 rows, got {rows}")
    people = list(population(rng, language, rows - rows // 6))
    again = [between(rng, 0, len(people) - 3) for _ in range(rows - len(people))]
    whose = [*range(len(people)), *again]
    whose = [whose[int(index)] for index in rng.permutation(rows)]
    districts = _districts(rng, language, len(people))
    style = pick(rng, ZH_STYLES[:4] if language == "zh" else (*EN_STYLES[:2], *EN_STYLES[5:7]))
    written: list[dict[Role, str]] = []
    remarks = []
    for row, index in enumerate(whose):
        person, day = people[index], day_between(rng, TODAY - timedelta(days=700), TODAY)
        remark = _remark(rng, person, key=f"row-{row:06d}")
        remarks.append(remark)
        cells = _identifying(rng, person, districts[index]) | _clinical(rng, person, day)
        cells |= {"birth": style(person.birth), "admitted": style(day), "remarks": remark.text}
        written.append(cells)
    columns = {role: pick(rng, titles) for role, titles in _TITLES[language].items()}
    rare = districts[-1]
    return Table(
        payload=_csv(columns, written).encode(encoding),
        language=language,
        encoding=encoding,
        columns=columns,
        cells={role: tuple(row[role] for row in written) for role in columns},
        person_of_row=tuple(whose),
        remarks=tuple(remarks),
        old_rows=tuple(row for row, cells in enumerate(written) if int(cells["age"]) > 89),
        rare_district=rare,
        secrets=_secrets(written, people, remarks),
    )


def respelled(rng: Generator, text: str) -> str:
    """Return `text` as another clerk types it: other spaces, width, letter case, or a trailing `^`."""
    form = between(rng, 0, 5)
    if form == 0:
        return f" {text} "
    if form == 1:
        return text.translate(FULL_WIDTH)
    if form == 2:
        return text.upper() if text.isascii() else text
    if form == 3 and "^" in text:
        return f"{text}^"
    if form == 4:
        return text.lower() if text.isascii() else f"{text}\u3000"
    return text


def _districts(rng: Generator, language: Language, count: int) -> list[str]:
    """Return a district per person: six common ones; the last two people, who have one row each, share a rare one."""
    common = [draw_address(rng, language).district for _ in range(7)]
    rare = next(name for name in reversed(common) if common.count(name) == 1)
    others = [name for name in common if name != rare]
    return [pick(rng, others) for _ in range(count - 2)] + [rare, rare]


def _identifying(rng: Generator, person: Person, district: str) -> dict[Role, str]:
    zh = person.language == "zh"
    name = person.name.full if zh else person.name.roman
    sexes = {"M": "男", "F": "女"} if zh else {"M": "M", "F": "F"}
    return {
        "record": respelled(rng, person.record),
        "name": respelled(rng, name),
        "identity": respelled(rng, person.identity),
        "phone": written_phone(rng, person.phone, person.language),
        "address": person.address.full.replace(person.address.district, district),
        "sex": sexes[person.sex],
        "district": district,
    }


def _clinical(rng: Generator, person: Person, day: date) -> dict[Role, str]:
    return {
        "age": str(person.age_on(day)),
        "diagnosis": pick(rng, _CODES),
        "haemoglobin": str(between(rng, 60, 180)),
        "creatinine": f"{between(rng, 400, 3000) / 10:.1f}",
        "glucose": f"{between(rng, 300, 2500) / 100:.2f}" if chance(rng, 0.95) else "",
    }


def _remark(rng: Generator, person: Person, *, key: str) -> Note:
    banks = wording_zh.BANKS if person.language == "zh" else wording_en.BANKS
    sentences = some(rng, banks[pick(rng, _BANKS)], between(rng, 0, 3))
    stage = Stage(rng, person)
    joint = pick(rng, ("", " ", "\n", "；"))
    marked = joint.join(sentence.format_map(stage) for sentence in sentences)
    return read(marked, language=person.language, patient=key, kind="remark")


def _csv(columns: Mapping[Role, str], written: list[dict[Role, str]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns.values())
    writer.writerows([row[role] for role in columns] for row in written)
    return file.getvalue()


def _secrets(written: list[dict[Role, str]], people: list[Person], remarks: list[Note]) -> tuple[Secret, ...]:
    found: dict[tuple[SecretKind, str], Secret] = {}

    def tell(kind: SecretKind, text: str, where: str) -> None:
        if len(text) > 1:
            found.setdefault((kind, text), Secret(kind=kind, where=where, text=text))

    columns: tuple[tuple[Role, SecretKind], ...] = (
        ("record", "RECORD"),
        ("name", "NAME"),
        ("identity", "ID"),
        ("phone", "PHONE"),
        ("address", "ADDRESS"),
    )
    for row in written:
        for role, kind in columns:
            tell(kind, row[role].strip(), role)
    for person in people:
        tell("NAME", person.name.full, "name")
        tell("ID", person.identity, "identity")
        tell("RECORD", person.record, "record")
    for note in remarks:
        for entity in note.entities:
            if entity.kind in _SECRET:
                tell(_SECRET[entity.kind], note.text[entity.start : entity.end], "remarks")
    return tuple(found.values())
