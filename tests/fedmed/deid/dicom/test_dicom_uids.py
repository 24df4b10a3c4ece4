"""The keyed map of UIDs: a function, injective, followed by every reference, the same in every process."""

import io
import multiprocessing
from collections.abc import Callable

import pydicom
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.uids import UidMap

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
UIDS = st.from_regex(r"1\.2\.(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){1,4}", fullmatch=True)
STRUCTURES, STATE = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.11.1"


@given(UIDS, UIDS)
def test_different_uids_stay_different(one: str, other: str):
    """The map is injective and its values are UUID-derived UIDs of at most 64 characters."""
    assume(one != other)
    uids = UidMap(KEY)
    new = uids.new(one)
    assert new != uids.new(other)
    assert new.startswith("2.25.")
    assert len(new) <= 64
    assert (int(new[5:]) >> 76 & 0xF, int(new[5:]) >> 62 & 3) == (8, 2)


@given(UIDS)
def test_another_key_gives_other_uids_and_padding_does_not_matter(uid: str):
    """Two sites cannot link by UID; one UID padded differently is one UID."""
    assert UidMap(KEY).new(uid) != UidMap(OTHER).new(uid)
    assert UidMap(KEY).new_value(uid.encode() + b"\0") == UidMap(KEY).new_value(uid.encode() + b" ")


def test_uids_of_the_standard_stay():
    """Classes, transfer syntaxes, coding schemes and well-known instances are no identities."""
    uids = UidMap(KEY)
    assert all(uids.new(uid) == uid for uid in UID_dictionary)
    assert uids.new("1.2.840.10008.99.19470313") != "1.2.840.10008.99.19470313"


def test_every_process_maps_alike():
    """D5: nothing of the map depends on the process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(UidMap(KEY).new, ["1.2.3", "1.2.4"]) == [UidMap(KEY).new("1.2.3"), UidMap(KEY).new("1.2.4")]


def test_references_follow_over_patients_studies_structures_and_states(make: Maker, written: Writer, keyed: Site):
    """D5: over 4 patients x 3 studies with RT and PR, every reference points at what it pointed at before."""
    before: list[list[str]] = []
    after: list[list[str]] = []
    site = keyed()
    for patient in range(4):
        for study in range(3):
            for dataset in _study(make, f"1.2.999.{patient}.{study}"):
                dataset.PatientID = f"P{patient}"
                data = written(dataset)
                before.append(_uids(data))
                after.append(_uids(clean_bytes(data, site).data))
    pairs = {pair for old, new in zip(before, after, strict=True) for pair in zip(old, new, strict=True)}
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}) > 4 * 3 * 5
    assert all(old != new for old, new in pairs)


def test_retained_uids_stay_and_unlisted_ones_do_not(make: Maker, written: Writer, keyed: Site):
    """Retain UIDs keeps rows with its cell, in the file meta too; an attribute outside the table is still mapped."""
    dataset = make(RelatedGeneralSOPClassUID="1.2.999.5")
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed(retain_uids=True)).data))
    assert result.SOPInstanceUID == result.file_meta.MediaStorageSOPInstanceUID == "1.2.999.1.1"
    assert result.RelatedGeneralSOPClassUID.startswith("2.25.")


def test_file_meta_and_dataset_name_one_instance(make: Maker, written: Writer, keyed: Site):
    """D5: MediaStorageSOPInstanceUID is the mapped SOPInstanceUID."""
    result = pydicom.dcmread(io.BytesIO(clean_bytes(written(make()), keyed()).data))
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID == UidMap(KEY).new("1.2.999.1.1")


def _study(make: Maker, root: str) -> list[Dataset]:
    image = make(SOPInstanceUID=f"{root}.1", StudyInstanceUID=root, SeriesInstanceUID=f"{root}.0",
                 FrameOfReferenceUID=f"{root}.7")  # fmt: skip
    reference, series, frame, roi = Dataset(), Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedImageSequence = image.SeriesInstanceUID, [reference]
    frame.FrameOfReferenceUID = roi.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    structures = make(STRUCTURES, pixels=False, SOPInstanceUID=f"{root}.2", StudyInstanceUID=root,
                      SeriesInstanceUID=f"{root}.9", FrameOfReferenceUID=None,
                      ReferencedFrameOfReferenceSequence=[frame], StructureSetROISequence=[roi])  # fmt: skip
    state = make(STATE, pixels=False, SOPInstanceUID=f"{root}.3", StudyInstanceUID=root, FrameOfReferenceUID=None,
                 SeriesInstanceUID=f"{root}.8", ReferencedSeriesSequence=[series])  # fmt: skip
    return [image, structures, state]


def _uids(data: bytes) -> list[str]:
    dataset = pydicom.dcmread(io.BytesIO(data))
    found = [str(e.value) for e in dataset.iterall() if e.VR == "UI"]
    return [uid for uid in [str(dataset.file_meta.MediaStorageSOPInstanceUID), *found] if uid not in UID_dictionary]
