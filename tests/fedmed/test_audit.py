"""The hash chain and its file: whole, ordered, durable, and loud about anything else."""

import fcntl
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed import audit
from fedmed.audit import ChainLog, Entry
from fedmed.errors import IntegrityError

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
BODIES = st.dictionaries(st.text(max_size=8), SCALARS | st.text(max_size=20), max_size=4)


def chain(length: int) -> list[Entry]:
    """Return a valid chain."""
    entries: list[Entry] = []
    for number in range(length):
        entries.append(audit.append(entries[-1] if entries else None, "event", {"number": number}))
    return entries


def log_of(path: Path, length: int) -> ChainLog:
    """Return a log with `length` entries."""
    log = ChainLog(path)
    for number in range(length):
        log.append("event", {"number": number})
    return log


@given(st.lists(BODIES, max_size=6))
def test_what_append_builds_verifies(bodies: list[dict[str, audit.Scalar]]):
    """Any sequence of appended entries is a valid chain."""
    entries: list[Entry] = []
    for body in bodies:
        entries.append(audit.append(entries[-1] if entries else None, "event", body))
    audit.verify(entries)


@pytest.mark.parametrize(("victim", "named"), [(0, 1), (1, 2), (2, 3)])
def test_verify_names_the_entry_after_a_changed_one(victim: int, named: int):
    """A changed entry no longer has the digest that the next one names."""
    entries = chain(4)
    old = entries[victim]
    entries[victim] = Entry(index=old.index, previous=old.previous, kind=old.kind, body={"number": 99})
    with pytest.raises(IntegrityError, match=f"entry {named} is bad"):
        audit.verify(entries)


def test_verify_notices_a_missing_entry():
    """A chain with a link taken out names the first entry after the gap."""
    entries = chain(4)
    with pytest.raises(IntegrityError, match="entry 1 is bad"):
        audit.verify([entries[0], *entries[2:]])


def test_verify_notices_a_missing_beginning():
    """A chain starts at its first entry."""
    with pytest.raises(IntegrityError, match="entry 0 is bad"):
        audit.verify(chain(3)[1:])


def test_verify_notices_swapped_entries():
    """Order is part of the chain."""
    first, second, third = chain(3)
    with pytest.raises(IntegrityError, match="entry 1 is bad"):
        audit.verify([first, third, second])


@pytest.mark.parametrize("value", [math.inf, math.nan, [1], {"a": 1}])
def test_a_body_holds_finite_scalars_only(value: object):
    """JSON has no infinity, and nested bodies hide things."""
    with pytest.raises(ValueError, match=r"body\.key"):
        audit.append(None, "event", {"key": value})  # type: ignore[dict-item]


def test_an_entry_of_another_version_is_refused():
    """A later format is not read as this one."""
    with pytest.raises(ValueError, match="version must be 1"):
        Entry(index=0, previous=audit.GENESIS, kind="event", body={}, version=2)


def test_a_log_returns_what_was_appended(tmp_path: Path):
    """A second reader sees the same entries, types included."""
    log = ChainLog(tmp_path / "log")
    body: dict[str, audit.Scalar] = {"a": 1.0, "b": 1, "c": None, "d": True, "e": "é"}
    entry = log.append("event", body)
    read = ChainLog(tmp_path / "log").entries()
    assert read == [entry]
    assert {key: type(value) for key, value in read[0].body.items()} == {k: type(v) for k, v in body.items()}


def test_an_absent_log_has_no_entries(tmp_path: Path):
    """Reading creates nothing."""
    assert ChainLog(tmp_path / "log").entries() == []
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_readable_by_its_owner_only(tmp_path: Path):
    """Other users of the machine don't read an audit trail."""
    log_of(tmp_path / "log", 1)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_cut_at_any_byte_keeps_every_committed_entry(tmp_path: Path):
    """A kill in the middle of an append leaves the entries before it, and the next append goes on from there."""
    path = tmp_path / "log"
    log = log_of(path, 2)
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        committed = data[:size].count(b"\n")
        assert len(log.entries()) == committed
        log.append("event", {"number": -1})
        assert [entry.index for entry in log.entries()] == list(range(committed + 1))


