"""Every DICOM file that pydicom ships: cleaned or quarantined, and nothing identifying in the output bytes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset

from fedmed.deid.dicom.engine import Keyed
from fedmed.deid.dicom.files import Cleaned, clean_bytes
from fedmed.deid.dicom.quarantine import QuarantineError
from fedmed.deid.dicom.table import allowed, profile
from fedmed.deid.dicom.values import WORDS_FILE

Site = Callable[..., Keyed]
SHIPPED = Path(pydicom.data.__file__).parent
FOLDERS = ("charset_files", "palettes", "test_files")
NOT_DICOM = {".txt", ".md", ".json", ".dump", ".gz", ".icc"}
IDENTIFYING = {row.tag for row in profile() if row.action != "X/Z/U*"}
ALLOWED = {row.tag for row in allowed()}
TEXTS = {"AE", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT"}
HARMLESS = re.compile(r"\W*|[0-9.]{1,5}|.{1,3}", re.DOTALL)


def shipped() -> list[Path]:
    """Return the DICOM files in the wheel; nothing is downloaded."""
    found = (path for folder in FOLDERS for path in sorted((SHIPPED / folder).rglob("*")))
    return [path for path in found if path.is_file() and path.suffix not in NOT_DICOM and path.name != "README"]


def identifying(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """Yield the tag and each value of a dataset that de-identification must remove."""
    for element in dataset.iterall():
        tag = f"{element.tag:08X}"
        private = element.tag.is_private
        if element.VR not in TEXTS or tag in ALLOWED or not (private or tag in IDENTIFYING or element.VR != "UI"):
            continue
        values = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
        for value in values:
            text = str(value or "").strip()
            if not HARMLESS.fullmatch(text) and text not in UID_dictionary:
                yield tag, value.original_string if element.VR == "PN" else text.encode("utf-8", "replace")


def outcome(path: Path, site: Keyed) -> Cleaned | str:
    """Return the cleaned file, or the reason why it is none."""
    try:
        return clean_bytes(path.read_bytes(), site)
    except QuarantineError as error:
        return error.reason


def test_there_are_enough_files_to_mean_something():
    """The wheel still ships what this test was written for."""
    assert len(shipped()) > 150


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(SHIPPED)))
def test_no_identifying_value_of_a_shipped_file_survives(path: Path, keyed: Site):
    """D4: a file is quarantined, or none of the input's identifying values is in the output's bytes."""
    result = outcome(path, keyed(dates="remove"))
    if isinstance(result, str):
        return
    source = pydicom.dcmread(path, force=True)
    pixels = source.get("PixelData", b"")
    output = result.data.replace(pixels, b"") if pixels else result.data
    known = set(WORDS_FILE.read_text(encoding="utf-8").split())
    leaks = [(tag, value) for tag, value in identifying(source) if value in output]
    assert [(tag, value) for tag, value in leaks if value.decode("utf-8", "replace").casefold() not in known] == []


def test_most_shipped_images_of_scanners_are_cleaned_not_quarantined(keyed: Site):
    """D4: fail-closed is not fail-always: what the wheel holds of CT, MR and RT comes out."""
    names = ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "rtdose.dcm", "rtplan.dcm"]
    for name in names:
        assert isinstance(outcome(SHIPPED / "test_files" / name, keyed()), Cleaned), name
