"""A clinical note in, a de-identified note out: all voices, one union, placeholders, shifted dates.

Why it exists: everything that masks a note is called here and in one order, so that the audit
can say by one digest what was done.

Rules:
    * The rules are asked again with everything found blanked out until they find nothing more. So a second
      pass over the output changes nothing.
    * A note whose dates were shifted ends in a keyed mark (see `shift_marks`); they are never shifted again.
    * Voices add spans; none takes a span away. The allow-list alone does.
    * The answer holds counts and spans, never a covered text; an error names no part of a note.
    * In shift mode a date that does not exist is masked.

What it does not do: read files, write the audit, or promise anonymity. Rules miss names without context: a
site measures its own notes (see `evaluation`) before it trusts them.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmed.deid.pseudonyms import Pseudonyms, normalise
from fedmed.deid.text import names_en, names_zh, places_en, places_zh
from fedmed.deid.text.ages import find_ages
from fedmed.deid.text.dates import WrittenDate, find_dates
from fedmed.deid.text.identifiers import find_identifiers
from fedmed.deid.text.layout import cells, lay_out
from fedmed.deid.text.options import TextOptions
from fedmed.deid.text.placeholders import DONE, language_of, placeholders
from fedmed.deid.text.reading import CJK, Reading, lowered, read, reading_of
from fedmed.deid.text.shift_marks import mark_of, read_mark
from fedmed.deid.text.shifts import shift_date, year_of
from fedmed.deid.text.spans import FILLER, Kind, Span, fill, merge
from fedmed.errors import DataError, UsageError

if TYPE_CHECKING:
    from fedmed.deid.text.tagger import Tagger

_NOTHING = FILLER + " \n"
_CJK = re.compile(f"[{CJK}]")
_LATIN = re.compile("[A-Za-z]{2}")
_MOST_PASSES, _MOST_READ = 20, 4 << 20
"""How often a note is read, and how many characters of a long one in all: each mask may show the rules one more."""
_LONGEST_KNOWN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedNote:
    """A note with nothing left of what was found.

    `counts` has the number of spans of each kind that occurred; `spans` are where they were in the note as
    it came in, in order and without overlap.
    """

    text: str
    counts: Mapping[Kind, int]
    spans: tuple[Span, ...]


class NoteCleaner:
    """The options and the site's key, ready for any number of notes."""

    def __init__(self, *, options: TextOptions, key: bytes) -> None:
        self.options = options
        self._pseudonyms = Pseudonyms(key)
        self._tagger = _load_tagger(options.tagger) if options.tagger else None

    def clean(self, note: str, *, patient: str, names: Sequence[str] = ()) -> CleanedNote:
        """Return the de-identified note.

        Args:
            note: The text of one note.
            patient: The patient's identifier at the site; it sets the date shift, and is masked where the note
                repeats it.
            names: Names that the site's records know to be the patient's; masked wherever they occur.

        Raises:
            DataError: The note holds half a surrogate pair, the rules don't come to an end with it, or what is known of
                the patient is longer than any name.
            UsageError: Dates are to be shifted and `patient` is empty.
        """
        if self.options.dates == "shift" and not normalise(patient):
            raise UsageError("shifting dates needs the patient's identifier, got an empty one; give it, or mask dates")
        marked = read_mark(note, self._pseudonyms)
        body, shifts = marked.body, self.options.dates == "shift"
        reading = read(body)
        kept = shifts and marked.state == "shifted"
        spans, dates = self._find(reading, patient=patient, names=names, dates_kept=kept)
        shown = reading.view if reading.origins is not None else body
        where = tuple(reading.in_note(span) for span in spans)
        moves = shifts and marked.state == "never"
        moved = self._moved(reading.view, shown, spans, dates, patient) if moves else {}
        pieces, at = [], 0
        for index, (span, piece) in enumerate(zip(where, placeholders(reading.view, spans), strict=True)):
            pieces += [body[at : span.start], moved.get(index, piece)]
            at = span.end
        text = "".join([*pieces, body[at:]])
        counts = Counter(span.kind for span in spans)
        if kept and text == body:
            text = note
        elif kept or moved:
            text += mark_of(text, self._pseudonyms, chinese=language_of(reading.view) == "zh")
        return CleanedNote(text=text, counts=dict(counts), spans=where)

    def _find(
        self, reading: Reading, *, patient: str, names: Sequence[str], dates_kept: bool
    ) -> tuple[list[Span], dict[tuple[int, int], WrittenDate]]:
        """Return the union of what every voice finds, asked until nothing new is found, and the dates among it.

        `dates_kept`: the note's dates are moved already, and are as good as masked.
        """
        masked = "[" in reading.view or "90" in reading.view
        found_done = DONE.finditer(reading.view) if masked else ()
        done = [Span(start=match.start(), end=match.end(), kind="NAME") for match in found_done]
        if dates_kept:
            done += [date.span for date in find_dates(_flat(reading_of(lay_out(reading.view))))]
        known = _known_words(patient, names)
        view, found, dates = fill(reading.view, done), list[Span](), dict[tuple[int, int], WrittenDate]()
        in_cells: dict[tuple[str, str], list[Span]] = {}
        for passes in itertools.count():
            if passes > _MOST_PASSES and passes * len(view) > _MOST_READ:
                raise DataError("note: expected rules that come to an end, found ever more to mask; divide the text")
            laid_out = lay_out(view)
            laid = reading if laid_out == reading.view else reading_of(laid_out)
            now, flat = laid.replaced("\t", "\n"), _flat(laid)
            written = find_dates(flat)
            dates |= {(date.span.start, date.span.end): date for date in written}
            voices = [
                *_known(now, known),
                *(date.span for date in written),
                *self._voices(now, flat),
                *self._in_cells(view, in_cells),
            ]
            new = [span for span in set(voices) if span.kind in self.options.kinds and self._masks(view, span)]
            if not new:
                break
            found += new
            view = fill(view, new)
        return merge(found), dates

    def _voices(self, lines: Reading, flat: Reading) -> Iterator[Span]:
        """Yield what each voice finds in a note: names line by line, all else with lines joined."""
        yield from find_identifiers(flat)
        yield from find_ages(flat)
        if "zh" in self.options.languages and not flat.ascii and _CJK.search(flat.view):
            yield from places_zh.find_places(flat.view)
            yield from names_zh.find_names(lines.view)
        if "en" in self.options.languages and _LATIN.search(flat.view):
            yield from places_en.find_places(lines, flat)
            yield from names_en.find_names(lines)
        if self.options.jieba:
            from fedmed.deid.text.jieba_voice import find_words  # noqa: PLC0415  optional

            yield from find_words(lines.view)
        if self._tagger is not None:
            yield from self._tagger.find(lines.view)

    def _in_cells(self, view: str, known: dict[tuple[str, str], list[Span]]) -> Iterator[Span]:
        """Yield what the rules find in the cells of tables, each read with its heading; `known`: found before."""
        for cell in cells(view):
            if not cell.text.strip(_NOTHING):
                continue  # masked already, and so would be whatever is found
            heading = f"{cell.label}: "
            found = known.get((heading, cell.text))
            if found is None:
                found = known[heading, cell.text] = self._in_cell(heading, cell.text)
            moved = cell.start - len(heading)
            for span in found:
                yield Span(start=span.start + moved, end=span.end + moved, kind=span.kind, role=span.role)

    def _in_cell(self, heading: str, text: str) -> list[Span]:
        """Return what the rules find in a cell behind its heading."""
        reading = reading_of(heading + text)
        found = [date.span for date in find_dates(reading)] + [*find_identifiers(reading), *find_ages(reading)]
        if "zh" in self.options.languages:
            found += [*places_zh.find_places(reading.view), *names_zh.find_names(reading.view)]
        if "en" in self.options.languages:
            found += [*places_en.find_places(reading, reading), *names_en.find_names(reading)]
        return [span for span in found if span.start >= len(heading)]

    def _masks(self, view: str, span: Span) -> bool:
        """Say whether a span covers anything that is not masked yet and not allowed."""
        text = view[span.start : span.end]
        return text not in self.options.allowed and bool(text.strip(_NOTHING))

    def _moved(
        self, view: str, shown: str, spans: list[Span], dates: Mapping[tuple[int, int], WrittenDate], patient: str
    ) -> dict[int, str]:
        """Return the shifted date of each span, by its index, that is one; what does not exist is left to be masked."""
        days, year = self._pseudonyms.shift_days(patient, limit=self.options.max_shift_days), None
        moved: dict[int, str] = {}
        for index, span in enumerate(spans):
            date = dates.get((span.start, span.end))
            if date is not None and span.kind == "DATE":
                if (shifted := shift_date(date, view, shown, days=days, year=year)) is not None:
                    moved[index] = shifted
                year = year_of(date, view) or year
        return moved


