"""Pixels: byte for byte where they pass, black where they are masked, quarantined where nobody can tell."""

import io
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
ULTRASOUND, MULTIFRAME = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
RLE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
GEOMETRY = (
    "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SliceLocation", "RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "InstanceNumber", "PhotometricInterpretation", "KVP", "EchoTime", "RepetitionTime",
    "DoseGridScaling", "GridFrameOffsetVector", "WindowCenter", "WindowWidth",
)  # fmt: skip


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    """Return one ultrasound region."""
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    item.RegionSpatialFormat = item.RegionDataType = 1
    return item


def ultrasound(
    make: Maker, image: NDArray[np.uint8], *, planar: int = 0, regions: list[Dataset], **more: object
) -> Dataset:
    """Return an ultrasound data set of `image` with shape (frames, rows, columns[, 3])."""
    colour = image.ndim == 4
    stored = image.transpose(0, 3, 1, 2) if planar else image
    values: dict[str, object] = {
        "Modality": "US", "Rows": image.shape[1], "Columns": image.shape[2], "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2", "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "NumberOfFrames": image.shape[0], "SequenceOfUltrasoundRegions": regions,
        "PixelData": stored.tobytes(),
    }  # fmt: skip
    if colour:
        values["PlanarConfiguration"] = planar
    return make(MULTIFRAME if image.shape[0] > 1 else ULTRASOUND, **values | more)


def noise(*shape: int) -> NDArray[np.uint8]:
    """Return pixels none of which is black."""
    return np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)


def reason(data: bytes, site: Keyed) -> str:
    """Return why a file is quarantined."""
    with pytest.raises(QuarantineError) as caught:
        clean_bytes(data, site)
    return caught.value.reason


@pytest.mark.parametrize("name", [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "J2K_pixelrep_mismatch.dcm", "rtdose.dcm",
    "rtdose_rle.dcm", "liver_1frame.dcm", "693_J2KI.dcm",
])  # fmt: skip
def test_pixels_and_geometry_are_untouched(keyed: Site, name: str):
    """D7: pixel bytes, also compressed ones, are identical, and geometry and rescale are kept."""
    source = pydicom.dcmread(SHIPPED / name)
    cleaned = clean_bytes((SHIPPED / name).read_bytes(), keyed())
    result = pydicom.dcmread(io.BytesIO(cleaned.data))
    assert cleaned.pixels == "untouched"
    assert result.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert result.PixelData == source.PixelData
    for keyword in GEOMETRY:
        assert result.get(keyword) == source.get(keyword), keyword


@pytest.mark.parametrize("layout", [
    ((1, 20, 30), 0), ((1, 20, 30, 3), 0), ((1, 20, 30, 3), 1), ((3, 20, 30), 0), ((3, 20, 30, 3), 0),
    ((3, 20, 30, 3), 1),
])  # fmt: skip
@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_uncompressed_ultrasound_is_black_outside_its_regions(
    make: Maker, written: Writer, keyed: Site, layout: tuple[tuple[int, ...], int], transfer_syntax: str
):
    """Every pixel of every frame outside the union of regions is black; every one inside is as it was."""
    shape, planar = layout
    image = noise(*shape)
    dataset = ultrasound(make, image, planar=planar, regions=[region(2, 5, 10, 15), region(8, 10, 28, 18)])
    cleaned = clean_bytes(written(dataset, transfer_syntax), keyed())
    result = pydicom.dcmread(io.BytesIO(cleaned.data))
    expected = masked(image)
    found = np.frombuffer(result.PixelData, np.uint8)[: image.size]
    stored = expected.transpose(0, 3, 1, 2) if planar else expected
    assert cleaned.pixels == "masked"
    assert np.array_equal(found, stored.ravel())
    assert (result.BurnedInAnnotation, result.PatientIdentityRemoved) == ("NO", "YES")
    assert result.file_meta.TransferSyntaxUID == transfer_syntax


@pytest.mark.parametrize("transfer_syntax", [RLE, J2K])
@pytest.mark.parametrize("shape", [(1, 48, 64), (1, 48, 64, 3), (2, 48, 64, 3)])
def test_compressed_ultrasound_is_decoded_and_masked(
    make: Maker, written: Writer, keyed: Site, transfer_syntax: str, shape: tuple[int, ...]
):
    """A losslessly compressed file comes out uncompressed, black outside its regions, exact inside."""
    image = noise(*shape)
    dataset = ultrasound(make, image, regions=[region(2, 5, 10, 15), region(8, 10, 28, 18)])
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.compress(transfer_syntax, generate_instance_uid=False)
    cleaned = clean_bytes(written(dataset, transfer_syntax), keyed())
    result = pydicom.dcmread(io.BytesIO(cleaned.data))
    assert result.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert np.array_equal(result.pixel_array.reshape(shape), masked(image))


