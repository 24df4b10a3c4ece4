"""What a DICOM file's numbers mean: each frame by its own groups, and a window where the schema has none."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import group_of, write_dicom

from fedmed.data.imaging import Pictures, count_images, read_image
from fedmed.data.parts import NamedImages
from fedmed.data.schema import Column, ImagePart, Schema, Target
from fedmed.errors import DataError

PLAIN = ImagePart(column="scan", size=4)
LIVER = ImagePart(column="scan", size=4, centre=60.0, width=160.0)
COLOUR = ImagePart(column="scan", size=4, channels=3)
SCHEMA = Schema(
    name="livers",
    file="{site}.csv",
    columns=(
        Column(name="scan", kind="text", role="ignore"),
        Column(name="steatosis", kind="binary", role="target", values=("no", "yes")),
    ),
    targets=(Target(name="steatosis", column="steatosis", one_of=("yes",)),),
    image=PLAIN,
)


def of(path: Path, part: ImagePart) -> float:
    """Return the one value of a uniform image."""
    found = read_image(path, part)
    assert np.ptp(found) < 1e-6
    return float(found[0, 0, 0])


def rescaled(slope: float, intercept: float) -> dict[str, Any]:
    """Return a frame's value transformation."""
    return {"PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": intercept}}


def enhanced(path: Path, values: list[int], **changes: Any) -> Path:
    """Write a file of one uniform frame for each of `values`."""
    frames = np.stack([np.full((4, 4), value, np.uint16) for value in values])
    return write_dicom(path, frames, frames=len(values), BitsStored=16, HighBit=15, **changes)


def test_an_enhanced_file_has_the_tissue_values_of_a_classic_one(tmp_path: Path) -> None:
    """The same liver, exported in either form, has one grey: else every enhanced scan trains on wrong values."""
    classic = write_dicom(tmp_path / "c", np.full((4, 4), 1070, np.uint16), RescaleSlope=1, RescaleIntercept=-1000)
    shared = enhanced(tmp_path / "s", [9, 1070, 9], SharedFunctionalGroupsSequence=[group_of(**rescaled(1, -1000))])
    own = enhanced(
        tmp_path / "o", [9, 570, 9],
        SharedFunctionalGroupsSequence=[group_of(**rescaled(7, 3))],
        PerFrameFunctionalGroupsSequence=[group_of(**rescaled(slope, -1070)) for slope in (1, 2, 3)],
    )  # fmt: skip
    assert of(shared, LIVER) == of(classic, LIVER)
    assert of(own, LIVER) == of(classic, LIVER)


def test_an_enhanced_file_knows_its_spacing(tmp_path: Path) -> None:
    """Oblong pixels are made square, and a schema with a spacing doesn't lose every enhanced scan."""
    measures = group_of(PixelMeasuresSequence={"PixelSpacing": [1, 2]})
    frames = np.full((3, 4, 2), 4095, np.uint16)
    path = write_dicom(tmp_path / "a", frames, frames=3, SharedFunctionalGroupsSequence=[measures])
    assert (read_image(path, PLAIN) == 1.0).all()
    assert (read_image(path, ImagePart(column="scan", size=4, spacing_mm=1.0)) == 1.0).all()


@pytest.mark.parametrize(
    ("function", "value", "grey"),
    [
        ("LINEAR", 300, 2 * ((300 - 399.5) / 799 + 0.5) - 1),
        ("LINEAR_EXACT", 300, 2 * (300 - 400) / 800),
        ("SIGMOID", 300, 2 / (1 + np.exp(-4 * (300 - 400) / 800)) - 1),
        (None, 300, 2 * ((300 - 399.5) / 799 + 0.5) - 1),
        ("LINEAR", 5000, 1.0),
    ],
)
def test_without_a_window_of_the_schema_the_files_own_counts(
    tmp_path: Path, function: str | None, value: int, grey: float
) -> None:
    """A magnetic resonance scan of 16 bits isn't almost black, in a classic file and in an enhanced one."""
    window = {"WindowCenter": [400, 40], "WindowWidth": [800, 80]} | ({"VOILUTFunction": function} if function else {})
    classic = write_dicom(tmp_path / "c", np.full((4, 4), value, np.uint16), BitsStored=16, HighBit=15, **window)
    assert of(classic, PLAIN) == pytest.approx(grey, abs=1e-6)
    group = group_of(FrameVOILUTSequence=window)
    other = {"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "SIGMOID"}
    of_frame = enhanced(tmp_path / "e", [0, value, 0], SharedFunctionalGroupsSequence=[group], **other)
    assert of(of_frame, PLAIN) == pytest.approx(grey, abs=1e-6)


def test_a_files_own_window_gives_way_to_the_schemas(tmp_path: Path) -> None:
    """The consortium's window has one meaning everywhere."""
    own = {"WindowCenter": 400, "WindowWidth": 800}
    one = write_dicom(tmp_path / "a", np.full((4, 4), 70, np.uint16), **own)
    assert of(one, LIVER) == of(write_dicom(tmp_path / "b", np.full((4, 4), 70, np.uint16)), LIVER)


@pytest.mark.parametrize("bad", [{"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": 40}])
def test_a_window_that_is_none_is_not_used(tmp_path: Path, bad: dict[str, float]) -> None:
    """Then the whole range counts, as without one."""
    path = write_dicom(tmp_path / "a", np.full((4, 4), 4095, np.uint16), **bad)
    assert of(path, PLAIN) == 1.0
    assert of(write_dicom(tmp_path / "b", np.full((4, 4), 1365, np.uint16), **bad), PLAIN) == pytest.approx(
        -1 / 3, 1e-3
    )


def test_a_files_own_table_of_greys_is_looked_up(tmp_path: Path) -> None:
    """Radiographs carry a table in place of a window."""
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 10, 16]
    item.add_new("LUTData", "OW", np.array([0, 16384, 49151, 65535], "<u2").tobytes())
    path = write_dicom(tmp_path / "a", np.full((4, 4), 11, np.uint16), VOILUTSequence=[item])
    assert of(path, PLAIN) == pytest.approx(2 * 16384 / 65535 - 1, abs=1e-6)
    assert of(path, LIVER) == of(write_dicom(tmp_path / "b", np.full((4, 4), 11, np.uint16)), LIVER)


