"""Streams of notes in either language, several about each patient, and their gold file.

Why it exists: tests, benchmarks and the training of a tagger need many notes and
one format for their gold.

Rules:
    * Notes about one person carry one `patient` key and agree in every fact about the person.
    * The gold file has one JSON object per line, in UTF-8: `text`, `language`, `patient`, `entities`
      (`start`, `end`, `kind`) and `decoys` (`start`, `end`); offsets count characters, the end is not included.

What it does not do: split into training and test notes; other seeds give other people.
"""

from collections.abc import Iterator
from pathlib import Path

from numpy.random import Generator

from fedmed.errors import UsageError
from fedmed_sim.phantoms.draws import between
from fedmed_sim.phantoms.markup import Note
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.notes_en import english_note
from fedmed_sim.phantoms.notes_zh import chinese_note
from fedmed_sim.phantoms.people import Person, draw_person


def write_note(rng: Generator, patient: Person, *, key: str) -> Note:
    """Compose one note about `patient` in the patient's language."""
    return chinese_note(rng, patient, key=key) if patient.language == "zh" else english_note(rng, patient, key=key)


def draw_notes(rng: Generator, language: Language, count: int) -> Iterator[Note]:
    """Yield `count` notes of this language, one to four about each patient.

    Raises:
        UsageError: `count` is negative.
    """
    if count < 0:
        raise UsageError(f"notes: expected a count of 0 or more, got {count}")
    made = serial = 0
    while made < count:
        patient = draw_person(rng, language, adult=False)
        serial += 1
        for _ in range(min(between(rng, 1, 4), count - made)):
            yield write_note(rng, patient, key=f"{language}-{serial:06d}")
            made += 1


def write_gold(path: Path, rng: Generator, *, languages: tuple[Language, ...], count: int) -> None:
    """Write a gold file with `count` notes of each language; an existing file is replaced.

    Args:
        path: The JSONL file.
        rng: The generator.
        languages: The languages, in the order in which their notes are written.
        count: Notes per language.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for language in languages:
            file.writelines(f"{note.json_line()}\n" for note in draw_notes(rng, language, count))
