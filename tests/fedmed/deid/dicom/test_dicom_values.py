"""Numbers that are no numbers and coded strings that are no terms: neither leaves the site in any attribute."""

import io
import struct
from collections.abc import Callable

import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.table import rules
from fedmed.deid.dicom.values import known_terms, passes

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
OPTIONS: dict[str, dict[str, object]] = {
    "default": {},
    "generous": {
        "dates": "keep", "retain_uids": True, "retain_device": True, "retain_institution": True,
        "retain_patient_characteristics": True, "clean_descriptors": True, "clean_structured_content": True,
    },
}  # fmt: skip
DISGUISED = {
    "DS": [b"139-0014-7000", b"1961-11-23", b"1961/11/23", b"330102196111230", b"13900147000", b"330102196111230017",
           b"E20177-3342", b"LI", b"1.2.3", b"+-1", b"1e123", b"12 34"],
    "IS": [b"987-65-4320", b"13900147000", b"1961-11-23", b"E20177-3342", b"4294967296", b"2147483648", b"1.5", b"1e3",
           b"330102196111230017", b"000020177334"],
}  # fmt: skip
NAMES = (b"OUYANG XIUWEN", b"GARCIA", b"PEREZ_LOPEZ", b"TANAKA 1961", b"CHEN 19611123", b"L I N D A", b"E20177")
READ_BY_US = {0x00280008}  # the number of frames: what is no number of it stops the file
DECIDE = {0x00080005, 0x00080064, 0x00280004}  # character set, conversion and colours: they decide about the file


def raw(tag: int, vr: str, value: bytes) -> bytes:
    """Return an element as an archive would write it, whatever the value."""
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


def nested(content: bytes) -> bytes:
    """Return a functional group with one item of `content`."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, len(item)) + item


def with_elements(data: bytes, elements: bytes) -> bytes:
    """Return a file with more elements; the reader takes the last of each tag."""
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + elements + nested(elements) + data[at:]


def tags_of(vr: str) -> list[int]:
    """Return every public attribute of a VR that may stand in a dataset."""
    return [tag for tag, entry in DicomDictionary.items() if entry[0] == vr and tag >> 16 > 4 and tag not in READ_BY_US]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("vr", DISGUISED)
def test_what_is_no_number_is_in_no_output(make: Maker, written: Writer, keyed: Site, vr: str, options: str):
    """D3: telephone, resident, security and record numbers and dates under the tag of any number are gone."""
    plain = written(make(InstanceNumber=None, PixelSpacing=None))
    for value in DISGUISED[vr]:
        data = with_elements(plain, b"".join(raw(tag, vr, value) for tag in tags_of(vr)))
        cleaned = clean_bytes(data, keyed(**OPTIONS[options])).data
        assert len(tags_of(vr)) > 200
        assert cleaned.count(value) == plain.count(value), value
        assert pydicom.dcmread(io.BytesIO(cleaned)).Rows == 4


def test_numbers_that_scanners_write_stay_as_they_are():
    """A number of the standard's grammar passes byte for byte, with signs, exponents, padding and empty places."""
    for value in (b"0.78125\\0.78125 ", b"-1024", b"1e-05", b"+1.5E+3 ", b"3.7e8", b"370000000", b".5", b"2.", b"",
                  b" 1 \\ 2 ", b"1\\\\3", b"0\0", b"-123.45678901234"):  # fmt: skip
        assert passes("number", "DS", value) == value
    for value in (b"1", b"-2147483648", b"2147483647 ", b"0\\5\\+7", b"", b"1\\\\3", b"3\0"):
        assert passes("number", "IS", value) == value


def test_a_decimal_with_more_digits_than_fit_is_cut_not_lost():
    """Positions that software wrote with all digits of a double keep sixteen characters: an image keeps its place."""
    value = passes("number", "DS", b"-123.4567890123456789\\0.70312500000000001\\-1.2345678901234567e-10\\5")
    assert value == b"-123.45678901234\\0.70312500000000\\-1.234567890e-10\\5"
    assert all(len(part) <= 16 for part in value.split(b"\\"))
    assert passes("number", "DS", b"330102196111230017.5") is None
    assert passes("number", "DS", b"330102196.1112300170") is None
    assert passes("number", "IS", b"     12345678") is None  # thirteen characters


@pytest.mark.parametrize("options", OPTIONS)
def test_a_capital_name_is_in_no_output_whatever_coded_string_holds_it(
    make: Maker, written: Writer, keyed: Site, options: str
):
    """D3: names, dates and record numbers of capitals and digits are gone from every coded string, beside terms too."""
    plain = written(make(Modality=None, ImageType=None))
    tags = [tag for tag in tags_of("CS") if tag not in DECIDE]
    assert len(tags) > 500
    for name in NAMES:
        for value in (name, b"ORIGINAL\\PRIMARY\\" + name, name + b"\\AXIAL"):
            data = with_elements(plain, b"".join(raw(tag, "CS", value) for tag in tags))
            cleaned = clean_bytes(data, keyed(**OPTIONS[options])).data
            assert name not in cleaned


@pytest.mark.parametrize("value", [
    b"ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI", b"DERIVED\\SECONDARY\\MPR\\CSA RESAMPLED", b"ORIGINAL\\PRIMARY\\M_FFE\\M",
    b"ORIGINAL\\PRIMARY\\M\\ND\\NORM\\DIS2D", b"ORIGINAL\\PRIMARY\\\\0001", b"HELICAL MODE", b"FAT_SAT\\SAT1",
    b"SK\\MTC\\SS", b"HFS ", b"FFDR", b"MONOCHROME2 ", b"YBR_FULL_422", b"PALETTE COLOR ", b"L\\PH", b"ISO_10918_1 ",
    b"GTV ", b"YES ", b"CLOSED_PLANAR ", b"SCOORD", b"HAS OBS CONTEXT ", b"TOMO\\EMISSION", b"RTSTRUCT",
    b"FOR PRESENTATION", b"", b"\\\\",
])  # fmt: skip
def test_terms_that_scanners_write_stay_as_they_are(value: bytes):
    """Defined terms, and what the large makers write into image types and scan options, pass byte for byte."""
    assert known_terms(value) == value


def test_a_name_among_terms_leaves_its_place_empty(make: Maker, written: Writer, keyed: Site):
    """Values after a removed one keep their places: the third of an image type is never taken for the second."""
    dataset = make(ImageType=["ORIGINAL", "PRIMARY", "GARCIA", "AXIAL"], ScanOptions=["FS", "PEREZ"])
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed()).data))
    assert list(result.ImageType) == ["ORIGINAL", "PRIMARY", "", "AXIAL"]
    assert result.ScanOptions == "FS"


def test_numbers_in_coded_strings_make_no_date_and_no_record_number():
    """One short number may stand in a coded string, not several that together say a date or a telephone number."""
    assert known_terms(b"1961\\11\\23") == b"1961"
    assert known_terms(b"1961 11 23") is None
    assert known_terms(b"S I N D I") is None
    assert known_terms(b"CHEST 19611123") is None
    assert known_terms(b"139\\0014\\7000") == b"139"


def test_every_coded_rule_is_one_that_is_checked(keyed: Site):
    """No rule of a coded string keeps it unread, under any option."""
    for options in OPTIONS.values():
        for tag, rule in rules(keyed(**options).options, "IMAGE").items():
            if rule.vr == "CS" and rule.action == "check":
                assert rule.check in {"coded", "words", "digits", "charset"}, f"{tag:08X}"
