"""What a cleaned file says of itself, and that each option changes exactly its cells."""

import io
from collections.abc import Callable

import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import fedmed
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.options import PrivateTag
from fedmed.deid.dicom.table import profile

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
PRIVATE = (PrivateTag(creator="VENDOR", group=0x19, offset=1),)
CASES: list[tuple[dict[str, object], set[str], str]] = [
    ({"dates": "remove"}, set(), "REMOVED"),
    ({"dates": "shift"}, {"113107"}, "MODIFIED"),
    ({"dates": "keep"}, {"113106"}, "UNMODIFIED"),
    ({"dates": "remove", "retain_uids": True}, {"113110"}, "REMOVED"),
    ({"dates": "remove", "retain_device": True}, {"113109"}, "REMOVED"),
    ({"dates": "remove", "retain_institution": True}, {"113112"}, "REMOVED"),
    ({"dates": "remove", "retain_patient_characteristics": True}, {"113108"}, "REMOVED"),
    ({"dates": "remove", "clean_descriptors": True}, {"113105"}, "REMOVED"),
    ({"dates": "remove", "clean_structured_content": True}, {"113104"}, "REMOVED"),
    ({"dates": "remove", "clean_graphics": True}, {"113103"}, "REMOVED"),
    ({"dates": "remove", "safe_private": PRIVATE}, {"113111"}, "REMOVED"),
]
OPTIONS = [
    ("uids", {"retain_uids": True}), ("device", {"retain_device": True}), ("institution", {"retain_institution": True}),
    ("patient", {"retain_patient_characteristics": True}), ("dates-full", {"dates": "keep"}),
    ("dates-modified", {"dates": "shift"}), ("descriptors", {"clean_descriptors": True}),
    ("structure", {"clean_structured_content": True}), ("graphics", {"clean_graphics": True}),
]  # fmt: skip
VALUES = {
    "AE": "CHEST", "AS": "030Y", "CS": "CHEST", "DA": "20240229", "DS": "1.5", "DT": "20240229101500", "IS": "5",
    "LO": "CHEST", "LT": "CHEST", "PN": "CHEST", "SH": "CHEST", "ST": "CHEST", "TM": "101500", "UC": "CHEST",
    "UI": "1.2.999.5", "UR": "urn:x", "US": 3, "UT": "CHEST",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_file_names_the_options_that_were_used(
    make: Maker, written: Writer, keyed: Site, case: tuple[dict[str, object], set[str], str]
):
    """D9: method, CID 7050 codes, temporal information and identity removed match the options, also over old claims."""
    options, codes, temporal = case
    old = Dataset()
    old.CodeValue, old.CodingSchemeDesignator, old.CodeMeaning = "113102", "DCM", "Clean Recognizable"
    dataset = make(PatientIdentityRemoved="NO", DeidentificationMethod="Qxz by hand")
    dataset.LongitudinalTemporalInformationModified = "UNMODIFIED"
    dataset.DeidentificationMethodCodeSequence = [old]
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed(**options)).data))
    found = {item.CodeValue for item in result.DeidentificationMethodCodeSequence}
    assert found == {"113100", "113101"} | codes
    assert all(item.CodingSchemeDesignator == "DCM" for item in result.DeidentificationMethodCodeSequence)
    assert all(item.CodeMeaning for item in result.DeidentificationMethodCodeSequence)
    assert result.LongitudinalTemporalInformationModified == temporal
    assert result.PatientIdentityRemoved == "YES"
    assert list(result.DeidentificationMethod) == ["DICOM PS3.15 Annex E 2026c", f"FedMed {fedmed.__version__}"]


def test_identity_is_not_declared_removed_where_nobody_looked_at_the_pixels(make: Maker, written: Writer, keyed: Site):
    """D9: without Clean Pixel Data an image says NO, and its code is absent; a file without pixels says YES."""
    site = keyed(clean_pixel_data=False)
    image = pydicom.dcmread(io.BytesIO(clean_bytes(written(make()), site).data))
    assert image.PatientIdentityRemoved == "NO"
    assert "113101" not in {item.CodeValue for item in image.DeidentificationMethodCodeSequence}
    plan = make("1.2.840.10008.5.1.4.1.1.481.5", pixels=False)
    assert pydicom.dcmread(io.BytesIO(clean_bytes(written(plan), site).data)).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(("column", "option"), OPTIONS)
