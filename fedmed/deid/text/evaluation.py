"""How much of what identifies people a cleaner finds, and how much else it takes away.

Why it exists: a site that can't say its recall on its own notes doesn't know what it lets out.

Rules:
    * Recall is counted in units: characters in Chinese, words in English, of what the gold file marks. A masked
      unit counts whatever kind the cleaner gave it; an entity is found if all its units are masked.
    * Over-masking is counted apart for decoys and for all other characters; white space counts nowhere.
    * The record and its JSON hold numbers and positions, no text. Only the page of misses shows text: it
      holds what the gold file holds, says so at its top, and stays where that file is.

What it does not do: judge whether the figures suffice.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedmed.deid.text.gold import Entity, GoldNote, read_gold
from fedmed.deid.text.pipeline import CleanedNote
from fedmed.deid.text.spans import KINDS, Kind
from fedmed.files import write_atomic

CONTEXT_CHARACTERS = 30
MAX_SHOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Of one kind: entities and units in the gold file, and those that were masked."""

    entities: int = 0
    found: int = 0
    units: int = 0
    masked: int = 0

    @property
    def by_entity(self) -> float:
        """The share of entities all of whose units are masked; 1 where there are none."""
        return self.found / self.entities if self.entities else 1.0

    @property
    def by_unit(self) -> float:
        """The share of units that are masked; 1 where there are none."""
        return self.masked / self.units if self.units else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """An entity that is not wholly masked, or a decoy that is masked in part: where, not what."""

    line: int
    start: int
    end: int
    kind: Kind | None
    missed: tuple[int, ...]

    @property
    def is_decoy(self) -> bool:
        """Whether a decoy was masked."""
        return self.kind is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one gold file under one cleaner."""

    notes: int
    recall: Mapping[Kind, Recall]
    decoys: int
    decoys_masked: int
    other_characters: int
    other_masked: int
    misses: tuple[Miss, ...]

    @property
    def decoy_rate(self) -> float:
        """The share of decoys of which anything is masked."""
        return self.decoys_masked / self.decoys if self.decoys else 0.0

    @property
    def other_rate(self) -> float:
        """The share of characters that are neither of an entity nor of a decoy and are masked."""
        return self.other_masked / self.other_characters if self.other_characters else 0.0


def evaluate(gold: Path, clean: Callable[[GoldNote], CleanedNote]) -> Evaluation:
    """Return how `clean` does on the notes of `gold`.

    Args:
        gold: JSON lines (see `gold`).
        clean: Cleans the text of one note, for instance
            `lambda note: cleaner.clean(note.text, patient=note.patient)`.

    Raises:
        DataError: The gold file is missing or a line is wrong.
    """
    tally = _Tally()
    for line, note in read_gold(gold):
        tally.take(line, note, clean(note))
    return tally.result()


def write_misses(evaluation: Evaluation, gold: Path, page: Path) -> None:
    """Write the HTML page that shows every miss in its context, readable by its owner alone.

    The page holds patient data if the gold file does. It shows `MAX_SHOWN` misses at most and counts the others.

    Raises:
        DataError: The gold file is missing or a line is wrong.
    """
    notes = dict(read_gold(gold))
    shown = [
        {
            "line": miss.line,
            "kind": miss.kind or "decoy",
            "before": notes[miss.line].text[max(0, miss.start - CONTEXT_CHARACTERS) : miss.start],
            "text": notes[miss.line].text[miss.start : miss.end],
            "after": notes[miss.line].text[miss.end : miss.end + CONTEXT_CHARACTERS],
        }
        for miss in evaluation.misses[:MAX_SHOWN]
    ]
    environment = Environment(
        loader=PackageLoader("fedmed.deid.text"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("misses.html.j2").render(
        evaluation=evaluation, shown=shown, hidden=len(evaluation.misses) - len(shown), gold=gold.name
    )
    write_atomic(page, html.encode())


class _Tally:
    """The running counts."""

    def __init__(self) -> None:
        self.notes = 0
        self.counts: dict[Kind, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.rest: Counter[str] = Counter()
        self.misses: list[Miss] = []

    def take(self, line: int, note: GoldNote, cleaned: CleanedNote) -> None:
        """Count one note."""
        masked = bytearray(len(note.text))
        for span in cleaned.spans:
            masked[span.start : span.end] = b"\1" * (span.end - span.start)
        marked = bytearray(len(note.text))
        for entity in note.entities:
            marked[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
            self._entity(line, note, entity, masked)
        for decoy in note.decoys:
            marked[decoy.start : decoy.end] = b"\1" * (decoy.end - decoy.start)
            hit = tuple(index for index in range(decoy.start, decoy.end) if masked[index])
            self.rest["decoys"] += 1
            self.rest["decoys_masked"] += bool(hit)
            if hit:
                self.misses.append(Miss(line=line, start=decoy.start, end=decoy.end, kind=None, missed=hit))
        other = [index for index, at in enumerate(marked) if not at and not note.text[index].isspace()]
        self.rest["other"] += len(other)
        self.rest["other_masked"] += sum(masked[index] for index in other)
        self.notes += 1

    def _entity(self, line: int, note: GoldNote, entity: Entity, masked: bytearray) -> None:
        start, end, kind = entity.start, entity.end, entity.kind
        units = _units(note, start, end)
        missed = [unit for unit in units if not all(masked[index] for index in range(*unit))]
        self.counts[kind].update(entities=1, found=not missed, units=len(units), masked=len(units) - len(missed))
        if missed:
            where = tuple(index for unit in missed for index in range(*unit) if not masked[index])
            self.misses.append(Miss(line=line, start=start, end=end, kind=kind, missed=where))

    def result(self) -> Evaluation:
        """Return the figures so far."""
        return Evaluation(
            notes=self.notes,
            recall={kind: Recall(**counts) for kind, counts in self.counts.items() if counts["entities"]},
            decoys=self.rest["decoys"],
            decoys_masked=self.rest["decoys_masked"],
            other_characters=self.rest["other"],
            other_masked=self.rest["other_masked"],
            misses=tuple(self.misses),
        )


def _units(note: GoldNote, start: int, end: int) -> list[tuple[int, int]]:
    """Return the characters (Chinese) or words (English) of an entity; only letters and digits count."""
    text = note.text
    units: list[tuple[int, int]] = []
    for index in range(start, end):
        if not text[index].isalnum():
            continue
        if note.language == "en" and units and units[-1][1] == index:
            units[-1] = (units[-1][0], index + 1)
        else:
            units.append((index, index + 1))
    return units
