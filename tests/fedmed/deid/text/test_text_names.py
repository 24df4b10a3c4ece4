"""Names in both languages: found by their contexts; words and eponyms that look like names stay."""

import pytest

from fedmed.deid.text import names_en, names_zh, places_en, places_zh
from fedmed.deid.text.reading import read
from fedmed.deid.text.spans import merge


def zh(note: str) -> list[str]:
    """Return the Chinese names in a note."""
    return [note[span.start : span.end] for span in merge(names_zh.find_names(read(note).view))]


def en(note: str) -> list[str]:
    """Return the names in Latin letters in a note."""
    return [note[span.start : span.end] for span in merge(names_en.find_names(read(note)))]


def places(note: str) -> list[str]:
    """Return the hospitals and addresses in a note."""
    reading = read(note)
    spans = merge([*places_zh.find_places(reading.view), *places_en.find_places(reading, reading)])
    return [note[span.start : span.end] for span in spans]


@pytest.mark.parametrize(
    ("note", "names"),
    [
        ("患者翟煦然，女，66岁", ["翟煦然"]),
        ("患者翟煦诉乏力", ["翟煦"]),
        ("患儿于小满，男", ["于小满"]),
        ("患者高敏，女，30岁", ["高敏"]),
        ("姓名：卞 卡 性别", ["卞 卡"]),
        ("患者姓名：阿不都·克里木 性别", ["阿不都·克里木"]),
        ("术者：欧阳靖川 助手：司徒蔚", ["欧阳靖川", "司徒蔚"]),
        ("请聂闻笛副主任医师会诊", ["聂闻笛"]),
        ("今日柏主任查房", ["柏"]),
        ("麻醉医师：窦一鸣、苟笑", ["窦一鸣", "苟笑"]),
        ("家属（其女）：蔺葳", ["蔺葳"]),
        ("凯比努尔·买买提诉腹痛", ["凯比努尔·买买提"]),
        ("翟煦然诉乏力，予翟煦然补液", ["翟煦然", "翟煦然"]),
        ("病史由裴旻陪护代诉", ["裴旻"]),
        ("主治医师签名：常瑛", ["常瑛"]),
        ("患者“翟煦然”，女", ["翟煦然"]),
        ("病人：【翟煦然】今日出院", ["翟煦然"]),
        ("家属「苟笑」陪同", ["苟笑"]),
        ("患者名叫聂闻笛，", ["聂闻笛"]),
        ("患儿叫裴旻，", ["裴旻"]),
        ("病人名字是翟煦然。", ["翟煦然"]),
        ("患者：翟\n煦然，女", ["翟\n煦然"]),
        ("患者翟煦\n然，女，翟煦然诉痛", ["翟煦\n然", "翟煦然"]),
        ("患者 司徒\n蔚诉乏力", ["司徒\n蔚"]),
        ("患者翟 煦 然，女，66岁", ["翟 煦 然"]),
        ("患者（翟煦然）今日出院", ["翟煦然"]),
        ("小翟（翟煦然）来电", ["翟煦然"]),
    ],
)
def test_chinese_names_are_found(note: str, names: list[str]) -> None:
    """Left and right contexts, compound and weak surnames, dotted names, lists and repetitions."""
    assert zh(note) == names


@pytest.mark.parametrize(
    "note",
    [
        "患者黄疸加重，高热不退，张力增高，白细胞升高，石膏固定，江米食后腹胀",
        "患者于昨日，患者时有心悸，患者常感乏力，患者全身不适，患者应卧床",
        "患者方便时，患者马上，患者何时，患者任何，患者曾在外院，患者余无特殊",
        "患者白天嗜睡，患者周身疼痛，患者左侧肢体，患者向心性肥胖，患者解黑便",
        "主任医师查房，上级医师指示，全科医生，值班医生，管床医师，请心内科会诊",
        "姓名：不详 联系人：无 陈述者：患者本人 家属签名：同上",
        "格林·巴利综合征，克·雅病，万古霉素，雷贝拉唑，林可霉素，毛细血管，马尾神经",
        "主诉：黄疸3天；诊断：高血压；舌苔：黄腻；既往史：曾行胆囊切除",
        "患者“头痛、高热”3天，患者“黄疸”待查，患者【主诉】腹痛，诊断“高血压”",
        "患者叫苦，患者叫声弱，患者名下，患者名为老年，患者为高血压",
        "患者：方\n便秘，患者 高 热，患者 白 天，患者：\n男，66岁，患者：于\n今晨，发热",
        "阅读《高洁》，女性适用",
        "患者（高龄）、家属（其女）、医师（主治）、病人（男）、我院（东院）",
    ],
)
def test_chinese_words_are_no_names(note: str) -> None:
    """Common words that begin with a surname stay, behind the contexts of names too."""
    assert zh(note) == []