def clean_note(note: str, *, options: TextOptions, key: bytes, patient: str, names: Sequence[str] = ()) -> CleanedNote:
    """Return the de-identified note; for many notes keep a `NoteCleaner`.

    >>> clean_note("患者钱多多，男，住院号：00123", options=TextOptions(), key=bytes(32), patient="p1").text
    '患者[患者姓名]，男，住院号：[病历号]'

    Raises:
        DataError: The note holds half a surrogate pair.
        UsageError: The key has not 32 bytes, or dates are to be shifted and `patient` is empty.
    """
    return NoteCleaner(options=options, key=key).clean(note, patient=patient, names=names)


def _flat(laid: Reading) -> Reading:
    """Return a laid-out reading with its lines joined, for what a line's end divides."""
    return laid.replaced("\t", "|").replaced("\n", " ")


def _known_words(patient: str, names: Sequence[str]) -> list[tuple[str, Kind]]:
    """Return what the site knows of the patient and a note may repeat, in small letters."""
    if any(len(word) > _LONGEST_KNOWN for word in (patient, *names)):
        raise DataError("note: expected names and a patient's number of at most 1,000 characters, got more; correct it")
    words: list[tuple[str, Kind]] = [(name, "NAME") for name in names if len(normalise(name)) >= 2]
    if len(normalise(patient)) >= 4:
        words.append((patient, "RECORD"))
    read_words = ((lowered(read(word).view.strip()), kind) for word, kind in words)
    return [(word, kind) for word, kind in read_words if word]


def _known(reading: Reading, words: Sequence[tuple[str, Kind]]) -> Iterator[Span]:
    """Yield where a note repeats one of these words, by itself."""
    for word, kind in words:
        at = reading.lower.find(word)
        while at >= 0:
            end = at + len(word)
            beside = reading.lower[max(0, at - 1) : at] + reading.lower[end : end + 1]
            if not (word.isascii() and beside.isascii() and any(character.isalnum() for character in beside)):
                yield Span(start=at, end=end, kind=kind, role="patient")
            at = reading.lower.find(word, at + 1)


def _load_tagger(folder: str) -> "Tagger":
    from fedmed.deid.text.tagger import Tagger  # noqa: PLC0415  it imports torch

    return Tagger.load(folder)
