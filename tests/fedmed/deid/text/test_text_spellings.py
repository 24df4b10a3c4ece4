"""What a person reads as a number, a date or a letter is read as one, whatever characters it is written with."""

import pytest

from fedmed.deid.text import NoteCleaner
from fedmed.deid.text.reading import read
from fedmed.deid.text.spans import Span

DIGITS = "0123456789"
DRESSES = {
    "circled": "⓪①②③④⑤⑥⑦⑧⑨",
    "dark": "⓿❶❷❸❹❺❻❼❽❾",
    "raised": "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "lowered": "₀₁₂₃₄₅₆₇₈₉",
    "numerals": "零一二三四五六七八九",
    "round zero": "〇一二三四五六七八九",
    "formal": "零壹贰叁肆伍陆柒捌玖",
    "traditional formal": "零壹貳參肆伍陸柒捌玖",
    "spoken": "零幺二三四五六七八九",
    "bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize(
    "phone", ["15967284031", "159 6728 4031", "159-6728-4031", "(0571) 8826-4031", "159\n67284031"]
)
def test_a_phone_is_found_in_any_digits(cleaner: NoteCleaner, dress: str, phone: str) -> None:
    """Nobody can keep a phone number, called by its label, in a note by writing its digits in another way."""
    written = phone.translate(str.maketrans(DIGITS, DRESSES[dress]))
    assert (
        cleaner.clean(f"可致电家属，手机是{written}，夜间亦可", patient="p").text
        == "可致电家属，手机是[电话]，夜间亦可"
    )


@pytest.mark.parametrize("dress", DRESSES)
def test_a_record_number_is_found_in_any_digits(cleaner: NoteCleaner, dress: str) -> None:
    """So is a shorter number after its label, and one of mixed digits."""
    digits = str.maketrans(DIGITS, DRESSES[dress])
    for number in ("4067215", "40672"):
        assert cleaner.clean(f"住院号：{number.translate(digits)}。", patient="p").text == "住院号：[病历号]。"
    mixed = "".join(c.translate(digits) if index % 2 else c for index, c in enumerate("15967284031"))
    assert cleaner.clean(f"电话{mixed}。", patient="p").text == "电话[电话]。"


@pytest.mark.parametrize(
    "hidden", ["\u3164", "\u200b", "\u115f", "\uffa0", "\ufe0f", "\U000e0041", "\x01", "\u0338", "\u20dd"]
)
def test_nothing_unseen_parts_a_number(cleaner: NoteCleaner, hidden: str) -> None:
    """Fillers, tags, control characters and marks on a digit leave it a digit, and go with the number."""
    note = f"电话：{hidden.join('15967284031')}{hidden}，备用"
    text = cleaner.clean(note, patient="p").text
    assert text.startswith("电话：[电话]")
    assert not any(character.isdecimal() for character in text)


def test_a_blank_braille_cell_is_a_space(cleaner: NoteCleaner) -> None:
    """A blank that is no white space parts a number as a space does."""
    assert cleaner.clean("电话159\u28006728\u28004031。", patient="p").text == "电话[电话]。"


def test_marks_go_with_their_letter() -> None:
    """A span that ends in a letter with a mark of its own covers the mark; the letter is read as one character."""
    reading = read("Jose\u0301 came")
    assert reading.view == "José came"
    span = reading.in_note(Span(start=0, end=4, kind="NAME"))
    assert (span.start, span.end) == (0, 5)


@pytest.mark.parametrize(
    "note",
    [
        "①血常规；②尿常规；③肝功能；④胸部CT",
        "白细胞5.6×10⁹/L，面积2.3m²，体积40cm³",
        "一般情况可，二便调，三餐规律，两三天一次",
        "心功能Ⅱ级，肌力Ⅳ级，ASA Ⅲ级",
        "收缩压120一150mmHg，间隔3一5天，波动于1200一1500之间",
        "患者于第三、四、五肋间压痛，第一二三跖骨骨折",
        "TNF-α、β2微球蛋白、γ-GT、Δ值升高，10µg",
    ],
)
def test_numerals_of_lists_powers_and_units_stay(cleaner: NoteCleaner, note: str) -> None:
    """A list's mark, a power of ten, an ordinal and a Greek letter are no identifiers."""
    assert cleaner.clean(note, patient="p").text == note


