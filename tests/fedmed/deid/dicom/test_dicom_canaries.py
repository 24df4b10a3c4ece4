"""Canaries in every row of the table, at three depths, and in every hiding place that shipped tools forgot."""

import io
import struct
from collections.abc import Callable, Iterator

import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.options import PrivateTag
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.table import family_of, profile

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
STORAGE = "1.2.840.10008.5.1.4.1.1."
RT_STRUCTURES = STORAGE + "481.3"
FAMILIES = {
    "IMAGE": "2", "MG": "1.2", "PET": "128", "RT": "481.3", "RT2": "481.10", "SR": "88.22", "OTHER": "9.1.1",
}  # fmt: skip
TEXT_VRS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
IMPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DOCUMENT = 0x00420011


def canary(number: int, vr: str) -> tuple[object, bytes]:
    """Return a value of `vr` that occurs nowhere else, and the bytes to search for."""
    text = f"QXZ{number}Q"
    if vr in {"US", "SS"}:
        return 0x7A51, struct.pack("<H", 0x7A51)
    if vr == "SQ":
        item = Dataset()
        item.PatientComments, item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = text, text, text, "99QXZ"
        item.add_new(0x00091010, "LO", text)
        return Sequence([item]), text.encode()
    if vr in {"OB", "OW", "UN"}:
        return text.encode() + b" " * (len(text) % 2), text.encode()
    value = {
        "UI": f"1.2.999.{number}.31415", "DA": f"{1000 + number:04}0313", "TM": f"0314{number % 60:02}.9{number:05}",
        "DT": f"{1000 + number:04}0313031415.9{number:05}", "DS": str(31_415_000 + number),
        "IS": str(31_415_000 + number),
    }.get(vr, text)  # fmt: skip
    return value, value.encode()


def table_tags() -> Iterator[tuple[int, str]]:
    """Yield a tag and VR for each row of the table; repeating groups get one of their groups."""
    for row in profile():
        tag = int(row.tag.replace("50xxxxxx", "50023000").replace("60xx", "6002"), 16)
        yield tag, row.vr.split(" or ")[0]


def all_rows(first: int, *, skip: Callable[[int], bool]) -> tuple[Dataset, dict[int, bytes]]:
    """Return a dataset with a canary in each row, and what to search for."""
    dataset, searched = Dataset(), {}
    for number, (tag, vr) in enumerate(table_tags(), start=first):
        if not skip(tag):
            value, searched[tag] = canary(number, vr)
            dataset[tag] = DataElement(tag, vr, value)
    return dataset, searched


@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.1", IMPLICIT])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_canary_survives_in_any_row_of_the_table(
    make: Maker, written: Writer, keyed: Site, transfer_syntax: str, family: str
):
    """D1: a canary in each row, at the top and one and two sequences deep, is nowhere in the output bytes.

    Each family of storage classes resolves the compound actions of the table in its own way, so each has its turn.
    """
    sop_class = STORAGE + FAMILIES[family]
    assert family_of(sop_class) == family
    dataset = make(sop_class, pixels=family in {"IMAGE", "MG", "PET"})
    top, searched = all_rows(1000, skip=lambda tag: tag >> 16 <= 4 or tag == DOCUMENT)
    one, deep_one = all_rows(3000, skip=lambda tag: tag >> 16 <= 4)
    two, deep_two = all_rows(5000, skip=lambda tag: tag >> 16 <= 4)
    dataset.update(top)
    dataset.SOPClassUID = sop_class
    one[0x00409096] = DataElement(0x00409096, "SQ", Sequence([two]))
    dataset[0x52009229] = DataElement(0x52009229, "SQ", Sequence([one]))
    data = written(dataset, transfer_syntax)
    cleaned = clean_bytes(data, keyed(dates="remove")).data
    result = pydicom.dcmread(io.BytesIO(cleaned))
    assert result[0x52009229][0][0x00409096].VM == 1  # the path to the deep ones is still there
    for found in (searched, deep_one, deep_two):
        missing = [f"{tag:08X}" for tag, value in found.items() if value not in data]
        assert not missing
        assert [f"{tag:08X}" for tag, value in found.items() if len(value) > 2 and value in cleaned] == []


