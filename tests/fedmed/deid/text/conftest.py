"""Made-up notes with known spans: names, templates and contexts of their own, not those of the rules."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmed.deid.text import NoteCleaner, TextOptions

KEY = bytes(range(32))

# Given names with characters that no list of common given names would begin with, and some that are common.
ZH_SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶"
    "阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易常武乔贺赖龚"
    "文"
)
ZH_GIVEN = (
    "赟懋昶劼翀喆祺霁骞煊沅葭筱笙黛缇琮珩珞旎苒菘瀞懿鋆垚昱晔芊颢睿铮淼炀屹阡劭翊燊頔骁麒禾颐珣琇楹槿柠芙荞甯皓磐砺铉琏"
)
ZH_COMMON_GIVEN = "伟芳娜秀英敏静丽强磊军洋艳勇杰娟涛明超兰霞平刚桂建国志红玉春梅海燕"
EN_FIRST = [
    "Oluwaseun",
    "Thandiwe",
    "Siobhan",
    "Xiulan",
    "Bjarne",
    "Ikaika",
    "Quetzalli",
    "Dmitri",
    "Saoirse",
    "Kwabena",
    "Anneliese",
    "Tomasz",
    "Yevgenia",
    "Ngaire",
    "Rohinton",
    "Hortense",
    "Leocadia",
    "Jedediah",
    "Wilhelmina",
    "Cornelius",
    "Robert",
    "Linda",
    "Karen",
    "Thomas",
    "Susan",
]
EN_LAST = [
    "Adeyinka",
    "Mokoena",
    "O'Shaughnessy",
    "Papadakis",
    "Thorvaldsen",
    "Kealoha",
    "Szczepański",
    "Nwachukwu",
    "Vandermeer",
    "Abernathy",
    "Delacroix",
    "Featherstone",
    "Quisumbing",
    "Ramaswamy",
    "Eriksdottir",
    "Castellanos",
    "Birnbaum",
    "Okonkwo",
    "Littlefeather",
    "Hargreaves",
    "Wójcik",
    "Zamora-Pérez",
    "MacAllister",
]
EN_TOWNS = ["Briarwood", "Kettleby", "Ashgrove", "Larkhaven", "Stonecroft", "Millbrae", "Fernwick"]


class Draft:
    """A note under construction: text, and which stretches identify somebody or only look like it."""

    def __init__(self) -> None:
        self.text = ""
        self.entities: list[dict[str, Any]] = []
        self.decoys: list[dict[str, int]] = []

    def add(self, template: str, **values: tuple[str, str | None]) -> None:
        """Append `template`; each {name} is replaced by the text of its value, marked with its kind (None: a decoy)."""
        while template:
            before, _, rest = template.partition("{")
            self.text += before
            if not rest:
                return
            name, _, template = rest.partition("}")
            text, kind = values[name]
            mark = {"start": len(self.text), "end": len(self.text) + len(text)}
            if kind is None:
                self.decoys.append(mark)
            else:
                self.entities.append(mark | {"kind": kind})
            self.text += text

    def note(self, language: str, patient: str) -> dict[str, Any]:
        """Return the gold note."""
        return {
            "text": self.text,
            "language": language,
            "patient": patient,
            "entities": self.entities,
            "decoys": self.decoys,
        }


def resident_id(rng: random.Random) -> str:
    """Return a resident ID that passes MOD 11-2."""
    body = (
        f"{rng.choice(('3301', '5101', '2102', '6201'))}{rng.randint(1, 29):02d}{rng.randint(1930, 2010)}"
        f"{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{rng.randint(1, 999):03d}"
    )
    weights = [2 ** (17 - index) % 11 for index in range(17)]
    return body + "10X98765432"[sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11]


def zh_name(rng: random.Random) -> str:
    """Return a Chinese name of two or three characters."""
    pool = rng.choice((ZH_GIVEN, ZH_COMMON_GIVEN))
    return rng.choice(ZH_SURNAMES) + "".join(rng.sample(pool, rng.choice((1, 2, 2))))


def zh_date(rng: random.Random) -> str:
    """Return a date as Chinese notes write it."""
    year, month, day = rng.randint(1990, 2026), rng.randint(1, 12), rng.randint(1, 28)
    digits = "〇一二三四五六七八九"
    numeral = [
        "",
        *"一二三四五六七八九",
        "十",
        *(f"十{n}" for n in "一二三四五六七八九"),
        "二十",
        *(f"二十{n}" for n in "一二三四五六七八九"),
    ]
    return rng.choice(
        (
            f"{year}年{month}月{day}日",
            f"{year}-{month:02d}-{day:02d}",
            f"{year}.{month}.{day}",
            f"{year}/{month:02d}/{day:02d}",
            "".join(digits[int(digit)] for digit in str(year)) + f"年{numeral[month]}月{numeral[day]}日",
            f"{month}月{day}日",
            f"{year}年{month}月",
        )
    )


def zh_note(rng: random.Random) -> dict[str, Any]:
    """Return a Chinese note: header, history, ward round, signature."""
    draft = Draft()
    person, doctor, other, kin = (zh_name(rng) for _ in range(4))
    record = f"{rng.choice(('', 'ZY', 'A', 'M-'))}{rng.randint(10**5, 10**8)}"
    mobile = f"1{rng.choice('3589')}{rng.randint(0, 10**9 - 1):09d}"
    number = resident_id(rng)
    shown = rng.choice(
        (
            number,
            number.lower(),
            f"{number[:6]} {number[6:14]} {number[14:]}",
            number.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
        )
    )
    name = (person, "NAME")
    draft.add(
        rng.choice(
            (
                "姓名：{name}  性别：男  年龄：{age}  {label}：{record}\n",
                "患者{name}，女性，{age}，{label}{record}。\n",
                "{label}:{record} 病人姓名 {name} 女 {age}\n",
            )
        ),
        name=name,
        age=(f"{rng.randint(90, 104)}岁", "AGE"),
        label=(rng.choice(("住院号", "病案号", "门诊号", "病历号", "就诊卡号")), None),
        record=(record, "RECORD"),
    )
    draft.add(
        "身份证{link}{id}，{word}{phone}，",
        link=(rng.choice(("号：", "号码", "：")), None),
        id=(shown, "ID"),
        word=(rng.choice(("联系电话：", "手机", "电话")), None),
        phone=(mobile, "PHONE"),
    )
    draft.decoys.clear()  # labels were only drawn, they are no decoys
    _zh_history(draft, rng, name)
    _zh_round(draft, rng, doctor)
    draft.add("家属{kin}（患者之{rel}）知情同意。", kin=(kin, "NAME"), rel=(rng.choice("子女妻"), None))
    draft.decoys.pop()
    draft.add("\n住院医师：{other}  {date}", other=(other, "NAME"), date=(zh_date(rng), "DATE"))
    return draft.note("zh", record)


def _zh_history(draft: Draft, rng: random.Random, name: tuple[str, str]) -> None:
    """Add why the patient came, and what is known of before."""
    draft.add(
        "因“{decoy}伴{second}{days}天”于{date}就诊。{name}{says}既往{third}，否认{fourth}。",
        decoy=(rng.choice(("黄疸", "高热", "白带增多", "胡言乱语", "左侧肢体无力", "马尾神经痛")), None),
        second=(rng.choice(("张力性头痛", "金黄色脓痰", "苏醒困难", "严重乏力")), None),
        days=(str(rng.randint(2, 20)), None),
        date=(zh_date(rng), "DATE"),
        name=name,
        says=(rng.choice(("诉", "自述")), None),
        third=(rng.choice(("高血压", "白细胞减少", "石膏固定史", "江米过敏")), None),
        fourth=(rng.choice(("万古霉素过敏", "毛细血管瘤", "史密斯骨折", "方便面过敏")), None),
    )


def _zh_round(draft: Draft, rng: random.Random, doctor: str) -> None:
    """Add the ward round and its figures."""
    draft.add(
        "{date}{doctor}{title}查房，",
        date=(zh_date(rng), "DATE"),
        doctor=(doctor, "NAME"),
        title=(rng.choice(("主任医师", "副主任医师", "主治医师")), None),
    )
    draft.decoys.pop()
    draft.add(
        "测血压{bp}，肌力{power}，白蛋白{albumin}。",
        bp=("130/80mmHg", None),
        power=("4/5级", None),
        albumin=("35.5g/L", None),
    )


def en_date(rng: random.Random) -> str:
    """Return a date as American notes write it."""
    year, month, day = rng.randint(1990, 2026), rng.randint(1, 12), rng.randint(1, 28)
    names = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
    return rng.choice(
        (
            f"{month:02d}/{day:02d}/{year}",
            f"{month}/{day}/{year % 100:02d}",
            f"{names[month - 1]} {day}, {year}",
            f"{day} {names[month - 1][:3]} {year}",
            f"{names[month - 1][:3]} {day}",
            f"{year}-{month:02d}-{day:02d}",
            f"{names[month - 1]} {year}",
        )
    )


def en_note(rng: random.Random) -> dict[str, Any]:
    """Return an English note: header, history, plan, signature."""
    draft = Draft()
    first, last = rng.choice(EN_FIRST), rng.choice(EN_LAST)
    doctor, kin = (f"{rng.choice(EN_FIRST)} {rng.choice(EN_LAST)}" for _ in range(2))
    record = f"{rng.randint(10**6, 10**7)}"
    phone = rng.choice(
        (
            f"({rng.randint(201, 989)}) 555-{rng.randint(1000, 9999)}",
            f"{rng.randint(201, 989)}-555-{rng.randint(1000, 9999)}",
            f"+1 {rng.randint(201, 989)}.555.{rng.randint(1000, 9999)}",
        )
    )
    draft.add(
        rng.choice(
            (
                "Patient: {full}   MRN: {record}   DOB: {date}\n",
                "Name: {turned}  Medical Record Number {record}  Date of birth {date}\n",
            )
        ),
        full=(f"{first} {last}", "NAME"),
        turned=(f"{last}, {first}", "NAME"),
        record=(record, "RECORD"),
        date=(en_date(rng), "DATE"),
    )
    draft.add(
        "{title} {last} is a {age}-year-old with {disease} seen on {date} by Dr. {doctor}. ",
        title=(rng.choice(("Mr.", "Mrs.", "Ms.")), None),
        last=(last, "NAME"),
        age=(str(rng.randint(90, 103)), "AGE"),
        disease=(rng.choice(("Crohn's disease", "Parkinson disease", "a Colles fracture", "Hodgkin lymphoma")), None),
        date=(en_date(rng), "DATE"),
        doctor=(doctor, "NAME"),
    )
    draft.add("Symptoms {may}; a {foley} catheter was placed. ", may=("May improve", None), foley=("Foley", None))
    _en_reach(draft, rng, kin=kin, phone=phone, last=last)
    draft.add(
        "BP {bp}, strength {power}, INR {inr}, give {dose}. ",
        bp=("120/80", None),
        power=("5/5", None),
        inr=("2.5", None),
        dose=("325 mg", None),
    )
    draft.add(
        "Dr. {last} agrees.\nElectronically signed by {doctor}, MD on {date}",
        last=(doctor.split()[1], "NAME"),
        doctor=(doctor, "NAME"),
        date=(en_date(rng), "DATE"),
    )
    draft.decoys = [
        mark
        for mark in draft.decoys
        if (mark["end"] - mark["start"] > 3 and draft.text[mark["start"]].isupper())
        or draft.text[mark["start"]].isdecimal()
    ]
    return draft.note("en", record)


def _en_reach(draft: Draft, rng: random.Random, *, kin: str, phone: str, last: str) -> None:
    """Add where the family can be reached."""
    draft.add(
        "{pronoun} daughter {kin} can be reached at {phone} or {mail}. SSN {ssn}. Lives at {house}. ",
        pronoun=(rng.choice(("His", "Her")), None),
        kin=(kin, "NAME"),
        phone=(phone, "PHONE"),
        mail=(
            f"{last[:3].lower()}{rng.randint(10, 99)}@mail-{rng.choice('abc')}.example.org".encode(
                "ascii", "ignore"
            ).decode(),
            "EMAIL",
        ),
        ssn=(f"{rng.randint(100, 899)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}", "ID"),
        house=(
            (
                f"{rng.randint(1, 9999)} {rng.choice(EN_TOWNS)} {rng.choice(('Lane', 'Street', 'Avenue'))}, "
                f"{rng.choice(EN_TOWNS)}, OH {rng.randint(43001, 45999)}"
            ),
            "ADDRESS",
        ),
    )


@pytest.fixture
def gold_file(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes made-up gold notes: `gold_file("zh", 50, seed=1)`."""

    def write(language: str, count: int, *, seed: int) -> Path:
        rng = random.Random(f"{language}{seed}")  # noqa: S311  made-up notes
        make = zh_note if language == "zh" else en_note
        path = tmp_path / f"{language}-{seed}.jsonl"
        path.write_text(
            "".join(json.dumps(make(rng), ensure_ascii=False) + "\n" for _ in range(count)), encoding="utf-8"
        )
        return path

    return write


@pytest.fixture
def cleaner() -> NoteCleaner:
    """The default options under a test key."""
    return NoteCleaner(options=TextOptions(), key=KEY)
