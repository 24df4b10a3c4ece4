"""Phantom tables: the facts are those of the file."""

import csv
import io
import unicodedata
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from fedmed.errors import UsageError
from fedmed_sim.phantoms.names import Language
from fedmed_sim.phantoms.tables import EXACT, Encoding, Table, draw_table, respelled

LANGUAGES: tuple[Language, ...] = ("zh", "en")
ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-8-sig", "gb18030")


def table(language: Language, encoding: Encoding = "utf-8", *, seed: int = 41) -> Table:
    """Return a table of 300 rows."""
    return draw_table(np.random.default_rng(seed), language, rows=300, encoding=encoding)


def plain(text: str) -> str:
    """Return `text` without width, letter case, outer spaces and trailing `^`."""
    return unicodedata.normalize("NFKC", text).strip().rstrip("^").lower()


@pytest.mark.parametrize(("language", "encoding"), list(product(LANGUAGES, ENCODINGS)))
def test_the_file_holds_what_the_facts_say(language: Language, encoding: Encoding):
    """Decoded in the told encoding, headings and cells are those of the facts, remarks with line breaks included."""
    drawn = table(language, encoding)
    rows = list(csv.reader(io.StringIO(drawn.payload.decode(encoding), newline="")))
    assert rows[0] == list(drawn.columns.values())
    assert len(rows) == 301
    for at, role in enumerate(drawn.columns):
        assert tuple(row[at] for row in rows[1:]) == drawn.cells[role]
    assert (drawn.payload[:3] == b"\xef\xbb\xbf") == (encoding == "utf-8-sig")


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_person_is_spelled_in_several_ways(language: Language):
    """Rows of one person agree but for spaces, width, letter case and a trailing `^`, and some do differ."""
    drawn = table(language)
    seen: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    same: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for row, person in enumerate(drawn.person_of_row):
        written = tuple(drawn.cells[role][row] for role in ("record", "name", "identity"))
        seen[person].add(written)
        same[person].add(tuple(map(plain, written)))
    assert all(len(forms) == 1 for forms in same.values())
    assert sum(len(forms) > 1 for forms in seen.values()) > 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_old_ages_and_the_rare_district_are_told(language: Language):
    """A few rows are over 89, and the rare district has two rows and two people."""
    drawn = table(language)
    assert 3 <= len(drawn.old_rows) <= 60
    assert all(int(drawn.cells["age"][row]) > 89 for row in drawn.old_rows)
    counts = Counter(drawn.cells["district"])
    assert counts[drawn.rare_district] == 2
    assert min(count for name, count in counts.items() if name != drawn.rare_district) >= 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_remarks_hide_identifiers_with_gold(language: Language):
    """Each remark is its note's text, names and numbers occur in many, and some remarks are empty."""
    drawn = table(language)
    assert drawn.cells["remarks"] == tuple(note.text for note in drawn.remarks)
    assert sum(any(item.kind == "NAME" for item in note.entities) for note in drawn.remarks) > 60
    assert any(not note.text for note in drawn.remarks)


@pytest.mark.parametrize("language", LANGUAGES)
def test_secrets_are_in_the_file_and_exact_values_are_no_secrets(language: Language):
    """Written identifiers are found in the bytes, and no diagnosis or laboratory value is told as a secret."""
    drawn = table(language)
    text = drawn.payload.decode("utf-8")
    by_where = Counter(secret.where for secret in drawn.secrets if secret.text in text.replace('""', '"'))
    assert by_where["remarks"] > 100
    assert by_where["phone"] > 150
    told = {secret.text for secret in drawn.secrets}
    assert not told & {value for role in EXACT for value in drawn.cells[role]}


def test_respelling_changes_only_what_a_clerk_changes():
    """Every respelling of a name is the name after folding width, case, spaces and `^`."""
    rng = np.random.default_rng(1)
    for text in ("SMITH^JOHN", "欧阳明", "12010519491231002x"):
        spellings = {respelled(rng, text) for _ in range(100)}
        assert len(spellings) > 2
        assert {plain(spelling) for spelling in spellings} == {plain(text)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_seed_gives_the_same_table(language: Language):
    """A table is a function of the seed."""
    assert table(language).payload == table(language).payload
    assert table(language).payload != table(language, seed=42).payload


def test_a_tiny_table_is_refused():
    """Below 20 rows there is no room for the planted cases."""
    with pytest.raises(UsageError, match="at least 20"):
        draw_table(np.random.default_rng(1), "en", rows=19)
