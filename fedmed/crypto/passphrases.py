"""Passphrases: from a file or a prompt, never from an argument or an environment variable's value.

Why it exists: what stands on a command line or in the environment is shown by
`ps`, shell histories, crash dumps and service managers. A file with mode 600
and a terminal without echo are not.

Rules:
    * The source is the file that was named; else the file that `FEDMED_PASSPHRASE_FILE` names; else a prompt.
    * A file that anybody else can read is refused, with the command that cures it.
    * No message holds a passphrase, its length or its characters.
    * A passphrase is normalised (Unicode NFC), so that a file and a keyboard give the same bytes.

What it does not do: judge how hard a passphrase is to guess, beyond a least length for a new key.
"""

import getpass
import os
import shlex
import stat
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from fedmed.errors import UsageError

VARIABLE: Final = "FEDMED_PASSPHRASE_FILE"
LEAST_CHARACTERS: Final = 12
_MOST_BYTES: Final = 4096
_CURE: Final = f"give --passphrase-file FILE, set {VARIABLE} to a file's path, or run it in a terminal"

Use = Literal["new key", "existing key"]


def obtain(
    file: Path | None,
    *,
    use: Use,
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str], str] | None = None,
) -> bytes:
    """Return the passphrase as UTF-8 bytes.

    Args:
        file: The file that the user named, or None.
        use: A new key asks twice at the prompt, and for `LEAST_CHARACTERS`.
        environment: Where `FEDMED_PASSPHRASE_FILE` may name a file.
        ask: Shows a prompt and returns what was typed; None for the terminal, without echo.

    Raises:
        UsageError: There is no source, the file is missing, empty or readable by others, the
            two entries differ, or a new passphrase is too short.
    """
    named = file if file is not None else _named_in(environment)
    text = _read(named) if named is not None else _ask(use, ask or _terminal())
    if not text:
        raise UsageError(f"passphrase: expected one, got an empty one; {_CURE}")
    if use == "new key" and len(text) < LEAST_CHARACTERS:
        raise UsageError(
            f"passphrase: expected at least {LEAST_CHARACTERS} characters for a new key; take a longer one"
        )
    return unicodedata.normalize("NFC", text).encode()


def read_private(path: Path, *, what: str, most_bytes: int) -> bytes:
    """Return the content of a file that only its owner may read.

    Args:
        path: The file.
        what: What it should be, for messages, such as "a private key".
        most_bytes: Refuse anything longer.

    Raises:
        UsageError: It does not exist, is a folder, is longer, or its mode lets others in.
        OSError: The operating system refuses to open it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(
                    f"{path}: expected {what} that only its owner can read, got mode {mode:04o}; "
                    f"run: chmod 600 {shlex.quote(str(path))}"
                )
            data = file.read(most_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: expected {what}, found no such file; check the path") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: expected {what}, found a folder; name the file in it") from None
    if len(data) > most_bytes:
        raise UsageError(f"{path}: expected {what}, got more than {most_bytes} bytes; check the path")
    return data


def _named_in(environment: Mapping[str, str]) -> Path | None:
    value = environment.get(VARIABLE, "")
    return Path(value) if value else None


def _read(path: Path) -> str:
    """Return the one line of a passphrase file; a byte order mark and the line's end don't belong to it."""
    data = read_private(path, what="a passphrase file", most_bytes=_MOST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: expected a passphrase as UTF-8 text; for random bytes, write base64") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if "\n" in text or "\r" in text:
        raise UsageError(f"{path}: expected a passphrase on one line, got several lines; check the path")
    return text


def _terminal() -> Callable[[str], str]:
    """Return the terminal's prompt without echo.

    Raises:
        UsageError: Nobody sits at a terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"passphrase: expected a file or a terminal, found neither; {_CURE}")
    return getpass.getpass


def _ask(use: Use, ask: Callable[[str], str]) -> str:
    try:
        text = ask("Passphrase for the new key: " if use == "new key" else "Passphrase: ")
        if use == "new key" and text and ask("The same passphrase again: ") != text:
            raise UsageError("passphrase: expected the same one twice, got two different ones; start again")
    except EOFError:
        raise UsageError(f"passphrase: expected one, got none; {_CURE}") from None
    return text
