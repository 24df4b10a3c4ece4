"""English clinical notes with gold spans.

Why it exists: a note may shout, whisper, drop its punctuation or break its lines
inside a name, and an eponym looks like a patient.

Rules:
    * A note is a header of labelled fields, sections of sentences and a signature; each part may be missing.
    * Layout is changed on marked text, so the gold stays exact.

What it does not do: misspell names.
"""

import re

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, pick, some
from fedmed_sim.phantoms.markup import Note, Section, read
from fedmed_sim.phantoms.people import Person
from fedmed_sim.phantoms.stage import Stage
from fedmed_sim.phantoms.wording_en import BANKS, KINDS_EN, LABELS, SIGNATURES

_STOPS = re.compile(r"[.,;:](?=[\s\ue0ff]|$)")
_SPACE = re.compile(" ")


def english_note(rng: Generator, patient: Person, *, key: str) -> Note:
    """Compose a note about `patient`.

    Args:
        rng: The generator.
        patient: A person with an English name.
        key: The serial name under which the gold keeps the patient.
    """
    stage = Stage(rng, patient)
    kind = pick(rng, tuple(KINDS_EN))
    parts = [_header(stage)] if chance(rng, 0.75) else []
    parts += [section for each in KINDS_EN[kind] if (section := _section(stage, each))]
    parts += [pick(rng, SIGNATURES).format_map(stage)] if chance(rng, 0.8) else []
    marked = pick(rng, ("\n", "\n", "\n\n", "\r\n")).join(parts)
    return read(_layout(rng, marked), language="en", patient=key, kind=kind)


def _header(stage: Stage) -> str:
    """Return the patient's labelled fields, in one of the layouts of hospital systems."""
    rng = stage.rng
    rest = [slot for slot in LABELS if slot != "patient"]
    fields = ["patient", *some(rng, rest, between(rng, 2, 9))]
    colon = pick(rng, (": ", ": ", ":", " : ", " - ", "  "))
    cells = [(pick(rng, LABELS[slot]), stage[slot]) for slot in fields]
    layout = pick(rng, ("\n", "\n", "   ", "\t", "; ", "table"))
    if layout == "table":
        titles, values = " | ".join(label for label, _ in cells), " | ".join(value for _, value in cells)
        return f"| {titles} |\n| {values} |" if chance(rng, 0.5) else "\n".join(f"| {k} | {v} |" for k, v in cells)
    return layout.join(f"{label}{colon}{value}" for label, value in cells)


def _section(stage: Stage, section: Section) -> str:
    rng = stage.rng
    chosen = some(rng, BANKS[section.bank], between(rng, section.low, section.high))
    heading = pick(rng, section.headings)
    if not chosen:
        return ""
    text = pick(rng, (" ", " ", "\n")).join(sentence.format_map(stage) for sentence in chosen)
    return heading + pick(rng, (": ", ":", ":\n")) + text if heading else text


def _layout(rng: Generator, marked: str) -> str:
    """Change the layout of one note in three: letter case, punctuation or line breaks."""
    form = rng.random()
    if form < 0.08:
        return marked.lower()
    if form < 0.14:
        return marked.upper()
    if form < 0.21:
        return _STOPS.sub("", marked)
    if form < 0.31:
        return _SPACE.sub(lambda _: "\n" if chance(rng, 0.08) else " ", marked)
    return marked
