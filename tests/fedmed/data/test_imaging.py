"""Image files become arrays of one meaning: the same tissue has the same value, however it was stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import write_dicom
from PIL import Image as Picture

from fedmed.audit import ChainLog
from fedmed.data.imaging import prepare_images, read_image
from fedmed.data.parts import IMAGES_FILE, NamedImages, open_images
from fedmed.data.schema import Column, ImagePart, Schema, Target
from fedmed.errors import DataError, IntegrityError

PART = ImagePart(column="file", size=4)
LUNG = ImagePart(column="file", size=4, centre=-600.0, width=1500.0)
TABLE = "0" * 64
SCHEMA = Schema(
    name="scans",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="file", kind="text", role="direct-identifier"),
        Column(name="ill", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="ill", column="ill", one_of=("1",)),),
    image=PART,
)


def level(path: Path, part: ImagePart) -> float:
    """Return the one value of a uniform image."""
    found = read_image(path, part)
    assert np.ptp(found) < 1e-6
    return float(found[0, 0, 0])


def expected(value: float, part: ImagePart) -> float:
    """Return the window function of the standard, scaled to [-1, 1]."""
    assert part.centre is not None
    assert part.width is not None
    return float(np.clip(2 * ((value - (part.centre - 0.5)) / (part.width - 1) + 0.5) - 1, -1, 1))


@pytest.mark.parametrize("unit", [-2000.0, -900.0, -600.0, -100.0, 500.0])
def test_one_hounsfield_value_has_one_level_however_it_is_stored(tmp_path: Path, unit: float):
    """Unsigned with an intercept, signed, with a slope, with a modality table, or turned over: the same tissue."""
    plain = write_dicom(
        tmp_path / "a", np.full((4, 4), unit + 2048, np.uint16), RescaleSlope=1, RescaleIntercept=-2048, BitsStored=16
    )
    signed = write_dicom(
        tmp_path / "b", np.full((4, 4), unit, np.int16), PixelRepresentation=1, RescaleSlope=1, RescaleIntercept=0,
        BitsStored=16,
    )  # fmt: skip
    halved = write_dicom(
        tmp_path / "c", np.full((4, 4), (unit + 2048) * 2, np.uint16), RescaleSlope=0.5, RescaleIntercept=-2048,
        BitsStored=16,
    )  # fmt: skip
    for path in (plain, signed, halved):
        assert level(path, LUNG) == pytest.approx(expected(unit, LUNG), abs=1e-4)


def test_low_is_bright_in_monochrome1(tmp_path: Path):
    """It is turned over after the window, so that high means bright everywhere."""
    values = np.full((4, 4), 4095, np.uint16)
    assert level(write_dicom(tmp_path / "a", values), PART) == 1.0
    assert level(write_dicom(tmp_path / "b", values, PhotometricInterpretation="MONOCHROME1"), PART) == -1.0


def test_a_modality_table_is_looked_up(tmp_path: Path):
    """A value is what the table says, and the range is that of the table."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4, 0, 16], "US"
    item.add_new("LUTData", "OW", np.array([65535, 32768, 64, 0], "<u2").tobytes())
    path = write_dicom(tmp_path / "a", np.full((4, 4), 1, np.uint16), ModalityLUTSequence=[item])
    assert level(path, PART) == pytest.approx(2 * 32768 / 65535 - 1, abs=1e-6)


def test_bits_above_the_stored_ones_are_no_values(tmp_path: Path):
    """Old files keep overlays there."""
    plain = write_dicom(tmp_path / "a", np.full((4, 4), 1000, np.uint16))
    dirty = write_dicom(tmp_path / "b", np.full((4, 4), 1000 + 0x8000, np.uint16))
    assert level(plain, PART) == level(dirty, PART)


