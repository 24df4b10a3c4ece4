"""DICOM phantoms: valid, consistent, deterministic, and every planted fact in the bytes."""

import hashlib
import io
from collections import Counter
from functools import cache
from itertools import islice

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from fedmed.errors import DataError, UsageError
from fedmed_sim.phantoms.corruption import DICOM_WAYS, corrupt
from fedmed_sim.phantoms.dicom import KINDS, draw_files, draw_patient_files
from fedmed_sim.phantoms.dicom_documents import DOCUMENT_CLASSES
from fedmed_sim.phantoms.dicom_frame import Phantom, Series, finish, new_dataset, searchable
from fedmed_sim.phantoms.dicom_hiding import ANY_ORDER, LITTLE_ENDIAN
from fedmed_sim.phantoms.dicom_images import IMAGE_CLASSES
from fedmed_sim.phantoms.people import draw_person
from fedmed_sim.phantoms.planted import Kept, Planted, Secret
from fedmed_sim.phantoms.scene import Scene

COUNT = 300


@cache
def files() -> tuple[Phantom, ...]:
    """Return 300 files of many patients."""
    return tuple(phantom for _, phantom in islice(draw_files(np.random.default_rng(21)), COUNT))


@cache
def whole_patients() -> tuple[tuple[Phantom, ...], ...]:
    """Return all files of two patients with two studies of all kinds."""
    rng = np.random.default_rng(22)
    people = [draw_person(rng, "zh"), draw_person(rng, "en")]
    return tuple(tuple(draw_patient_files(rng, person, key=f"p{at}", studies=2)) for at, person in enumerate(people))


@cache
def load(phantom: Phantom) -> Dataset:
    """Read a phantom as a reader does that does not know it."""
    return pydicom.dcmread(io.BytesIO(phantom.payload))


def every_element(data: Dataset) -> list[tuple[str, object]]:
    """Return VR and value of all elements at all depths, each decoded."""
    found: list[tuple[str, object]] = []
    data.walk(lambda _, element: found.append((element.VR, element.value)))
    return found


def test_pydicom_reads_every_element_of_every_file():
    """Each file reads without a warning, down to the last nested value, and its pixels decode."""
    for phantom in files():
        data = load(phantom)
        assert every_element(data)
        if "PixelData" in data:
            assert data.pixel_array.shape[-1] in {3, data.Columns}
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID == phantom.sop_uid


def test_all_kinds_and_transfer_syntaxes_occur():
    """Every kind occurs, in plain, big-endian, deflated, run-length and JPEG form, with one frame and more."""
    loaded = [(phantom.kind, load(phantom)) for phantom in files()]
    assert {kind for kind, _ in loaded} == set(KINDS)
    syntaxes = Counter(data.file_meta.TransferSyntaxUID for _, data in loaded)
    assert len(syntaxes) == 6
    frames = {(data.file_meta.TransferSyntaxUID, int(data.get("NumberOfFrames", 1)) > 1) for _, data in loaded}
    assert {(RLELossless, True), (JPEGBaseline8Bit, True)} <= frames


def test_character_sets_vary():
    """UTF-8, GB18030, GBK, ISO 2022, Latin-1 and none occur, and the names in them decode."""
    sets = Counter(str(load(phantom).get("SpecificCharacterSet", "none")) for phantom in files())
    assert {"ISO_IR 192", "GB18030", "GBK", "['', 'ISO 2022 IR 58']", "ISO_IR 100", "none"} <= set(sets)


def test_chinese_names_survive_the_round_trip():
    """What pydicom decodes as the ideographic name is the name that was invented."""
    pairs = islice(draw_files(np.random.default_rng(23)), 60)
    chinese = [(person, load(phantom)) for person, phantom in pairs if person.language == "zh"]
    assert chinese
    for person, data in chinese:
        assert data.PatientName.ideographic.replace("^", "") == person.name.full


def test_every_secret_is_in_the_bytes():
    """The facts are no guess: each told secret occurs in the file, also where it is deflated."""
    for phantom in files():
        opened = searchable(phantom.payload)
        assert set(phantom.planted.leaks(opened)) == set(phantom.planted.secrets)
        kinds = {secret.kind for secret in phantom.planted.secrets}
        assert {"NAME", "UID", "DATE", "RECORD"} <= kinds


def test_deflated_files_hide_their_secrets_from_a_plain_search():
    """A search that does not inflate finds no name, which is why `searchable` exists."""
    deflated = [
        phantom for phantom in files() if load(phantom).file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    ]
    assert deflated
    for phantom in deflated:
        names = [secret for secret in phantom.planted.secrets if secret.kind == "NAME"]
        assert names
        assert not any(secret.is_in(phantom.payload) for secret in names)


