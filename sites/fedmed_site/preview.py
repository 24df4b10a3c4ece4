"""The page of a dry run: what would become of the files, and what the policy does to people who don't exist.

Why it exists: a privacy officer decides by looking at before and after. Looking at real records would be
the disclosure that the policy is to prevent.

Rules:
    * The examples are made up here and pass through the same engines, keyed by a key that is thrown away.
    * Of the site's own files the page holds counts and reasons.

What it does not do: write an output, or an entry of the audit log.
"""

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedmed.deid.dicom.files import clean_bytes, site_keys
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import Element, Syntax, encode, parse, parse_meta
from fedmed.deid.dicom.table import vr_of
from fedmed.deid.dicom.values import texts
from fedmed.deid.text import NoteCleaner
from fedmed.files import write_atomic
from fedmed_site.deidentification_columns import ColumnDecision, Columns
from fedmed_site.deidentification_formats import Engines, SetAsideError
from fedmed_site.deidentification_policy import Choices
from fedmed_site.report import KIND_NAMES, Report, render, report_json

_EXPLICIT = Syntax(implicit=False, little=True)
_CT = "1.2.840.10008.5.1.4.1.1.2"
_UID = "1.2.826.0.1.3680043.10.9999."
_ATTRIBUTES: Sequence[tuple[str, int, str, str]] = (
    ("Study Date", 0x00080020, "DA", "20240312"),
    ("Accession Number", 0x00080050, "SH", "A-4471902"),
    ("Modality", 0x00080060, "CS", "CT"),
    ("Institution Name", 0x00080080, "LO", "Example General Hospital"),
    ("Referring Physician's Name", 0x00080090, "PN", "Doe^Jordan"),
    ("Study Description", 0x00081030, "LO", "CT chest of Mr Sample"),
    ("Patient's Name", 0x00100010, "PN", "Sample^Alex"),
    ("Patient ID", 0x00100020, "LO", "MR-0012345"),
    ("Patient's Birth Date", 0x00100030, "DA", "19500704"),
    ("Patient's Sex", 0x00100040, "CS", "M"),
    ("Slice Thickness", 0x00180050, "DS", "1.25"),
    ("KVP", 0x00180060, "DS", "120"),
    ("Study Instance UID", 0x0020000D, "UI", f"{_UID}1"),
    ("Frame of Reference UID", 0x00200052, "UI", f"{_UID}2"),
)
_NOTES: Mapping[str, str] = {
    "Note in English": "Patient: Alex Sample, MRN 0012345, born 4 July 1950. Seen by Dr. Jordan Doe on 12 March 2024 "
    "at Example General Hospital. Tel. 555-010-4477. Pneumonia, left lower lobe; CRP 87 mg/L.",
    "Note in Chinese": "患者张三丰，男，住院号：00123456，电话13800001234。2024年3月12日因咳嗽入住示例市人民医院，"
    "主治医师：李四光。诊断：左下肺炎，CRP 87 mg/L。",
}
_HEADER = ("record", "name", "age", "admitted", "diagnosis", "crp", "remarks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Made-up people before and after; the first row of a table is its header."""

    dicom: tuple[Line, ...]
    notes: tuple[Line, ...]
    table_before: tuple[tuple[str, ...], ...]
    table_after: tuple[tuple[str, ...], ...]


def write_preview(report: Report, choices: Choices, out: Path) -> None:
    """Write `preview.html`, `preview.json` and `quarantine.csv` into the folder."""
    page = render("preview.html.j2", report=report, examples=examples(choices), kind_names=KIND_NAMES)
    write_atomic(out / "preview.html", page)
    write_atomic(out / "preview.json", report_json(report))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("item", "reason", "meaning"))
    rows = ((item, reason) for reason, items in report.quarantine.items() for item in items)
    writer.writerows((item, reason, report.meanings[reason]) for item, reason in sorted(rows))
    write_atomic(out / "quarantine.csv", text.getvalue().encode())


def examples(choices: Choices) -> Examples:
    """Return what the choices do to made-up people, under a key that nobody keeps."""
    key = os.urandom(32)
    before, after = _table(choices, key)
    return Examples(dicom=_dicom(choices, key), notes=_notes(choices, key), table_before=before, table_after=after)


