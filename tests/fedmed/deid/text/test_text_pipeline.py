"""The whole way of a note: recall, decoys, a second pass, shifted dates, options, and no trace of what was masked."""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.text import CleanedNote, NoteCleaner, TextOptions, clean_note
from fedmed.deid.text.evaluation import Evaluation, evaluate
from fedmed.errors import DataError, UsageError

KEY = bytes(range(32))
MASK, SHIFT = TextOptions(), TextOptions(dates="shift")
CANARIES = ("郎月笙", "Ysolde", "Vroonhof", "330106198807214519", "13912345678", "7712345")
CANARY_NOTE = "患者郎月笙，身份证330106198807214519，手机13912345678。Patient: Ysolde Vroonhof MRN: 7712345"
FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "患者",
            "郎月笙",
            "裴旻",
            "主任医师",
            "，",
            "。",
            "：",
            "男",
            "诉",
            "姓名",
            "与",
            "、",
            "2021年7月9日",
            "7/9",
            "Dr.",
            "Roe",
            "Jane",
            "Smith",
            ",",
            "MD",
            "MRN",
            "123456",
            "住院号",
            "13912345678",
            "人民医院",
            "杭州市",
            "西湖区",
            "路7号",
            "[患者姓名]",
            "[DATE]",
            "[医生姓名2]",
            "May",
            "93岁",
            "Hospital",
            "OH",
            "|",
            "|姓名|",
            "Name",
            "Elm",
            "Street",
            "a.b@c.org",
            "高热",
            "(",
            ")",
            "\n",
            " ",
            "\t",
            "\u200b",
            " ",
            "OH 43001",
            "12 Elm Street",
        ]
    ),
    max_size=25,
).map("".join)


def measured(gold: Path, cleaner: NoteCleaner) -> Evaluation:
    """Return the figures of a gold file."""
    return evaluate(gold, lambda note: cleaner.clean(note.text, patient=note.patient))


@pytest.mark.parametrize(("language", "names"), [("zh", 0.97), ("en", 0.95)])
def test_recall_on_made_up_notes(
    language: str, names: float, gold_file: Callable[..., Path], cleaner: NoteCleaner
) -> None:
    """On notes, names and contexts that are not the rules' own, identifiers and names are found and decoys stay."""
    result = measured(gold_file(language, 120, seed=77), cleaner)
    for kind, recall in result.recall.items():
        assert recall.by_entity >= (names if kind == "NAME" else 0.995), kind
    assert result.decoy_rate <= 0.02
    assert result.other_rate <= 0.03


@pytest.mark.parametrize("language", ["zh", "en"])
def test_second_pass_changes_nothing(language: str, gold_file: Callable[..., Path], cleaner: NoteCleaner) -> None:
    """What was cleaned stays as it is, to the letter."""
    for line in gold_file(language, 60, seed=78).read_text(encoding="utf-8").splitlines():
        note = json.loads(line)
        once = cleaner.clean(note["text"], patient=note["patient"])
        assert cleaner.clean(once.text, patient=note["patient"]).text == once.text


@settings(max_examples=300, deadline=None)
@example("93岁路7号")
@given(FRAGMENTS)
def test_any_second_pass_changes_nothing(note: str) -> None:
    """However names, dates and placeholders stand together, a second pass finds nothing more."""
    cleaner = NoteCleaner(options=MASK, key=KEY)
    once = cleaner.clean(note, patient="p")
    twice = cleaner.clean(once.text, patient="p")
    assert twice.text == once.text
    assert twice.spans == ()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_cleaned(note: str) -> None:
    """Any Unicode text is cleaned or refused as undecodable; what is not covered by a span is not touched."""
    try:
        cleaned = clean_note(note, options=MASK, key=KEY, patient="p")
    except DataError:
        return
    covered = {index for span in cleaned.spans for index in range(span.start, span.end)}
    if not covered:
        assert cleaned.text == note


def test_answer_holds_no_covered_text(cleaner: NoteCleaner) -> None:
    """Neither text nor counts nor spans hold anything that was masked."""
    cleaned = cleaner.clean(CANARY_NOTE, patient="p")
    assert not any(canary in f"{cleaned!r} {dataclasses.asdict(cleaned)}" for canary in CANARIES)
    assert cleaned.counts == {"NAME": 2, "ID": 1, "PHONE": 1, "RECORD": 1}


def test_error_holds_no_text(cleaner: NoteCleaner) -> None:
    """An error names no part of the note, the patient or the key."""
    for broken in (CANARY_NOTE + "\udc80", CANARY_NOTE.replace("，", "\ud9ff")):
        with pytest.raises(DataError) as caught:
            cleaner.clean(broken, patient="Qxz7patient")
        assert not any(canary in str(caught.value) for canary in (*CANARIES, "Qxz7patient", KEY.hex()))


def test_patients_own_identifier_is_masked(cleaner: NoteCleaner) -> None:
    """Where the note repeats the patient's key, or a name that the site knows, it is masked without any context."""
    cleaned = cleaner.clean("复查 qx-77a1 示好转，月笙安静", patient="QX-77A1", names=("月笙",))
    assert cleaned.text == "复查 [病历号] 示好转，[患者姓名]安静"
    assert cleaner.clean("在 aqx-77a12 旁", patient="QX-77A1").text == "在 aqx-77a12 旁"


