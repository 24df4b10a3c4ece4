"""Notes and their gold: exact by construction, many in form, the same for the same seed."""

import ast
import json
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedmed_sim.phantoms
from fedmed.errors import DataError, UsageError
from fedmed_sim.phantoms import stage, wording_en, wording_zh
from fedmed_sim.phantoms.markup import KINDS, Note, decoy, mark, read, template
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.notes import draw_notes, write_gold, write_note
from fedmed_sim.phantoms.people import draw_person

LANGUAGES: tuple[Language, ...] = ("zh", "en")
PLAIN = st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=20)


@cache
def notes(language: Language) -> tuple[Note, ...]:
    """Return 1500 notes of a fixed seed."""
    return tuple(draw_notes(np.random.default_rng(11), language, 1500))


def planted(note: Note, *kinds: str) -> list[str]:
    """Return the texts of the entities of these kinds."""
    return [note.text[item.start : item.end] for item in note.entities if item.kind in kinds]


def plain_digits(text: str) -> str:
    """Return the digits of `text` in ASCII."""
    return "".join(str(int(letter)) for letter in text if letter.isdecimal())


@given(st.lists(st.tuples(st.sampled_from([*KINDS, "DECOY", "PLAIN"]), PLAIN)))
def test_marks_tell_exactly_what_was_marked(pieces: list[tuple[str, str]]):
    """Whatever is joined, the text is the pieces in order and each span is its piece."""
    marked = "".join(
        text if kind == "PLAIN" else decoy(text) if kind == "DECOY" else mark(kind, text) for kind, text in pieces
    )
    note = read(marked, language="en", patient="p", kind="k")
    assert note.text == "".join(text for _, text in pieces)
    told = [(item.kind, note.text[item.start : item.end]) for item in note.entities]
    assert told == [(kind, text) for kind, text in pieces if kind in KINDS]


def test_a_mark_inside_another_is_refused():
    """Nested marks would make spans overlap."""
    with pytest.raises(DataError, match="stray mark"):
        read(mark("NAME", f"a {mark('DATE', 'May 1')} b"), language="en", patient="p", kind="k")


