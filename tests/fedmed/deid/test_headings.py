"""Headings are told from a first patient's values."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedmed.deid.headings import HeadingsError, check_headings, value_kind
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.deid.readers import open_table
from fedmed.deid.roles import propose

VALUES = (
    "1964-11-30", "1964/11/30 08:15", "30.11.1964", "11/30/64", "19641130", "1964年11月30日", "３０．１１．１９６４",
    "2 Nov 1964", "Nov 2, 1964", "2021-04-05T06:07:08Z", "17", "3.25", "-1", "1,204", "<0.5", "12%", "１７",
    "+86 137 2222 4444", "020-81880000", "(415) 555-0137", "137****4444", "11010519491231002X",
    "110105 19491231 002x", "ada@clinic.example", "浙江省杭州市西湖区文三路9号",
)  # fmt: skip
NAMES = (
    "", "age", "Age (years)", "HbA1c (%)", "A1C", "B12", "T4", "Q10", "V1", "rs429358", "ICD10", "24h urine",
    "HDL-C", "2019-2020", "2020-03", "2024 Q1", "glucose_50931", "x1", "pt_no", "性别", "年龄", "出生日期", "白细胞",
    "高血压", "北京", "上海市", "血压(mmHg)", "入院第1天", "95% CI", "Attending Physician", "Virginia score",
    "1st visit",
    "Day 7",
)  # fmt: skip
SOUND: dict[str, Sequence[str]] = {
    "Q10": ["A1", "B2", "A1"],
    "V10": ["0.1", "-2.2", "0.4"],
    "rs429358": ["0", "1", "2"],
    "Attending Physician": ["Mary Jones", "Peter Brandt", "Amy Wu"],
    "Pneumonia": ["Pneumonia", "", "Pneumonia"],
    "方案": ["方案一", "方案二", "方案一"],
    "高血压": ["是", "否", "否"],
    "白细胞": ["5.1", "7.7", "9.0"],
    "主管医师": ["林志远", "周慧敏", "何家明"],
    "tumour stage": ["T1", "T2", "T2"],
    "diagnosis": ["I10", "E11.9", "C34"],
    "visit1": ["week2", "week4", ""],
}
LIKE_BELOW: dict[str, Sequence[str]] = {
    "MR0012345": ["MR0012346", "MR0012399", "MR0020001"],
    "K7781-20": ["P3310-44", "Z9012-07", ""],
    "F": ["M", "F", "M"],
    "发热": ["咳嗽", "发热", "头痛"],
    "Z38.0": ["J18", "E11.9", "I25.1"],
    "周慧敏": ["林志远", "何家明", "郑欣"],
    "Brandt, Peter": ["Jones, Mary", "Okafor, William", "Quill, Zed"],
}


@pytest.mark.parametrize("heading", VALUES)
def test_a_value_is_known_by_itself(heading: str):
    """Dates, numbers, telephones, identity numbers, addresses and mail addresses are no names of columns."""
    assert value_kind(heading) is not None
    with pytest.raises(HeadingsError, match="heading 2 of 3") as caught:
        check_headings("t.csv", ("age", heading, "sex"), {})
    assert heading not in str(caught.value)


@pytest.mark.parametrize("heading", NAMES)
def test_a_name_of_a_column_passes(heading: str):
    """Names of findings, genes, questions and periods pass, digits or not."""
    assert value_kind(heading) is None


def test_headings_pass_over_their_own_values():
    """Values that merely resemble their heading, such as answers below Q10, refuse nothing."""
    check_headings("t.csv", tuple(SOUND), SOUND)


@pytest.mark.parametrize("heading", LIKE_BELOW)
def test_a_value_is_known_by_those_below(heading: str):
    """A record number, code, name or category among its like is a value; the message does not repeat it."""
    with pytest.raises(HeadingsError, match="first line") as caught:
        check_headings("t.csv", ("x", heading), {"x": ["a", "b", "c"], heading: LIKE_BELOW[heading]})
    assert heading not in str(caught.value).replace("the names of columns", "").replace("heading 2 of 2", "")


def test_a_line_of_headings_in_the_middle_is_no_value():
    """Exports that were put together repeat their heading line; that refuses nothing."""
    check_headings("t.csv", ("sex", "ward"), {"sex": ["F", "sex", "M"], "ward": ["A", "ward", "B"]})


def test_nothing_is_proposed_for_a_table_of_values(tmp_path: Path):
    """The proposal that a person confirms never shows a first patient's cells as names of columns."""
    lines = ["15900001111,1964-11-30,J18,58", "15900002222,1971-01-02,I25.1,51", "15900003333,1980-07-08,E11.9,42"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(HeadingsError):
        propose(open_table(tmp_path / "t.csv", keyed=Pseudonyms(bytes(32)).content_hash()))