def test_groups_that_no_dataset_holds_go(make: Maker, written: Writer, keyed: Site):
    """D1: command, file meta and directory elements inside a dataset are removed at every depth."""
    item = Dataset()
    for tag in (0x00001000, 0x00001001, 0x00041511):
        item[tag] = DataElement(tag, "UI", "1.2.999.31415")
    dataset = make()
    dataset[0x52009229] = DataElement(0x52009229, "SQ", Sequence([item]))
    assert b"1.2.999.31415" not in clean_bytes(written(dataset), keyed(retain_uids=True)).data


@pytest.mark.parametrize("options", [{}, {"clean_descriptors": True, "clean_structured_content": True}])
def test_unlisted_text_goes(make: Maker, written: Writer, keyed: Site, options: dict[str, bool]):
    """D3: a canary in every text attribute outside the table, at the top and nested, is removed."""
    known = {int(row.tag, 16) for row in profile() if "x" not in row.tag}
    dataset, item, searched = make(), Dataset(), []
    for number, (tag, entry) in enumerate(DicomDictionary.items(), start=10_000):
        if entry[0] in TEXT_VRS and tag not in known and tag >> 16 > 4 and tag != 0x00287FE0:
            for target, first in ((dataset, 0), (item, 20_000)):
                value, wanted = canary(first + number, entry[0])
                target[tag] = DataElement(tag, entry[0], value)
                searched.append((tag, wanted))
    dataset[0x00091002] = DataElement(0x00091002, "UN", b"QXZPRIVATE")
    dataset[0x00660000 | 0xFFF0] = DataElement(0x0066FFF0, "LO", "QXZUNKNOWN")
    dataset[0x52009229] = DataElement(0x52009229, "SQ", Sequence([item]))
    assert len(searched) > 500
    cleaned = clean_bytes(written(dataset), keyed(**options)).data
    assert [f"{tag:08X}" for tag, value in searched if value in cleaned] == []
    assert b"QXZ" not in cleaned


def test_coded_strings_pass_by_their_grammar_only(make: Maker, written: Writer, keyed: Site):
    """D3: an allow-listed coded string keeps defined terms and loses anything else, a patient's name included."""
    dataset = make(PatientPosition="HFS", ScanOptions="Mueller, Hans", BodyPartExamined="CHEST QXZ")
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed()).data))
    assert (result.PatientPosition, result.ScanOptions, result.BodyPartExamined) == ("HFS", "", "CHEST")


def test_preamble_file_meta_padding_and_private_attributes_are_new_or_gone(make: Maker, written: Writer, keyed: Site):
    """D2: nothing of the preamble, titles and private information of the file meta, or trailing bytes is left."""
    dataset = make()
    block = dataset.private_block(0x0009, "QXZ CREATOR", create=True)
    block.add_new(1, "LO", "QXZPRIVATE")
    block.add_new(2, "SQ", [make(pixels=False, PatientComments="QXZNESTED")])
    dataset.add_new(0xFFFCFFFC, "OB", b"QXZPADDING")
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    data = bytearray(written(dataset))
    meta = Dataset()
    meta.add_new(0x00020016, "AE", "QXZSOURCE")
    meta.add_new(0x00020017, "AE", "QXZSENDER")
    meta.add_new(0x00020018, "AE", "QXZRECEIVER")
    meta.add_new(0x00020100, "UI", "1.2.999.31415")
    meta.add_new(0x00020102, "OB", b"QXZMETA!")
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, meta)
    end = 132 + 12 + int.from_bytes(data[140:144], "little")
    data[:8] = b"QXZPREAM"
    source = bytes(data[:end]) + buffer.getvalue() + bytes(data[end:]) + bytes(200)
    cleaned = clean_bytes(source, keyed())
    assert b"QXZ" in source
    assert b"QXZ" not in cleaned.data.upper()
    assert cleaned.data[:128] == bytes(128)
    assert b"1.2.999" not in cleaned.data
    assert pydicom.dcmread(io.BytesIO(cleaned.data)).file_meta.MediaStorageSOPInstanceUID.startswith("2.25.")
    assert not [e for e in pydicom.dcmread(io.BytesIO(cleaned.data)).iterall() if e.tag.is_private]


def test_bytes_after_the_last_element_are_refused(make: Maker, written: Writer, keyed: Site):
    """D2: what follows the dataset and is not zero is no padding; the file is quarantined."""
    with pytest.raises(QuarantineError) as caught:
        clean_bytes(written(make()) + bytes(16) + b"QXZTRAIL", keyed())
    assert caught.value.reason in {"malformed", "truncated"}