def test_padding_is_dark_also_where_low_is_bright(tmp_path: Path):
    """Pixels that are no tissue don't shine."""
    values = np.full((4, 4), 4095, np.uint16)
    values[:, :2] = 0
    path = write_dicom(tmp_path / "a", values, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    assert read_image(path, PART)[0, :, 0].tolist() == [-1.0] * 4


def test_a_lesion_has_its_size_in_mm_whatever_the_scanner(tmp_path: Path):
    """Two spacings of the same body give the same image at the schema's spacing; without spacing there is none."""
    part = ImagePart(column="file", size=16, spacing_mm=1.0)
    body = np.zeros((16, 16), np.uint16)
    body[4:12, 6:10] = 4095
    one = read_image(write_dicom(tmp_path / "a", body, PixelSpacing=[1, 1]), part)
    wide = read_image(write_dicom(tmp_path / "b", body[:, ::2], PixelSpacing=[1, 2]), part)
    assert np.array_equal(one > 0, wide > 0)
    assert np.abs(one.mean() - wide.mean()) < 0.05
    with pytest.raises(DataError, match="can't be read"):
        read_image(write_dicom(tmp_path / "c", body), part)


def test_oblong_pixels_keep_the_shape_of_the_body(tmp_path: Path):
    """Without a spacing to reach, the image is scaled whole, by the sides of its pixels."""
    part = ImagePart(column="file", size=8)
    square = read_image(write_dicom(tmp_path / "a", np.full((8, 4), 4095, np.uint16), PixelSpacing=[1, 2]), part)
    assert (square == 1.0).all()
    narrow = read_image(write_dicom(tmp_path / "b", np.full((8, 4), 4095, np.uint16), PixelSpacing=[1, 1]), part)
    assert (narrow[0, :, 2:6] == 1.0).all()
    assert (narrow[0, :, :2] == -1.0).all()


def test_of_several_frames_the_middle_one_is_taken(tmp_path: Path):
    """One record, one image."""
    frames = np.stack([np.full((4, 4), value, np.uint16) for value in (0, 4095, 0)])
    assert level(write_dicom(tmp_path / "a", frames, frames=3), PART) == 1.0


@pytest.mark.parametrize(("mode", "value", "wanted"), [("L", 255, 1.0), ("RGB", (255, 255, 255), 1.0), ("L", 0, -1.0)])
def test_png_goes_by_the_whole_range_of_its_format(tmp_path: Path, mode: str, value: Any, wanted: float):
    """Grey or colour, eight bits."""
    Picture.new(mode, (6, 6), value).save(tmp_path / "a.png")
    assert level(tmp_path / "a.png", PART) == pytest.approx(wanted)


def test_sixteen_bits_of_a_png_are_not_cut(tmp_path: Path):
    """Half of the range is the middle."""
    Picture.fromarray(np.full((6, 6), 32768, np.uint16)).save(tmp_path / "a.png")
    assert level(tmp_path / "a.png", PART) == pytest.approx(0.0, abs=1e-3)


def test_an_npz_of_many_images_gives_the_one_at_a_place(tmp_path: Path):
    """As medical benchmark sets are published; nothing in it is unpickled."""
    np.savez(tmp_path / "a.npz", images=np.stack([np.full((5, 5), v, np.uint8) for v in (0, 255)]), labels=[0, 1])
    assert float(read_image(tmp_path / "a.npz", PART, place=1).min()) == 1.0
    np.savez(tmp_path / "b.npz", images=np.array([object()], dtype=object))
    with pytest.raises(DataError, match="can't be read"):
        read_image(tmp_path / "b.npz", PART, place=0)


def prepared(folder: Path, rows: list[str], schema: Schema = SCHEMA) -> ChainLog:
    """Prepare the images below `folder` that the rows of a table name, and return the log."""
    log = ChainLog(folder / "audit.jsonl")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    prepare_images(named(*rows), images, schema=schema, table=TABLE, out_dir=folder, log=log)
    return log


def named(*names: str) -> NamedImages:
    """Return the images that rows name."""
    found = NamedImages()
    for name in names:
        found.number(name)
    return found


def picture(folder: Path) -> Path:
    """Write an image that can be read below `folder`."""
    (folder / "images").mkdir(exist_ok=True)
    Picture.new("L", (6, 6), 9).save(folder / "images" / "good.png")
    return folder / "images" / "good.png"


def test_a_corrupt_image_is_skipped_and_counted(tmp_path: Path):
    """So is a file that is not there or lies outside the folder, readable or not; a row without image is no fault."""
    good = picture(tmp_path)
    (good.parent / "bad.png").write_bytes(good.read_bytes()[:40])
    (good.parent / "text.dcm").write_bytes(b"not an image")
    (tmp_path / "outside.png").write_bytes(good.read_bytes())
    rows = ["good.png", "bad.png", "text.dcm", "none.png", "../outside.png", ""]
    log = prepared(tmp_path, rows)
    body = log.entries()[-1].body
    assert (body["images"], body["missing"], body["unreadable"]) == (1, 1, 4)
    assert list(open_images(tmp_path, SCHEMA, log)) == ["1"]


def test_not_one_readable_image_is_an_error(tmp_path: Path):
    """A wrong folder shows at once."""
    with pytest.raises(DataError, match="none of the 1 images could be read"):
        prepared(tmp_path, ["none.png"])


def test_images_that_the_log_does_not_vouch_for_are_refused(tmp_path: Path):
    """One flipped bit, another schema or another table, and they are not used."""
    picture(tmp_path)
    log = prepared(tmp_path, ["good.png"])
    other = Schema(name="scans", file="x", columns=SCHEMA.columns, targets=SCHEMA.targets, image=LUNG)
    with pytest.raises(IntegrityError, match="does not vouch"):
        open_images(tmp_path, other, log)
    with pytest.raises(IntegrityError, match="images of another table"):
        open_images(tmp_path, SCHEMA, log, table="1" * 64)
    assert open_images(tmp_path, SCHEMA, log, table=TABLE)
    data = bytearray((tmp_path / IMAGES_FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / IMAGES_FILE).write_bytes(data)
    with pytest.raises(IntegrityError, match="does not vouch"):
        open_images(tmp_path, SCHEMA, log)


def test_negative_values_keep_their_sign_in_twelve_bits(tmp_path: Path):
    """Signed values of fewer bits than a word, as scanners store them."""
    path = write_dicom(tmp_path / "a", np.full((4, 4), -600 & 0x0FFF, np.uint16), PixelRepresentation=1)
    assert level(path, LUNG) == pytest.approx(expected(-600.0, LUNG), abs=1e-4)
