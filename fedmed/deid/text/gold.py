"""Notes of which it is known where they identify somebody: the measure of every voice, and what a tagger learns from.

Why it exists: one line format for measuring and for training, read strictly.

Rules:
    * One JSON object per line: text, language (zh or en), patient, entities (start, end, kind) and decoys
      (start, end): words that look like names and must stay.
    * An error names the line and the field, never what the line holds: a gold file of real notes is patient data.

What it does not do: write or make notes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fedmed.deid.text.spans import Kind
from fedmed.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Characters `start` to `end` (exclusive) that identify somebody."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoy:
    """Characters `start` to `end` (exclusive) that only look like it."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldNote:
    """One note and what is known of it."""

    text: str
    language: Literal["zh", "en"]
    patient: str
    entities: tuple[Entity, ...] = ()
    decoys: tuple[Decoy, ...] = ()

    def __post_init__(self) -> None:
        spans = [(mark.start, mark.end) for mark in self.entities] + [(mark.start, mark.end) for mark in self.decoys]
        for start, end in spans:
            if not 0 <= start < end <= len(self.text):
                raise ValueError(f"a span needs 0 <= start < end <= {len(self.text)}, got {start} and {end}")


def read_gold(path: Path) -> Iterator[tuple[int, GoldNote]]:
    """Yield the number of each line that is not empty, from 1, and its note.

    Raises:
        DataError: There is no such file, or a line is not a gold note.
    """
    if not path.is_file():
        raise DataError(f"no gold file {path.name}; expected JSON lines with text, language, patient, entities, decoys")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _note(line, f"{path.name} line {number}")


def _note(line: bytes, where: str) -> GoldNote:
    try:
        return msgspec.json.decode(line, type=GoldNote)
    except msgspec.ValidationError as error:
        path = str(error).rpartition(" - at ")[2] if " - at " in str(error) else "the line"
        raise DataError(f"{where}: expected a gold note, got a wrong {path}; correct the file") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DataError(f"{where}: expected JSON, got something else; correct the file") from None
