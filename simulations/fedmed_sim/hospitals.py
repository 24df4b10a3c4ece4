"""Synthetic hospitals: the raw admission tables that real ones have, with every identifier planted on purpose.

Why it exists: a federation can be tried, and its de-identification searched for
leaks, on files with names, IDs and remarks that are known because we wrote them.

Rules:
    * Deterministic in `seed`; a site's file does not depend on how many sites there are, but for its case mix.
    * No real person: names are drawn from lists of common syllables, resident IDs carry the
      region code 99, which is not assigned.
    * Two studies stand in a row: readmission on the cardiology ward, then on the endocrinology
      ward. Age, smoking and earlier admissions act the same on both. Bedside findings are taken
      on both wards and act weakly the other way round on endocrinology; the metabolic panel is
      seldom ordered on cardiology. So a model trained on the second ward alone unlearns the
      first, although what the second needs most was free to learn.

What it does not do: imitate any hospital's statistics. The readmission rate (about 45 %) is far above a real one,
so that a few hundred patients suffice to see an effect.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmed.errors import UsageError
from fedmed.files import write_atomic

TABLE_FILE = "patients.csv"
WARDS = ("cardiology", "endocrinology")

_FIRST_DAY = date(2024, 1, 1)
_REPEAT_FRACTION = 0.08
_UNREADABLE_FRACTION = 0.004
_GB18030_SITE = 1

Floats = npt.NDArray[np.float64]
Texts = Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """A vital sign or laboratory value, and its effect on readmission per ward and scale unit."""

    name: str
    centre: float
    scale: float
    low: float
    decimals: int
    effect: tuple[float, float]

    ordered: tuple[float, float] = (1.0, 1.0)
    """Share of the admissions of each ward in which it is measured."""


_SELDOM = (0.05, 1.0)
_FINDINGS = (
    _Finding(name="systolic_pressure", centre=130, scale=20, low=60, decimals=0, effect=(-1.6, 0.3)),
    _Finding(name="heart_rate", centre=80, scale=15, low=35, decimals=0, effect=(1.6, -0.3)),
    _Finding(name="haemoglobin", centre=130, scale=20, low=40, decimals=0, effect=(-1.6, 0.3)),
    _Finding(name="creatinine", centre=90, scale=30, low=25, decimals=0, effect=(1.2, -0.3)),
    _Finding(name="ldl", centre=3, scale=1, low=0.3, decimals=1, effect=(0.0, 1.2), ordered=_SELDOM),
    _Finding(name="glucose", centre=8, scale=3, low=1.5, decimals=1, effect=(0.0, 2.6), ordered=_SELDOM),
    _Finding(name="bmi", centre=25, scale=4, low=13, decimals=1, effect=(0.0, 2.6), ordered=_SELDOM),
    _Finding(name="crp", centre=15, scale=10, low=0.2, decimals=1, effect=(0.0, 2.0), ordered=_SELDOM),
)
_AGE_EFFECT = 1.0
_PRIOR_EFFECT = 0.7
_SMOKER_EFFECT = 0.4
_WARD_EFFECT = (0.3, -0.3)

_HEADER = (
    "medical_record_number", "name", "name_en", "resident_id", "phone", "address", "birth_date", "age", "sex",
    "admission_date", "ward", "icd10", *(finding.name for finding in _FINDINGS), "smoker", "prior_admission",
    "readmitted_30d", "length_of_stay", "remarks",
)  # fmt: skip

_SURNAMES = (
    "王 Wang", "李 Li", "张 Zhang", "刘 Liu", "陈 Chen", "杨 Yang", "赵 Zhao", "黄 Huang", "周 Zhou", "吴 Wu", "徐 Xu",
    "孙 Sun", "胡 Hu", "朱 Zhu", "高 Gao", "林 Lin", "何 He", "郭 Guo", "马 Ma", "罗 Luo",
)  # fmt: skip
_GIVEN = (
    "伟 Wei", "芳 Fang", "娜 Na", "敏 Min", "静 Jing", "强 Qiang", "磊 Lei", "军 Jun", "洋 Yang", "勇 Yong", "艳 Yan",
    "杰 Jie", "涛 Tao", "明 Ming", "超 Chao", "霞 Xia", "平 Ping", "刚 Gang", "桂 Gui", "英 Ying", "华 Hua", "建 Jian",
    "文 Wen", "玲 Ling", "红 Hong",
)  # fmt: skip
_DISTRICTS = ("青山区", "河西区", "东湖区", "新城区", "南岭县", "平安县")
_ROADS = ("人民路", "解放路", "和平街", "建设大道", "光明巷", "文化路")
_DIAGNOSES = (("I50.0", "I10", "I48.9", "I20.0"), ("E11.9", "E11.6", "E05.9", "E10.1"))
_CHINESE = {
    "cardiology": "心内科", "endocrinology": "内分泌科", "F": "女", "M": "男", "no": "否", "yes": "是", "": "未查",
}  # fmt: skip
_REMARKS = (
    "患者{name}，联系电话{phone}，诉夜间气促，已嘱随访。",
    "Patient {name_en} (ID {resident_id}) asks for a copy of the report; call {phone}.",
    "身份证号：{resident_id}，住址：{address}。\n家属代签。",
    "{name_en} was seen on the ward, stable.",
    '病案号{record}，{name}本人签字，"知情同意"已存档。',
    "No complaints. Diet explained, review in two weeks.",
    "一般情况可，继续目前治疗。",
    "",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HospitalTruth:
    """What was written for one site, and every identifier in it by kind."""

    site: str
    file: Path
    encoding: str
    rows: int
    patients: int
    planted: Mapping[str, tuple[str, ...]] = field(repr=False)

    def identifiers(self) -> tuple[str, ...]:
        """Return every planted identifier, of whatever kind."""
        return tuple(identifier for values in self.planted.values() for identifier in values)


def write_hospitals(
    folder: Path, *, sites: int = 4, patients_per_site: int = 1400, seed: int = 0
) -> tuple[HospitalTruth, ...]:
    """Write `site-NN/patients.csv` for each of `sites` hospitals below `folder`.

    The second site writes GB18030 with Chinese values, the others UTF-8 with English ones.
    About 8 % of the patients are admitted twice, and their record number is then written differently.

    Args:
        folder: Created if absent.
        sites: How many hospitals, at least 1.
        patients_per_site: Different patients of each, at least 50.
        seed: Equal seeds give equal bytes.

    Returns:
        One truth per site, in order.

    Raises:
        UsageError: A count is too small.
    """
    if sites < 1 or patients_per_site < 50:
        raise UsageError(f"expected sites >= 1 and patients_per_site >= 50, got {sites} and {patients_per_site}")
    shares = np.linspace(0.35, 0.65, sites) if sites > 1 else np.array([0.5])
    return tuple(
        _write_site(folder, index, cardiology_share=float(share), patients=patients_per_site, seed=seed)
        for index, share in enumerate(shares)
    )


def _write_site(folder: Path, index: int, *, cardiology_share: float, patients: int, seed: int) -> HospitalTruth:
    rng = np.random.default_rng([seed, index])
    people = _people(rng, patients, index)
    who = np.concatenate([np.arange(patients), rng.choice(patients, int(patients * _REPEAT_FRACTION), replace=False)])
    rng.shuffle(who)
    days = [_FIRST_DAY + timedelta(days=int(day)) for day in rng.integers(0, 366, len(who))]
    clinic = _admissions(rng, days, [people.birth[patient] for patient in who], cardiology_share)
    chinese = index == _GB18030_SITE
    records = _spellings(rng, people.record, who)
    rows = _rows(rng, people, who, records, clinic, chinese=chinese)

    site = f"site-{index + 1:02d}"
    encoding = "gb18030" if chinese else "utf-8"
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_HEADER)
    writer.writerows(rows)
    path = folder / site / TABLE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode(encoding))
    planted = {
        "name": people.name,
        "name_en": people.name_en,
        "resident_id": people.resident_id,
        "phone": people.phone,
        "address": people.address,
        "medical_record_number": (*people.record, *records),
        "birth_date": [day.isoformat() for day in people.birth],
    }
    unique = {kind: tuple(sorted(set(values))) for kind, values in planted.items()}
    return HospitalTruth(site=site, file=path, encoding=encoding, rows=len(rows), patients=patients, planted=unique)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _People:
    """The patients of one site; every field has one entry per patient."""

    record: Texts
    name: Texts
    name_en: Texts
    resident_id: Texts
    phone: Texts
    address: Texts
    birth: Sequence[date]
    male: npt.NDArray[np.bool_]


def _people(rng: np.random.Generator, count: int, site: int) -> _People:
    male = rng.random(count) < 0.52
    lived_days = np.clip(rng.normal(62 - site, 15, count), 18, 99) * 365.25
    birth = [_FIRST_DAY - timedelta(days=int(days)) for days in lived_days]
    surname = rng.integers(len(_SURNAMES), size=count)
    given = rng.integers(len(_GIVEN), size=(count, 2))
    syllables = [
        (_SURNAMES[s].split(), _GIVEN[a].split(), _GIVEN[b].split()) for s, (a, b) in zip(surname, given, strict=True)
    ]
    roads = zip(
        rng.integers(len(_DISTRICTS), size=count), rng.integers(len(_ROADS), size=count),
        rng.integers(1, 400, size=count), rng.integers(101, 2400, size=count), strict=True,
    )  # fmt: skip
    numbers = rng.choice(900_000, count, replace=False) + 100_000
    return _People(
        record=[f"MR{site + 1:02d}{number:06d}" for number in numbers],
        name=[s[0] + a[0] + b[0] for s, a, b in syllables],
        name_en=[f"{a[1]}{b[1].lower()} {s[1]}" for s, a, b in syllables],
        resident_id=_resident_ids(rng, birth, male),
        phone=[f"199{number:08d}" for number in rng.choice(10**8, count, replace=False)],
        address=[f"安和市{_DISTRICTS[d]}{_ROADS[r]}{n}号{flat}室" for d, r, n, flat in roads],
        birth=birth,
        male=male,
    )


def _resident_ids(rng: np.random.Generator, birth: Sequence[date], male: npt.NDArray[np.bool_]) -> list[str]:
    """Return GB 11643 numbers: unassigned region, birth date, serial (odd for men), MOD 11-2 check character."""
    weights = 2 ** np.arange(17, 0, -1) % 11
    serial = rng.integers(50, 450, size=len(birth)) * 2 + male
    numbers = []
    for region, day, number in zip(rng.integers(1000, 9999, len(birth)), birth, serial, strict=True):
        body = f"99{region:04d}{day:%Y%m%d}{number:03d}"
        total = sum(int(digit) * int(weight) for digit, weight in zip(body, weights, strict=True))
        numbers.append(body + "10X98765432"[total % 11])
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Clinic:
    """The admissions of one site; every field has one entry per admission."""

    day: Sequence[date]
    age: npt.NDArray[np.int64]
    ward: npt.NDArray[np.int64]
    findings: Mapping[str, Floats]
    smoker: npt.NDArray[np.bool_]
    prior: npt.NDArray[np.bool_]
    readmitted: npt.NDArray[np.bool_]
    stay_days: npt.NDArray[np.int64]


def _admissions(
    rng: np.random.Generator, days: Sequence[date], births: Sequence[date], cardiology_share: float
) -> _Clinic:
    count = len(days)
    age = np.array([_age(birth, day) for birth, day in zip(births, days, strict=True)])
    ward = (rng.random(count) >= cardiology_share).astype(np.int64)
    smoker, prior = rng.random(count) < 0.25, rng.random(count) < 0.35
    logit = _AGE_EFFECT * (age - 60) / 15 + _SMOKER_EFFECT * (2 * smoker - 1) + _PRIOR_EFFECT * (2 * prior - 1)
    logit = logit + np.array(_WARD_EFFECT)[ward] + rng.normal(0, 0.2)
    findings: dict[str, Floats] = {}
    for finding in _FINDINGS:
        drawn = rng.normal(rng.normal(0, 0.15), 1.0, count)
        value = np.maximum(np.round(finding.centre + finding.scale * drawn, finding.decimals), finding.low)
        logit = logit + np.array(finding.effect)[ward] * (value - finding.centre) / finding.scale
        findings[finding.name] = value
    readmitted = rng.random(count) < 1 / (1 + np.exp(-logit))
    stay_days = 1 + rng.poisson(np.exp(1.8 + 0.15 * (age - 60) / 15 + 0.2 * prior + 0.2 * ward))
    return _Clinic(
        day=days,
        age=age,
        ward=ward,
        findings=findings,
        smoker=smoker,
        prior=prior,
        readmitted=readmitted,
        stay_days=stay_days,
    )


def _age(birth: date, day: date) -> int:
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def _spellings(rng: np.random.Generator, record: Texts, who: npt.NDArray[np.int64]) -> list[str]:
    """Return the record number of each admission; a second admission writes it in another way."""
    ways = (str.lower, lambda text: f" {text[:4]} {text[4:]}", _full_width)
    seen: set[int] = set()
    spelled = []
    for patient, way in zip(who.tolist(), rng.integers(len(ways), size=len(who)), strict=True):
        spelled.append(ways[way](record[patient]) if patient in seen else record[patient])
        seen.add(patient)
    return spelled


def _full_width(text: str) -> str:
    return text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})


def _rows(
    rng: np.random.Generator,
    people: _People,
    who: npt.NDArray[np.int64],
    records: Texts,
    clinic: _Clinic,
    *,
    chinese: bool,
) -> list[list[str]]:
    count = len(who)
    missing_share = rng.uniform(0.02, 0.08)
    cells = {
        f.name: _texts(rng, clinic.findings[f.name], f.decimals, (1 - missing_share) * np.array(f.ordered)[clinic.ward])
        for f in _FINDINGS
    }
    unreadable = rng.random(count) < _UNREADABLE_FRACTION
    cells["creatinine"] = ["溶血" if bad else c for bad, c in zip(unreadable, cells["creatinine"], strict=True)]
    pattern = "%Y年%m月%d日" if chinese else "%Y-%m-%d"
    remark = rng.integers(len(_REMARKS), size=count).tolist()
    code = rng.integers(len(_DIAGNOSES[0]), size=count).tolist()
    words = _CHINESE if chinese else {}
    rows = []
    for row, patient in enumerate(who.tolist()):
        ward = int(clinic.ward[row])
        facts = {
            "record": records[row], "name": people.name[patient], "name_en": people.name_en[patient],
            "resident_id": people.resident_id[patient], "phone": people.phone[patient],
            "address": people.address[patient],
        }  # fmt: skip
        clinical = [
            "M" if people.male[patient] else "F", clinic.day[row].strftime(pattern),
            WARDS[ward], _DIAGNOSES[ward][code[row]], *(column[row] for column in cells.values()),
            "yes" if clinic.smoker[row] else "no", str(int(clinic.prior[row])),
            str(int(clinic.readmitted[row])), str(clinic.stay_days[row]),
        ]  # fmt: skip
        rows.append(
            [*facts.values(), people.birth[patient].isoformat(), str(clinic.age[row])]
            + [words.get(cell, cell) for cell in clinical]
            + [_REMARKS[remark[row]].format(**facts)]
        )
    return rows


def _texts(rng: np.random.Generator, values: Floats, decimals: int, measured_share: Floats) -> list[str]:
    """Return numbers as a laboratory prints them; empty where nothing was measured."""
    measured = rng.random(len(values)) < measured_share
    return [f"{value:.{decimals}f}" if there else "" for value, there in zip(values.tolist(), measured, strict=True)]