@pytest.mark.parametrize(
    ("note", "names"),
    [
        ("Mr. Tuan-Anh Vroonhof was seen", ["Tuan-Anh Vroonhof"]),
        ("seen by Dr. Ó Conaill today", ["Ó Conaill"]),
        ("Patient: Vroonhof, Ysolde   MRN", ["Vroonhof, Ysolde"]),
        ("PATIENT NAME: YSOLDE VROONHOF DATE OF BIRTH", ["YSOLDE VROONHOF"]),
        ("her husband, Bartholomeus, agreed", ["Bartholomeus"]),
        ("cc: Imogen Thackrayson, MD; Rhys Pellingham, RN", ["Imogen Thackrayson", "Rhys Pellingham"]),
        ("Surgeon: J. van der Zalm", ["J. van der Zalm"]),
        ("Dr. Young and Mrs. White", ["Young", "White"]),
        (
            "Ysolde Vroonhof is a 56-year-old woman. Vroonhof's wound. Ysolde slept.",
            ["Ysolde Vroonhof", "Vroonhof", "Ysolde"],
        ),
        ("Electronically signed by Rhys Pellingham II on", ["Rhys Pellingham II"]),
        ("dr. pellingham called", ["pellingham"]),
        ("NAME: VROONHOF,YSOLDE", ["VROONHOF,YSOLDE"]),
        ("Dr. THACKRAYSON,LINDA saw", ["THACKRAYSON,LINDA"]),
        ('Patient: "Ysolde Vroonhof" came', ["Ysolde Vroonhof"]),
        ("Attending: PELLINGHAM,MD", ["PELLINGHAM"]),
    ],
)
def test_english_names_are_found(note: str, names: list[str]) -> None:
    """Titles, labels, relations, credentials, particles, ages, repetitions."""
    assert en(note) == names


@pytest.mark.parametrize(
    "note",
    [
        "Crohn's disease, Parkinson disease, Foley catheter, Babinski sign, Hodgkin lymphoma, Colles fracture",
        "May improve. Will follow. Mark the site. Grace period. Rose bengal. Hope is high.",
        "Jackson-Pratt drain, Whipple procedure, Glasgow Coma Scale, Apgar scores, Murphy sign",
        "MR ANGIOGRAM OF THE BRAIN. MS EXACERBATION. INTERVAL 54 MS. CORONARY ARTERY DISEASE.",
        "Patient denies pain. Mother: Alive. Father: Died of stroke. Assistant: None. Name: unknown",
        "Lasix 40 mg, Coumadin, Tylenol; Klebsiella; E. coli; Santa Ana",
        "CC: Headache. HPI: Seizures. PROTOCOL: Standard.",
        "CC:, Dysarthria,HX: none. Surgeon: None,HX",
    ],
)
def test_english_words_are_no_names(note: str) -> None:
    """Eponyms, drugs, headings and words that are also first names stay."""
    assert en(note) == []


def test_eponym_stays_beside_its_namesake() -> None:
    """Where a Dr. Foley is in the note, the catheter keeps its name."""
    assert en("Dr. Foley placed a Foley catheter. Foley agreed, as Foley had said.").count("Foley") == 2
    assert "Foley catheter" not in " ".join(en("Dr. Foley placed a Foley catheter."))


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("曾于宜川县第二人民医院就诊", ["宜川县第二人民医院"]),
        ("转至浙江大学医学院附属邵逸夫医院", ["浙江大学医学院附属邵逸夫医院"]),
        ("现住址：杭州市西湖区灵隐路7号2幢301室，", ["杭州市西湖区灵隐路7号2幢301室"]),
        ("家住桃源乡柳树村三组", ["桃源乡柳树村三组"]),
        ("来自四川省绵阳市", ["四川省绵阳市"]),
        ("transferred from Larkhaven General Hospital today", ["Larkhaven General Hospital"]),
        ("seen at St. Odo's Medical Center", ["St. Odo's Medical Center"]),
        ("lives at 77 Quince Street, Apt 4B, Larkhaven, OH 43001.", ["77 Quince Street, Apt 4B, Larkhaven, OH 43001"]),
        ("P.O. Box 771, Larkhaven, Ohio", ["P.O. Box 771, Larkhaven, Ohio"]),
        ("She was born in Larkhaven and", ["Larkhaven"]),
    ],
)
def test_places_are_found(note: str, expected: list[str]) -> None:
    """Hospitals by their endings, addresses by labels, chains and numbers."""
    assert places(note) == expected


@pytest.mark.parametrize(
    "note",
    [
        "我院、当地医院、上级医院、外院、三甲医院、某医院、县医院均可",
        "心尖区、腹股沟区、病区、手术室、尿路、通路、旁路移植、镇痛镇静药、3号切口",
        "the Emergency Hospital, a pain clinic, Outpatient Clinic, the Hospital, General surgery",
        "discharged to home; moved to RV outflow tract; 0 Vicryl loop; NT, ND, NBS; CPT Code 77470",
        "lives in Ohio",
    ],
)
def test_words_are_no_places(note: str) -> None:
    """Hospitals in general, parts of the body and states alone stay."""
    assert places(note) == []


def test_a_letter_with_a_longer_small_form_moves_no_border() -> None:
    """İ becomes two characters in small letters; a name ends where it is written, at a note's end too."""
    note = "Seen by Dr. Demirİ at noon, then by Dr. Kaya-Demirİ"
    assert en(note) == ["Demirİ", "Kaya-Demirİ"]
    assert max(span.end for span in names_en.find_names(read(note))) == len(note)
