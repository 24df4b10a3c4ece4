"""The frame of every DICOM phantom: patient, study, series, equipment, file meta, and writing it down.

Why it exists: the modules that all kinds share (PS3.3 C.7) hold most of what identifies, and a
file's facts can only be told once its bytes exist.

Rules:
    * A file is Part 10 with preamble, file meta and the data set in its transfer syntax.
    * The facts are read off the very bytes: a secret is told only where it occurs in them.
    * A hiding place announced to the scene must occur in the bytes, or writing raises.

What it does not do: hide anything; see `dicom_hiding`.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from fedmed.errors import DataError
from fedmed_sim.phantoms.draws import between, chance, pick
from fedmed_sim.phantoms.pixels import Box
from fedmed_sim.phantoms.planted import Kept, Planted, Value
from fedmed_sim.phantoms.scene import Scene, Visit

KEPT = (
    "SOPClassUID", "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A DICOM file with its facts."""

    name: str
    """Relative path without anything that identifies: `p001/s01/CT-0001.dcm`."""

    kind: str
    """CT, MR, US, US-PLAIN (no regions), US-MULTI, SC, DX, SR, PR, RTSTRUCT or PDF."""

    payload: bytes
    planted: Planted
    sop_uid: str
    text_boxes: tuple[Box, ...] = ()
    """Where names are drawn in the pixels."""

    regions: tuple[Box, ...] = ()
    """Ultrasound regions: the picture proper, which must stay byte for byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The numbers of one series."""

    uid: str
    number: int
    modality: str
    sop_class: UID


def new_dataset(scene: Scene, visit: Visit, series: Series, *, instance: int) -> Dataset:
    """Return a data set with the modules that all kinds share, full of identifiers.

    Args:
        scene: The patient's scene.
        visit: The study.
        series: The series.
        instance: Instance number, from 1.
    """
    data = Dataset()
    if scene.charset:
        data.SpecificCharacterSet = list(scene.charset) if len(scene.charset) > 1 else scene.charset[0]
    _sop(data, scene, visit, series, instance)
    _patient(data, scene)
    _study(data, scene, visit)
    _series(data, scene, visit, series)
    _equipment(data, scene)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = series.sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def finish(
    scene: Scene,
    data: Dataset,
    *,
    name: str,
    kind: str,
    syntax: UID,
    hidden: Sequence[str] = (),
    references: Sequence[str] = (),
    text_boxes: tuple[Box, ...] = (),
    regions: tuple[Box, ...] = (),
) -> Phantom:
    """Write `data` down and read its facts off the bytes.

    Args:
        scene: The patient's scene.
        data: The data set; its pixels are already in `syntax`.
        name: Relative path of the file.
        kind: Kind of the phantom.
        syntax: Transfer syntax.
        hidden: The words planted in hiding places, each of which must be in the bytes.
        references: UIDs of the files that this one points to.
        text_boxes: Where names are drawn.
        regions: Ultrasound regions.

    Raises:
        DataError: A hiding place is not in the bytes.
    """
    data.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    payload = file.getvalue()
    open_bytes = _inflated(payload, data.file_meta)
    lost = [word for word in hidden if word.encode() not in open_bytes]
    if lost:
        raise DataError(f"{kind} phantom: expected each hiding place in its bytes, {len(lost)} are not")
    planted = Planted(
        secrets=scene.secrets_in(open_bytes),
        kept=tuple(Kept(keyword=word, value=_plain(data[word].value)) for word in KEPT if word in data),
        dates=_dates(data),
        references=tuple(references),
    )
    return Phantom(
        name=name,
        kind=kind,
        payload=payload,
        planted=planted,
        sop_uid=str(data.SOPInstanceUID),
        text_boxes=text_boxes,
        regions=regions,
    )


def searchable(payload: bytes) -> bytes:
    """Return the bytes to search for secrets: a deflated data set is inflated, anything else stays.

    Raises:
        pydicom.errors.InvalidDicomError: `payload` is no Part-10 file.
    """
    meta = pydicom.dcmread(io.BytesIO(payload), specific_tags=["SOPClassUID"]).file_meta
    return _inflated(payload, meta)


def _inflated(payload: bytes, meta: FileMetaDataset) -> bytes:
    if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return payload
    at = 144 + int.from_bytes(payload[140:144], "little")  # preamble, DICM, group length, the group
    return payload[:at] + zlib.decompress(payload[at:], -zlib.MAX_WBITS)


def _sop(data: Dataset, scene: Scene, visit: Visit, series: Series, instance: int) -> None:
    data.SOPClassUID = series.sop_class
    data.SOPInstanceUID = scene.uid(visit.day)
    data.InstanceNumber = instance
    data.InstanceCreationDate = scene.day(visit.day)
    data.InstanceCreationTime = visit.clock
    if chance(scene.rng, 0.3):
        data.InstanceCreatorUID = scene.uid()


