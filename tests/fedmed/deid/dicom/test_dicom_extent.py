"""Pixels and other binary values reach exactly as far as their description says."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset

from fedmed.deid.dicom.bits import Bits, refuse_unused
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
NAME = b"Szymborska W 1923-07-02 "
ECG, SPECTRUM = "1.2.840.10008.5.1.4.1.1.9.1.1", "1.2.840.10008.5.1.4.1.1.4.2"


def reason(data: bytes, site: Keyed) -> str:
    """Return why a file is quarantined."""
    with pytest.raises(QuarantineError) as caught:
        clean_bytes(data, site)
    return caught.value.reason


@pytest.mark.parametrize("tag", [0x7FE00008, 0x7FE00009])
def test_a_second_image_beside_the_pixels_is_quarantined(make: Maker, written: Writer, keyed: Site, tag: int):
    """Float pixels beside pixels, which no mask reaches, are in no output, of a scanner or of ultrasound."""
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = 1, 1, 4, 3
    for sop_class in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.6.1"):
        dataset = make(sop_class, SequenceOfUltrasoundRegions=[item])
        assert clean_bytes(written(dataset), keyed()).data
        dataset.add_new(tag, "OF" if tag == 0x7FE00008 else "OD", NAME * 8)
        assert reason(written(dataset), keyed()) == "two-images"


def hidden(signed: int) -> bytes:
    """Return pixels of 12 bits with a name in the four above."""
    cells = np.arange(2 * len(NAME), dtype=np.uint16) | (0x800 if signed else 0)
    letters = np.frombuffer(NAME, np.uint8)
    cells[::2] |= (letters.astype(np.uint16) >> 4) << 12
    cells[1::2] |= (letters.astype(np.uint16) & 15) << 12
    return cells.astype("<u2").tobytes()


@pytest.mark.parametrize("signed", [0, 1])
def test_letters_above_the_stored_bits_are_quarantined(make: Maker, written: Writer, keyed: Site, signed: int):
    """A name in bits that no viewer shows does not leave with the image."""
    dataset = make(Rows=6, Columns=8, PixelRepresentation=signed, PixelData=hidden(signed))
    assert reason(written(dataset), keyed()) == "unused-bits"


def test_signs_padding_and_full_cells_pass_byte_for_byte(make: Maker, written: Writer, keyed: Site):
    """D7: negative values, one value for what lies outside the scan, and images that use every bit are left alone."""
    negative = np.arange(-12, 12, dtype=np.int16)
    outside = np.where(np.arange(24) % 3 == 0, -32_768, np.arange(24)).astype(np.int16)
    cases = [(negative, 12, 1), (outside, 12, 1), (outside, 12, 0), (np.arange(-12, 12, dtype=np.int16) * 99, 16, 0)]
    for cells, stored, signed in cases:
        value = cells.astype("<i2").tobytes()
        dataset = make(PixelData=value, BitsStored=stored, HighBit=stored - 1, PixelRepresentation=signed)
        assert pydicom.dcmread(io.BytesIO(clean_bytes(written(dataset), keyed()).data)).PixelData == value


@pytest.mark.parametrize(
    "bits", [Bits(16, 17, 16, signed=False), Bits(16, 12, 10, signed=False), Bits(16, 0, 11, signed=False)]
)
def test_an_impossible_description_of_a_pixel_is_refused(bits: Bits):
    """Who says that a cell of 16 bits stores 17 says nothing about its unused ones."""
    with pytest.raises(QuarantineError):
        refuse_unused(np.zeros(4, np.uint16), bits)


def test_bits_below_the_stored_ones_count_too():
    """An image that lies at the upper end of its cells has unused bits below."""
    refuse_unused(np.array([16, 32], np.uint16), Bits(16, 12, 15, signed=False))
    with pytest.raises(QuarantineError):
        refuse_unused(np.array([17, 34], np.uint16), Bits(16, 12, 15, signed=False))


def waveform(samples: bytes, **more: object) -> Dataset:
    """Return a multiplex group of two channels with three samples of 16 bits."""
    channel, item = Dataset(), Dataset()
    channel.WaveformBitsStored = 16
    channel.add_new(0x54000110, "OW", b"\0\1" + (NAME if more else b""))
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples, item.WaveformBitsAllocated = 2, 3, 16
    item.WaveformSampleInterpretation, item.ChannelDefinitionSequence = "SS", [channel]
    item.add_new(0x5400100A, "OW", b"\0\2" + (NAME if more else b""))
    item.add_new(0x54001010, "OW", samples)
    return item


def test_a_waveform_ends_with_its_last_sample(make: Maker, written: Writer, keyed: Site):
    """Bytes behind the samples, the padding value and the extreme values of a waveform do not leave the site."""
    samples = struct.pack("<6h", *range(6))
    for item in (waveform(samples), waveform(samples + NAME, long=True)):
        dataset = make(ECG, pixels=False, WaveformSequence=[item])
        cleaned = clean_bytes(written(dataset), keyed()).data
        found = pydicom.dcmread(io.BytesIO(cleaned)).WaveformSequence[0]
        assert NAME[:9] not in cleaned
        assert (found.WaveformData, found.WaveformPaddingValue) == (samples, b"\0\2")
        assert found.ChannelDefinitionSequence[0].ChannelMinimumValue == b"\0\1"
    for missing in ("NumberOfWaveformChannels", "WaveformBitsAllocated"):
        item = waveform(samples + NAME)
        delattr(item, missing)
        assert NAME not in clean_bytes(written(make(ECG, pixels=False, WaveformSequence=[item])), keyed()).data
    short = make(ECG, pixels=False, WaveformSequence=[waveform(samples[:-2])])
    assert (
        "WaveformData" not in pydicom.dcmread(io.BytesIO(clean_bytes(written(short), keyed()).data)).WaveformSequence[0]
    )


def test_a_spectrum_ends_with_its_last_point(make: Maker, written: Writer, keyed: Site):
    """Bytes behind the points of a spectrum do not leave the site."""
    points = struct.pack("<8f", *range(8))
    for value in (points, points + NAME):
        dataset = make(
            SPECTRUM, pixels=False, Rows=1, Columns=2, NumberOfFrames=1, DataPointRows=1, DataPointColumns=2,
            DataRepresentation="COMPLEX", SpectroscopyData=value,
        )  # fmt: skip
        cleaned = clean_bytes(written(dataset), keyed()).data
        assert pydicom.dcmread(io.BytesIO(cleaned)).SpectroscopyData == points
        assert NAME not in cleaned


def test_lookup_tables_end_with_their_last_entry(make: Maker, written: Writer, keyed: Site):
    """Bytes behind the entries of a table of grey values or colours do not leave the site; without a length it goes."""
    entries = struct.pack("<4H", 1, 2, 3, 4)
    segments = struct.pack("<4H3H", 0, 2, 7, 8, 1, 2, 9)
    for behind in (b"", NAME):
        item = Dataset()
        item.add_new(0x00283002, "US", [4, 0, 16])
        item.add_new(0x00283006, "OW", entries + behind)
        dataset = make(VOILUTSequence=[item])
        dataset.add_new(0x00281101, "US", [4, 0, 16])
        dataset.add_new(0x00281201, "OW", entries + behind)
        dataset.add_new(0x00281203, "OW", entries + behind)  # has no descriptor
        dataset.add_new(
            0x00281221, "OW", segments + (struct.pack("<2H", 0, len(behind) // 2) + behind if behind else b"")
        )
        dataset.add_new(0x00281102, "US", [2, 0, 16])
        dataset.add_new(0x00281222, "OW", struct.pack("<2H", 0, len(NAME) // 2) + NAME)  # more entries than the table
        cleaned = clean_bytes(written(dataset), keyed()).data
        result = pydicom.dcmread(io.BytesIO(cleaned))
        assert NAME not in cleaned
        assert (result.VOILUTSequence[0].LUTData, result[0x00281201].value) == (entries, entries)
        assert result[0x00281221].value == segments
        assert 0x00281203 not in result


@pytest.mark.parametrize("season", ["fall", "spring", "summer", "winter"])
def test_shipped_colour_palettes_keep_their_tables(keyed: Site, season: str):
    """D7: segmented tables of 8 bits come out as they went in."""
    path = Path(pydicom.data.__file__).parent / "palettes" / f"{season}.dcm"
    source = pydicom.dcmread(path)
    result = pydicom.dcmread(io.BytesIO(clean_bytes(path.read_bytes(), keyed()).data))
    for tag in (0x00281221, 0x00281222, 0x00281223):
        assert result[tag].value == source[tag].value


def test_meshes_and_grids_end_with_their_last_point(make: Maker, written: Writer, keyed: Site):
    """Bytes behind the points of a surface or of a deformation do not leave the site; nor do halves of numbers."""
    surface, grid = Dataset(), Dataset()
    surface.NumberOfSurfacePoints = 2
    surface.add_new(0x00660016, "OF", struct.pack("<6f", *range(6)) + NAME)
    surface.add_new(0x00660040, "OL", NAME + b"no")  # not a whole number of cells
    grid.add_new(0x00640007, "UL", [1, 1, 1])
    grid.add_new(0x00640009, "OF", struct.pack("<3f", *range(3)) + NAME)
    dataset = make("1.2.840.10008.5.1.4.1.1.66.3", pixels=False, SurfacePointsSequence=[surface])
    dataset[0x52009229] = pydicom.DataElement(0x52009229, "SQ", pydicom.Sequence([grid]))
    cleaned = clean_bytes(written(dataset), keyed()).data
    assert NAME not in cleaned
    result = pydicom.dcmread(io.BytesIO(cleaned))
    assert len(result.SurfacePointsSequence[0].PointCoordinatesData) == 24
    assert len(result[0x52009229][0].VectorGridData) == 12
