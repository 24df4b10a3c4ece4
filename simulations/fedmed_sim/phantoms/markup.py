"""Text that knows what was planted in it.

Why it exists: gold spans counted by hand, or searched for afterwards, are wrong
now and then. Here each planted piece carries private marks while a note is put
together, and the marks are taken out once, at the end.

Rules:
    * Whatever is done to marked text (upper case, other punctuation, line breaks), the spans stay exact.
    * A piece is an entity, which must not survive, or a decoy, which must; nothing is both.
    * A decoy that holds a name of the same note is dropped: masking it there would be right.

What it does not do: decide what is planted.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from fedmed.errors import DataError
from fedmed_sim.phantoms.names import Language

Kind = Literal["NAME", "DATE", "ID", "PHONE", "EMAIL", "RECORD", "ADDRESS", "HOSPITAL", "AGE", "URL"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_KIND_BASE, _WHO_BASE, _CLOSE = 0xE000, 0xE100, "\ue0ff"
_DECOY = chr(_KIND_BASE + len(KINDS))
_MARK = re.compile(f"([\ue000-{_DECOY}])([\ue100-\ue1ff])([^\ue000-\ue1ff]*){_CLOSE}")
_STRAY = re.compile("[\ue000-\ue1ff]")
_BRACKETS = re.compile(r"\[\[(.*?)\]\]")
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A planted identifier: `text[start:end]`, in characters."""

    start: int
    end: int
    kind: Kind
    who: int = 0
    """Which person of the note it names: 1 is the patient, 2 and up are others, 0 is not said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoy:
    """Clinical text that looks like an identifier and is none: `text[start:end]`, in characters."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note with its gold."""

    text: str
    language: Language
    patient: str
    """A serial name of the patient, the same in all notes about one person; it stands nowhere in the text."""

    kind: str
    entities: tuple[Entity, ...]
    decoys: tuple[Decoy, ...]

    def json_line(self) -> str:
        """Return the gold line, without a line break: text, language, patient, entities, decoys."""
        gold = {
            "text": self.text,
            "language": self.language,
            "patient": self.patient,
            "entities": [{"start": item.start, "end": item.end, "kind": item.kind} for item in self.entities],
            "decoys": [{"start": item.start, "end": item.end} for item in self.decoys],
        }
        return json.dumps(gold, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a note: its possible headings, its bank of sentences, and how many are drawn."""

    headings: tuple[str, ...]
    bank: str
    low: int
    high: int


def mark(kind: Kind, text: str, who: int = 0) -> str:
    """Return `text` marked as an entity of this kind, about person `who` of the note."""
    return f"{chr(_KIND_BASE + KINDS.index(kind))}{chr(_WHO_BASE + who)}{text}{_CLOSE}"


def decoy(text: str) -> str:
    """Return `text` marked as a decoy."""
    return f"{_DECOY}{chr(_WHO_BASE)}{text}{_CLOSE}"


def template(text: str) -> str:
    """Return a template with its `[[decoys]]` marked; slots in braces are left for `str.format_map`."""
    return _BRACKETS.sub(lambda found: decoy(found[1]), text)


def templates(text: str) -> tuple[str, ...]:
    """Return one template per line that is not empty."""
    return tuple(template(line.strip()) for line in text.splitlines() if line.strip())


def outside(marked: str, kinds: tuple[Kind, ...], change: Callable[[str], str]) -> str:
    """Return marked text with `change` applied to all of it but the entities of these kinds."""
    openings = "".join(chr(_KIND_BASE + KINDS.index(kind)) for kind in kinds)
    parts = re.split(f"([{openings}][^{_CLOSE}]*{_CLOSE})", marked)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def read(marked: str, *, language: Language, patient: str, kind: str) -> Note:
    """Take the marks out of `marked`.

    Raises:
        DataError: A mark is inside another, or is not closed.
    """
    parts: list[str] = []
    entities: list[Entity] = []
    decoys: list[Decoy] = []
    at = end = 0
    for found in _MARK.finditer(marked):
        before, text = marked[end : found.start()], found[3]
        start = at + len(before)
        at, end = start + len(text), found.end()
        parts += [before, text]
        if found[1] == _DECOY:
            decoys.append(Decoy(start=start, end=at))
        else:
            which = KINDS[ord(found[1]) - _KIND_BASE]
            entities.append(Entity(start=start, end=at, kind=which, who=ord(found[2]) - _WHO_BASE))
    text = "".join([*parts, marked[end:]])
    if _STRAY.search(text):
        raise DataError("marked text: expected each mark closed and none inside another, got a stray mark")
    return Note(
        text=text,
        language=language,
        patient=patient,
        kind=kind,
        entities=tuple(entities),
        decoys=_apart_from_names(text, entities, decoys),
    )


def _apart_from_names(text: str, entities: list[Entity], decoys: list[Decoy]) -> tuple[Decoy, ...]:
    """Return the decoys that share no word with a name, and hold no name of two characters or more."""
    names = [text[item.start : item.end].lower() for item in entities if item.kind == "NAME"]
    taken = {word for name in names for word in [name, *_WORD.findall(name)] if len(word) > 1}

    def free(item: Decoy) -> bool:
        held = text[item.start : item.end].lower()
        words = set(_WORD.findall(held))
        return not (words & taken) and not any(name in held for name in taken if not name.isascii())

    return tuple(item for item in decoys if free(item))
