"""Coded terms: what a code item may say, with meanings from the dictionary and never from the file.

Why it exists: CodeMeaning is free text beside a code, and hospitals write names there. The codes themselves carry
anatomy, views and units that training needs.

Rules:
    * A code that pydicom's copy of the standard's context groups lists keeps value and scheme; its meaning is the
      listed one.
    * A code of a public scheme that fits the scheme's own short grammar keeps value and scheme; its meaning is a dummy.
    * Every other code becomes a dummy of the private scheme `99REMOVED` as a whole.

What it does not do: translate between schemes.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import cast

from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from fedmed.deid.dicom.stream import Element
from fedmed.deid.dicom.values import REMOVED, texts

CODE_VALUE, SCHEME, SCHEME_VERSION, MEANING = 0x00080100, 0x00080102, 0x00080103, 0x00080104
LONG_CODE, URN_CODE = 0x00080119, 0x00080120
CODE_TAGS = frozenset({CODE_VALUE, SCHEME, SCHEME_VERSION, MEANING, LONG_CODE, URN_CODE})
DUMMY_SCHEME = "99REMOVED"

_GRAMMAR = {
    "DCM": re.compile(r"1\d{5}"),
    "SRT": re.compile(r"[A-Z]-[0-9A-F]{5}"),
    "SNM3": re.compile(r"[A-Z]-[0-9A-F]{5}"),
    "RADLEX": re.compile(r"RID\d{1,5}"),
    "LN": re.compile(r"\d{4,5}-\d"),
    "I10": re.compile(r"[A-Z]\d\d(\.[0-9A-Z]{1,2})?"),
    "ICD10": re.compile(r"[A-Z]\d\d(\.[0-9A-Z]{1,2})?"),
}
_VERSION = re.compile(r"\d{8}|\d{1,2}\.\d{1,2}")


def is_code(elements: Mapping[int, Element]) -> bool:
    """Tell whether a dataset holds a code of the code sequence macro (PS3.3 8.8)."""
    return not CODE_TAGS.isdisjoint(elements)


def code_elements(value: str, scheme: str, meaning: str) -> tuple[Element, ...]:
    """Return the three elements of a code item.

    >>> [element.value for element in code_elements("mm", "UCUM", "mm")]
    [b'mm', b'UCUM', b'mm']
    """
    return (
        Element(CODE_VALUE, "SH", value.encode()),
        Element(SCHEME, "SH", scheme.encode()),
        Element(MEANING, "LO", meaning.encode()[:64]),
    )


def clean_code(elements: Mapping[int, Element]) -> tuple[Element, ...]:
    """Return what may be published of the code in `elements`, without its other attributes."""
    value, scheme = _single(elements.get(CODE_VALUE)), _single(elements.get(SCHEME))
    meaning = known_meaning(value, scheme)
    if meaning is None and (grammar := _GRAMMAR.get(scheme)) and grammar.fullmatch(value):
        meaning = REMOVED
    if meaning is None:
        return code_elements(REMOVED, DUMMY_SCHEME, REMOVED)
    version = _single(elements.get(SCHEME_VERSION))
    kept = code_elements(value, scheme, meaning)
    if not _VERSION.fullmatch(version):
        return kept
    return (*kept[:2], Element(SCHEME_VERSION, "SH", version.encode()), kept[2])


def known_meaning(value: str, scheme: str) -> str | None:
    """Return the meaning that the standard's context groups give a code, or None.

    >>> known_meaning("113100", "DCM")
    'Basic Application Confidentiality Profile'
    """
    if scheme in {"SRT", "SNM3"}:
        value, scheme = mapping["SRT"].get(value, ""), "SCT"
    meaning = _meanings().get((scheme, value))
    return meaning if meaning is None or meaning.isascii() else REMOVED


@cache
def _meanings() -> Mapping[tuple[str, str], str]:
    listed = cast("Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]]", concepts)
    return {
        (scheme, value): entry[0]
        for scheme, names in listed.items()
        for codes in names.values()
        for value, entry in codes.items()
    }


def _single(element: Element | None) -> str:
    if element is None or element.items is not None:
        return ""
    parts = texts(element.value)
    return parts[0] if len(parts) == 1 else ""
