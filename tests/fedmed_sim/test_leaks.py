"""A planted identifier is found wherever it stands, and never repeated in the report."""

import secrets
from pathlib import Path

import pytest
from federation import build_consortium
from hypothesis import example, given
from hypothesis import strategies as st

from fedmed.exchange import Answer, answer_to_bytes
from fedmed.records import canonical_json
from fedmed_sim.leaks import SHORTEST, LeakSearch

IDENTIFIERS = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=6, max_size=24)
PLANTED = ("张三丰李四", "13800138000", "Wang Xiaoming", "11010119900307123X", "上海市浦东新区世纪大道100号")


def found(identifiers: tuple[str, ...], data: bytes) -> int:
    """Return how many finds one piece of data holds."""
    search = LeakSearch(identifiers)
    search.feed(data, "here")
    return search.report().found


@given(IDENTIFIERS, st.sampled_from(["utf-8", "gb18030"]), st.binary(max_size=40), st.binary(max_size=40))
@example("13800138000", "utf-8", b"", b"")
@example("张三丰李四", "gb18030", b"\xff", b"")
def test_an_identifier_is_found_at_any_offset(identifier: str, encoding: str, before: bytes, after: bytes):
    """In either encoding, between any bytes, at the first and the last position too."""
    assert found((identifier,), before + identifier.encode(encoding) + after) >= 1


@given(st.lists(st.sampled_from(PLANTED), min_size=1, max_size=6), st.data())
def test_every_occurrence_is_counted(places: list[str], data: st.DataObject):
    """Several identifiers, also one right after the other, each in its own encoding."""
    pieces = [place.encode(data.draw(st.sampled_from(["utf-8", "gb18030"]))) for place in places]
    assert found(PLANTED, b"".join(pieces)) == len(places)


@given(st.binary(max_size=300))
def test_bytes_without_an_identifier_are_clean(data: bytes):
    """Nothing is reported that isn't there, whatever the model's bytes look like."""
    assert found(PLANTED, data) == sum(
        data.count(form) for text in PLANTED for form in {text.encode(), text.encode("gb18030")}
    )


def test_an_identifier_is_found_inside_what_really_travels():
    """In a stored answer, in canonical JSON, and in the middle of a float array."""
    name = PLANTED[0]
    hidden = secrets.token_bytes(4001) + name.encode() + secrets.token_bytes(4003)
    for data in (canonical_json({"note": name}), answer_to_bytes(Answer(site=name)), hidden):
        assert found((name,), data) == 1


def test_a_part_of_an_identifier_is_not_a_find():
    """All but the last byte is somebody else's number."""
    assert found(("13800138000",), b"1380013800 1380013800x") == 0


@pytest.mark.parametrize("text", ["", "a", "12345", "医"])
def test_short_patterns_are_left_out_and_not_counted_as_planted(text: str):
    """Random weights contain them by chance, so finding them means nothing; the report doesn't claim a search."""
    search = LeakSearch((text, "13800138000"))
    search.feed(text.encode() * 3, "here")
    assert (search.report().planted, search.report().found) == (1, 0)


def test_six_bytes_are_enough():
    """A Chinese name of two characters is searched for in UTF-8, where it has six bytes."""
    assert SHORTEST == 6
    assert found(("李四",), "病人李四".encode()) == 1


def test_the_report_covers_what_was_fed():
    """Planted identifiers, bytes and places: a search over nothing shows as such."""
    search = LeakSearch(PLANTED)
    assert (search.report().searched_bytes, search.report().found, search.report().places) == (0, 0, ())
    search.feed(b"x" * 10, "a message")
    search.feed(PLANTED[1].encode(), "another message")
    search.feed(PLANTED[2].encode(), "another message")
    report = search.report()
    assert (report.planted, report.searched_bytes, report.found) == (len(PLANTED), 34, 2)
    assert report.places == ("another message",)


@pytest.mark.parametrize("identifier", PLANTED)
def test_the_report_never_repeats_an_identifier(tmp_path: Path, identifier: str):
    """It goes into summary.json and the report page, which leave the hospital."""
    (tmp_path / "log.txt").write_bytes(identifier.encode("gb18030"))
    search = LeakSearch(PLANTED)
    search.feed(b"name: " + identifier.encode(), "a message of study 1")
    search.feed_folder(tmp_path)
    assert search.report().found == 2
    assert identifier.encode() not in canonical_json(search.report())


def test_every_file_of_a_folder_is_searched(tmp_path: Path):
    """Hidden, nested and empty ones; the place is relative to the folder."""
    deep = tmp_path / "study-1" / ".result"
    deep.mkdir(parents=True)
    (deep / ".hidden").write_bytes(b"\0" + PLANTED[0].encode())
    (tmp_path / "clean").write_bytes(b"")
    search = LeakSearch(PLANTED)
    search.feed_folder(tmp_path)
    assert (search.report().found, search.report().places) == (1, ("study-1/.hidden".replace("/", "/.result/"),))


def test_an_identifier_in_a_files_name_is_found_and_not_repeated(tmp_path: Path):
    """A file that is called after a patient leaks as much as one that holds the name."""
    (tmp_path / f"{PLANTED[0]}.json").write_bytes(PLANTED[1].encode())
    search = LeakSearch(PLANTED)
    search.feed_folder(tmp_path)
    assert search.report().found == 2
    assert PLANTED[0].encode() not in canonical_json(search.report())


def test_a_file_whose_name_is_not_utf8_is_searched_too(tmp_path: Path):
    """A hospital's machine may write names in GB18030."""
    (tmp_path / PLANTED[0].encode("gb18030").decode("utf-8", "surrogateescape")).write_bytes(PLANTED[1].encode())
    search = LeakSearch(PLANTED)
    search.feed_folder(tmp_path)
    assert search.report().found == 2


def test_a_find_in_a_file_whose_name_is_not_utf8_can_be_reported(tmp_path: Path):
    """The place goes into summary.json, whatever bytes the file is called by."""
    (tmp_path / b"\xff\xfe".decode("utf-8", "surrogateescape")).write_bytes(PLANTED[1].encode())
    search = LeakSearch(PLANTED)
    search.feed_folder(tmp_path)
    assert search.report().found == 1
    assert b'"found":1' in canonical_json(search.report())


def test_a_federation_in_memory_does_not_leak(tmp_path: Path):
    """No patient's name is in any answer or in anything the coordinator wrote; the same search finds it at a site."""
    consortium = build_consortium(tmp_path, sites=2, rows=60)
    plan = consortium.plan()
    channel = consortium.channel(plan)
    consortium.runner(plan, tmp_path / "coordinator", channel=channel).run()
    search = LeakSearch(consortium.patients)
    for _, task, reply in channel.seen:
        assert isinstance(reply, Answer)
        search.feed(answer_to_bytes(reply) + reply.message, task.action)
    search.feed_folder(tmp_path / "coordinator")
    report = search.report()
    assert report.planted == 120
    assert report.searched_bytes > 1000
    assert report.found == 0
    raw = LeakSearch(consortium.patients)
    raw.feed((tmp_path / "h1.csv").read_bytes(), "the raw table")
    assert raw.report().found >= 60