def test_overlays_curves_and_icons_go(make: Maker, written: Writer, keyed: Site):
    """D2: burnt-in graphics beside the pixels do not survive, whatever the options keep."""
    dataset = make()
    for group in (0x6000, 0x601E):
        dataset.add_new(group << 16 | 0x0010, "US", 4)
        dataset.add_new(group << 16 | 0x0022, "LO", "QXZOVERLAY")
        dataset.add_new(group << 16 | 0x3000, "OW", b"QXZOVERL")
    dataset.add_new(0x50043000, "OW", b"QXZCURVE")
    dataset.IconImageSequence = [make(PixelData=b"QXZICON!")]
    item = Dataset()
    item.add_new(0x7FE00010, "OW", b"QXZICON!")
    dataset[0x52009229] = DataElement(0x52009229, "SQ", Sequence([item]))
    cleaned = clean_bytes(written(dataset), keyed(clean_graphics=True, clean_descriptors=True)).data
    assert b"QXZ" not in cleaned
    assert not [e.tag for e in pydicom.dcmread(io.BytesIO(cleaned)) if e.tag.group >= 0x5000 and e.tag.group < 0x7000
                and e.tag.group != 0x5200]  # fmt: skip


def test_sequences_inside_unknown_are_walked(make: Maker, written: Writer, keyed: Site):
    """D2: a public sequence that an archive wrote as UN, of defined or undefined length, is cleaned inside."""
    item = Dataset()
    item.PatientName, item.PatientComments, item.RealWorldValueSlope = "QXZNAME", "QXZCOMMENT", 2.0
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, item)
    content = buffer.getvalue()
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    endless = inner + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for length, value in ((len(inner), inner), (0xFFFFFFFF, endless)):
        element = struct.pack("<HH2sHI", 0x5200, 0x9229, b"UN", 0, length) + value
        data = written(make())
        at = data.index(b"\xe0\x7f\x10\x00OW")
        cleaned = clean_bytes(data[:at] + element + data[at:], keyed()).data
        assert b"QXZ" not in cleaned
        assert pydicom.dcmread(io.BytesIO(cleaned))[0x52009229][0][0x00409225].value == 2.0


@pytest.mark.parametrize("case", [
    ("GB18030", "王^小东", "gb18030"), ("GBK", "王^小东", "gbk"), ("ISO_IR 192", "王^小东", "utf-8"),
    (["", "ISO 2022 IR 58"], "Wang^XiaoDong", "ascii"), ("ISO_IR 100", "Müller^Jürgen", "latin-1"),
])  # fmt: skip
def test_names_go_in_every_encoding(make: Maker, written: Writer, keyed: Site, case: tuple[str | list[str], str, str]):
    """D2: values in GB18030, GBK, UTF-8 and Latin-1 are removed; descriptions keep known words in their encoding."""
    charset, name, encoding = case
    dataset = make(SpecificCharacterSet=charset, PatientName=name, PatientComments=name, StudyDescription=f"{name} CT")
    cleaned = clean_bytes(written(dataset), keyed(clean_descriptors=True)).data
    for part in name.split("^"):
        assert part.encode(encoding) not in cleaned
    assert pydicom.dcmread(io.BytesIO(cleaned)).StudyDescription == "CT"


def test_chinese_words_of_a_description_are_kept(make: Maker, written: Writer, keyed: Site):
    """A name glued to an examination goes, the examination stays."""
    dataset = make(SpecificCharacterSet="GB18030", StudyDescription="张伟胸部平扫")
    cleaned = clean_bytes(written(dataset), keyed(clean_descriptors=True)).data
    assert pydicom.dcmread(io.BytesIO(cleaned)).StudyDescription == "胸部 平扫"


