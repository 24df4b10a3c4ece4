"""Proposals: what a header and a sample say, and that an identifier in the values always wins."""

import hashlib
from pathlib import Path

import pytest

from fedmed.deid.readers import open_table
from fedmed.deid.roles import Proposal, propose, propose_column
from fedmed.errors import DataError

WEIGHTS = [2 ** (17 - at) % 11 for at in range(17)]


def resident(serial: int) -> str:
    """Return a made-up resident number with a valid check character, computed from the rule of GB 11643."""
    body = f"330212{1950 + serial % 50}{1 + serial % 12:02d}{1 + serial % 28:02d}{serial % 1000:03d}"
    rest = sum(int(digit) * weight for digit, weight in zip(body, WEIGHTS, strict=True)) % 11
    return body + "10X98765432"[rest]


@pytest.mark.parametrize(
    ("header", "role"),
    [
        ("姓名", "direct-identifier"),
        ("患者姓名", "direct-identifier"),
        ("身份证号码", "direct-identifier"),
        ("联系电话", "direct-identifier"),
        ("主管医师", "direct-identifier"),
        ("住院号", "patient-key"),
        ("病案号", "patient-key"),
        ("现住址", "quasi-identifier"),
        ("年龄", "quasi-identifier"),
        ("性别", "quasi-identifier"),
        ("入院日期", "quasi-identifier"),
        ("备注", "free-text"),
        ("既往史", "free-text"),
        ("PatientName", "direct-identifier"),
        ("last_name", "direct-identifier"),
        ("SSN", "direct-identifier"),
        ("e-mail", "direct-identifier"),
        ("HomePhone", "direct-identifier"),
        ("MRN", "patient-key"),
        ("patient_id", "patient-key"),
        ("ZIP", "quasi-identifier"),
        ("DOB", "quasi-identifier"),
        ("Remarks", "free-text"),
        ("clinical_notes", "free-text"),
        ("icd10", "sensitive"),
        ("xyz", "ignore"),
        ("", "ignore"),
    ],
)
def test_a_header_alone(header: str, role: str):
    """Chinese and English words, in any case and spelling; an unknown one is dropped."""
    assert propose_column(header, []).role == role


@pytest.mark.parametrize("header", ["年龄", "备注", "结果", "ward", "glucose"])
@pytest.mark.parametrize(
    "cells",
    [
        [resident(at) for at in range(30)],
        ["5.1"] * 40 + [resident(7)],
        [f"1381234{at:04d}" for at in range(30)],
        ["+86 13812345678"] * 3,
        ["(555) 010-2030", "555-010-2031"],
        ["someone@example.org"],
    ],
)
def test_what_looks_like_an_identifier_is_one_whatever_the_header(header: str, cells: list[str]):
    """Resident numbers, telephone numbers and mail addresses beat the header, even if there are few of them."""
    assert propose_column(header, cells).role == "direct-identifier"


@pytest.mark.parametrize(
    ("cells", "role", "kind"),
    [
        (["5.1", "6.0", "5.5"] * 20, "feature", "number"),
        (["2024-01-02", "2024/03/04"] * 10, "quasi-identifier", "date"),
        (["浙江省宁波市鄞州区", "江苏南京"] * 10, "quasi-identifier", "address-cn"),
        (["I10", "E11.9", "I10.x00x002"], "sensitive", "icd10"),
        ([str(10_000_000 + at) for at in range(50)], "direct-identifier", "identifier"),
        ([f"{at}" for at in range(1000, 1100)], "direct-identifier", "identifier"),
        ([a + b for a in "周吴郑冯" for b in "一二三四五六七八九十"], "direct-identifier", "text"),
        (["患者三天前无明显诱因出现头晕，伴恶心，无呕吐，休息后可缓解。"] * 5, "free-text", "text"),
        (["A", "B"] * 30, "ignore", "text"),
        ([], "ignore", "text"),
        (["", " "], "ignore", "text"),
    ],
)
def test_values_alone(cells: list[str], role: str, kind: str):
    """Under an unknown header the values decide, and words that repeat are dropped, for they may be names of staff."""
    proposal = propose_column("col7", cells)
    assert (proposal.role, proposal.kind) == (role, kind)


@pytest.mark.parametrize(
    ("header", "cells", "role"),
    [
        ("年龄", ["六十", "七十"], "ignore"),
        ("入院日期", ["昨日", "今日"], "ignore"),
        ("诊断", ["高血压病", "糖尿病"], "free-text"),
        ("address", ["12 Elm Street", "9 Oak Road"], "direct-identifier"),
        ("zip", ["EC1A 1BB"], "ignore"),
    ],
)
def test_values_that_do_not_fit_the_header_are_dropped(header: str, cells: list[str], role: str):
    """A header is believed only where the values fit it."""
    assert propose_column(header, cells).role == role


def test_a_reason_is_in_words_and_holds_no_value():
    """The site reads why; what the cells hold is not repeated."""
    cells = [resident(at) for at in range(30)]
    for proposal in (propose_column("x", cells), propose_column("备注", ["Qxz7canary"])):
        assert len(proposal.reason) > 20
        assert not any(cell in proposal.reason for cell in [*cells, "Qxz7canary"])


def test_a_sample_is_read_and_no_more(tmp_path: Path):
    """The first rows decide; a table of any size is opened at once."""
    lines = ["姓名,值,备注", *(f"n{at},{at % 7}.5,x" for at in range(3000)), *["n,Qxz7canary,x"] * 3000]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    reader = open_table(tmp_path / "t.csv", keyed=hashlib.sha256())
    assert [(p.column, p.role) for p in propose(reader, sample_rows=1000)] == [
        ("姓名", "direct-identifier"), ("值", "feature"), ("备注", "free-text"),
    ]  # fmt: skip
    assert all(isinstance(p, Proposal) for p in propose(reader))


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    """Without repeating the name: a file without a header has a patient there."""
    (tmp_path / "t.csv").write_text("Qxz7canary,Qxz7canary\n1,2\n")
    with pytest.raises(DataError, match="two columns have the same name") as error:
        propose(open_table(tmp_path / "t.csv", keyed=hashlib.sha256()))
    assert "Qxz7canary" not in str(error.value)


def test_a_column_of_fifteen_digits_is_not_taken_for_old_resident_numbers():
    """Without a check character, too many other numbers look like one; with it, one in a hundred is enough."""
    numbers = ["330106880731451", "330106900101452"] * 50
    assert "resident numbers" not in propose_column("x7", numbers).reason
    assert "resident numbers" in propose_column("x7", [*numbers[:99], resident(7)]).reason
