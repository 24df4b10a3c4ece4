"""Passphrases and key files: from a file or a prompt, never from an argument or an environment variable's value.

Why it exists: what stands on a command line or in the environment is shown by
`ps`, shell histories, crash dumps and service managers. A file with mode 600
and a terminal without echo are not. A person remembers a passphrase; a service
that starts by itself gets a key file of 32 random bytes from its service manager.

Rules:
    * The source is the file that was named; else the file that `FEDMED_KEY_FILE` or `FEDMED_PASSPHRASE_FILE` names;
      else a prompt for a passphrase.
    * A file that anybody else can read is refused, with the command that cures it. systemd's copies of credentials,
      which belong to root and let the service in through an access list, are taken.
    * No message and no `repr` holds a passphrase or a key, its length or its characters.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fedmed.errors import UsageError
from fedmed.records import require

VARIABLE: Final = "FEDMED_PASSPHRASE_FILE"
KEY_FILE_VARIABLE: Final = "FEDMED_KEY_FILE"
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
"""Where systemd says in which folder a service finds its credentials (systemd.exec(5), LoadCredential=)."""
KEY_FILE_BYTES: Final = 32
LEAST_CHARACTERS: Final = 12
_MOST_BYTES: Final = 4096
_CURE: Final = f"give --passphrase-file FILE, set {VARIABLE} to a file's path, or run it in a terminal"

Use = Literal["new key", "existing key"]
SecretKind = Literal["passphrase", "key-file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What private keys are sealed under; its value never shows in a `repr`, hence in no log.

    `passphrase`: UTF-8 bytes, normalised. `key-file`: 32 random bytes.
    """

    kind: SecretKind
    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require(bool(self.value), "value must not be empty")
        require(
            self.kind == "passphrase" or len(self.value) == KEY_FILE_BYTES,
            f"value must have {KEY_FILE_BYTES} bytes in a key file",
        )


def obtain_secret(
    *,
    passphrase_file: Path | None,
    key_file: Path | None,
    use: Use,
    what: str = "",
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str], str] | None = None,
) -> Secret:
    """Return the passphrase or the key file's content.

    Args:
        passphrase_file: The file that the user named for a passphrase, or None.
        key_file: The file that the user named for a key, or None.
        use: See `obtain`.
        what: Whose keys it opens, for the prompt, such as "the coordinator's keys".
        environment: Where `FEDMED_KEY_FILE` or `FEDMED_PASSPHRASE_FILE` may name a file.
        ask: Shows a prompt and returns what was typed; None for the terminal, without echo.

    Raises:
        UsageError: As `obtain`, both kinds were named, or the key file has other than 32 bytes.
    """
    if passphrase_file is not None and key_file is not None:
        raise UsageError("expected --passphrase-file or --key-file, got both; leave one out")
    if key_file is None and passphrase_file is None:
        named = environment.get(KEY_FILE_VARIABLE, "")
        if named and environment.get(VARIABLE, ""):
            raise UsageError(f"expected {KEY_FILE_VARIABLE} or {VARIABLE}, found both set; unset one")
        key_file = Path(named) if named else None
    if key_file is not None:
        return Secret(kind="key-file", value=_read_key_file(key_file, environment))
    return Secret(
        kind="passphrase", value=obtain(passphrase_file, use=use, what=what, environment=environment, ask=ask)
    )


def obtain(
    file: Path | None,
    *,
    use: Use,
    what: str = "",
    environment: Mapping[str, str] = os.environ,
    ask: Callable[[str], str] | None = None,
) -> bytes:
    """Return the passphrase as UTF-8 bytes.

    Args:
        file: The file that the user named, or None.
        use: A new key asks twice at the prompt, and for `LEAST_CHARACTERS`.
        what: Whose keys it opens, for the prompt; none if empty.
        environment: Where `FEDMED_PASSPHRASE_FILE` may name a file.
        ask: Shows a prompt and returns what was typed; None for the terminal, without echo.

    Raises:
        UsageError: There is no source, the file is missing, empty or readable by others, the
            two entries differ, or a new passphrase is too short.
    """
    named = file if file is not None else _named_in(environment)
    text = _read(named, environment) if named is not None else _ask(use, what, ask or _terminal())
    if not text:
        raise UsageError(f"passphrase: expected one, got an empty one; {_CURE}")
    if use == "new key" and len(text) < LEAST_CHARACTERS:
        raise UsageError(
            f"passphrase: expected at least {LEAST_CHARACTERS} characters for a new key; take a longer one"
        )
    return unicodedata.normalize("NFC", text).encode()


def read_private(path: Path, *, what: str, most_bytes: int, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the content of a file that only its owner may read.

    Args:
        path: The file.
        what: What it should be, for messages, such as "a private key".
        most_bytes: Refuse anything longer.
        environment: Where systemd names its folder of credentials.

    Raises:
        UsageError: It does not exist, is a folder, is longer, or its mode lets others in.
        OSError: The operating system refuses to open it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077 and not _is_credential(path, status, environment):
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


def _is_credential(path: Path, status: os.stat_result, environment: Mapping[str, str]) -> bool:
    """Tell whether systemd put this file there for this service: its own folder, root's file, an access list.

    The group bits of a file with an access list are that list's mask, so it shows mode 0440.
    """
    folder = environment.get(CREDENTIALS_VARIABLE, "")
    if not folder or path.resolve().parent != Path(folder).resolve():
        return False
    return stat.S_IMODE(status.st_mode) == 0o440 and (status.st_uid, status.st_gid) == (0, 0)


def _read_key_file(path: Path, environment: Mapping[str, str]) -> bytes:
    data = read_private(path, what="a key file", most_bytes=KEY_FILE_BYTES, environment=environment)
    if len(data) != KEY_FILE_BYTES:
        raise UsageError(
            f"{path}: expected a key file of {KEY_FILE_BYTES} random bytes, got fewer; for a passphrase use "
            "--passphrase-file, for a new one: head -c 32 /dev/urandom"
        )
    return data


def _read(path: Path, environment: Mapping[str, str]) -> str:
    """Return the one line of a passphrase file; a byte order mark and the line's end don't belong to it."""
    data = read_private(path, what="a passphrase file", most_bytes=_MOST_BYTES, environment=environment)
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


def _ask(use: Use, what: str, ask: Callable[[str], str]) -> str:
    owner = what or ("the new key" if use == "new key" else "")
    try:
        text = ask(f"Passphrase for {owner}: " if owner else "Passphrase: ")
        if use == "new key" and text and ask("The same passphrase again: ") != text:
            raise UsageError("passphrase: expected the same one twice, got two different ones; start again")
    except EOFError:
        raise UsageError(f"passphrase: expected one, got none; {_CURE}") from None
    return text
