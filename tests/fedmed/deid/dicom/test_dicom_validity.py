"""`dciodvfy` of dicom3tools finds no error in a cleaned file that was not in the file before."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
VALIDATOR = shutil.which("dciodvfy")
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
SCANS = ["CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm",
         "rtdose.dcm", "rtplan.dcm", "liver_1frame.dcm", "test-SR.dcm", "waveform_ecg.dcm"]  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {
    "default": {},
    "basic": {"dates": "remove"},
    "generous": {
        "dates": "keep", "retain_uids": True, "retain_device": True, "retain_institution": True,
        "retain_patient_characteristics": True, "clean_descriptors": True, "clean_structured_content": True,
        "clean_graphics": True,
    },
}  # fmt: skip
CAPTURE, ULTRASOUND = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1"

pytestmark = pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy of Debian's dicom3tools")


def errors(data: bytes, folder: Path) -> set[str]:
    """Return the errors that the validator finds, without values."""
    path = folder / "file.dcm"
    path.write_bytes(data)
    ended = subprocess.run(  # noqa: S603  the validator that was found on the path
        [str(VALIDATOR), str(path)], check=False, capture_output=True, encoding="utf-8", errors="replace"
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    return {re.sub(r"value .*|= <0x[^>]*>", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SCANS)
def test_a_shipped_scan_has_no_new_error(tmp_path: Path, keyed: Site, name: str, options: str):
    """D8: CT, MR, RT, segmentation, report and waveform files that pydicom ships."""
    data = (SHIPPED / name).read_bytes()
    assert errors(clean_bytes(data, keyed(**OPTIONS[options])).data, tmp_path) - errors(data, tmp_path) == set()


@pytest.mark.parametrize("case", [(uid, options) for uid in (CAPTURE, ULTRASOUND) for options in OPTIONS])
def test_ultrasound_and_vouched_captures_have_no_new_error(
    tmp_path: Path, make: Maker, written: Writer, keyed: Site, case: tuple[str, str]
):
    """D8: a masked ultrasound image, and a secondary capture that the site vouches for."""
    sop_class, options = case
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = 2, 2
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = 20, 10
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = 0.1
    dataset = make(
        sop_class, Modality="US", ConversionType="WSD", ReferringPhysicianName="Qxz", StudyID="1", SeriesNumber="1",
        Rows=16, Columns=24, BitsAllocated=8, BitsStored=8, HighBit=7, SequenceOfUltrasoundRegions=[item],
        PatientOrientation="", Laterality="", SeriesDate="20240229", ImageType=["ORIGINAL", "PRIMARY", "", "0001"],
        ManufacturerModelName="Qxz", SoftwareVersions="1.2", PixelData=np.full((16, 24), 7, np.uint8).tobytes(),
    )  # fmt: skip
    if sop_class == CAPTURE:
        del dataset.SequenceOfUltrasoundRegions
    else:
        del dataset.ConversionType
    data = written(dataset)
    site = keyed(**OPTIONS[options] | {"trusted_pixels": (CAPTURE,)})
    assert errors(clean_bytes(data, site).data, tmp_path) - errors(data, tmp_path) == set()
    assert pydicom.dcmread(tmp_path / "file.dcm").Modality == "US"
