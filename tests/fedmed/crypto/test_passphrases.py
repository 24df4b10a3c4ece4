"""Passphrases: where they may come from, and what is said when they don't."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed.crypto.passphrases import VARIABLE, obtain
from fedmed.errors import UsageError

GOOD = "correct horse battery"


def written(path: Path, data: bytes, *, mode: int = 0o600) -> Path:
    """Write a passphrase file."""
    path.write_bytes(data)
    path.chmod(mode)
    return path


def typed(*lines: str) -> Callable[[str], str]:
    """Return a prompt at which `lines` are typed, one after the other."""
    left = iter(lines)
    return lambda _prompt: next(left)


@pytest.mark.parametrize("data", [b"%s", b"%s\n", b"%s\r\n", b"\xef\xbb\xbf%s\r\n"])
def test_a_file_gives_its_one_line(tmp_path: Path, data: bytes):
    """The line's end and a byte order mark do not belong to the passphrase."""
    path = written(tmp_path / "p", data % GOOD.encode())
    assert obtain(path, use="existing key", environment={}) == GOOD.encode()


def test_the_environment_names_a_file_and_an_argument_wins(tmp_path: Path):
    """The variable holds a path, and a file that was named outright comes first."""
    named, other = written(tmp_path / "a", b"from the variable"), written(tmp_path / "b", b"from the argument")
    environment = {VARIABLE: str(named)}
    assert obtain(None, use="existing key", environment=environment) == b"from the variable"
    assert obtain(other, use="existing key", environment=environment) == b"from the argument"


def test_a_value_in_the_environment_is_no_passphrase():
    """A passphrase in the variable itself is taken for a path that does not exist."""
    with pytest.raises(UsageError, match="found no such file"):
        obtain(None, use="existing key", environment={VARIABLE: GOOD})


def test_a_file_and_a_keyboard_give_the_same_bytes(tmp_path: Path):
    """Letters with accents are normalised, however they were composed."""
    path = written(tmp_path / "p", "cafe\u0301 cafe\u0301 cafe\u0301".encode())
    assert obtain(path, use="existing key", environment={}) == obtain(
        None, use="existing key", environment={}, ask=typed("café café café")
    )


@pytest.mark.parametrize(
    ("data", "mode", "text"),
    [
        (b"x" * 20, 0o644, "that only its owner can read, got mode 0644; run: chmod 600"),
        (b"", 0o600, "expected one, got an empty one"),
        (b"\n", 0o600, "expected one, got an empty one"),
        (b"two\nlines of it", 0o600, "on one line, got several lines"),
        (b"\xff\xfe\x00secret", 0o600, "as UTF-8 text"),
        (b"x" * 5000, 0o600, "more than 4096 bytes"),
        (b"short", 0o600, "at least 12 characters"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(tmp_path: Path, data: bytes, mode: int, text: str):
    """Each mistake names its cure and repeats nothing of the content."""
    path = written(tmp_path / "p", data, mode=mode)
    with pytest.raises(UsageError, match=text) as caught:
        obtain(path, use="new key", environment={})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "lines of it" not in str(caught.value)


def test_a_new_passphrase_is_typed_twice():
    """Two entries that agree are taken; two that differ are not."""
    assert obtain(None, use="new key", environment={}, ask=typed(GOOD, GOOD)) == GOOD.encode()
    with pytest.raises(UsageError, match="the same one twice, got two different ones"):
        obtain(None, use="new key", environment={}, ask=typed(GOOD, GOOD + "!"))


def test_without_file_or_terminal_the_three_ways_are_named(monkeypatch: pytest.MonkeyPatch):
    """Nothing waits for a keyboard that is not there."""
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match=f"give --passphrase-file FILE, set {VARIABLE} to a file's path, or run"):
        obtain(None, use="existing key", environment={})


def test_an_end_of_input_is_no_passphrase():
    """Ctrl-D at the prompt is one line."""

    def closed(_prompt: str) -> str:
        raise EOFError

    with pytest.raises(UsageError, match="expected one, got none"):
        obtain(None, use="existing key", environment={}, ask=closed)