def test_a_torn_last_line_is_cut_away_before_the_next_append(tmp_path: Path):
    """The torn bytes are gone afterwards, so the new line is whole."""
    path = tmp_path / "log"
    log = log_of(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"digest":"dead')
    log.append("event", {"number": 1})
    assert path.read_bytes().startswith(whole)
    assert b"dead" not in path.read_bytes().removeprefix(whole)[:20]


def test_a_torn_tail_of_zeros_is_tolerated(tmp_path: Path):
    """A power cut may extend a file with zeros that were never committed."""
    path = tmp_path / "log"
    log = log_of(path, 2)
    path.write_bytes(path.read_bytes() + bytes(100))
    assert len(log.entries()) == 2


@pytest.mark.parametrize("junk", [b"\n", b"{}\n", b"not json\n", b"\xff\n", bytes(10) + b"\n"])
def test_a_whole_bad_line_is_an_error(tmp_path: Path, junk: bytes):
    """Only an incomplete last line can come from a crash; anything else was done to the file."""
    path = tmp_path / "log"
    log = log_of(path, 2)
    path.write_bytes(path.read_bytes() + junk)
    with pytest.raises(IntegrityError, match="entry 2 is bad"):
        log.entries()
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="entry 2 is bad"):
        log.append("event", {})
    assert path.read_bytes() == before


def test_any_flipped_bit_is_noticed(tmp_path: Path):
    """Also in the last entry, which no later entry vouches for; a flipped newline may only lose the torn line."""
    path = tmp_path / "log"
    log = log_of(path, 2)
    data = path.read_bytes()
    for position in range(len(data) - 1):
        for bit in (0, 3, 6):
            path.write_bytes(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
            with pytest.raises(IntegrityError):
                log.entries()


def test_a_line_in_another_spelling_is_an_error(tmp_path: Path):
    """Lines are canonical JSON, so equal logs are equal bytes."""
    path = tmp_path / "log"
    log = log_of(path, 1)
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode() + b"\n")
    with pytest.raises(IntegrityError, match="entry 0 is bad"):
        log.entries()


def test_extend_may_decide_to_write_nothing(tmp_path: Path):
    """The decision sees the committed entries and can refuse."""
    path = tmp_path / "log"
    log = log_of(path, 2)
    before = path.read_bytes()
    seen: list[int] = []
    assert log.extend(lambda entries: seen.append(len(entries))) is None
    assert seen == [2]
    assert path.read_bytes() == before


def test_an_exception_in_the_decision_writes_nothing_and_frees_the_lock(tmp_path: Path):
    """A refusal leaves the log as it was and ready for the next writer."""
    path = tmp_path / "log"
    log = log_of(path, 1)

    def refuse(_: object) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        log.extend(refuse)
    assert log.append("event", {}).index == 1


def test_a_decision_holds_the_lock(tmp_path: Path):
    """No writer can come between what a decision saw and what it writes."""
    log = log_of(tmp_path / "log", 1)

    def decide(_: object) -> None:
        with (tmp_path / "log.lock").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    log.extend(decide)


def test_a_change_behind_the_back_of_an_open_log_is_noticed(tmp_path: Path):
    """What was verified once is compared byte by byte, not trusted."""
    path = tmp_path / "log"
    log = log_of(path, 3)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"number":0', b'"number":9'))
    with pytest.raises(IntegrityError, match="entry 0 is bad"):
        log.append("event", {})
    path.write_bytes(data)
    assert log.append("event", {}).index == 3


def test_two_writers_share_one_chain(tmp_path: Path):
    """Each append continues from what the other wrote."""
    one, other = ChainLog(tmp_path / "log"), ChainLog(tmp_path / "log")
    one.append("event", {})
    other.append("event", {})
    one.append("event", {})
    assert [entry.index for entry in other.entries()] == [0, 1, 2]


def test_append_all_writes_one_valid_chain(tmp_path: Path):
    """Several entries appended together follow each other and what was there, and are those that are returned."""
    log = log_of(tmp_path / "log.jsonl", 2)
    written = log.append_all([("event", {"number": 2}), ("other", {"number": 3})])
    stored = ChainLog(tmp_path / "log.jsonl").entries()
    audit.verify(stored)
    assert [entry.index for entry in stored] == [0, 1, 2, 3]
    assert stored[2:] == written
    assert log.append_all([]) == []
    assert log.append("event", {}).index == 4


def test_append_all_drops_a_torn_line_and_refuses_a_changed_log(tmp_path: Path):
    """A torn last line is cut off first; a chain that does not verify is refused and left as it is."""
    path = tmp_path / "log.jsonl"
    log_of(path, 1)
    with path.open("ab") as file:
        file.write(b'{"digest": "torn')
    ChainLog(path).append_all([("event", {"number": 1}), ("event", {"number": 2})])
    audit.verify(ChainLog(path).entries())
    changed = path.read_bytes().replace(b'"number":1', b'"number":7')
    path.write_bytes(changed)
    with pytest.raises(IntegrityError):
        ChainLog(path).append_all([("event", {})])
    assert path.read_bytes() == changed