def test_a_decoy_that_holds_a_name_of_the_note_is_dropped():
    """Parkinson disease is no decoy in a note about somebody called Parkinson."""
    text = template("[[Parkinson]] disease, [[Crohn]] disease, seen: ") + mark("NAME", "PARKINSON, Ann")
    note = read(text, language="en", patient="p", kind="k")
    assert [note.text[item.start : item.end] for item in note.decoys] == ["Crohn"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_spans_lie_apart_inside_the_text(language: Language):
    """No span is empty, reaches beyond the text, or overlaps another, entity or decoy."""
    for note in notes(language):
        spans = sorted((item.start, item.end) for item in (*note.entities, *note.decoys))
        assert all(0 <= start < end <= len(note.text) for start, end in spans)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert not re.search("[\ue000-\ue1ff{}]|\\[\\[", note.text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_span_holds_a_thing_of_its_kind(language: Language):
    """What a span holds has the form of its kind."""
    for note in notes(language):
        assert all(text == text.strip() for text in planted(note, *KINDS))
        assert all("@" in text for text in planted(note, "EMAIL"))
        assert all("portal.example.org" in text.lower() for text in planted(note, "URL"))
        assert all(int(text) > 89 for text in planted(note, "AGE"))
        assert all(len(plain_digits(text)) >= 10 for text in planted(note, "PHONE"))
        assert all(len(plain_digits(text)) >= 6 for text in planted(note, "RECORD"))
        assert all(
            any(c.isdecimal() for c in text) or re.search("[〇一二三四五六七八九十]月", text)
            for text in planted(note, "DATE")
        )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_decoy_is_no_planted_identifier(language: Language):
    """No decoy of a note has the text of one of its entities, or holds a name of two characters or more."""
    for note in notes(language):
        identifying = {text.lower() for text in planted(note, *KINDS)}
        names = [text.lower() for text in planted(note, "NAME") if len(text) > 1]
        held = [note.text[item.start : item.end].lower() for item in note.decoys]
        assert not set(held) & identifying
        if language == "zh":
            assert not any(name in text for name in names for text in held)


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_kinds_occur_often(language: Language):
    """Each kind of entity occurs, so that a recall of 99.5 % can be told from 99 %."""
    counts = Counter(item.kind for note in notes(language) for item in note.entities)
    assert set(counts) == set(KINDS)
    assert min(counts[kind] for kind in ("NAME", "DATE", "PHONE", "RECORD", "ID", "EMAIL")) >= 400
    assert sum(len(note.decoys) for note in notes(language)) > 10_000


def test_layouts_vary():
    """Full-width digits, spaced IDs, Chinese numerals, half-width colons, shouting, whispering and tables occur."""
    chinese = [note.text for note in notes("zh")]
    english = [note.text for note in notes("en")]
    assert any(re.search("[０-９]{11}", text) for text in chinese)
    assert any(re.search(r"\d{6} \d{8} \d{3}[\dX]", text) for text in chinese)
    assert any(re.search("二〇[〇一二三四五六七八九]{2}年", text) for text in chinese)
    assert any("姓名:" in text for text in chinese)
    assert any("姓名：" in text for text in chinese)
    assert any(text.count("|") > 6 for text in chinese)
    assert any(text.isupper() for text in english)
    assert any(text.islower() for text in english)
    broken = [text for note in notes("en") for text in planted(note, "NAME", "DATE") if "\n" in text]
    assert broken


@pytest.mark.parametrize("language", LANGUAGES)
def test_notes_are_many(language: Language):
    """All eight kinds of notes occur, no two notes are alike, and openings differ."""
    assert len({note.kind for note in notes(language)}) == 8
    assert len({note.text for note in notes(language)}) == len(notes(language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_notes_about_one_patient_agree(language: Language):
    """A key stands for one person: all notes under it give the same e-mail address."""
    addresses: dict[str, list[str]] = defaultdict(list)
    for note in notes(language):
        addresses[note.patient] += [text.lower() for text in planted(note, "EMAIL")]
    assert any(len(found) > 2 for found in addresses.values())
    assert all(len(set(found)) <= 1 for found in addresses.values())


def test_who_tells_people_apart():
    """Names, and only they, carry a number; one number is one person, full or by surname, two are two."""
    for note in notes("zh"):
        people: dict[int, set[str]] = defaultdict(set)
        for item in note.entities:
            assert (item.who > 0) == (item.kind == "NAME")
            if item.who:
                people[item.who].add(note.text[item.start : item.end])
        longest = {who: max(mentions, key=len) for who, mentions in people.items()}
        assert all(longest[who].startswith(name) for who, mentions in people.items() for name in mentions)
        shortest = {who: min(mentions, key=len) for who, mentions in people.items()}
        assert not any(full.startswith(short) for a, short in shortest.items() for b, full in longest.items() if a != b)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_patient_key_stands_nowhere_in_the_text(language: Language):
    """The gold's key for a patient is not part of the note."""
    assert all(note.patient not in note.text for note in notes(language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_seed_gives_the_same_notes(language: Language):
    """Notes are a function of the seed; another seed gives others."""
    first, again, other = (list(draw_notes(np.random.default_rng(seed), language, 20)) for seed in (3, 3, 4))
    assert first == again
    assert not {note.text for note in first} & {note.text for note in other}


def test_a_note_is_written_in_the_patients_language():
    """The name decides the language."""
    rng = np.random.default_rng(2)
    for language in LANGUAGES:
        assert write_note(rng, draw_person(rng, language), key="k").language == language


def test_the_gold_file_has_the_agreed_form(tmp_path: Path):
    """Each line has text, language, patient, entities and decoys, and its offsets hold after a round trip."""
    path = tmp_path / "gold.jsonl"
    write_gold(path, np.random.default_rng(5), languages=LANGUAGES, count=30)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["language"] for line in lines] == ["zh"] * 30 + ["en"] * 30
    for line in lines:
        assert set(line) == {"text", "language", "patient", "entities", "decoys"}
        assert all(set(item) == {"start", "end", "kind"} for item in line["entities"])
        assert all(item["kind"] in KINDS and line["text"][item["start"] : item["end"]] for item in line["entities"])
        assert all(set(item) == {"start", "end"} for item in line["decoys"])


def test_a_negative_count_is_refused():
    """There is no negative number of notes."""
    with pytest.raises(UsageError, match="0 or more"):
        list(draw_notes(np.random.default_rng(1), "zh", -1))


@pytest.mark.parametrize("wording", [wording_en, wording_zh])
def test_every_slot_and_section_exists(wording: ModuleType):
    """No template names a slot that a stage cannot fill, and no section a bank that is not there."""
    slots = {slot for bank in wording.BANKS.values() for text in bank for slot in re.findall(r"{(\w+)}", text)}
    slots |= {slot for text in wording.SIGNATURES for slot in re.findall(r"{(\w+)}", text)} | set(wording.LABELS)
    assert slots <= set(stage._SLOTS)
    kinds = wording.KINDS_EN if wording is wording_en else wording.KINDS_ZH
    assert {section.bank for sections in kinds.values() for section in sections} == set(wording.BANKS)


def test_nothing_here_knows_the_code_under_test():
    """No module of the phantoms imports de-identification."""
    folder = Path(fedmed_sim.phantoms.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("deid" in module for module in modules), path.name