def test_every_hiding_place_occurs():
    """Private tags, UN, overlays, curves, icons, codes, meta, preamble, padding, trees and pixels are all used."""
    places = Counter(secret.where for phantom in files() for secret in phantom.planted.secrets)
    wanted = {
        "private text", "private bytes", "private sequence", "private block in a sequence", "sequence as UN",
        "private sequence as UN, undefined length", "private element without creator", "private block of a vendor",
        "overlay data", "overlay label", "overlay description", "curve description", "curve data", "icon image",
        "CodeMeaning", "CodeMeaning, two deep", "source AE", "sending AE", "receiving AE", "private meta", "preamble",
        "trailing padding", "SR text", "SR nested text", "SR code meaning", "PR annotation", "PR layer",
        "RTSTRUCT ROI", "RTSTRUCT description", "PDF page", "PDF title", "name in the pixels",
    }  # fmt: skip
    assert {place for place in wanted if places[place] < 3} == set()


@pytest.mark.parametrize("hide", [*ANY_ORDER, *LITTLE_ENDIAN], ids=lambda hide: hide.__name__)
def test_each_hiding_place_can_be_read_back(hide):  # noqa: ANN001  a hiding function
    """Planted alone, a place's canaries are in the bytes and pydicom still reads the file."""
    rng = np.random.default_rng(24)
    scene = Scene(rng, draw_person(rng, "zh"))
    visit = scene.visit()
    series = Series(uid=scene.uid(), number=1, modality="CT", sop_class=IMAGE_CLASSES["CT"][1])
    data = new_dataset(scene, visit, series, instance=1)
    hidden = hide(scene, data)
    for syntax in (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian):
        phantom = finish(scene, data, name="a.dcm", kind="CT", syntax=syntax, hidden=hidden)
        assert every_element(load(phantom))
        assert all(word.encode() in phantom.payload for word in hidden)


def test_a_hiding_place_that_is_not_in_the_bytes_raises():
    """A canary that never reached the file would be a leak that nobody can find."""
    rng = np.random.default_rng(25)
    scene = Scene(rng, draw_person(rng, "en"))
    series = Series(uid=scene.uid(), number=1, modality="CT", sop_class=IMAGE_CLASSES["CT"][1])
    data = new_dataset(scene, scene.visit(), series, instance=1)
    with pytest.raises(DataError, match="hiding place"):
        finish(
            scene,
            data,
            name="a.dcm",
            kind="CT",
            syntax=pydicom.uid.ExplicitVRLittleEndian,
            hidden=[scene.canary("nowhere")],
        )


def test_kept_facts_are_those_of_the_file():
    """Each fact that must survive is what a reader finds now."""
    for phantom in files():
        data = load(phantom)
        facts = {item.keyword: item.value for item in phantom.planted.kept}
        assert facts["Modality"] == data.Modality
        if phantom.kind in IMAGE_CLASSES:
            assert (facts["Rows"], facts["Columns"]) == (data.Rows, data.Columns)
        if phantom.kind == "CT":
            assert facts["ImagePositionPatient"] == tuple(float(x) for x in data.ImagePositionPatient)
            assert facts["RescaleIntercept"] == float(data.RescaleIntercept)
        assert dict(phantom.planted.dates)["StudyDate"].strftime("%Y%m%d") == data.StudyDate


def test_references_resolve_within_the_patient():
    """Report, presentation state and structure set point at files that exist, by the right class and series."""
    for phantoms in whole_patients():
        known = {phantom.sop_uid: load(phantom) for phantom in phantoms}
        pointing = [phantom for phantom in phantoms if phantom.planted.references]
        assert {phantom.kind for phantom in pointing} == set(DOCUMENT_CLASSES) - {"PDF"}
        for phantom in pointing:
            data = load(phantom)
            uids = {str(value) for vr, value in every_element(data) if vr == "UI"}
            for reference in phantom.planted.references:
                assert known[reference].StudyInstanceUID == data.StudyInstanceUID
                assert {reference, str(known[reference].SOPClassUID), str(known[reference].SeriesInstanceUID)} <= uids
        frames = {data.FrameOfReferenceUID for data in known.values() if data.Modality == "RTSTRUCT"}
        assert frames == {data.FrameOfReferenceUID for data in known.values() if data.Modality == "CT"}


def test_uids_are_unique_valid_and_shared_as_they_should_be():
    """Instances differ, studies have one UID, series do not cross studies, and every UID is well-formed."""
    for phantoms in whole_patients():
        loaded = [load(phantom) for phantom in phantoms]
        assert len({data.SOPInstanceUID for data in loaded}) == len(loaded)
        assert len({data.StudyInstanceUID for data in loaded}) == 2
        assert len({(data.StudyInstanceUID, data.SeriesInstanceUID) for data in loaded}) == len(
            {data.SeriesInstanceUID for data in loaded}
        )
        assert all(data.SOPInstanceUID.is_valid and data.StudyInstanceUID.is_valid for data in loaded)
        assert len({str(data.PatientBirthDate) for data in loaded}) == 1


