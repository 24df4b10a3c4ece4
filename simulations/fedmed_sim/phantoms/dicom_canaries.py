"""One DICOM file with a canary in every attribute of a list, at the top and two sequences deep.

Why it exists: a confidentiality profile is a table of hundreds of attributes; only a
file that holds all of them shows that each row is followed at every depth.

Rules:
    * The list of attributes is the caller's. The value representation is that of pydicom's dictionary, LO
      for an attribute that it does not know yet.
    * A canary's bytes occur once per place in the file, so a search of the output tells which place leaked;
      the instance UID alone stands in the file meta too.
    * An attribute whose value is too short to be searched (age, short numbers) is told without bytes.

What it does not do: make a useful image; most attributes have no meaning together.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pydicom
from numpy.random import Generator
from pydicom.datadict import dictionary_has_tag, dictionary_VR, repeater_has_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from fedmed_sim.phantoms.dicom_frame import Series, new_dataset
from fedmed_sim.phantoms.people import draw_person
from fedmed_sim.phantoms.scene import Scene

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_WORDS = frozenset({"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"})
_RAW = frozenset({"OB", "OW", "UN", "OB or OW"})
_CHARACTER_SET = 0x00080005
_REPEATING = {0x5000: 0x2500, 0x6000: 0x1500}
"""The label that stands for a whole repeating group."""

_FIRST_DAY = date(1801, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What was planted in one attribute at one depth."""

    tag: str
    """Eight hexadecimal digits."""

    depth: int
    """0 is the top, 2 is two sequences deep; file meta is 0."""

    vr: str
    needle: bytes
    """The bytes to search for; empty where the value is too short to be told from chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFile:
    """A Part-10 file with its canaries."""

    payload: bytes
    canaries: tuple[Canary, ...]
    skipped: tuple[str, ...]
    """Tags that a file cannot hold: commands, directory records, and patterns of private groups."""

    def leaks(self, data: bytes) -> tuple[Canary, ...]:
        """Return the canaries whose bytes occur in `data`; eight digits inside a UID are no date."""
        return tuple(canary for canary in self.canaries if canary.needle and occurrences(canary.needle, data))


def occurrences(needle: bytes, data: bytes) -> int:
    """Return how often `needle` occurs in `data` without a digit or a dot before it."""
    return len(re.findall(b"(?<![0-9.])" + re.escape(needle), data)) if needle.isdigit() else data.count(needle)


def draw_canary_file(
    rng: Generator,
    tags: Sequence[str],
    *,
    containers: tuple[str, str] = ("AnatomicRegionSequence", "AnatomicRegionModifierSequence"),
) -> CanaryFile:
    """Plant a canary in each of `tags`, at the top and two sequences deep.

    Args:
        rng: The generator.
        tags: Tags of eight hexadecimal digits; `x`, or a mask after a slash, marks a repeating group, of
            which the first one is planted.
        containers: Keywords of the outer and inner sequence of the deep copies; choose ones that the
            code under test keeps, or nothing is tested there.
    """
    scene = Scene(rng, draw_person(rng, "en"))
    series = Series(uid=scene.uid(), number=1, modality="CT", sop_class=CTImageStorage)
    data = new_dataset(scene, scene.visit(), series, instance=1)
    data.SpecificCharacterSet = "ISO_IR 192"
    canaries: list[Canary] = []
    skipped = []
    deep = Dataset()
    for name in tags:
        tag = _tag(name)
        if tag is None:
            skipped.append(name)
        elif tag.group == 2:
            canaries.append(_plant(rng, data.file_meta, tag, depth=0, serial=len(canaries)))
        else:
            canaries.append(_plant(rng, data, tag, depth=0, serial=len(canaries)))
            canaries.append(_plant(rng, deep, tag, depth=2, serial=len(canaries)))
    middle = Dataset()
    setattr(middle, containers[1], [deep])
    setattr(data, containers[0], [middle])
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    told = tuple(canary for canary in canaries if canary.tag != "00020003")
    return CanaryFile(payload=file.getvalue(), canaries=told, skipped=tuple(skipped))


def _tag(name: str) -> BaseTag | None:
    """Return the tag, or None for one that a data set cannot hold."""
    digits = name.split("/", maxsplit=1)[0].lower().replace("x", "0")
    try:
        tag = Tag(int(digits, 16))
    except ValueError:
        return None
    if tag.group in _REPEATING and tag.element == 0:
        return Tag(tag.group, _REPEATING[tag.group])
    return None if tag.group in {0x0000, 0x0004} or tag == _CHARACTER_SET else tag


def _plant(rng: Generator, data: Dataset, tag: BaseTag, *, depth: int, serial: int) -> Canary:
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) or repeater_has_tag(tag) else "LO"
    value, needle = _value(rng, vr, serial)
    data.add_new(tag, "OB" if vr in _RAW else vr.split(" or ")[0], value)
    return Canary(tag=f"{tag:08X}", depth=depth, vr=vr, needle=needle)


def _value(rng: Generator, vr: str, serial: int) -> tuple[object, bytes]:
    """Return a value of this representation that occurs nowhere else, and its bytes."""
    word = "".join(_LETTERS[index] for index in rng.integers(0, len(_LETTERS), 10).tolist())
    if vr in _WORDS or vr in _RAW:
        return (word if vr in _WORDS else word.encode()), word.encode()
    if vr == "SQ":
        item = Dataset()
        item.PatientComments = word
        return [item], word.encode()
    day = f"{_FIRST_DAY + timedelta(days=serial):%Y%m%d}"
    clock = f"{serial // 3600 % 24:02d}{serial // 60 % 60:02d}{serial % 60:02d}.{int(rng.integers(100000, 999999))}"
    number = str(int(rng.integers(10**8, 2 * 10**9)))
    texts = {
        "PN": f"{word}^X",
        "DA": day,
        "TM": clock,
        "DT": day + clock,
        "UI": f"2.25.{int.from_bytes(rng.bytes(15), 'big')}",
        "IS": number,
        "DS": f"{number}.5",
    }
    if vr in texts:
        return texts[vr], texts[vr].encode()
    return ("030Y", b"") if vr == "AS" else (1, b"")
