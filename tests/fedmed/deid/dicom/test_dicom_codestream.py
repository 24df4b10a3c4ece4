"""Compressed pixels: a stream that decoding needs passes byte for byte, and nothing that stands beside it does."""

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments

from fedmed.deid.dicom.codestream import fragments
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
Change = Callable[[bytes], bytes]
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
CT_CLASS, MULTIFRAME_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
NAME = b"ouyang xiuwen 19560807"
EVEN = NAME + b" " * (len(NAME) % 2)
KINDS = {
    "jpeg": ("JPGExtended.dcm", "1.2.840.10008.1.2.4.51"),
    "jpeg-ls": ("MR_small_jpeg_ls_lossless.dcm", "1.2.840.10008.1.2.4.80"),
    "jpeg2000": ("MR_small_jp2klossless.dcm", "1.2.840.10008.1.2.4.90"),
    "rle": ("MR_small_RLE.dcm", "1.2.840.10008.1.2.5"),
}


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of JPEG or JPEG 2000."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def stream_of(kind: str) -> tuple[bytes, Dataset]:
    """Return the one frame of a shipped file, and that file."""
    source = pydicom.dcmread(SHIPPED / KINDS[kind][0])
    return b"".join(list(generate_fragments(source.PixelData))[1:]), source


def image(make: Maker, kind: str, value: bytes, frames: int = 1) -> Dataset:
    """Return a CT file whose encapsulated pixel data are `value`, with the shape of the shipped file."""
    source = stream_of(kind)[1]
    shape = {name: source[name].value for name in
             ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")}  # fmt: skip
    dataset = make(MULTIFRAME_CT if frames > 1 else CT_CLASS, **shape, NumberOfFrames=frames)
    dataset.PixelData = value
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    return dataset


def cleaned_value(dataset: Dataset, kind: str, written: Writer, site: Keyed) -> bytes | str:
    """Return the pixel data of the cleaned file, or the reason why there is none."""
    try:
        data = clean_bytes(written(dataset, KINDS[kind][1]), site).data
    except QuarantineError as error:
        return error.reason
    assert NAME not in data
    value: bytes = pydicom.dcmread(io.BytesIO(data)).PixelData
    return value


def items(parts: Sequence[bytes]) -> bytes:
    """Return items of encapsulated pixel data, the first of which is the table of offsets."""
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [b"", b"\0\0", b"\0\0\0\0"])
def test_a_stream_that_a_codec_wrote_passes_byte_for_byte(
    make: Maker, written: Writer, keyed: Site, kind: str, padding: bytes
):
    """D7: real frames of each kind come out as they went in, and zeros after their end are no reason to keep them."""
    frame = stream_of(kind)[0]
    value = encapsulate([frame + padding])
    assert cleaned_value(image(make, kind, value), kind, written, keyed()) == value


def _before_end(frame: bytes, extra: bytes) -> bytes:
    at = frame.rindex(b"\xff\xd9")
    return frame[:at] + extra + frame[at:]


def _behind(frame: bytes, mark: bytes, extra: bytes) -> bytes:
    """Return `frame` with `extra` behind the first segment of a marker."""
    at = frame.index(mark)
    end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return frame[:end] + extra + frame[end:]


def _in_tile_header(frame: bytes, extra: bytes) -> bytes:
    at = frame.index(b"\xff\x90")
    (length,) = struct.unpack_from(">I", frame, at + 6)
    sized = frame[: at + 6] + struct.pack(">I", length + len(extra)) + frame[at + 10 :]
    return sized[: at + 12] + extra + sized[at + 12 :]


def jfif(letters: bytes) -> bytes:
    """Return JFIF headers whose densities spell `letters`, four at a time."""
    densities = [letters[at : at + 4].ljust(4) for at in range(0, len(letters), 4)]
    return b"".join(segment(0xE0, b"JFIF\0\1\1\0" + density + b"\0\0") for density in densities)