def test_images_of_one_grey_are_counted(tmp_path: Path) -> None:
    """An export that a model would see as black is told before training."""
    ramp = np.linspace(0, 900, 16).reshape(4, 4).astype(np.uint16)
    write_dicom(tmp_path / "dark", ramp, BitsStored=16, HighBit=15)
    write_dicom(tmp_path / "fine", ramp, BitsStored=16, HighBit=15, WindowCenter=450, WindowWidth=900)
    named = NamedImages()
    for name in ("dark", "fine", "dark"):
        named.number(name)
    found = count_images(named, tmp_path, schema=SCHEMA)
    assert (found.images, found.faint) == (3, 2)


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_of_ultrasound_become_red_green_and_blue(tmp_path: Path, planar: int) -> None:
    """Luminance with two differences, pixel by pixel or plane by plane."""
    red = np.zeros((4, 4, 3), np.uint8)
    red[:] = (76, 85, 255)
    values = red.transpose(2, 0, 1) if planar else red
    path = write_dicom(
        tmp_path / "a", np.zeros((4, 4), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL",
        PlanarConfiguration=planar, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=np.ascontiguousarray(values).tobytes(),
    )  # fmt: skip
    assert read_image(path, COLOUR)[:, 0, 0] == pytest.approx([1, -1, -1], abs=0.03)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    """A stored number stands for a colour."""
    tables = {}
    for name, entries in (("Red", (0, 65535)), ("Green", (65535, 0)), ("Blue", (0, 0))):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = np.array(entries, "<u2").tobytes()
    path = write_dicom(
        tmp_path / "a", np.ones((4, 4), np.uint8), PhotometricInterpretation="PALETTE COLOR", BitsAllocated=8,
        BitsStored=8, HighBit=7, **tables,
    )  # fmt: skip
    assert read_image(path, COLOUR)[:, 0, 0] == pytest.approx([1, -1, -1])


def series(folder: Path, greys: list[int], *, uid: str, patient: str = "") -> None:
    """Write a series, the first slice under the last name."""
    folder.mkdir(exist_ok=True)
    for number, grey in enumerate(greys, start=1):
        write_dicom(
            folder / f"{uid}-{len(greys) - number}", np.full((4, 4), grey, np.uint16), SeriesInstanceUID=uid,
            InstanceNumber=number, SOPInstanceUID=f"{uid}.{number}", PatientID=patient,
        )  # fmt: skip


def test_a_row_may_name_the_folder_of_a_series(tmp_path: Path) -> None:
    """Its middle slice is the image; of several series the longest counts, and what is no DICOM doesn't."""
    series(tmp_path / "visit", [1, 2, 4095, 3, 4], uid="1.2.1")
    series(tmp_path / "visit", [5, 6, 7], uid="1.2.2")
    (tmp_path / "visit" / "notes.txt").write_text("no image")
    found = Pictures(tmp_path, PLAIN).read("visit")
    assert found is not None
    assert float(found[0, 0, 0]) == 1.0


def test_a_folder_without_one_patients_images_is_no_image(tmp_path: Path) -> None:
    """An empty one, one of two patients, and one that lies elsewhere."""
    series(tmp_path / "mixed", [1, 2], uid="1.2.1", patient="a")
    series(tmp_path / "mixed", [3, 4, 5], uid="1.2.2", patient="b")
    (tmp_path / "inside" / "empty").mkdir(parents=True)
    pictures = Pictures(tmp_path, PLAIN)
    assert [pictures.read(name) for name in ("mixed", "inside/empty", "mixed#1", "a\0b")] == [None] * 4
    series(tmp_path / "alone", [1, 2], uid="1.2.3", patient="a")
    assert Pictures(tmp_path / "inside", PLAIN).read("../alone") is None
    assert pictures.read("alone") is not None


def test_a_slice_that_is_damaged_gives_way_to_its_neighbour(tmp_path: Path) -> None:
    """One broken file doesn't cost the patient."""
    series(tmp_path / "visit", [1, 4095, 4095], uid="1.2.1")
    path = tmp_path / "visit" / "1.2.1-1"
    path.write_bytes(path.read_bytes()[:-8])
    found = Pictures(tmp_path, PLAIN).read("visit")
    assert found is not None
    with pytest.raises(DataError):
        read_image(path, PLAIN)
