"""Small files that would become large: what a dataset may be inflated to, and how many elements it may have."""

import struct
import zlib
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from fedmed.deid.dicom import extent, stream
from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import DEFLATED, clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.stream import Element, StreamError, Syntax, encode, parse
from fedmed.files import LEAST_UNPACKED

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
Site = Callable[..., Keyed]
EXPLICIT = Syntax(implicit=False, little=True)


def test_a_deflated_file_inflates_in_proportion(make: Maker, written: Writer, keyed: Site):
    """A dataset of zeros that inflates to far more than its file is quarantined before it fills the memory."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = written(make(), DEFLATED)
    meta = 144 + struct.unpack_from("<I", head, 140)[0]
    body = b"".join(packed.compress(bytes(1 << 20)) for _ in range(LEAST_UNPACKED // (1 << 20) + 64))
    with pytest.raises(QuarantineError) as caught:
        clean_bytes(head[:meta] + body + packed.flush(), keyed())
    assert caught.value.reason == "too-large"


def test_elements_and_items_are_counted(monkeypatch: pytest.MonkeyPatch):
    """Each element and item takes many times its bytes, so a dataset with too many of either is refused."""
    monkeypatch.setattr(stream, "MAX_ELEMENTS", 10)
    assert parse(encode([Element(0x00100000 + at, "LO") for at in range(10)], EXPLICIT), 0, syntax=EXPLICIT, vr_of={})
    for many in (
        [Element(0x00100000 + at, "LO") for at in range(11)],
        [Element(0x00400275, "SQ", items=((),) * 10)],
    ):
        with pytest.raises(StreamError, match="more than 10"):
            parse(encode(many, EXPLICIT), 0, syntax=EXPLICIT, vr_of={})


def test_frames_that_are_masked_decode_in_proportion(make: Maker, monkeypatch: pytest.MonkeyPatch):
    """What compressed frames would be decoded to is bounded by their own bytes, far below what any file may take."""
    dataset = {
        tag: Element(tag, "US", value.to_bytes(2, "little"))
        for tag, value in ((0x00280002, 1), (0x00280010, 30_000), (0x00280011, 30_000), (0x00280100, 8))
    }
    pixels = Element(0x7FE00010, "OB", bytes(8), encapsulated=True)
    with pytest.raises(QuarantineError) as caught:
        extent.check_extent(dataset | {0x7FE00010: pixels}, little=True, encapsulated=True, rle=False, decoded=True)
    assert caught.value.reason == "too-large"
