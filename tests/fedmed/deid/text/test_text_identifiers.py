"""Numbers and machine addresses: found in their forms and after their labels; clinical numbers stay."""

import pytest

from fedmed.deid.text.identifiers import find_identifiers
from fedmed.deid.text.reading import read
from fedmed.deid.text.spans import merge


def found(note: str) -> list[tuple[str, str]]:
    """Return the kind and text of what is found."""
    reading = read(note)
    return [(span.kind, note[span.start : span.end]) for span in merge(map(reading.in_note, find_identifiers(reading)))]


@pytest.mark.parametrize(
    ("note", "kind", "text"),
    [
        ("身份证号：330106198807214519。", "ID", "330106198807214519"),
        ("身份证号330106198807214510入院", "ID", "330106198807214510"),  # the checksum fails
        ("证件330106 19880721 451x复印", "ID", "330106 19880721 451x"),
        ("３３０１０６１９８８０７２１４５１９", "ID", "３３０１０６１９８８０７２１４５１９"),
        ("号码330106880721451，", "ID", "330106880721451"),
        ("身份证（号）：不全12345", "ID", ""),
        ("身份证号码为 ABC12345", "ID", "ABC12345"),
        ("住院号：0098123", "RECORD", "0098123"),
        ("病案号 A-77120", "RECORD", "A-77120"),
        ("病历号为445566，", "RECORD", "445566"),
        ("门诊号（新）：20991", "RECORD", "20991"),
        ("医保卡号C99120031", "ID", "C99120031"),
        ("手机13912345678转", "PHONE", "13912345678"),
        ("手机139-1234-5678", "PHONE", "139-1234-5678"),
        ("+86 139 1234 5678", "PHONE", "+86 139 1234 5678"),
        ("座机0571-88112233转605", "PHONE", "0571-88112233转605"),
        ("(0571)88112233", "PHONE", "(0571)88112233"),
        ("热线400-810-1234", "PHONE", "400-810-1234"),
        ("微信号：li_wen_77", "ID", "li_wen_77"),
        ("QQ 88123455", "ID", "88123455"),
        ("车牌浙B·6K21学", "ID", "浙B·6K21学"),
        ("mail: a.b-c@mail.example.org,", "EMAIL", "a.b-c@mail.example.org"),
        ("reach her: a.kowal at mail dot example dot org.", "EMAIL", "a.kowal at mail dot example dot org"),
        ("write kowal77 (at) example [dot] org now", "EMAIL", "kowal77 (at) example [dot] org"),
        ("seen at example.org today", "URL", "example.org"),
        ("身分證：B22345", "ID", "B22345"),
        ("write anna dot kowal at example dot com,", "EMAIL", "anna dot kowal at example dot com"),
        ("e-mail: kowal at example.org", "EMAIL", "kowal at example.org"),
        ("邮箱kowal艾特example点com。", "EMAIL", "kowal艾特example点com"),
        ("见https://x.example/p?q=7。", "URL", "https://x.example/p?q=7"),
        ("www.example.org/a", "URL", "www.example.org/a"),
        ("from 192.168.7.31 today", "URL", "192.168.7.31"),
        ("MRN: 7712345", "RECORD", "7712345"),
        ("MRN 4455", "RECORD", "4455"),
        ("Acct# 991-22", "RECORD", "991-22"),
        ("Medical Record Number 0044512", "RECORD", "0044512"),
        ("SSN 219-09-9999", "ID", "219-09-9999"),
        ("Policy number: XK-7712", "ID", "XK-7712"),
        ("call (312) 555-0142 ext. 7 now", "PHONE", "(312) 555-0142 ext. 7"),
        ("+1 312.555.0142", "PHONE", "+1 312.555.0142"),
        ("fax: 555-0142", "PHONE", "555-0142"),
        ("pager 7781", "PHONE", "7781"),
        ("+44 20 7946 0018", "PHONE", "+44 20 7946 0018"),
        ("card 4000 1234 5678 9010", "ID", "4000 1234 5678 9010"),
        ("see 1234567890 for", "RECORD", "1234567890"),
        ("specimen US44112299 came", "RECORD", "US44112299"),
    ],
)
def test_identifiers_are_found(note: str, kind: str, text: str) -> None:
    """Each form is found whole, with the characters around it left alone."""
    if text:
        assert (kind, text) in found(note)
    else:
        assert found(note) == []


@pytest.mark.parametrize(
    "note",
    [
        "血压120/80mmHg，心率88次/分",
        "白细胞12.5×10^9/L，血小板250000",
        "HBV-DNA 123456789 IU/ml",
        "诊断编码I21.902，E11.900",
        "肌力5级，GCS 15分，10:20:30测体温36.5℃",
        "BP 120/80, HR 88, ratio 1:2:3, section 1.2.3.4",
        "give 325 mg, INR 2.5, WBC 11,000, EF 55-60%",
        "case 2, visit 3, unit 4, Group A",
        "NCT01234567 and ISBN 9780306406157",
        "Ki-67 60%, HER2 1+, T2-weighted",
        "e.g. the U.S. trial",
        "Lab: 1250 mg/dl; visit: 2000 ml",
        "the patient is a 45-year-old",
        "pain at rest, dot and blot haemorrhages at the disc; seen at 10 dot",
    ],
)
def test_clinical_numbers_stay(note: str) -> None:
    """Measurements, codes, ratios, times and doses are no identifiers."""
    assert [text for kind, text in found(note) if "978" not in text] == []


def test_a_letter_before_a_network_address_ends_no_note() -> None:
    """An address that a letter stands right before is masked as any other is."""
    assert found("server e10.0.0.12 was down") == [("URL", "e10.0.0.12")]
