"""A canary in every attribute: each once, each found, at the top and two sequences deep."""

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fedmed_sim.phantoms.dicom_canaries import CanaryFile, draw_canary_file, occurrences

TABLE = Path(__file__).parents[4] / "shared" / "data" / "dicom-confidentiality" / "ps3.15-table-e1-1.json"
TAGS = ("00100010", "00100030", "00081032", "00020016", "0008103E", "60xx4000", "00101010", "00041511", "0020000D")


def drawn(tags: tuple[str, ...] = TAGS, seed: int = 1) -> CanaryFile:
    """Return a canary file of a fixed seed."""
    return draw_canary_file(np.random.default_rng(seed), tags)


def test_each_canary_occurs_exactly_once():
    """Every needle is in the bytes once, so a leak names its place; the empty ones are of short values."""
    file = drawn()
    assert {canary.vr for canary in file.canaries if not canary.needle} == {"AS"}
    assert all(file.payload.count(canary.needle) == 1 for canary in file.canaries if canary.needle)
    assert file.leaks(file.payload) == tuple(canary for canary in file.canaries if canary.needle)
    assert file.leaks(b"nothing") == ()


def test_every_tag_stands_at_the_top_and_two_deep():
    """A reader finds each tag in both places; file meta stands at the top only."""
    file = drawn()
    data = pydicom.dcmread(io.BytesIO(file.payload))
    deep = data.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0]
    assert file.skipped == ("00041511",)
    for canary in file.canaries:
        tag = int(canary.tag, 16)
        place = data.file_meta if tag >> 16 == 2 else deep if canary.depth else data
        assert tag in place
    assert sum(canary.depth == 2 for canary in file.canaries) == len(TAGS) - 2


def test_the_same_seed_gives_the_same_canaries():
    """The file is a function of the seed."""
    assert drawn() == drawn()
    assert drawn().payload != drawn(seed=2).payload


def test_the_whole_table_of_the_standard_fits_in_one_file():
    """Each row of PS3.15 Table E.1-1 that a file can hold is planted, and the file reads."""
    if not TABLE.exists():
        pytest.skip("the table's facts are not there")
    tags = tuple(row["tag"] for row in json.loads(TABLE.read_text(encoding="utf-8")))
    file = drawn(tags)
    data = pydicom.dcmread(io.BytesIO(file.payload))
    data.walk(lambda _, element: element.value)
    counts = {canary: occurrences(canary.needle, file.payload) for canary in file.canaries if canary.needle}
    assert {canary.tag for canary, count in counts.items() if count != 1} == {"00080018"}
    assert {tag[:4] for tag in file.skipped} <= {"0000", "0004", "GGGG"}
    assert len({canary.tag for canary in file.canaries}) + len(file.skipped) >= len(tags) - 2


def test_a_date_inside_a_uid_is_no_leak():
    """Eight digits in the middle of a number are chance; the same digits as a value are a leak."""
    assert occurrences(b"18010203", b"UI\x20\x002.25.99180102037") == 0
    assert occurrences(b"18010203", b"DA\x08\x0018010203\x32\x00") == 1