def test_dates_move_by_the_patients_shift() -> None:
    """All dates of one patient move by the same keyed days; another patient's and another key's differ."""
    note = "2021年7月9日入院，07/12/2021出院。"
    days = Pseudonyms(KEY).shift_days("p1", limit=365)
    cleaned = clean_note(note, options=SHIFT, key=KEY, patient="p1")
    again = clean_note("2021-07-09", options=SHIFT, key=KEY, patient=" P1 ")
    year, month, day = map(int, re.findall("[0-9]+", cleaned.text)[:3])
    assert again.text.startswith(f"{year}-{month:02d}-{day:02d} [")
    assert abs(days) <= 365
    assert clean_note(note, options=SHIFT, key=KEY, patient="p2").text != cleaned.text
    assert clean_note(note, options=SHIFT, key=bytes(32), patient="p1").text != cleaned.text


def test_impossible_date_is_masked_in_shift_mode() -> None:
    """A date that does not exist is not copied through."""
    assert clean_note("2021-02-31复查", options=SHIFT, key=KEY, patient="p1").text == "[日期]复查"


def test_shift_without_patient_is_refused() -> None:
    """Dates of nobody in particular would all move alike."""
    with pytest.raises(UsageError, match="patient's identifier"):
        clean_note("2021-07-09", options=SHIFT, key=KEY, patient=" ")


def test_key_must_be_whole() -> None:
    """A key of the wrong length is refused."""
    with pytest.raises(UsageError, match="32 bytes"):
        NoteCleaner(options=MASK, key=b"short")


def test_invisible_characters_are_covered_and_others_stay(cleaner: NoteCleaner) -> None:
    """A joiner inside a name goes with it; carriage returns outside stay."""
    cleaned = cleaner.clean("患者郎\u200b月笙，男\r\n好转", patient="p")
    assert cleaned.text == "患者[患者姓名]，男\r\n好转"


def test_ages_are_capped(cleaner: NoteCleaner) -> None:
    """Ages above 89 become one class in either language; 89 stays."""
    assert cleaner.clean("男，93岁，其妻89岁", patient="p").text == "男，90岁以上，其妻89岁"
    assert cleaner.clean("a 93-year-old and an 89-year-old", patient="p").text == "a 90+-year-old and an 89-year-old"


def test_allowed_words_stay() -> None:
    """A word of the allow-list is not masked, and the digest shows it."""
    allowed = TextOptions(allowed=("宜川县第二人民医院",))
    note = "曾于宜川县第二人民医院就诊"
    assert clean_note(note, options=allowed, key=KEY, patient="p").text == note
    assert clean_note(note, options=MASK, key=KEY, patient="p").text == "曾于[医院]就诊"
    assert allowed.digest != MASK.digest


def test_only_asked_kinds_are_masked() -> None:
    """A kind that the options leave out stays."""
    options = TextOptions(kinds=("NAME",))
    text = clean_note("患者郎月笙，男，手机13912345678", options=options, key=KEY, patient="p").text
    assert text == "患者[患者姓名]，男，手机13912345678"


def test_only_asked_languages_are_read() -> None:
    """Without Chinese rules a Chinese name stays; digits are read in any case."""
    options = TextOptions(languages=("en",))
    text = clean_note("患者郎月笙，手机13912345678", options=options, key=KEY, patient="p").text
    assert text == "患者郎月笙，手机[电话]"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("languages", ()),
        ("languages", ("de",)),
        ("dates", "keep"),
        ("kinds", ()),
        ("kinds", ("FACE",)),
        ("max_shift_days", 3),
        ("version", 2),
    ],
)
def test_wrong_options_do_not_exist(field: str, value: object) -> None:
    """An option that can't be followed is refused when the record is made."""
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(MASK, **{field: value})


def test_tables_and_forms_are_cleaned(cleaner: NoteCleaner) -> None:
    """Cells under a heading and values beside a label are masked without a colon."""
    note = "| 姓名 | 年龄 | 现住址 |\n| 郎月笙 | 94 | 宁海县跃龙街道9号 |\n"
    text = cleaner.clean(note, patient="p").text
    assert "郎月笙" not in text
    assert "94" not in text
    assert "跃龙" not in text
    assert isinstance(cleaner.clean("", patient="p"), CleanedNote)


@pytest.mark.parametrize(
    "piece",
    [
        "A",
        "a.",
        "1",
        "1-",
        "12 ",
        "省市区",
        "患者",
        "王",
        "路",
        "医院",
        "(",
        " ",
        "\n",
        "|",
        "Dr. ",
        "Jane ",
        "@",
        "2021-",
        "MRN ",
        "年月",
        "·甲",
        "a@b.",
    ],
)
def test_no_text_takes_long(piece: str, cleaner: NoteCleaner) -> None:
    """A long run of one piece, as a broken export has it, is cleaned in time that grows with its length."""
    started = time.process_time()
    cleaner.clean(piece * 6000, patient="p")
    assert time.process_time() - started < 20
