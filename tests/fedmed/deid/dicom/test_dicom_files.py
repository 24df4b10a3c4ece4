"""One file: atomic, reported without a value, and never half-cleaned when it is broken."""

import hashlib
import io
import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from fedmed.audit import append
from fedmed.deid.dicom import DicomOptions, DicomReport, Quarantined, clean_file
from fedmed.deid.dicom import files as files_module
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import Element, Syntax, encode, parse
from fedmed.errors import UsageError

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
SYNTAXES = st.sampled_from(
    [Syntax(implicit=implicit, little=little) for implicit, little in ((False, True), (True, True), (False, False))]
)
LEAVES = st.builds(
    Element, st.integers(0x00080001, 0x0008FFFE), st.sampled_from(["LO", "UT", "US", "OB"]),
    st.binary(max_size=20).map(lambda value: value + b" " * (len(value) % 2)),
)  # fmt: skip


def _sequences(inner: st.SearchStrategy[Element]) -> st.SearchStrategy[Element]:
    item = st.lists(inner, max_size=3).map(_dataset)
    return st.builds(
        lambda tag, items: Element(tag, "SQ", items=tuple(items)),
        st.integers(0x00400001, 0x0040FFFE),
        st.lists(item, max_size=3),
    )


def _dataset(elements: list[Element]) -> tuple[Element, ...]:
    return tuple(sorted({e.tag: e for e in elements}.values(), key=lambda e: e.tag))


DATASETS = st.lists(st.recursive(LEAVES, _sequences, max_leaves=8), max_size=5).map(_dataset)


@given(DATASETS, SYNTAXES)
def test_what_is_encoded_parses_to_the_same(elements: tuple[Element, ...], syntax: Syntax):
    """Encoding and parsing are inverse in every syntax, at every depth."""
    vrs = {e.tag: e.vr for e in _flat(elements)}
    data = encode(elements, syntax)
    if syntax.implicit and len({(e.tag, e.vr) for e in _flat(elements)}) != len(vrs):
        return
    assert tuple(parse(data, 0, syntax=syntax, vr_of=vrs)) == elements


def test_a_report_says_what_was_done_and_holds_no_value(
    tmp_path: Path, make: Maker, written: Writer, key: bytes, caplog: pytest.LogCaptureFixture
):
    """A1: hashes of both ends, counts, versions and key id are there; the patient is not, nor in logs and warnings."""
    source, out = tmp_path / "Qxzfamily.dcm", tmp_path / "out.dcm"
    dataset = make(StudyDate="Qxzdate", PatientAge="Qxzage", SOPInstanceUID="1.2.999.bad.Qxz")
    dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 100", "Qxzü1"
    source.write_bytes(written(dataset).replace(b"ISO_IR 100", b"ISO_IR 192"))  # pydicom complains, and quotes
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = clean_file(source, options=DicomOptions(), key=key, out=out)
    assert isinstance(report, DicomReport)
    assert caught == []
    assert caplog.records == []
    assert report.output_sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert len(report.input_hmac) == 64
    assert report.input_hmac != hashlib.sha256(source.read_bytes()).hexdigest()
    assert report.actions["removed"] > 0
    body = append(None, "dicom", report.audit_body()).body
    text = f"{body} {report} {caplog.text}".casefold()
    assert "qxz" not in text
    assert "1.2.999" not in text
    assert key.hex() not in text
    assert {"options_digest", "table_digest", "tool_version", "key_id"} <= body.keys()


def test_a_quarantined_file_leaves_no_output_not_even_an_old_one(
    tmp_path: Path, make: Maker, written: Writer, key: bytes
):
    """What cannot be vouched for any more is not left lying there."""
    source, out = tmp_path / "in.dcm", tmp_path / "out.dcm"
    out.write_bytes(b"from an earlier run")
    source.write_bytes(written(make(BurnedInAnnotation="YES")))
    result = clean_file(source, options=DicomOptions(), key=key, out=out)
    assert isinstance(result, Quarantined)
    assert result.reason == "burned-in"
    assert not out.exists()
    assert result.audit_body()["outcome"] == "quarantined"