@pytest.mark.parametrize(
    "date",
    [
        "贰零壹玖年柒月贰拾陆日",
        "二〇一九年柒月二十六日",
        "2019年柒月26日",
        "②⓪①⑨年⑦月②⑥日",
        "二〇一九年〇七月廿六日",
        "貳零壹玖年柒月貳拾陸日",
        "柒月贰拾陆日",
    ],
)
def test_dates_in_any_numerals(cleaner: NoteCleaner, date: str) -> None:
    """A date is one date in formal numerals, in circled digits and in a mixture."""
    assert cleaner.clean(f"于{date}手术", patient="p").text == "于[日期]手术"


@pytest.mark.parametrize("name", ["陆月华", "陆一舟", "伍三元", "参天"])
def test_a_numeral_of_a_name_is_none(name: str) -> None:
    """A surname that is also a formal numeral stays a surname."""
    assert read(f"患者{name}，女").view == f"患者{name}，女"


@pytest.mark.parametrize(
    "name",
    ["𝐇𝐚𝐧𝐧𝐚𝐡 𝐏𝐞𝐥𝐥𝐢𝐧𝐠", "Ⓗⓐⓝⓝⓐⓗ Ⓟⓔⓛⓛⓘⓝⓖ", "Hаnnаh Pеlling", "𝙷𝚊𝚗𝚗𝚊𝚑 Pelling", "Нannah Рelling", "Н. Рelling"],
)
def test_letters_in_another_dress(cleaner: NoteCleaner, name: str) -> None:
    """Mathematical and circled letters, and Cyrillic ones inside a Latin word, are read as what they look like."""
    assert cleaner.clean(f"Patient: {name}, CRP 5 μg", patient="p").text == "Patient: [PATIENT NAME], CRP 5 μg"


def test_another_alphabet_is_left_alone() -> None:
    """A word in Cyrillic or Greek is not turned into Latin letters."""
    for note in ("Осмотр: состояние без динамики", "α-fetoprotein, β-blocker, Ω, Δ"):
        assert read(note).view == note


@pytest.mark.parametrize(
    ("note", "cleaned"),
    [
        ("病患陳志明，男，58歲", "病患[患者姓名]，男，58歲"),
        ("患者：蕭惠婷，因胸悶就診", "患者：[患者姓名]，因胸悶就診"),
        ("主治醫師：鄧國樑", "主治醫師：[医生姓名]"),
        ("聯絡人：葉瓊華　聯絡電話：0912-345-678", "聯絡人：[家属姓名]　聯絡電話：[电话]"),
        ("病歷號碼：A77120", "病歷號碼：[病历号]"),
        ("身分證字號：B223456781", "身分證字號：[证件号]"),
        ("住院號：Z9912", "住院號：[病历号]"),
        ("劉護理師交班", "[医生姓名]護理師交班"),
        ("黃疸加重，張力增高，高熱", "黃疸加重，張力增高，高熱"),
    ],
)
def test_traditional_characters(cleaner: NoteCleaner, note: str, cleaned: str) -> None:
    """Labels and surnames in traditional characters say what simplified ones do; so do words that aren't names."""
    assert cleaner.clean(note, patient="p").text == cleaned


def test_a_name_in_brackets_behind_its_other_spelling(cleaner: NoteCleaner) -> None:
    """A name that follows a masked one in brackets is masked too; a weekday, a sex or an age there stays."""
    text = cleaner.clean("由 Dr Nie Wendi (聂闻笛) 会诊", patient="p").text
    assert text == "由 Dr [医生姓名] ([姓名]) 会诊"
    for aside in ("（周三）", "（高龄）", "（女）"):
        assert cleaner.clean(f"患者聂闻笛，女，由聂闻笛{aside}签字", patient="p").text.endswith(f"{aside}签字")


def test_a_parted_name_is_one_person(cleaner: NoteCleaner) -> None:
    """A name that a line's end parts has the placeholder that it has elsewhere in the note."""
    text = cleaner.clean("患者：翟\n煦然，女。予翟煦然补液", patient="p").text
    assert text == "患者：[患者姓名]，女。予[患者姓名]补液"


def test_a_spelled_number_leaves_others_as_they_are() -> None:
    """Where a note spells one number, a dash like 一 stays between two others, and a year keeps its numerals."""
    view = read("电话一五九六七二八四零三一，波动于1200一1500之间，二〇一九年七月，第一二三四肋").view
    assert view == "电话15967284031，波动于1200一1500之间，二〇一九年七月，第一二三四肋"
