"""The recursive pass of PS3.15 Annex E over one dataset.

Why it exists: identity hides at every depth. One function walks all of it and asks the same rules everywhere.

Rules:
    * Every element of every item of every sequence is decided by its rule; an element without a rule is removed.
    * Private attributes, group lengths, nested pixel data (icons) and groups that no dataset holds (0000-0004) are
      removed; curves (50xx) and overlays (60xx) have no rule.
    * A value that cannot be kept, moved or cleaned gets what the Basic Profile says instead.
    * Counts say how many elements met which fate; they hold no value.

What it does not do: read files, judge pixels, or decide which patient a file belongs to beyond naming its identity.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fedmed.deid.dicom import dates
from fedmed.deid.dicom.bulk import within_counts
from fedmed.deid.dicom.codes import CODE_TAGS, clean_code, code_elements, is_code
from fedmed.deid.dicom.options import DicomOptions
from fedmed.deid.dicom.stream import Element
from fedmed.deid.dicom.table import Action, Rule
from fedmed.deid.dicom.uids import UidMap
from fedmed.deid.dicom.values import CODED_TEXT, REMOVED, dummy, known_terms, known_words, passes, texts
from fedmed.deid.policy import AGE_CAP, AGE_LIMIT
from fedmed.deid.pseudonyms import Pseudonyms, normalise

CHARSET, TIME_ZONE, PATIENT_NAME, PATIENT_ID, BIRTH_DATE = 0x00080005, 0x00080201, 0x00100010, 0x00100020, 0x00100030
STUDY_UID, INSTANCE_UID = 0x0020000D, 0x00080018
CONTENT_SEQUENCE, VERIFYING_OBSERVERS = 0x0040A730, 0x0040A073

_LIMITS = {"AE": 16, "CS": 16, "SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10_240}
_INTERCHANGEABLE = (
    CODED_TEXT - {"PN"}, frozenset({"DS", "IS"}), frozenset({"US", "SS", "US or SS"}), frozenset({"OB", "OW"}),
)  # fmt: skip
_DATES = frozenset({"DA", "DT", "TM"})
_KEPT = {
    "AS": re.compile(rb"\d{3}[DWMY]?"),
    "UI": re.compile(rb"[0-9.\\]*[ \0]?"),
}
_AGE = re.compile(rb"(\d{3})Y ?")


@dataclass(frozen=True, slots=True)
class Keyed:
    """The keyed functions of one site, beside the options that they are used under."""

    options: DicomOptions
    uids: UidMap
    pseudonyms: Pseudonyms


class DatasetPass:
    """One pass over one dataset; `counts` holds what was done so far."""

    def __init__(self, keyed: Keyed, rules: Mapping[int, Rule], *, days: int, little: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._keyed, self._rules, self._days, self._little = keyed, rules, days, little
        self._safe = frozenset((tag.creator, tag.group, tag.offset) for tag in keyed.options.safe_private)

    def clean(self, elements: Iterable[Element], charset: tuple[str, ...] = (), *, depth: int = 0) -> list[Element]:
        """Return what may be published of `elements`, in tag order.

        Args:
            elements: A dataset or an item, in tag order.
            charset: The Specific Character Set of what contains it.
            depth: 0 for the dataset itself.
        """
        by_tag = {element.tag: element for element in elements}
        charset = self._charset(by_tag, charset)
        kept: list[Element] = []
        if depth and is_code(by_tag):
            kept += clean_code(by_tag)
            self.counts["coded"] += 1
        for tag, element in by_tag.items():
            if tag in CODE_TAGS:
                self.counts.update(["removed"] if depth == 0 else [])
            elif tag >> 16 & 1:
                kept += self._private(element, by_tag, charset, depth)
            elif (result := self._public(element, by_tag, charset, depth)) is not None:
                kept.append(result)
        unique = {element.tag: element for element in kept}  # several private elements name one creator
        return [unique[tag] for tag in sorted(unique)]

    def _public(
        self, element: Element, dataset: Mapping[int, Element], charset: tuple[str, ...], depth: int
    ) -> Element | None:
        group = element.tag >> 16
        rule = self._rules.get(element.tag)
        if rule is None or group <= 4 or element.tag & 0xFFFF == 0 or (group == 0x7FE0 and depth):
            self.counts["removed-unlisted" if rule is None else "removed"] += 1
            return None
        if rule.action == "recurse":
            if element.items is not None:
                self.counts["recursed"] += 1
                items = tuple(tuple(self.clean(item, charset, depth=depth + 1)) for item in element.items)
                return Element(element.tag, "SQ", items=items)
        else:
            bulk = rule.check == "bulk" and group != 0x7FE0 and element.items is None
            whole = within_counts(element, dataset, rule.vr, little=self._little) if bulk else element
            if whole is not None and (result := self._value(whole, rule, charset)) is not None:
                return result
        return self._basic(rule.fallback, element, rule, charset)

    def _value(self, element: Element, rule: Rule, charset: tuple[str, ...]) -> Element | None:
        """Return the element that `rule` makes of a value, or None where its fallback is due."""
        if rule.action in {"remove", "empty", "dummy"} or element.items is not None:
            return None
        if not self._fits(element.vr, rule.vr):
            return None
        vr = rule.vr if element.vr == "UN" else element.vr
        value, count = self._published(element.tag, vr, element.value, rule, charset)
        if value is None:
            return None
        self.counts[count] += 1
        return element if value is element.value and vr == element.vr else replace(element, vr=vr, value=value)

    def _published(
        self, tag: int, vr: str, value: bytes, rule: Rule, charset: tuple[str, ...]
    ) -> tuple[bytes | None, str]:
        if rule.action == "uid":
            return self._keyed.uids.new_value(value), "uids"
        if rule.action == "keep":
            return self._kept(tag, vr, value, charset), "kept"
        if rule.action == "check" and rule.check != "words":
            return passes(rule.check, rule.vr, value), "kept"
        if rule.action == "clean" and (vr in _DATES or tag == TIME_ZONE):
            return self._moved(vr, value), "moved"
        if vr not in CODED_TEXT | {"AE", "CS"}:
            return None, ""
        words = known_words(value, charset, limit=_LIMITS.get(vr, 1 << 20))
        return words.upper() if words and vr == "CS" else words, "cleaned"

    def _kept(self, tag: int, vr: str, value: bytes, charset: tuple[str, ...]) -> bytes | None:
        if vr in _DATES or tag == TIME_ZONE:
            valid = (dates.valid(vr, text) if vr in _DATES else dates.valid_zone(text) for text in texts(value))
            return value if all(valid) else None
        if vr == "AS" and (age := _AGE.fullmatch(value)) and int(age[1]) > AGE_LIMIT:
            return f"{AGE_CAP:03}Y".encode()
        if vr in CODED_TEXT:
            return value if charset or value.isascii() else None
        if vr == "CS":
            return known_terms(value)
        if grammar := _KEPT.get(vr):
            return value if grammar.fullmatch(value) else None
        return passes("number", vr, value) if vr in {"DS", "IS"} else value

    def _moved(self, vr: str, value: bytes) -> bytes | None:
        parts = [dates.move(vr, text, self._days) if vr in _DATES else dates.valid_zone(text) for text in texts(value)]
        return None if None in parts else "\\".join(part or "" for part in parts).encode()

    def _fits(self, written: str, expected: str) -> bool:
        """Tell whether a value written with one VR may be read as the VR that the dictionary expects."""
        if written == expected or written in expected.split(" or "):
            return True
        if written == "UN":
            return self._little
        return any(written in group and expected in group for group in _INTERCHANGEABLE)

    def _basic(self, action: Action, element: Element, rule: Rule, charset: tuple[str, ...]) -> Element | None:
        """Return what the Basic Profile makes of `element`: nothing, nothing in it, or a dummy."""
        if action == "empty":
            self.counts["emptied"] += 1
            return Element(element.tag, rule.vr, items=() if rule.vr == "SQ" else None)
        if action != "dummy":
            self.counts["removed"] += 1
            return None
        self.counts["replaced"] += 1
        if rule.vr == "SQ":
            return Element(element.tag, "SQ", items=(_dummy_item(element.tag),))
        if rule.vr == "UI":
            return Element(element.tag, "UI", self._keyed.uids.new_value(element.value or b"0"))
        if element.tag == PATIENT_ID and element.value.strip(b" \0"):
            identity = patient_id(element.value, charset)
            return Element(element.tag, "LO", self._keyed.pseudonyms.token(identity).encode())
        return Element(element.tag, rule.vr, dummy(rule.vr))

    def _private(
        self, element: Element, dataset: Mapping[int, Element], charset: tuple[str, ...], depth: int
    ) -> list[Element]:
        """Return a private element that the site vouches for, with its creator, or nothing."""
        group, block = element.tag >> 16, element.tag >> 8 & 0xFF
        holder = dataset.get(group << 16 | block) if block >= 0x10 else None
        creator = "".join(texts(holder.value)) if holder is not None and holder.items is None else ""
        if holder is None or (creator, group, element.tag & 0xFF) not in self._safe:
            self.counts["removed-private"] += 1
            return []
        self.counts["kept-private"] += 1
        named = Element(holder.tag, "LO", holder.value)
        if element.items is None:
            return [named, element]
        items = tuple(tuple(self.clean(item, charset, depth=depth + 1)) for item in element.items)
        return [named, Element(element.tag, "SQ", items=items)]

    def _charset(self, dataset: Mapping[int, Element], outer: tuple[str, ...]) -> tuple[str, ...]:
        element = dataset.get(CHARSET)
        if element is None:
            return outer
        if element.items is not None or passes("charset", "CS", element.value) is None:
            return ()
        return tuple(texts(element.value))


def patient_id(value: bytes, charset: tuple[str, ...]) -> str:
    """Return the one spelling of a PatientID, as tables and notes have it.

    >>> patient_id(b"A^B^", ()) == patient_id(b"a^b ", ())
    True
    """
    return normalise("\\".join(texts(value, charset, coded=True)))


def identity(dataset: Mapping[int, Element]) -> str:
    """Return what names the patient of a dataset: the ID, else name and birth date, else the study, else nothing."""
    declared = dataset.get(CHARSET)
    charset = tuple(texts(declared.value)) if declared is not None and declared.items is None else ()

    def value(tag: int) -> bytes:
        element = dataset.get(tag)
        return b"" if element is None or element.items is not None else element.value

    if known := patient_id(value(PATIENT_ID), charset):
        return known
    name = normalise("".join(texts(value(PATIENT_NAME), charset, coded=True)).split("=")[0])
    if name:
        return f"name:{name}:{''.join(texts(value(BIRTH_DATE)))}"
    study = "".join(texts(value(STUDY_UID))) or "".join(texts(value(INSTANCE_UID)))
    return f"study:{study}"


def _dummy_item(tag: int) -> tuple[Element, ...]:
    """Return the item of a dummy sequence: an observer or a content item where the tag asks for it, else a code."""
    code = code_elements(REMOVED, "99REMOVED", REMOVED)
    if tag == VERIFYING_OBSERVERS:
        return (
            Element(0x0040A027, "LO", REMOVED.encode()),
            Element(0x0040A030, "DT", dummy("DT")),
            Element(0x0040A075, "PN", REMOVED.encode()),
            Element(0x0040A088, "SQ", items=()),
        )
    if tag != CONTENT_SEQUENCE:
        return code
    return (
        Element(0x0040A010, "CS", b"CONTAINS"),
        Element(0x0040A040, "CS", b"TEXT"),
        Element(0x0040A043, "SQ", items=(code,)),
        Element(0x0040A160, "UT", REMOVED.encode()),
    )