def test_names_are_drawn_outside_of_ultrasound_regions():
    """An ultrasound's writing lies in the told box, above the region, and the box is bright."""
    drawn = [phantom for phantom in files() if phantom.kind in {"US", "US-MULTI"}]
    assert drawn
    for phantom in drawn:
        data, box, region = load(phantom), phantom.text_boxes[0], phantom.regions[0]
        assert box.bottom <= region.top
        item = data.SequenceOfUltrasoundRegions[0]
        assert (item.RegionLocationMinY0, item.RegionLocationMaxY1) == (region.top, region.bottom - 1)
        picture = data.pixel_array.reshape(-1, data.Rows, data.Columns, data.SamplesPerPixel)[0, ..., 0]
        assert int(picture[box.top : box.bottom, box.left : box.right].max()) >= 160
    plain = [phantom for phantom in files() if phantom.kind in {"US-PLAIN", "SC"}]
    assert all(phantom.text_boxes and not phantom.regions for phantom in plain)
    assert all("SequenceOfUltrasoundRegions" not in load(phantom) for phantom in plain)


def test_burned_in_annotation_is_not_always_true():
    """Some secondary captures with a name in the pixels say NO."""
    said = {load(phantom).BurnedInAnnotation for phantom in files() if phantom.kind == "SC"}
    assert said == {"YES", "NO"}


def test_paths_hold_nothing_that_identifies():
    """Paths are unique and hold none of their file's secrets."""
    assert len({phantom.name for phantom in files()}) == COUNT
    for phantom in files():
        assert not phantom.planted.leaks(phantom.name.encode(), but=frozenset({"DATE"}))


def test_the_same_seed_gives_the_same_bytes():
    """Files are a function of the seed."""
    first, again, other = (
        [hashlib.sha256(phantom.payload).hexdigest() for _, phantom in islice(draw_files(np.random.default_rng(s)), 40)]
        for s in (5, 5, 6)
    )
    assert first == again
    assert not set(first) & set(other)


def test_unknown_kinds_and_small_pictures_are_refused():
    """A kind that is not there, documents alone, and 32 pixels a side raise."""
    rng = np.random.default_rng(1)
    person = draw_person(rng, "en")
    for wrong in (["CT", "XX"], ["SR"]):
        with pytest.raises(UsageError, match="kinds out of"):
            list(draw_patient_files(rng, person, key="p", kinds=wrong))
    with pytest.raises(UsageError, match="64 pixels"):
        list(draw_patient_files(rng, person, key="p", side=32))


def test_a_leak_is_found_in_any_encoding():
    """A secret is searched in UTF-8, GB18030, UTF-16 and Latin-1, and kinds can be left out."""
    secret = Secret(kind="NAME", where="name", text="欧阳明")
    facts = Planted(
        secrets=(secret, Secret(kind="DATE", where="date", text="20200101")), kept=(Kept(keyword="a", value=1),)
    )
    for encoding in ("utf-8", "gb18030", "utf-16-le"):
        assert facts.leaks(b"\1\2" + "姓名欧阳明".encode(encoding)) == (secret,)
    assert Secret(kind="NAME", where="name", text="Löf").is_in("Löf".encode("latin-1"))
    assert facts.leaks(b"x20200101", but=frozenset({"DATE"})) == ()


def is_sound(payload: bytes, reference: Dataset) -> bool:
    """Tell whether a strict reader takes `payload` for a file like `reference`."""
    try:
        data = pydicom.dcmread(io.BytesIO(payload))
        tags = [element.tag for element in data]
        words = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Rows")
        single = [data[word].VM for word in words if word in reference]
        if "PixelData" in data:
            data.pixel_array.shape  # noqa: B018  decoding is the test
    except Exception:  # noqa: BLE001  whatever a reader raises means that it is not sound
        return False
    return len(payload) % 2 == 0 and tags == [element.tag for element in reference] and set(single) == {1}


@pytest.mark.parametrize("way", DICOM_WAYS)
def test_a_corrupt_file_is_unreadable_or_invalid(way: str):
    """Whatever the kind and syntax, each way of breaking breaks, and the sound file passes the same check."""
    rng = np.random.default_rng(31)
    for phantom in files()[:80]:
        reference = load(phantom)
        assert is_sound(phantom.payload, reference), phantom.kind
        broken = corrupt(rng, phantom.payload, suffix=".dcm", way=way)
        assert broken != phantom.payload
        assert not is_sound(broken, reference), phantom.kind
