"""Passphrases: where they may come from, and what is said when they don't."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed.crypto.passphrases import CREDENTIALS_VARIABLE, KEY_FILE_VARIABLE, VARIABLE, obtain, obtain_secret
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


def secret(passphrase_file: Path | None = None, key_file: Path | None = None, **environment: str) -> tuple[str, bytes]:
    """Return the kind and value that `obtain_secret` finds."""
    found = obtain_secret(
        passphrase_file=passphrase_file, key_file=key_file, use="existing key", environment=environment
    )
    return found.kind, found.value


def test_a_key_file_is_32_bytes(tmp_path: Path):
    """Exactly 32 bytes of mode 600 are a key file; fewer, more or readable ones are not."""
    good = written(tmp_path / "k", bytes(range(32)))
    assert secret(key_file=good) == ("key-file", bytes(range(32)))
    with pytest.raises(UsageError, match="expected a key file of 32 random bytes, got fewer"):
        secret(key_file=written(tmp_path / "short", bytes(31)))
    with pytest.raises(UsageError, match="got more than 32 bytes"):
        secret(key_file=written(tmp_path / "long", bytes(33)))
    with pytest.raises(UsageError, match="run: chmod 600"):
        secret(key_file=written(tmp_path / "open", bytes(32), mode=0o640))


def test_what_was_named_outright_comes_before_the_environment(tmp_path: Path):
    """An option wins over the variables; both options, or both variables, are refused."""
    key, words = written(tmp_path / "k", bytes(32)), written(tmp_path / "p", GOOD.encode())
    assert secret(**{KEY_FILE_VARIABLE: str(key)}) == ("key-file", bytes(32))
    assert secret(**{VARIABLE: str(words)}) == ("passphrase", GOOD.encode())
    assert secret(passphrase_file=words, **{KEY_FILE_VARIABLE: str(key)}) == ("passphrase", GOOD.encode())
    with pytest.raises(UsageError, match="got both; leave one out"):
        secret(passphrase_file=words, key_file=key)
    with pytest.raises(UsageError, match="found both set; unset one"):
        secret(**{KEY_FILE_VARIABLE: str(key), VARIABLE: str(words)})


def test_a_credential_of_systemd_is_taken(tmp_path: Path):
    """A file of root with an access list shows mode 0440; it is taken in systemd's own folder, and nowhere else."""
    path = written(tmp_path / "unlock", bytes(32), mode=0o440)
    status = path.stat()
    if (status.st_uid, status.st_gid) != (0, 0):
        pytest.skip("only root can make a file of root")
    assert secret(key_file=path, **{CREDENTIALS_VARIABLE: str(tmp_path)}) == ("key-file", bytes(32))
    for folder in ("", str(tmp_path.parent)):
        with pytest.raises(UsageError, match="got mode 0440"):
            secret(key_file=path, **{CREDENTIALS_VARIABLE: folder})
    path.chmod(0o444)
    with pytest.raises(UsageError, match="got mode 0444"):
        secret(key_file=path, **{CREDENTIALS_VARIABLE: str(tmp_path)})


def test_the_prompt_says_whose_keys_it_opens():
    """Where a command asks for two passphrases, each question names its keys."""
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return GOOD

    obtain_secret(
        passphrase_file=None, key_file=None, use="existing key", what="the coordinator's keys", environment={}, ask=ask
    )
    assert asked == ["Passphrase for the coordinator's keys: "]
