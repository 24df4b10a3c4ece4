"""Files of data sets made to take memory: no image, or refused in one line."""

import gzip
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image as Picture

from fedmed import files
from fedmed.data import imaging_bounds, jsonl
from fedmed.data.arrays import rows_of_arrays
from fedmed.data.imaging import read_image, slice_of
from fedmed.data.jsonl import rows_of
from fedmed.data.schema import ImagePart
from fedmed.errors import DataError

PART = ImagePart(column="file", size=4)


def picture(side: int) -> bytes:
    """Return a blank square."""
    data = io.BytesIO()
    Picture.new("1", (side, side)).save(data, "PNG")
    return data.getvalue()


def archive(**arrays: np.ndarray) -> bytes:
    """Return a compressed archive."""
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def test_an_image_of_far_more_pixels_than_bytes_is_none():
    """A blank square of a few kilobytes that would take gigabytes is not decoded, in whatever it comes."""
    assert read_image(picture(1_000), PART).shape == (1, 4, 4)
    for data in (picture(6_000), archive(a=np.zeros((6_000, 6_000), np.uint8))):
        with pytest.raises(DataError, match="can't be read"):
            read_image(data, PART)


def test_a_deflated_dicom_file_inflates_in_proportion(monkeypatch: pytest.MonkeyPatch):
    """A deflated file that inflates to far more than its size is no image and has no place in a series."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.Rows = dataset.Columns = 400
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PatientID, dataset.HighBit = "p1", 7
    dataset.PixelData = bytes(160_000)
    data = io.BytesIO()
    pydicom.dcmwrite(data, dataset, enforce_file_format=True)
    assert read_image(data.getvalue(), PART).shape == (1, 4, 4)
    assert slice_of(data.getvalue()) is not None
    monkeypatch.setattr(files, "LEAST_UNPACKED", 1_000)
    with pytest.raises(DataError):
        read_image(data.getvalue(), PART)
    assert slice_of(data.getvalue()) is None


@pytest.mark.parametrize(("side", "frames"), [(65_000, 1), (64, 500_000)])
def test_a_compressed_dicom_file_may_claim_what_its_bytes_can_hold(side: int, frames: int):
    """A header of many rows or frames over a few compressed bytes is no image, and no room is made for it."""
    dataset = pydicom.dcmread(Path(pydicom.data.__file__).parent / "test_files" / "MR_small_jp2klossless.dcm")
    fates: list[tuple[int, ...] | None] = []
    for dataset.Rows, dataset.NumberOfFrames in ((64, 1), (side, frames)):
        dataset.Columns = dataset.Rows
        data = io.BytesIO()
        dataset.save_as(data)
        tracemalloc.start()
        try:
            fates.append(read_image(data.getvalue(), PART).shape)
        except DataError:
            fates.append(None)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 50e6
    assert fates == [(1, 4, 4), None]


def test_a_volume_is_judged_by_its_slice(monkeypatch: pytest.MonkeyPatch):
    """Of a volume one slice is taken, so only that may not be too large."""
    monkeypatch.setattr(imaging_bounds, "LEAST_VALUES", 50)
    monkeypatch.setattr(imaging_bounds, "VALUES_OF_A_BYTE", 0)
    assert read_image(archive(a=np.arange(350, dtype=np.uint8).reshape(10, 5, 7)), PART).shape == (1, 4, 4)
    with pytest.raises(DataError):
        read_image(archive(a=np.zeros((10, 8, 7), np.uint8)), PART)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Labels and images are compared with the archive's size before they are unpacked."""
    monkeypatch.setattr(files, "LEAST_UNPACKED", 1_000)
    path = tmp_path / "set.npz"
    path.write_bytes(archive(train_images=np.zeros((90_000, 2, 2), np.uint8), train_labels=np.zeros(90_000, np.int64)))
    with pytest.raises(DataError, match="can't be read"):
        list(rows_of_arrays(path))


def test_compressed_lines_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a compressed table unpacks to is bounded by its size, as lines and as a whole."""
    monkeypatch.setattr(files, "LEAST_UNPACKED", 1_000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": "' + b" " * 1_000_000 + b'"}\n'))
    with pytest.raises(DataError, match="far more"):
        list(rows_of(path, ["a"], talk=None))
    path.write_bytes(gzip.compress(b'{"a": "' + b" " * 20_000_000 + b'"}\n'))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="far more"):
            jsonl._unpacked(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    path.write_bytes(gzip.compress(b'{"a": "b"}\n' * 10))
    assert list(rows_of(path, ["a"], talk=None)) == [["b"]] * 10


def test_a_line_that_no_reader_follows_is_one_bad_line(tmp_path: Path):
    """Brackets a hundred thousand deep and numbers of thousands of digits are lines that are no rows."""
    path = tmp_path / "a.jsonl"
    good = '{"a": 1}\n' * 20
    path.write_text(f'{good}{{"a": {"[" * 100_000}{"]" * 100_000}}}\n{{"a": 1{"0" * 5_000}}}\n')
    rows = list(rows_of(path, ["a"], talk=None))
    assert rows[:20] == [["1"]] * 20
    assert rows[20] == ["", ""]
