"""Behaviour of ages above 89: every way to write one that a Chinese note knows, and what only looks like one."""

import pytest

from fedmed.deid.text import TextOptions, clean_note


def cleaned(text: str) -> str:
    """Return the note as the rules leave it."""
    return clean_note(text, options=TextOptions(), key=bytes(32), patient="p").text


@pytest.mark.parametrize(
    "text",
    [
        "患者九十二岁",
        "92周岁",
        "92 周岁高龄",
        "95歳",
        "１０１岁",
        "九十多岁",
        "90余岁",
        "九十来岁",
        "九十二三岁",
        "一百零三岁",
        "一百单三岁",
        "一〇二岁",
        "九〇岁",
        "玖拾贰岁",
        "百岁老人",
        "年九旬",
        "年逾九旬老人",
        "年九十有三，",
        "年逾九十，",
        "期颐之年",
        "高龄96，",
        "高龄九十六",
        "95高龄",
        "九十大寿",
        "享年九十二",
        "现年95",
        "岁数：95",
        "年龄：九十二",
        "年龄（岁）：92",
        "年龄约95",
        "患者男，92，因",
        "性别 女 101Y",
    ],
)
def test_an_age_above_89_is_masked_however_it_is_written(text: str) -> None:
    """No numeral of it is left, and a second pass changes nothing."""
    once = cleaned(text)
    assert "90岁以上" in once or "90+" in once
    kept = once.replace("90岁以上", "").replace("90+", "")
    assert not set(kept) & set("0123456789０１２３九十百玖期旬")
    assert cleaned(once) == once


def test_an_age_in_a_table_is_read_with_its_heading() -> None:
    """A heading may hold spaces and the unit."""
    table = "| 姓名 | 年 龄（岁） | 邮箱 |\n| 云惠姗 | 96 | a@example.com |"
    assert "| 90+ |" in cleaned(table)
    assert "| 90+ |" in cleaned(f"{table}　手术记录：顺利。")  # the note goes on behind the last bar


@pytest.mark.parametrize(
    "text",
    [
        "脉搏92次/分",
        "18-95岁",
        "90岁以上",
        "≤95岁",
        "92年前",
        "体重95kg",
        "女，120次/分",
        "9月上旬",
        "病史九十天",
        "血压135/90mmHg",
        "年近半百",
        "百日咳",
        "住院92天",
        "一百毫升",
        "89岁",
        "八十九岁",
        "男性，血氧98%",
        "女 130/80mmHg",
        "年过节",
        "九二年",
        "每年九十次",
        "去年九十",
        "现年费用",
    ],
)
def test_what_is_no_age_above_89_stays(text: str) -> None:
    """Counts, spans of time, limits of a trial and ages below 90 are no reason to mask."""
    assert cleaned(text) == text