def test_what_an_ultrasound_claims_takes_no_memory(make: Maker, written: Writer, keyed: Site):
    """A short file that claims 4 gigabytes, or says its size in more than one number, is quarantined without them."""
    dataset = ultrasound(make, noise(1, 20, 30), regions=[region(2, 5, 10, 15)])
    honest = written(dataset)
    dataset.Rows = dataset.Columns = 0xFFFF
    side = struct.pack("<HH2sH", 0x28, 0x10, b"US", 2) + struct.pack("<H", 20)
    twice = side[:6] + struct.pack("<HHH", 4, 20, 9)
    assert honest.count(side) == 1
    tracemalloc.start()
    try:
        assert reason(written(dataset), keyed()) == "truncated"
        assert reason(honest.replace(side, twice), keyed()) == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def _claiming(stream: bytes, rows: int, columns: int, samples: int) -> bytes:
    """Return a frame whose header says another size; what follows is as it was."""
    if stream.startswith(b"\xff\x4f"):
        spec = stream[40:43] * samples
        sizes = struct.pack(">2I8x2I8xH", columns, rows, columns, rows, samples)
        tail = stream[42 + 3 * int.from_bytes(stream[40:42], "big") :]
        return stream[:4] + struct.pack(">H", 38 + 3 * samples) + stream[6:8] + sizes + spec + tail
    at = re.search(rb"\xff[\xc0-\xc3]", stream).start()  # type: ignore[union-attr]  every JPEG has a frame header
    return stream[: at + 5] + struct.pack(">HHB", rows, columns, samples) + stream[at + 10 :]


@pytest.mark.parametrize("name", ["693_J2KI.dcm", "JPGExtended.dcm"])
@pytest.mark.parametrize(
    ("claimed", "told", "why"),
    [
        ((65_000, 65_000, 1), None, "wrong-size"),
        ((0, 0, 1), None, "wrong-size"),
        ((512, 512, 200), None, "wrong-size"),
        ((65_000, 65_000, 1), (65_000, 65_000), "too-large"),
    ],
)
def test_no_decoder_sees_a_frame_that_claims_another_size(
    claimable: Callable[..., str], name: str, claimed: tuple[int, int, int], told: tuple[int, int] | None, why: str
):
    """A few kilobytes that make a decoder fetch gigabytes would end the process, and everything that it holds."""
    assert claimable(name) == "decoded"
    assert claimable(name, claimed, told) == why


