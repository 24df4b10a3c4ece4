"""Row N1 of the requirements: a slice of a de-identified image lies where the scanner's DICOM said that it lay.

The positions that are expected follow from the DICOM attributes by the equation of PS3.3 C.7.6.2.1.1, written here and
nowhere in the project; dcm2niix turns DICOM into NIfTI as a researcher's site would.
"""

import gzip
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_files import write_dicom
from pydicom.uid import CTImageStorage, MRImageStorage

from fedmed_site import cli

Array = npt.NDArray[np.float64]
POLICY = "profile: our-own\ndates: shift\nk: 1\nfree_text: drop\nnifti: {faces: absent}\n"
ROWS, COLUMNS, SLICES = 7, 5, 4
STEP, SPACING = 2.5, (0.7, 0.9)
LIMIT_MM = 1e-3
NAME, NUMBER = "Okonkwo^Chidera", "MRN-7741902"
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def voxels() -> npt.NDArray[np.uint16]:
    """Return the values of a series, each once: (slices, rows, columns)."""
    return np.arange(1, ROWS * COLUMNS * SLICES + 1, dtype=np.uint16).reshape(SLICES, ROWS, COLUMNS)


def position(axes: tuple[float, ...], number: int) -> Array:
    """Return the place of the first voxel of a slice, in DICOM's patient coordinates (mm)."""
    return np.array([-61.5, 23.25, -140.0]) + STEP * number * np.cross(axes[:3], axes[3:])


def write_series(folder: Path, axes: tuple[float, ...], modality: str) -> None:
    """Write a series of a scanner, with its patient in it."""
    folder.mkdir(parents=True)
    storage = {"MR": MRImageStorage, "CT": CTImageStorage}[modality]
    for number, values in enumerate(voxels()):
        path = write_dicom(
            folder / f"{number}.dcm", values, Modality=modality, SOPClassUID=storage,
            SOPInstanceUID=f"1.2.826.0.1.3680043.8.498.77.{number + 1}", StudyInstanceUID="1.2.826.0.1.3680043.8.498.7",
            SeriesInstanceUID="1.2.826.0.1.3680043.8.498.8", FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.9",
            PatientName=NAME, PatientID=NUMBER, StudyDate="20240301", SeriesDate="20240301", SeriesNumber=3,
            InstanceNumber=number + 1, ImageOrientationPatient=list(axes), PixelSpacing=list(SPACING),
            ImagePositionPatient=[f"{value:.6f}" for value in position(axes, number)], SliceThickness=STEP,
            SpacingBetweenSlices=STEP, ImageType=["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL"],
            Manufacturer="SIEMENS", EchoTime=30, RepetitionTime=2000, RescaleIntercept=0, RescaleSlope=1,
            BurnedInAnnotation="NO",
        )  # fmt: skip
        data = pydicom.dcmread(path)
        data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = storage, data.SOPInstanceUID
        data.save_as(path)


def expected(axes: tuple[float, ...]) -> dict[int, Array]:
    """Return the place of each voxel by its value, in NIfTI's coordinates: x to the right, y to the front."""
    across, down = np.array(axes[:3]) * SPACING[1], np.array(axes[3:]) * SPACING[0]
    return {
        int(value): (position(axes, number) + column * across + row * down) * (-1, -1, 1)
        for (number, row, column), value in np.ndenumerate(voxels())
    }


def found(image: bytes) -> tuple[dict[int, Array], dict[int, Array]]:
    """Return the place of each voxel by its value, as the sform and as the qform tell it (NIfTI-1, little-endian)."""
    data = gzip.decompress(image)
    shape = struct.unpack_from("<3h", data, 42)
    kind, start = struct.unpack_from("<h", data, 70)[0], int(struct.unpack_from("<f", data, 108)[0])
    values = np.frombuffer(data, {4: "<i2", 512: "<u2"}[kind], count=int(np.prod(shape)), offset=start)
    affines = [np.reshape(struct.unpack_from("<12f", data, 280), (3, 4)).astype(float), _qform(data)]
    places = [
        {int(value): affine @ (*where, 1) for where, value in np.ndenumerate(values.reshape(shape, order="F"))}
        for affine in affines
    ]
    return places[0], places[1]


def _qform(data: bytes) -> Array:
    b, c, d, *origin = struct.unpack_from("<6f", data, 256)
    rest = 1 - b * b - c * c - d * d
    if rest < 1e-7:  # half a turn: the rounding of float32 is all that is left (the standard's own reader does this)
        b, c, d = np.array([b, c, d]) / np.sqrt(1 - rest)
    a = np.sqrt(rest) if rest >= 1e-7 else 0.0
    sign, *steps = struct.unpack_from("<4f", data, 76)
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine: Array = np.c_[turn * np.array([steps[0], steps[1], steps[2] * (sign or 1)]), origin]
    return affine


def deidentify(source: Path, out: Path, root: Path) -> list[Path]:
    """Run the command; return what came out, readable."""
    policy = root / "policy.yaml"
    policy.write_text(POLICY)
    words = ["deidentify", str(source), "--out", str(out), "--home", str(root / "home"), "--workers", "1", "--export"]
    assert cli.site([*words, "--policy", str(policy)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert {one["quarantined"] for one in report["kinds"].values()} == {0}
    return sorted(path for path in (out / "items").rglob("*") if path.is_file())


def to_nifti(source: Path, target: Path) -> bytes:
    """Return what dcm2niix makes of a series."""
    program = Path(sys.executable).with_name("dcm2niix")
    target.mkdir()
    words = [program, "-z", "i", "-f", "scan", "-o", target, source]
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603  the dev tool, on files of this test
    (image,) = target.glob("*.nii.gz")
    return image.read_bytes()


@pytest.mark.skipif(not Path(sys.executable).with_name("dcm2niix").exists(), reason="dcm2niix is not installed")
@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("axes", [OBLIQUE, SAGITTAL, CORONAL], ids=["oblique", "sagittal", "coronal"])
def test_every_voxel_lies_where_the_scanner_put_it(axes: tuple[float, ...], modality: str, tmp_path: Path) -> None:
    """Cleaned as DICOM and turned into NIfTI, or the other way round: each voxel is within 1e-3 mm of its place."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    write_series(tmp_path / "raw", axes, modality)
    deidentify(tmp_path / "raw", tmp_path / "clean", tmp_path)
    first = to_nifti(tmp_path / "clean" / "items", tmp_path / "of-clean")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scan.nii.gz").write_bytes(to_nifti(tmp_path / "raw", tmp_path / "of-raw"))
    shutil.rmtree(tmp_path / "of-raw")
    (second,) = deidentify(tmp_path / "images", tmp_path / "clean-images", tmp_path)
    truth = expected(axes)
    for image in (first, second.read_bytes()):
        assert not any(word in gzip.decompress(image) for word in (b"Okonkwo", b"7741902"))
        for places in found(image):
            assert places.keys() == truth.keys()
            assert max(np.abs(places[value] - truth[value]).max() for value in truth) < LIMIT_MM