def test_files_that_cannot_be_read_are_quarantined(tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch):
    """A folder, a link, an absent file, a huge one and one of another format each have their reason."""
    (tmp_path / "text").write_bytes(b"no DICOM at all" * 20)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    expected = {
        "text": "not-part-10",
        "empty": "not-part-10",
        "link": "unreadable",
        "absent": "unreadable",
        ".": "unreadable",
    }
    for name, reason in expected.items():
        result = clean_file(tmp_path / name, options=DicomOptions(), key=key, out=tmp_path / "out")
        assert isinstance(result, Quarantined)
        assert (name, result.reason) == (name, reason)
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 100)
    result = clean_file(tmp_path / "text", options=DicomOptions(), key=key, out=tmp_path / "out")
    assert isinstance(result, Quarantined)
    assert result.reason == "too-large"


def test_a_full_or_missing_disk_raises_and_leaves_nothing(tmp_path: Path, make: Maker, written: Writer, key: bytes):
    """A3: an error of writing is the site's to cure, not the file's fault; no partial output appears."""
    source = tmp_path / "in.dcm"
    source.write_bytes(written(make()))
    with pytest.raises(OSError, match="No such file"):
        clean_file(source, options=DicomOptions(), key=key, out=tmp_path / "absent" / "out.dcm")
    with pytest.raises(UsageError, match="32 bytes"):
        clean_file(source, options=DicomOptions(), key=b"short", out=tmp_path / "out.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["in.dcm"]


def test_a_file_cut_at_any_byte_is_quarantined_or_whole(make: Maker, written: Writer, keyed: Site):
    """D4: no cut yields an image without its pixels, an exception, or a leak."""
    item = Dataset()
    item.RealWorldValueSlope = 2.0
    data = written(make(RealWorldValueMappingSequence=[item]))
    reasons = set()
    for size in range(len(data)):
        with pytest.raises(QuarantineError) as caught:
            clean_bytes(data[:size], keyed())
        reasons.add(caught.value.reason)
    assert reasons <= {
        "not-part-10",
        "truncated",
        "malformed",
        "transfer-syntax",
        "sop-class",
        "no-pixels",
        "pixels-unassessed",
    }


def test_flipped_bytes_never_raise_anything_else(make: Maker, written: Writer, keyed: Site):
    """Broken files are cleaned or quarantined, and never leak the patient's name."""
    data, random_ = written(make(PatientComments="QXZCOMMENT")), random.Random(0)  # noqa: S311  no secret
    site, cleaned = keyed(), 0
    for _ in range(1500):
        broken = bytearray(data)
        for _ in range(random_.randint(1, 4)):
            broken[random_.randrange(132, len(broken))] = random_.randrange(256)
        try:
            result = clean_bytes(bytes(broken), site).data
        except QuarantineError:
            continue
        cleaned += 1
        assert b"Qxzfamily" not in result
        assert b"QXZCOMMENT" not in result
    assert cleaned > 300


def test_cleaning_depends_on_input_options_and_key_alone(make: Maker, written: Writer, keyed: Site):
    """The same file under the same key gives the same bytes."""
    data = written(make())
    assert clean_bytes(data, keyed()).data == clean_bytes(data, keyed()).data
    assert clean_bytes(data, keyed()).data != clean_bytes(data, keyed(dates="keep")).data


def test_a_cleaned_file_is_a_valid_dicom_file(make: Maker, written: Writer, keyed: Site):
    """Pydicom reads the result without a warning, and its meta holds what PS3.10 asks for and nothing more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pydicom.dcmread(io.BytesIO(clean_bytes(written(make()), keyed()).data))
        list(result.iterall())
    assert [f"{e.tag:08X}" for e in result.file_meta] == [
        "00020000", "00020001", "00020002", "00020003", "00020010", "00020012", "00020013",
    ]  # fmt: skip


def _flat(elements: tuple[Element, ...]) -> list[Element]:
    found = []
    for element in elements:
        found.append(element)
        for item in element.items or ():
            found += _flat(item)
    return found
