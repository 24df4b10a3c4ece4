"""Measuring what cleans notes, and training a small tagger, as commands show it.

Why it exists: a site that doesn't know its recall on its own notes doesn't know what it lets out.

Rules:
    * Lines and JSON hold figures, no text of a note. Only the page of misses does, and it says so.

What it does not do: judge the figures, or train on real notes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from fedmed.deid.text import NoteCleaner
from fedmed.deid.text.evaluation import Evaluation, evaluate, write_misses
from fedmed.errors import UsageError
from fedmed.files import write_atomic
from fedmed_site.deidentification_policy import load_choices


def evaluate_notes(
    gold: Path, *, policy: str, tagger: Path | None, jieba: bool, misses: Path | None, figures: Path | None
) -> Iterator[str]:
    """Yield the figures of a gold file line by line, and write them where asked.

    Raises:
        DataError: The gold file is missing or a line is wrong.
        UsageError: The policy is unknown.
    """
    text = load_choices(policy).text
    text = replace(text, dates="mask", jieba=jieba or text.jieba, tagger=str(tagger) if tagger else text.tagger)
    cleaner = NoteCleaner(options=text, key=bytes(32))  # no token of it is kept
    found = evaluate(gold, lambda note: cleaner.clean(note.text, patient=note.patient))
    if figures is not None:
        write_atomic(figures, msgspec.json.format(msgspec.json.encode(_plain(found)), indent=2) + b"\n")
    if misses is not None:
        write_misses(found, gold, misses)
    yield f"{found.notes} notes"
    for kind, recall in sorted(found.recall.items()):
        yield f"{kind:<10} recall {recall.by_entity:7.2%} of {recall.entities} entities, {recall.by_unit:7.2%} of units"
    yield f"over-masking: {found.decoy_rate:.2%} of {found.decoys} decoys, {found.other_rate:.2%} of other characters"
    if misses is not None:
        yield f"misses: {misses}; that page holds the notes' text"


def train(notes: Path, out: Path, *, steps: int, seed: int) -> Iterator[str]:
    """Train the demonstration tagger and yield what came of it.

    Raises:
        DataError: The notes are missing or a line is wrong.
        UsageError: The number of steps is below 1.
    """
    from fedmed.deid.text.training import train_tagger  # noqa: PLC0415  it imports torch

    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    trained = train_tagger(notes, out, seed=seed, steps=steps)
    yield f"{trained.parameters:,} parameters, {trained.steps} steps on {trained.notes} notes, loss {trained.loss:.4f}"
    yield f"saved in {out}; NOT of clinical grade: it has seen synthetic notes only, and its folder remembers them"


def _plain(found: Evaluation) -> dict[str, object]:
    return {
        "format": "fedmed-text-evaluation",
        "version": 1,
        "notes": found.notes,
        "recall": {
            kind: {"entities": one.entities, "found": one.found, "by_entity": one.by_entity, "by_unit": one.by_unit}
            for kind, one in sorted(found.recall.items())
        },
        "decoys": found.decoys,
        "decoy_rate": found.decoy_rate,
        "other_characters": found.other_characters,
        "other_rate": found.other_rate,
    }
