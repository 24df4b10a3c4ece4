"""The measure: what counts as found, as missed and as masked too much; and where text may show."""

import json
import stat
from pathlib import Path

import pytest

from fedmed.deid.text import CleanedNote, NoteCleaner, Span
from fedmed.deid.text.evaluation import Evaluation, evaluate, write_misses
from fedmed.deid.text.gold import GoldNote
from fedmed.errors import DataError

NOTE = {
    "text": "Seen by Jane <b>Roe</b> with Crohn's.",
    "language": "en",
    "patient": "p",
    "entities": [{"start": 8, "end": 23, "kind": "NAME"}],
    "decoys": [{"start": 29, "end": 34}],
}


def write(path: Path, *notes: dict[str, object]) -> Path:
    """Write a gold file."""
    path.write_text("\n".join(json.dumps(note) for note in notes), encoding="utf-8")
    return path


def covering(*spans: tuple[int, int]) -> CleanedNote:
    """Return a note in which just these characters are masked."""
    return CleanedNote(text="", counts={}, spans=tuple(Span(start=a, end=b, kind="DATE") for a, b in spans))


def measured(gold: Path, *spans: tuple[int, int]) -> Evaluation:
    """Return the figures if just these characters of each note are masked."""
    return evaluate(gold, lambda _: covering(*spans))


def test_units_and_entities(tmp_path: Path) -> None:
    """English counts words: an entity is found if all are masked, under whatever kind; a part counts by unit."""
    gold = write(tmp_path / "gold.jsonl", NOTE)
    half, whole = measured(gold, (8, 12)), measured(gold, (8, 23))
    assert (half.recall["NAME"].found, half.recall["NAME"].masked, half.recall["NAME"].units) == (0, 1, 4)
    assert (whole.recall["NAME"].by_entity, whole.recall["NAME"].by_unit) == (1.0, 1.0)
    assert len(half.misses) == 1
    assert whole.misses == ()


def test_chinese_counts_characters(tmp_path: Path) -> None:
    """In Chinese each character is a unit."""
    note = {
        "text": "患者郎月笙",
        "language": "zh",
        "patient": "p",
        "entities": [{"start": 2, "end": 5, "kind": "NAME"}],
    }
    recall = measured(write(tmp_path / "gold.jsonl", note), (2, 4)).recall["NAME"]
    assert (recall.units, recall.masked, recall.found) == (3, 2, 0)


def test_over_masking_is_counted_apart(tmp_path: Path) -> None:
    """A decoy of which one character is masked is masked; other characters count without white space."""
    result = measured(write(tmp_path / "gold.jsonl", NOTE), (0, 5), (30, 31))
    assert (result.decoys, result.decoys_masked, result.decoy_rate) == (1, 1, 1.0)
    assert result.other_masked == 4
    assert result.other_characters == 4 + 2 + 4 + len("'s.")
    assert [miss.is_decoy for miss in result.misses] == [False, True]


def test_figures_hold_no_text(tmp_path: Path) -> None:
    """The record of an evaluation has numbers and positions only."""
    assert "Roe" not in repr(measured(write(tmp_path / "gold.jsonl", NOTE)))


def test_page_shows_misses_and_says_so(tmp_path: Path) -> None:
    """The page escapes what the notes hold, warns at its top, and only its owner may read it."""
    gold, page = write(tmp_path / "gold.jsonl", NOTE), tmp_path / "misses.html"
    write_misses(measured(gold), gold, page)
    html = page.read_text(encoding="utf-8")
    assert "protected health information" in html
    assert "Jane &lt;b&gt;Roe&lt;/b&gt;" in html
    assert "<b>Roe" not in html
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "Qxz7canary"}',
        '{"text": "Qxz7canary", "language": "fr", "patient": "p"}',
        (
            '{"text": "Qxz7canary", "language": "en", "patient": "p", "entities": [{"start": 0, "end": 99, '
            '"kind": "NAME"}]}'
        ),
        (
            '{"text": "Qxz7canary", "language": "en", "patient": "p", "entities": [{"start": 0, "end": 2, '
            '"kind": "Qxz7canary"}]}'
        ),
        "Qxz7canary",
    ],
)
def test_wrong_line_is_named_not_shown(tmp_path: Path, line: str) -> None:
    """A line that is no gold note is refused by its number, without its content."""
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps(NOTE) + "\n" + line, encoding="utf-8")
    with pytest.raises(DataError, match="line 2") as caught:
        measured(gold)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """A gold file that is not there is refused."""
    with pytest.raises(DataError, match="no gold file"):
        measured(tmp_path / "none.jsonl")


def test_gold_of_cleaner(tmp_path: Path, cleaner: NoteCleaner) -> None:
    """The cleaner's spans point into the note as it came, invisible characters included."""
    text = "患者郎\u200b月笙，男"
    note = GoldNote(text=text, language="zh", patient="p")
    (span,) = cleaner.clean(note.text, patient=note.patient).spans
    assert text[span.start : span.end] == "郎\u200b月笙"
