"""JSON Lines become the table that de-identification reads; nothing is guessed."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from fedmed.data.jsonl import rows_of, table_of
from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.errors import DataError
from fedmed.rows import turns_of

SCHEMA = Schema(
    name="talks",
    file="{site}.jsonl",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="talk", kind="text", role="free-text"),
        Column(name="old", kind="binary", role="feature", values=("0", "1")),
    ),
    targets=(Target(name="answer", column="talk", answered=True),),
    text=TextPart(column="talk", characters=100, form="chat"),
)
TALK = '[{"role": "user", "content": "Pulse, \\"now\\"?"}, {"role": "assistant", "content": "72\\nregular"}]'


def read(path: Path, tmp_path: Path) -> pl.DataFrame:
    """Return the table that a file becomes."""
    before = sorted(tmp_path.iterdir())
    with table_of(path, SCHEMA) as table:
        found = pl.read_csv(table.read_bytes(), infer_schema=False)
    assert sorted(tmp_path.iterdir()) == before
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"type": "text", "text": "Pulse?"}, {"type": "text", "text": "Now?"}]', "Pulse?\nNow?"),
        ('[{"text": "Pulse?"}]', "Pulse?"),
        ("null", ""),
        ("[]", ""),
        ('[{"type": "image_url", "image_url": {"url": "a.png"}}]', None),
        ('["Pulse?"]', None),
        ('{"text": "Pulse?"}', None),
        ("7", "7"),
    ],
)
def test_a_content_may_be_texts_in_parts(content: str, said: str | None, tmp_path: Path):
    """Programs write both; what is no text is never learnt as its own notation, and its record counts as empty."""
    (tmp_path / "north.jsonl").write_text(f'{{"talk": [{{"role": "user", "content": {content}}}]}}\n')
    (cells,) = rows_of(tmp_path / "north.jsonl", ["talk"], talk="talk")
    assert cells == ["" if said is None else f"␞user␟{said}"]


def test_a_compressed_table_is_unpacked_in_memory(tmp_path: Path):
    """Byte by byte, whatever its form and encoding."""
    data = "id,talk\n1,发热\n".encode("gb18030")
    (tmp_path / "north.csv.gz").write_bytes(gzip.compress(data))
    with table_of(tmp_path / "north.csv.gz", SCHEMA) as table:
        assert table.read_bytes() == data
        assert table.parent != tmp_path


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:12] + b"\xff" * 9 + data[21:], len])
def test_a_damaged_compressed_table_is_one_line(spoil: Callable[[bytes], bytes | int], tmp_path: Path):
    """Cut, altered, or not compressed at all."""
    data = spoil(gzip.compress(b"id,talk\n" + b"1,cough\n" * 400))
    path = tmp_path / "north.csv.gz"
    path.write_bytes(data if isinstance(data, bytes) else b"id,talk\n")
    with pytest.raises(DataError, match=r"north\.csv\.gz: .*export it again"), table_of(path, SCHEMA):
        pass


@pytest.mark.parametrize("key", ["talk", "messages"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_conversation_becomes_one_cell(tmp_path: Path, key: str, zipped: bool):  # noqa: FBT001  a case
    """Under its column's name or under messages; quotes and line breaks survive."""
    line = f'{{"id": 7, "{key}": {TALK}, "old": true, "unlisted": 1}}\n'.encode()
    path = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(line) if zipped else line)
    found = read(path, tmp_path).row(0, named=True)
    assert found["id"] == "7"
    assert found["old"] == "1"
    assert turns_of(found["talk"]) == [("user", 'Pulse, "now"?'), ("assistant", "72\nregular")]
    assert "unlisted" not in found


def test_a_few_lines_that_are_no_objects_are_rows_that_will_be_set_aside(tmp_path: Path):
    """One of six has a cell too many, so that the way in counts it; empty lines are none."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(f'{{"id": "{i}", "talk": "t"}}' for i in range(5)), "", "[1]"]))
    found = list(rows_of(path, ["id", "talk"], talk="talk"))
    assert [len(row) for row in found] == [2] * 5 + [3]
    assert found[-1] == [""] * 3


@pytest.mark.parametrize("text", ["", "no json\n", '{"id": 1}\n[2]\n'])
def test_a_file_of_another_form_is_an_error(tmp_path: Path, text: str):
    """Too many bad lines, or none at all; no line is repeated in the message, and no table is left."""
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match="expected a JSON object on each line"):
        read(tmp_path / "a.jsonl", tmp_path)
    assert not (tmp_path / "out.csv").exists()


def test_other_tables_are_left_alone(tmp_path: Path):
    """CSV goes its own way in."""
    with table_of(tmp_path / "a.csv", SCHEMA) as table:
        assert table == tmp_path / "a.csv"


def test_what_is_still_raw_is_gone_afterwards(tmp_path: Path):
    """The table holds raw records: it lives in memory, and only for the block."""
    (tmp_path / "a.jsonl").write_text('{"id": "1"}\n')
    with table_of(tmp_path / "a.jsonl", SCHEMA) as table:
        assert table.read_bytes().startswith(b"id,")
    assert not table.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