def _dicom(choices: Choices, key: bytes) -> tuple[Line, ...]:
    pixels = [
        Element(0x00280002, "US", (1).to_bytes(2, "little")),
        Element(0x00280004, "CS", b"MONOCHROME2 "),
        *(Element(tag, "US", value.to_bytes(2, "little")) for tag, value in _PIXEL_FACTS),
        Element(0x7FE00010, "OW", bytes(8)),
    ]
    written = [Element(tag, vr, _padded(value, vr)) for _, tag, vr, value in _ATTRIBUTES]
    identity = [Element(0x00080016, "UI", _padded(_CT, "UI")), Element(0x00080018, "UI", _padded(f"{_UID}3", "UI"))]
    dataset = sorted([*identity, *written, *pixels], key=lambda element: element.tag)
    meta = encode([Element(0x00020010, "UI", _padded("1.2.840.10008.1.2.1", "UI"))], _EXPLICIT)
    length = encode([Element(0x00020000, "UL", len(meta).to_bytes(4, "little"))], _EXPLICIT)
    data = bytes(128) + b"DICM" + length + meta + encode(dataset, _EXPLICIT)
    try:
        cleaned = clean_bytes(data, site_keys(choices.dicom, key)).data
    except QuarantineError as error:
        return (Line(name="the file", before="a CT image", after=f"quarantined: {error.reason}"),)
    _, start = parse_meta(cleaned, 132)
    found = {element.tag: element for element in parse(cleaned, start, syntax=_EXPLICIT, vr_of=vr_of())}
    return tuple(
        Line(name=name, before=value, after=_shown(found[tag]) if tag in found else "(removed)")
        for name, tag, _, value in _ATTRIBUTES
    )


_PIXEL_FACTS = ((0x00280010, 2), (0x00280011, 2), (0x00280100, 16), (0x00280101, 16), (0x00280102, 15), (0x00280103, 0))


def _padded(value: str, vr: str) -> bytes:
    data = value.encode()
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def _shown(element: Element) -> str:
    return "\\".join(texts(element.value)) or "(empty)"


def _notes(choices: Choices, key: bytes) -> tuple[Line, ...]:
    cleaner = NoteCleaner(options=choices.text, key=key)
    return tuple(
        Line(name=name, before=note, after=cleaner.clean(note, patient="MR-0012345").text)
        for name, note in _NOTES.items()
    )


def _table(choices: Choices, key: bytes) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    rows = [_HEADER] + [
        (f"R{number:04d}", f"Sample {number}", str(61 + number % 4), f"2024-03-{number + 1:02d}",
         "J18.9" if number % 2 else "I10", str(80 + number), f"called Mr Sample {number}")
        for number in range(12)
    ]  # fmt: skip
    columns = Columns(
        columns=(
            ColumnDecision(name="record", role="patient-key", kind="identifier"),
            ColumnDecision(name="name", role="direct-identifier", kind="text"),
            ColumnDecision(
                name="age", role="quasi-identifier", kind="number", hierarchy="age", unit="years", low=0, high=130
            ),
            ColumnDecision(name="admitted", role="quasi-identifier", kind="date", hierarchy="date"),
            ColumnDecision(name="diagnosis", role="sensitive", kind="icd10"),
            ColumnDecision(name="crp", role="feature", kind="number", low=0, high=500),
            ColumnDecision(name="remarks", role="free-text", kind="text"),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "example.csv"
        source.write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
        try:
            cleaned = Engines(choices, columns, key=key).clean(source, "table", item="0" * 32, work=work, seal=None)
        except SetAsideError as error:
            return tuple(rows[:4]), (("the table",), (f"quarantined: {error.reason}",))
        if cleaned.file is None:
            raise AssertionError("a table is cleaned into a file")
        frame = pl.read_parquet(cleaned.file.path)
    shown = [tuple(frame.columns)] + [tuple("" if cell is None else str(cell) for cell in row) for row in frame.rows()]
    return tuple(rows[:4]), tuple(shown[:4])