def test_an_option_changes_exactly_its_cells_in_the_output(
    make: Maker, written: Writer, keyed: Site, column: str, option: dict[str, object]
):
    """D12: with every row of the table in a file, the elements that an option changes are those with its cell.

    Left out: groups that no dataset holds, and binary values under a cell C, for which no cleaning exists: they stay
    as strict as without the option.
    """
    dataset = make("1.2.840.10008.5.1.4.1.1.481.3", pixels=False)
    celled = set()
    for row in profile():
        tag = int(row.tag, 16) if "x" not in row.tag else 0
        if tag >> 16 <= 4 or tag == 0x00420011:
            continue
        cell = row.cells().get(column)
        if cell and not (cell == "C" and row.vr == "OB"):
            celled.add(tag)
        dataset[tag] = DataElement(tag, row.vr, _value(tag, row.vr))
    data = written(dataset)
    before, after = (
        pydicom.dcmread(io.BytesIO(clean_bytes(data, keyed(**{"dates": "remove"} | changes)).data))
        for changes in ({}, option)
    )
    tags = {element.tag for element in [*before, *after]} - {0x00120064, 0x00280303}
    changed = {int(tag) for tag in tags if before.get(tag) != after.get(tag)}
    inside = {int(row.tag, 16) for row in profile() if row.vr == "SQ"} - celled if column == "uids" else set()
    assert changed - inside == celled


@pytest.mark.parametrize(("column", "option"), OPTIONS)
def test_what_no_cleaning_exists_for_stays_as_strict_as_without_the_option(
    make: Maker, written: Writer, keyed: Site, column: str, option: dict[str, object]
):
    """D12: overlay planes and comments, curves, and binary values under a cell C go, Clean Graphics or not.

    The published table gives overlays no cell; a bitmap whose text nobody can find is never claimed to be clean.
    """
    dataset = make("1.2.840.10008.5.1.4.1.1.481.3", pixels=False)
    binary = [int(row.tag, 16) for row in profile() if row.vr == "OB" and row.cells().get(column) == "C"]
    for tag in (*binary, 0x60023000, 0x601E3000, 0x50043000):
        dataset.add_new(tag, "OB", b"QXZBITMAP ")
    dataset.add_new(0x60024000, "LT", "QXZCOMMENT")
    dataset.add_new(0x60020022, "LO", "QXZOVERLAY")
    cleaned = clean_bytes(written(dataset), keyed(**{"dates": "remove"} | option)).data
    assert b"QXZ" not in cleaned
    assert {int(row.tag[:2], 16) for row in profile() if row.tag.startswith("60xx") and row.cells()} == set()


def test_high_ages_are_capped_even_where_characteristics_are_kept(make: Maker, written: Writer, keyed: Site):
    """An age above 89 years is published as 90; sex, size and weight stay."""
    dataset = make(PatientAge="097Y", PatientSex="F", PatientWeight="61.5")
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed(retain_patient_characteristics=True)).data))
    assert (result.PatientAge, result.PatientSex, result.PatientWeight) == ("090Y", "F", 61.5)


def test_what_is_kept_still_has_to_be_of_its_kind(make: Maker, written: Writer, keyed: Site):
    """A name under the tag of a UID, an age, a sex or a weight is not kept by the option that keeps those."""
    options = {"retain_uids": True, "retain_patient_characteristics": True}
    dataset = make(PatientAge="Qxz", PatientSex="Qxz", PatientWeight=None, ConcatenationUID="1.2.Qxz")
    dataset.add_new(0x00101030, "DS", "")
    data = written(dataset).replace(b"\x10\x00\x30\x10DS\x00\x00", b"\x10\x00\x30\x10DS\x04\x00Qxz ")
    assert data.count(b"Qxz ") == 3
    assert b"Qxz" not in clean_bytes(data, keyed(**options)).data


def _value(tag: int, vr: str) -> object:
    if vr == "SQ":
        item = Dataset()
        item.ReferencedSOPInstanceUID, item.RealWorldValueSlope = "1.2.999.6", 2.0
        return Sequence([item])
    if tag == 0x00080201:
        return "+0800"
    return VALUES.get(vr, b"CHEST ")
