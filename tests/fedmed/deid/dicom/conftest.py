"""Small DICOM files made up on the spot, and the public table to check ours against."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import site_keys
from fedmed.deid.dicom.options import DicomOptions

KEY = bytes(range(32))
EXPLICIT = "1.2.840.10008.1.2.1"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
TABLE = Path(__file__).parents[5] / "shared" / "data" / "dicom-confidentiality" / "ps3.15-table-e1-1.json"

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _write_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pydicom write and read back what hospitals write, without complaints."""
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)


@pytest.fixture
def key() -> bytes:
    """Return a site key."""
    return KEY


@pytest.fixture
def keyed() -> Callable[..., Keyed]:
    """Return a function from options to the keyed functions of the site."""
    return lambda **options: site_keys(DicomOptions(**options), KEY)


@pytest.fixture
def make() -> Maker:
    """Return a maker of small datasets with made-up patients; keywords set attributes."""
    return _make


@pytest.fixture
def written() -> Writer:
    """Return a writer of datasets as DICOM files in a transfer syntax."""
    return _written


@pytest.fixture
def table_rows() -> list[dict[str, str]]:
    """Return the published Table E.1-1, or skip."""
    if not TABLE.is_file():
        pytest.skip("needs Table E.1-1 in ../shared/data/dicom-confidentiality")
    rows: list[dict[str, str]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return rows


def _make(sop_class: str = CT_CLASS, *, pixels: bool = True, **attributes: object) -> Dataset:
    dataset = Dataset()
    values: dict[str, object] = {
        "SOPClassUID": sop_class, "SOPInstanceUID": "1.2.999.1.1", "StudyInstanceUID": "1.2.999.1",
        "SeriesInstanceUID": "1.2.999.1.0", "FrameOfReferenceUID": "1.2.999.7", "PatientID": "MR-001",
        "PatientName": "Qxzfamily^Qxzgiven", "PatientBirthDate": "19470313", "PatientSex": "F", "PatientAge": "077Y",
        "StudyDate": "20240229", "StudyTime": "101500", "ContentDate": "20240229", "AccessionNumber": "QXZACC",
        "InstitutionName": "Qxzhospital", "StudyDescription": "CHEST Qxzdescription", "Modality": "CT",
        "Manufacturer": "SIEMENS", "RescaleSlope": "1", "RescaleIntercept": "-1024", "PixelSpacing": ["0.7", "0.7"],
        "ImagePositionPatient": ["1.5", "-2.5", "30"], "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "InstanceNumber": "1", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    if pixels:
        values |= {
            "Rows": 4, "Columns": 6, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
        }  # fmt: skip
        dataset.add_new(0x7FE00010, "OW", struct.pack("<24H", *range(100, 124)))
    for name, value in (values | attributes).items():
        if value is None:
            if name in dataset:
                delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def _written(dataset: Dataset, transfer_syntax: str = EXPLICIT) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