TABLE = bytes([0x13]) + bytes(15) + bytes([len(EVEN)]) + EVEN
HIDDEN: dict[str, tuple[str, Change]] = {
    "after the end of a JPEG": ("jpeg", lambda frame: frame + EVEN),
    "after the end of a JPEG-LS": ("jpeg-ls", lambda frame: frame + EVEN),
    "after the end of a JPEG 2000": ("jpeg2000", lambda frame: frame + EVEN),
    "after the last run of RLE": ("rle", lambda frame: frame + EVEN),
    "a JPEG comment before the scan": ("jpeg", lambda frame: frame[:2] + segment(0xFE, EVEN) + frame[2:]),
    "a JPEG comment after the scan": ("jpeg", lambda frame: _before_end(frame, segment(0xFE, EVEN))),
    "EXIF after the scan": ("jpeg", lambda frame: _before_end(frame, segment(0xE1, b"Exif\0\0" + EVEN))),
    "JFIF headers one after the other": ("jpeg", lambda frame: frame[:2] + jfif(EVEN) + frame[2:]),
    "a JFIF header after the scan": ("jpeg", lambda frame: _before_end(frame, jfif(EVEN[:4]))),
    "an encoder's comment after the scan": ("jpeg", lambda frame: _before_end(frame, segment(0xFE, b"IJG 6.2"))),
    "a longer scan header": (
        "jpeg", lambda frame: _before_end(frame, segment(0xDA, b"\1\1\0\0\x3f\0" + EVEN) + b"\0"),
    ),
    "half of a table": (
        "jpeg", lambda frame: frame[:2] + segment(0xDB, b"\3" + bytes(64) + b"\2" + EVEN) + frame[2:],
    ),
    "a JFIF header with more": ("jpeg", lambda frame: frame[:2] + segment(0xE0, b"JFIF\0" + EVEN[:11]) + frame[2:]),
    "an encoder's version": ("jpeg", lambda frame: frame[:2] + segment(0xFE, b"IJG 195608079999") + frame[2:]),
    "a reserved JPEG segment": ("jpeg", lambda frame: frame[:2] + segment(0xF3, EVEN) + frame[2:]),
    "a JPEG-LS comment after the scan": ("jpeg-ls", lambda frame: _before_end(frame, segment(0xFE, EVEN))),
    "JPEG-LS parameters of no kind": ("jpeg-ls", lambda frame: frame[:2] + segment(0xF8, b"\5" + EVEN) + frame[2:]),
    "a longer JPEG frame header": ("jpeg", lambda frame: frame[:2] + segment(0xC1, b"\x0c" + EVEN) + frame[2:]),
    "a table that is no table": ("jpeg", lambda frame: _before_end(frame, segment(0xDB, EVEN))),
    "values of a Huffman table twice": ("jpeg", lambda frame: _before_end(frame, segment(0xC4, TABLE))),
    "a table that another replaces": (
        "jpeg", lambda frame: frame[:2] + segment(0xDB, b"\0" + EVEN.ljust(64, b"\1")) + frame[2:],
    ),
    "a second image behind the first": ("jpeg", lambda frame: frame + frame.replace(b"\0\0\0", NAME[:3])),
    "a comment in the main header": (
        "jpeg2000", lambda frame: _behind(frame, b"\xff\x52", segment(0x64, b"\0\1" + EVEN)),
    ),
    "a comment in the header of a tile part": (
        "jpeg2000", lambda frame: _in_tile_header(frame, segment(0x64, b"\0\1" + EVEN)),
    ),
    "lengths of packets that are none": (
        "jpeg2000", lambda frame: _in_tile_header(frame, segment(0x58, b"\0" + EVEN)),
    ),
    "lengths of tile parts that are none": (
        "jpeg2000", lambda frame: _behind(frame, b"\xff\x52", segment(0x55, b"\0\x40" + EVEN[:20])),
    ),
    "an unknown marker of JPEG 2000": ("jpeg2000", lambda frame: _behind(frame, b"\xff\x52", segment(0x74, EVEN))),
    "a longer size": (
        "jpeg2000", lambda frame: frame[:4] + struct.pack(">H", int.from_bytes(frame[4:6], "big") + len(EVEN))
        + frame[6 : 2 + int.from_bytes(frame[4:6], "big") + 2] + EVEN
        + frame[4 + int.from_bytes(frame[4:6], "big") :],
    ),
    "a file format around JPEG 2000": (
        "jpeg2000", lambda frame: b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", 8 + len(EVEN)) + b"xml " + EVEN
        + struct.pack(">I", 8 + len(frame)) + b"jp2c" + frame,
    ),
    "unused words of an RLE header": ("rle", lambda frame: frame[:16] + EVEN.ljust(48, b"\0") + frame[64:]),
    "between RLE segments": (
        "rle", lambda frame: struct.pack("<3I", 2, 64, int.from_bytes(frame[8:12], "little") + len(EVEN))
        + frame[12 : int.from_bytes(frame[8:12], "little")] + EVEN + frame[int.from_bytes(frame[8:12], "little") :],
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", HIDDEN)
def test_text_beside_the_image_does_not_pass_with_the_pixels(make: Maker, written: Writer, keyed: Site, place: str):
    """A name that a workstation wrote into a compressed frame, where no viewer looks, is not in any output."""
    kind, hide = HIDDEN[place]
    frame = hide(stream_of(kind)[0])
    result = cleaned_value(image(make, kind, encapsulate([frame])), kind, written, keyed())
    assert result in {"embedded-comment", "stray-bytes", "unknown-stream"}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_no_viewer_shows_do_not_pass(make: Maker, written: Writer, keyed: Site, kind: str):
    """A dataset that tells of fewer rows than are compressed would carry the others, with a banner on them, outside."""
    dataset = image(make, kind, encapsulate([stream_of(kind)[0]]))
    assert isinstance(cleaned_value(dataset, kind, written, keyed()), bytes)
    dataset.Rows -= 4
    assert cleaned_value(dataset, kind, written, keyed()) == ("stray-bytes" if kind == "rle" else "wrong-size")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fragment_of_no_frame_does_not_pass(make: Maker, written: Writer, keyed: Site, kind: str):
    """Fragments before, between and after the frames that are no part of them are refused."""
    frame = stream_of(kind)[0]
    for parts in ([b"", EVEN, frame], [b"", frame, EVEN], [b"", frame, frame]):
        assert isinstance(cleaned_value(image(make, kind, items(parts)), kind, written, keyed()), str)
    two = items([b"", frame, EVEN, frame])
    assert isinstance(cleaned_value(image(make, kind, two, frames=2), kind, written, keyed()), str)
    assert cleaned_value(image(make, kind, items([b"", frame]), frames=2), kind, written, keyed()) == "truncated"


@pytest.mark.parametrize("kind", ["jpeg", "jpeg-ls", "jpeg2000"])
def test_a_frame_may_have_several_fragments(make: Maker, written: Writer, keyed: Site, kind: str):
    """Frames that an encoder cut into fragments pass, and so does a list of where they begin."""
    frame = stream_of(kind)[0]
    half = len(frame) // 4 * 2
    one = items([b"", frame[:half], frame[half:]])
    assert cleaned_value(image(make, kind, one), kind, written, keyed()) == one
    table = struct.pack("<2I", 0, 16 + len(frame))
    two = items([table, frame[:half], frame[half:], frame[:half], frame[half:]])
    assert cleaned_value(image(make, kind, two, frames=2), kind, written, keyed()) == two


def test_the_tables_of_offsets_are_those_of_the_frames(make: Maker, written: Writer, keyed: Site):
    """A table of offsets that holds something else is made anew; a false extended one goes."""
    frame = stream_of("rle")[0]
    table = struct.pack("<2I", 0, 8 + len(frame))
    for stored, expected in ((EVEN, table), (table, table), (b"", b"")):
        dataset = image(make, "rle", items([stored, frame, frame]), frames=2)
        assert cleaned_value(dataset, "rle", written, keyed()) == items([expected, frame, frame])
    starts, lengths = struct.pack("<2Q", 0, 8 + len(frame)), struct.pack("<2Q", len(frame), len(frame))
    for offsets, kept in ((starts, True), (EVEN.ljust(24), False)):
        dataset = image(make, "rle", items([b"", frame, frame]), frames=2)
        dataset.add_new(0x7FE00001, "OV", offsets)
        dataset.add_new(0x7FE00002, "OV", lengths)
        data = clean_bytes(written(dataset, KINDS["rle"][1]), keyed()).data
        assert ("ExtendedOffsetTable" in pydicom.dcmread(io.BytesIO(data))) is kept
    native = make()
    native.add_new(0x7FE00001, "OV", EVEN.ljust(24))
    assert NAME not in clean_bytes(written(native), keyed()).data


def test_video_is_not_passed_unread(make: Maker, written: Writer, keyed: Site):
    """MPEG streams have texts of their own, which nobody looks for; they are quarantined even where a site vouches."""
    dataset = image(make, "jpeg", encapsulate([b"\0\0\1\xb3" + EVEN]))
    with pytest.raises(QuarantineError) as caught:
        clean_bytes(written(dataset, "1.2.840.10008.1.2.4.100"), keyed(trusted_pixels=(CT_CLASS,)))
    assert caught.value.reason == "unknown-stream"


def test_bits_that_rle_pixels_do_not_use_are_looked_at(make: Maker, written: Writer, keyed: Site):
    """Letters above the stored bits of a packed image are found as they are in a plain one."""
    cells = np.arange(24, dtype=np.uint16)
    for index, letter in enumerate(NAME[:12]):
        cells[2 * index] |= (letter & 0xF0) << 8
        cells[2 * index + 1] |= (letter & 0x0F) << 12
    for stored, expected in ((cells, "unused-bits"), (cells & 0xFFF, None)):
        high, low = (stored >> 8).astype(np.uint8).tobytes(), (stored & 255).astype(np.uint8).tobytes()
        frame = struct.pack("<16I", 2, 64, 90, *[0] * 13) + b"\x17" + high + b"\0" + b"\x17" + low + b"\0"
        dataset = make()
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        result = cleaned_value(dataset, "rle", written, keyed())
        assert result == (expected or encapsulate([frame]))


def test_fragments_are_read_without_their_table():
    """The table of offsets is no fragment."""
    assert fragments(items([b"\0\0\0\0", b"ab", b"cd"])) == [b"ab", b"cd"]
