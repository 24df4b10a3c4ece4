"""Chinese clinical notes with gold spans.

Why it exists: names and numbers hide in running Chinese text without spaces, and
every hospital system prints its notes in another layout.

Rules:
    * A note is a header of labelled fields, sections of sentences and a signature; each part may be missing.
    * Layout is changed on marked text, so the gold stays exact.

What it does not do: use traditional characters.
"""

import re

from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, pick, some
from fedmed_sim.phantoms.markup import Note, Section, outside, read
from fedmed_sim.phantoms.people import Person
from fedmed_sim.phantoms.stage import Stage
from fedmed_sim.phantoms.wording_zh import BANKS, KINDS_ZH, LABELS, SIGNATURES

_HALF_WIDTH = str.maketrans("，：；（）", ",:;()")
_WIDE_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")
_PAUSE = re.compile("[，。；、]")
_NEAR_LATIN = re.compile("(?<=[\u4e00-\u9fff])(?=[0-9A-Za-z])|(?<=[0-9A-Za-z])(?=[\u4e00-\u9fff])")


def chinese_note(rng: Generator, patient: Person, *, key: str) -> Note:
    """Compose a note about `patient`.

    Args:
        rng: The generator.
        patient: A person with a Chinese name.
        key: The serial name under which the gold keeps the patient.
    """
    stage = Stage(rng, patient)
    kind = pick(rng, tuple(KINDS_ZH))
    parts = [_header(stage)] if chance(rng, 0.75) else []
    parts += [section for each in KINDS_ZH[kind] if (section := _section(stage, each))]
    parts += [pick(rng, SIGNATURES).format_map(stage)] if chance(rng, 0.8) else []
    marked = pick(rng, ("\n", "\n", "\n", "\n\n", "\r\n", "　")).join(parts)
    return read(_layout(rng, marked), language="zh", patient=key, kind=kind)


def _header(stage: Stage) -> str:
    """Return the patient's labelled fields, in one of the layouts of hospital systems."""
    rng = stage.rng
    rest = [slot for slot in LABELS if slot != "patient"]
    fields = ["patient", *some(rng, rest, between(rng, 2, 9))]
    colon = pick(rng, ("：", "：", "：", ":", ": ", "： ", " "))
    cells = [(pick(rng, LABELS[slot]), stage[slot]) for slot in fields]
    layout = pick(rng, ("lines", "line", "wide", "table", "tabs"))
    if layout == "table":
        titles, values = " | ".join(label for label, _ in cells), " | ".join(value for _, value in cells)
        return f"| {titles} |\n| {values} |" if chance(rng, 0.5) else "|".join(f"{k}|{v}" for k, v in cells)
    joint = {"lines": "\n", "line": "，", "wide": "  ", "tabs": "\t"}[layout]
    return joint.join(f"{label}{colon}{value}" for label, value in cells)


def _section(stage: Stage, section: Section) -> str:
    rng = stage.rng
    chosen = some(rng, BANKS[section.bank], between(rng, section.low, section.high))
    if not chosen:
        return ""
    heading = pick(rng, section.headings)
    text = pick(rng, ("", "", "\n")).join(sentence.format_map(stage) for sentence in chosen)
    return pick(rng, ("{}：", "{}：", "{}:", "{}：\n", "【{}】", "{}\n")).format(heading) + text if heading else text


def _layout(rng: Generator, marked: str) -> str:
    """Change the layout of one note in three: other punctuation, widths, spaces or line breaks."""
    form = rng.random()
    if form < 0.08:
        return marked.translate(_HALF_WIDTH)
    if form < 0.13:
        return outside(marked, ("EMAIL", "URL"), lambda part: part.translate(_WIDE_DIGITS))
    if form < 0.20:
        return _PAUSE.sub(" ", marked)
    if form < 0.27:
        return _NEAR_LATIN.sub(" ", marked)
    if form < 0.33:
        return _PAUSE.sub(lambda found: found[0] + ("\n" if chance(rng, 0.3) else ""), marked)
    return marked