@pytest.mark.parametrize("options", [{}, {"clean_structured_content": True, "clean_graphics": True}])
def test_reports_and_presentation_states_lose_their_text(
    make: Maker, written: Writer, keyed: Site, options: dict[str, bool]
):
    """D2: text, names and graphic texts of SR and PR go, with the structure or the graphics kept and without."""
    value = Dataset()
    value.NumericValue = "42"
    text, person, parent = Dataset(), Dataset(), Dataset()
    text.ValueType, text.TextValue = "TEXT", "QXZ says the chest is clear"
    person.ValueType, person.PersonName = "PNAME", "QXZPERSON"
    parent.ValueType, parent.MeasuredValueSequence, parent.ContentSequence = "NUM", [value], [text, person]
    graphic, obj = Dataset(), Dataset()
    obj.UnformattedTextValue, obj.AnchorPoint = "QXZGRAPHIC", [1.0, 2.0]
    graphic.TextObjectSequence, graphic.GraphicLayer = [obj], "QXZLAYER"
    for sop_class in ("1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.11.1"):
        dataset = make(sop_class, pixels=False, ContentSequence=[parent], GraphicAnnotationSequence=[graphic])
        cleaned = clean_bytes(written(dataset), keyed(**options)).data
        result = pydicom.dcmread(io.BytesIO(cleaned))
        assert b"QXZ" not in cleaned
        kept = [e.value for e in result.iterall() if e.keyword in {"NumericValue", "AnchorPoint"}]
        assert len(kept) == (2 if options else 0)
        if options:
            assert result.ContentSequence[0].ContentSequence[0].TextValue == "chest"


def test_codes_keep_what_the_standard_lists_and_nothing_of_their_text(make: Maker, written: Writer, keyed: Site):
    """D2: CodeMeaning is the dictionary's; a private code becomes a dummy."""

    def code(value: str, scheme: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "QXZMEANING"
        return item

    dataset = make(AnatomicRegionSequence=[code("51185008", "SCT"), code("QXZ1", "99QXZ"), code("T-D3000", "SRT")])
    cleaned = clean_bytes(written(dataset), keyed()).data
    assert b"QXZ" not in cleaned
    values = [(i.CodeValue, i.CodingSchemeDesignator) for i in pydicom.dcmread(io.BytesIO(cleaned))[0x00082218]]
    assert values == [("51185008", "SCT"), ("REMOVED", "99REMOVED"), ("T-D3000", "SRT")]


def test_deflated_and_big_endian_files_are_cleaned_too(make: Maker, written: Writer, keyed: Site):
    """D2: an inflated file comes out in plain explicit VR; big endian stays big endian."""
    for transfer_syntax, order in (("1.2.840.10008.1.2.1.99", "<"), (BIG, ">")):
        dataset = make(PixelData=struct.pack(f"{order}24H", *range(24)))
        cleaned = clean_bytes(written(dataset, transfer_syntax), keyed()).data
        assert b"Qxz" not in cleaned
        result = pydicom.dcmread(io.BytesIO(cleaned))
        assert (result.Rows, result.Columns) == (4, 6)
        assert result.file_meta.TransferSyntaxUID in {"1.2.840.10008.1.2.1", BIG}


def test_private_attributes_stay_only_if_the_site_lists_them(make: Maker, written: Writer, keyed: Site):
    """Retain Safe Private keeps creator, group and offset as listed; a neighbour and another creator go."""
    dataset = make()
    for creator in ("VENDOR A", "VENDOR B"):
        block = dataset.private_block(0x0019, creator, create=True)
        block.add_new(0x0C, "IS", "1000")
        block.add_new(0x0D, "LO", "QXZPRIVATE")
    site = keyed(safe_private=(PrivateTag(creator="VENDOR A", group=0x0019, offset=0x0C),))
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), site).data))
    assert [(e.tag, e.value) for e in result if e.tag.is_private] == [(0x00190010, "VENDOR A"), (0x0019100C, 1000)]


def test_a_value_whose_vr_lies_is_not_kept(make: Maker, written: Writer, keyed: Site):
    """Text written under the tag of a number is not published as that number."""
    data = written(make(PatientPosition="HFS"))
    liar = data.replace(b"\x28\x00\x10\x00US\x02\x00\x04\x00", b"\x28\x00\x10\x00LO\x02\x00QX")
    assert liar != data
    with pytest.raises(QuarantineError):
        clean_bytes(liar, keyed())
    extra = struct.pack("<HH2sH", 0x0028, 0x1052, b"LO", 10) + b"QXZRESCALE"
    at = data.index(b"\x28\x00\x52\x10DS")
    end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    extra += struct.pack("<HH2sH", 0x0028, 0x1053, b"DS", 2) + b"1 "
    extra += struct.pack("<HH2sH", 0x0028, 0x1101, b"LO", 6) + b"QXZLUT"
    assert b"QXZ" not in clean_bytes(data[:at] + extra + data[end:], keyed()).data