@pytest.fixture
def claimable(make: Maker, written: Writer, keyed: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what happens to a shipped image as ultrasound, whose stream and dataset claim other sizes if they do."""
    decoded: list[object] = []
    monkeypatch.setattr("fedmed.deid.dicom.pixels.pixel_array", lambda data: decoded.append(data) or data.none)

    def fate(name: str, claimed: tuple[int, int, int] | None = None, told: tuple[int, int] | None = None) -> str:
        decoded.clear()
        source = pydicom.dcmread(SHIPPED / name)
        stream = b"".join(list(generate_fragments(source.PixelData))[1:])
        shape = {one: source[one].value for one in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")}
        if told is not None:
            shape |= dict(zip(("Rows", "Columns"), told, strict=True))
        dataset = make(ULTRASOUND, SequenceOfUltrasoundRegions=[region(2, 5, 10, 15)], **shape)
        dataset.PixelData = encapsulate([_claiming(stream, *claimed) if claimed else stream])
        dataset["PixelData"].is_undefined_length = True
        found = reason(written(dataset, source.file_meta.TransferSyntaxUID), keyed())
        return "decoded" if decoded else found

    return fate


def test_lossy_colour_ultrasound_is_decoded_to_rgb(make: Maker, written: Writer, keyed: Site):
    """A JPEG in YBR is decoded and blackened; what comes out says RGB."""
    source = pydicom.dcmread(SHIPPED / "examples_ybr_color.dcm")
    source.SequenceOfUltrasoundRegions = [region(20, 30, 300, 200)]
    cleaned = clean_bytes(written(source, source.file_meta.TransferSyntaxUID), keyed())
    result = pydicom.dcmread(io.BytesIO(cleaned.data))
    image = result.pixel_array
    assert (result.PhotometricInterpretation, image.shape) == ("RGB", (30, 240, 320, 3))
    assert not image[:, :30].any()
    assert not image[:, :, 301:].any()
    assert image[:, 30:201, 20:301].any()


@pytest.mark.parametrize("regions", [
    [], [region(0, 0, 29, 19)], [region(0, 0, 400, 10)], [region(10, 10, 5, 15)],
    [region(0, 0, 29, 10), region(0, 9, 29, 19)],
])  # fmt: skip
def test_ultrasound_without_usable_regions_is_quarantined(
    make: Maker, written: Writer, keyed: Site, regions: list[Dataset]
):
    """No region, regions outside the image or the wrong way round, and regions that leave nothing to mask."""
    data = written(ultrasound(make, noise(1, 20, 30), regions=regions))
    assert reason(data, keyed()) in {"ultrasound-without-regions", "ultrasound-regions"}


def test_what_might_hold_burnt_in_text_is_quarantined(make: Maker, written: Writer, keyed: Site):
    """Captures, documents, classes that nobody vouched for, screens, overlays in pixels, and BurnedInAnnotation."""
    overlay = make()
    overlay.add_new(0x60000010, "US", 4)
    overlay.add_new(0x60000100, "US", 16)
    cases = {
        "secondary-capture": make("1.2.840.10008.5.1.4.1.1.7"),
        "encapsulated-document": make("1.2.840.10008.5.1.4.1.1.104.1", pixels=False, EncapsulatedDocument=b"%PDF"),
        "dicomdir": make("1.2.840.10008.1.3.10", pixels=False),
        "pixels-unassessed": make("1.2.840.10008.5.1.4.1.1.77.1.1"),
        "sop-class": make("1.2.826.0.1.3680043.9.1", pixels=False),
        "burned-in": make(BurnedInAnnotation="YES"),
        "screen-capture": make(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        "overlay-in-pixels": overlay,
        "no-pixels": make(pixels=False, Rows=4),
    }
    for expected, dataset in cases.items():
        assert reason(written(dataset), keyed()) == expected
    assert reason(written(make(PhotometricInterpretation="RGB", SamplesPerPixel=1)), keyed()) == "screen-capture"
    assert reason(written(make(ConversionType="WSD")), keyed()) == "screen-capture"


def test_a_site_may_vouch_for_a_class_and_for_burnt_in_ultrasound(make: Maker, written: Writer, keyed: Site):
    """trusted_pixels lets a listed class pass; burned_in=mask lets ultrasound with regions pass, masked."""
    photo = "1.2.840.10008.5.1.4.1.1.77.1.4"
    assert clean_bytes(written(make(photo)), keyed(trusted_pixels=(photo,))).pixels == "untouched"
    dataset = ultrasound(make, noise(1, 20, 30), regions=[region(2, 5, 10, 15)], BurnedInAnnotation="YES")
    assert reason(written(dataset), keyed()) == "burned-in"
    assert clean_bytes(written(dataset), keyed(burned_in="mask")).pixels == "masked"
    assert reason(written(dataset), keyed(clean_pixel_data=False, burned_in="mask")) == "ultrasound-without-regions"


def test_bytes_behind_the_last_pixel_are_dropped_and_missing_ones_quarantined(
    make: Maker, written: Writer, keyed: Site
):
    """Pixel data has exactly the described length, or the file is not cleaned."""
    pixels = struct.pack("<24H", *range(24))
    cleaned = clean_bytes(written(make(PixelData=pixels + b"QXZ hidden!!")), keyed()).data
    assert pydicom.dcmread(io.BytesIO(cleaned)).PixelData == pixels
    assert reason(written(make(PixelData=pixels[:-2])), keyed()) == "truncated"


def test_comments_in_compressed_frames_are_quarantined(make: Maker, written: Writer, keyed: Site):
    """A comment that is nothing but an encoder's name passes; one with a name in its place does not."""
    source = pydicom.dcmread(SHIPPED / "MR_small_jp2klossless.dcm")
    frame = next(iter(list(generate_fragments(source.PixelData))[1:]))
    commented = frame.replace(b"Created by GDCM/OpenJPEG version 2.0", b"Created by Qxzfamily Qxzgiven ver 20")
    assert commented != frame
    source.PixelData = encapsulate([commented])
    source["PixelData"].is_undefined_length = True
    assert reason(written(source, J2K), keyed()) == "embedded-comment"


def masked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `image` with the two regions of these tests and nothing else."""
    expected = np.zeros_like(image)
    expected[:, 5:16, 2:11] = image[:, 5:16, 2:11]
    expected[:, 10:19, 8:29] = image[:, 10:19, 8:29]
    return expected
