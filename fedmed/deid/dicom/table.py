"""Table E.1-1 of PS3.15 and the allow-list, resolved into one rule per attribute for a set of options.

Why it exists: the standard's table leaves choices (`X/Z/D`) and says nothing of most attributes. Both are decided
here, once, from two data files that a reader can check line by line.

Rules:
    * `profile.csv`: every row of Table E.1-1, the action that a compound resolves to (the strictest that keeps Type 1
      and Type 2 attributes of PS3.3 valid, by family of SOP class), and the cells of the options.
    * An option relaxes only rows that have its cell. Where several options apply, cleaning wins over keeping.
    * An attribute outside the table passes only by its kind (binary and decimal numbers, sequences, mapped UIDs) or by
      `allowed.csv`, which gives a reason for each. All others are removed: text, unknown and retired ones included.

What it does not do: look at a value.
"""

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from pydicom._dicom_dict import DicomDictionary

from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.values import TERMS_FILE, WORDS_FILE

Action = Literal["keep", "remove", "empty", "dummy", "uid", "clean", "check", "recurse"]
Family = Literal["IMAGE", "MG", "PET", "RT", "RT2", "SR", "OTHER"]

PROFILE_FILE = Path(__file__).with_name("profile.csv")
ALLOWED_FILE = Path(__file__).with_name("allowed.csv")

_BASIC: Mapping[str, Action] = {"X": "remove", "Z": "empty", "D": "dummy", "U": "uid"}
_NUMBERS = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"})
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_IMAGES = ("1", "2", "4", "7", "12.1", "12.2", "20", "128", "6.1", "3.1", "6", "3")
_DIGITAL_XRAY = ("1.1", "1.1.1", "1.3", "1.3.1")
_MAMMOGRAPHY = ("1.2", "1.2.1")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `profile.csv`: a row of Table E.1-1."""

    tag: str
    vr: str
    action: str
    resolved: str
    options: str
    name: str

    def cells(self) -> dict[str, str]:
        """Return the cell of each option that the row has one for."""
        return dict(pair.split(":") for pair in self.options.split())

    def basic(self, family: Family) -> str:
        """Return the one Basic Profile action in `family`."""
        default, *others = self.resolved.split()
        special = dict(other.split(":") for other in others)
        return special.get(family, special.get("IMAGE", default) if family in {"MG", "PET"} else default)


@dataclass(frozen=True, slots=True)
class Allowed:
    """One line of `allowed.csv`: an attribute outside the table that may pass, how, and why."""

    tag: str
    vr: str
    rule: str
    fallback: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to one attribute; `fallback` is done where a value cannot be kept, cleaned or checked.

    `check` names the test of an allow-listed or numeric value.
    """

    action: Action
    fallback: Action
    vr: str
    check: str = ""


@cache
def profile() -> tuple[Row, ...]:
    """Return the rows of `profile.csv`."""
    with PROFILE_FILE.open(encoding="utf-8", newline="") as file:
        return tuple(Row(**line) for line in csv.DictReader(file))


@cache
def allowed() -> tuple[Allowed, ...]:
    """Return the rows of `allowed.csv`."""
    with ALLOWED_FILE.open(encoding="utf-8", newline="") as file:
        return tuple(Allowed(**line) for line in csv.DictReader(file))


@cache
def table_digest() -> str:
    """Return the SHA-256 of the data files, lists of words among them, which every report names."""
    files = (PROFILE_FILE, ALLOWED_FILE, WORDS_FILE, TERMS_FILE)
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@cache
def vr_of() -> Mapping[int, str]:
    """Return the VR of each public attribute that the table or pydicom's dictionary knows."""
    known = {tag: entry[0] for tag, entry in DicomDictionary.items() if entry[0] != "NONE"}
    return {int(row.tag, 16): row.vr for row in profile() if "x" not in row.tag} | known


def family_of(sop_class: str) -> Family:
    """Return the family of SOP classes within which the types of attributes agree.

    >>> family_of("1.2.840.10008.5.1.4.1.1.128")
    'PET'
    """
    last = sop_class.removeprefix(_STORAGE)
    if last == "128":
        return "PET"
    if last in _MAMMOGRAPHY:
        return "MG"
    if last in _IMAGES + _DIGITAL_XRAY:
        return "IMAGE"
    if last.startswith("481."):
        return "RT" if last.removeprefix("481.") in {str(n) for n in range(1, 10)} else "RT2"
    return "SR" if last.startswith(("88.", "11.")) else "OTHER"


@lru_cache(maxsize=32)
def rules(options: DicomOptions, family: Family) -> Mapping[int, Rule]:
    """Return the rule of each attribute that does not simply go; one that is missing here is removed."""
    found = {tag: rule for tag, vr in vr_of().items() if (rule := _unlisted(vr))}
    for entry in allowed():
        fallback = _BASIC[entry.fallback]
        action: Action = "dummy" if entry.rule == "dummy" else "check"
        found[int(entry.tag, 16)] = Rule(action, fallback, entry.vr, entry.rule)
    used = _columns(options)
    for row in profile():
        if "x" not in row.tag:
            found[int(row.tag, 16)] = _listed(row, family, used)
    retired = [tag for tag, entry in DicomDictionary.items() if entry[3] and f"{tag:08X}" not in _tags()]
    for tag in retired:
        found.pop(tag, None)
    return found


@cache
def _tags() -> frozenset[str]:
    return frozenset(row.tag for row in profile()) | frozenset(entry.tag for entry in allowed())


def _unlisted(vr: str) -> Rule | None:
    if vr == "SQ":
        return Rule("recurse", "remove", vr)
    if vr == "UI":
        return Rule("uid", "remove", vr)
    return Rule("check", "empty", vr, "number") if vr in _NUMBERS else None


def _listed(row: Row, family: Family, used: frozenset[str]) -> Rule:
    basic = row.basic(family)
    fallback = _BASIC[basic]
    cells = {cell for option, cell in row.cells().items() if option in used}
    if row.vr == "SQ" and (cells or basic == "U"):  # U*: the sequence stays and its UIDs are mapped
        return Rule("recurse", "remove" if basic == "U" else fallback, row.vr)
    if not cells:
        return Rule(fallback, fallback, row.vr)
    return Rule("clean" if "C" in cells else "keep", fallback, row.vr)


def _columns(options: DicomOptions) -> frozenset[str]:
    """Return the columns of the table that `options` use."""
    used = {
        "uids": options.retain_uids,
        "device": options.retain_device,
        "institution": options.retain_institution,
        "patient": options.retain_patient_characteristics,
        "dates-full": options.dates == "keep",
        "dates-modified": options.dates == "shift",
        "descriptors": options.clean_descriptors,
        "structure": options.clean_structured_content,
        "graphics": options.clean_graphics,
    }
    return frozenset(column for column, on in used.items() if on)
