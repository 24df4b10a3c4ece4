"""How the rules read a note, and how they answer in spans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.deid.text.layout import cells, lay_out
from fedmed.deid.text.reading import cased, read
from fedmed.deid.text.spans import Kind, Span, fill, merge
from fedmed.errors import DataError

SPANS = st.lists(
    st.builds(
        lambda start, size, kind: Span(start=start, end=start + size, kind=kind),
        st.integers(0, 40),
        st.integers(1, 10),
        st.sampled_from(["NAME", "DATE", "ID"]),
    )
)


def test_view_has_one_spelling() -> None:
    """Full-width letters, other digits, dashes and spaces are read as their plain forms, index by index."""
    note = "Ａ１２－３４ ٣\u00a0–"
    assert read(note).view == "A12-34 3 -"
    assert len(read(note).view) == len(note)


def test_invisible_characters_hide_nothing() -> None:
    """A joiner inside a number is left out of the view, and the span covers it in the note."""
    reading = read("电话138\u200b0013\u200d8000。")
    start = reading.view.index("138")
    span = reading.in_note(Span(start=start, end=start + 11, kind="PHONE"))
    assert reading.view[start : start + 11] == "13800138000"
    assert (span.start, span.end) == (2, 15)


def test_half_a_surrogate_pair_is_refused() -> None:
    """A note that was decoded wrongly is refused, and the error holds nothing of it."""
    with pytest.raises(DataError, match="half a surrogate pair") as caught:
        read("Qxz7canary \ud800")
    assert "canary" not in str(caught.value)


@given(st.text())
def test_view_points_into_the_note(note: str) -> None:
    """Every index of the view leads to one index of the note, in order."""
    try:
        reading = read(note)
    except DataError:
        return
    origins = tuple(range(len(note))) if reading.origins is None else reading.origins
    assert len(reading.view) == len(reading.lower) == len(origins)
    assert list(origins) == sorted(set(origins))


@given(SPANS)
def test_merging_keeps_what_is_covered(spans: list[Span]) -> None:
    """The union covers just what the spans covered, in order, without overlap."""
    merged = merge(spans)
    covered = {index for span in spans for index in range(span.start, span.end)}
    assert [index for span in merged for index in range(span.start, span.end)] == sorted(covered)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 3), (5, 2)])
def test_empty_span_does_not_exist(start: int, end: int) -> None:
    """A span that covers nothing or starts before the note is refused."""
    with pytest.raises(ValueError, match="start < end"):
        Span(start=start, end=end, kind="NAME")


def test_union_has_the_first_kind() -> None:
    """Where two kinds overlap, the order of the kinds names the union."""
    kinds: list[Kind] = ["NAME", "ID"]
    merged = merge(Span(start=0, end=4, kind=kind) for kind in kinds)
    assert [span.kind for span in merged] == ["ID"]


def test_filled_text_is_as_long() -> None:
    """Blanking keeps every index where it is."""
    assert len(fill("abcdef", [Span(start=1, end=3, kind="NAME")])) == 6


def test_forms_read_as_sentences() -> None:
    """Bars, tabs and gaps after a known label are read as a colon; other text keeps its marks."""
    assert lay_out("姓 名 | 冉某 | 咳嗽 | 3天") == " 姓名:  冉某 | 咳嗽 | 3天"
    assert lay_out("Patient Name - Roe") == "Patient Name:  Roe"
    assert lay_out("BP 120 - 130") == "BP 120 - 130"


def test_tables_are_read_by_their_headings() -> None:
    """A cell is read with the label above it."""
    table = "| Name | Age | Ward |\n|---|---|---|\n| Roe | 94 | 3 |"
    found = [(cell.label, cell.text) for cell in cells(table)]
    assert ("Name", "Roe") in found
    assert ("Age", "94") in found
    assert all(table[cell.start :].startswith(cell.text) for cell in cells(table))


@pytest.mark.parametrize(
    "note",
    [
        "ALL OF THIS NOTE IS WRITTEN IN CAPITALS, EVERY WORD OF IT.",
        "all of this note is written in small letters, every word.",
    ],
)
def test_capitals_without_meaning_are_seen(note: str) -> None:
    """A note in capitals only, or in none, is read with one on each word."""
    view, plain = cased(note)
    assert plain
    assert view.istitle()
    assert len(view) == len(note)