def _patient(data: Dataset, scene: Scene) -> None:
    patient, rng = scene.patient, scene.rng
    data.PatientName = pick(rng, (scene.name, scene.name, scene.name + ("" if "=" in scene.name else "^")))
    data.PatientID = pick(rng, (scene.record, scene.record, f"{scene.record} "))
    data.PatientBirthDate = scene.birth
    data.PatientSex = patient.sex
    if chance(rng, 0.7):
        data.IssuerOfPatientID = scene.tell("HOSPITAL", f"ISSUER {scene.canary('IssuerOfPatientID')}", "issuer")
        data.PatientAge = f"{min(patient.age_on(date(2025, 1, 1)), 999):03d}Y"
        data.PatientWeight, data.PatientSize = between(rng, 45, 110), between(rng, 150, 195) / 100
    if chance(rng, 0.5):
        other = Dataset()
        other.PatientID, other.TypeOfPatientID = scene.identity, "TEXT"
        data.OtherPatientIDsSequence = [other]
        data.PatientTelephoneNumbers = scene.phone
        short = len(scene.address.encode("gb18030")) <= 64  # some readers count bytes
        data.PatientAddress = scene.address if short else scene.canary("PatientAddress")
    if chance(rng, 0.4):
        data.OtherPatientNames = scene.name
        data.PatientComments = scene.sentence(scene.canary("PatientComments"))
        data.AdditionalPatientHistory = scene.sentence(scene.canary("AdditionalPatientHistory"))
        data.Occupation, data.EthnicGroup = scene.canary("Occupation"), scene.canary("EthnicGroup")
        data.PatientBirthTime = "031500"


def _study(data: Dataset, scene: Scene, visit: Visit) -> None:
    rng = scene.rng
    data.StudyInstanceUID, data.StudyID = visit.uid, visit.accession[-6:]
    data.StudyDate, data.StudyTime = scene.day(visit.day), visit.clock
    data.AccessionNumber = visit.accession
    data.ReferringPhysicianName = scene.person(visit.referrer)
    if chance(rng, 0.7):
        data.StudyDescription = scene.label(scene.canary("StudyDescription"))
    if chance(rng, 0.4):
        data.PhysiciansOfRecord = scene.person(visit.referrer)
        data.NameOfPhysiciansReadingStudy = scene.person(visit.operator)
        data.AdmissionID, data.AdmittingDate = scene.canary("AdmissionID"), scene.day(visit.day)
        data.RequestingPhysician = scene.person(visit.referrer)
        data.CurrentPatientLocation = scene.canary("CurrentPatientLocation")


def _series(data: Dataset, scene: Scene, visit: Visit, series: Series) -> None:
    rng = scene.rng
    data.Modality, data.SeriesInstanceUID, data.SeriesNumber = series.modality, series.uid, series.number
    data.SeriesDate, data.SeriesTime = scene.day(visit.day), visit.clock
    data.BodyPartExamined, data.OperatorsName = "CHEST", None
    if chance(rng, 0.6):
        data.OperatorsName = scene.person(visit.operator)
        data.PerformingPhysicianName = scene.person(visit.operator)
        data.SeriesDescription = scene.label(scene.canary("SeriesDescription"))
        data.ProtocolName = f"PROT {scene.canary('ProtocolName')}"
    if chance(rng, 0.4):
        data.PerformedProcedureStepStartDate = scene.day(visit.day)
        data.PerformedProcedureStepID = scene.canary("PerformedProcedureStepID")
        data.PerformedStationAETitle = scene.canary("PerformedStationAETitle")


def _equipment(data: Dataset, scene: Scene) -> None:
    data.Manufacturer = "PHANTOM MEDICAL"
    if chance(scene.rng, 0.8):
        data.InstitutionName, data.InstitutionAddress = scene.hospital, scene.address
        data.InstitutionalDepartmentName = scene.canary("InstitutionalDepartmentName")
        data.StationName, data.DeviceSerialNumber = scene.station, scene.serial
        data.ManufacturerModelName, data.SoftwareVersions = "PHANTOM 3", "1.2"


def _plain(value: object) -> Value:
    """Return a value of pydicom as plain Python."""
    if isinstance(value, (MultiValue, list)):
        return tuple(float(item) for item in value)
    if isinstance(value, (int, str)) and not hasattr(value, "original_string"):
        return str(value) if isinstance(value, str) else int(value)
    return float(str(value)) if str(value).replace(".", "", 1).lstrip("-").isdigit() else str(value)


def _dates(data: Dataset) -> tuple[tuple[str, date], ...]:
    found = [(element.keyword, str(element.value)) for element in data if element.VR == "DA" and element.value]
    return tuple((keyword, datetime.strptime(day, "%Y%m%d").date()) for keyword, day in found)  # noqa: DTZ007  a day
