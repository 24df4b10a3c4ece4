"""What the commands of the consortium share: one-line complaints, where its folder is, what opens it, printing.

Why it exists: every command of the consortium finds and opens it in the same way.

What it does not do: know a command.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from fedmed.crypto import passphrases
from fedmed.crypto.fingerprints import two_lines
from fedmed.crypto.keyfiles import PublicKey
from fedmed.crypto.passphrases import Secret
from fedmed.errors import UsageError
from fedmed.files import write_atomic
from fedmed_server.consortium import OpenConsortium, open_consortium

PASSPHRASE: Final = (
    f"file that holds the passphrase on one line, mode 600; else the file that {passphrases.VARIABLE} names; "
    "else you are asked"
)
KEY_FILE: Final = (
    "file of 32 random bytes instead of a passphrase, mode 600; else the file that "
    f"{passphrases.KEY_FILE_VARIABLE} names"
)
FORM: Final = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of FedMed: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line shows as one line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001  argparse has no public name for it
Run = Callable[[argparse.Namespace], None]


def add(commands: Commands, name: str, about: str, run: Run, *, after: str = "") -> Parser:
    """Add a command and return its parser; `about` is one phrase without a full stop."""
    sentence = f"{about[0].upper()}{about[1:]}."
    parser = commands.add_parser(
        name, help=about, description=sentence, epilog=after, formatter_class=FORM, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_secret(parser: Parser) -> None:
    """Add the two options that name what the consortium's keys are sealed under."""
    parser.add_argument("--passphrase-file", type=Path, metavar="F", help=PASSPHRASE)
    parser.add_argument("--key-file", type=Path, metavar="F", help=KEY_FILE)


def add_dir(parser: Parser) -> None:
    """Add the option that names the consortium's folder."""
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the consortium's folder, of init")


def secret_of(parsed: argparse.Namespace, *, use: passphrases.Use) -> Secret:
    """Return what the consortium's keys are sealed under.

    Raises:
        UsageError: There is no source for it.
    """
    return passphrases.obtain_secret(passphrase_file=parsed.passphrase_file, key_file=parsed.key_file, use=use)


def opened(parsed: argparse.Namespace) -> OpenConsortium:
    """Return the consortium that a command is about, its keys unsealed.

    Raises:
        UsageError: There is none in `--dir`, or the secret is another one.
    """
    return open_consortium(parsed.dir, secret_of(parsed, use="existing key"), now=now())


def require_absent(path: Path) -> None:
    """Raise if `path` is taken, before anything is decided.

    Raises:
        UsageError: There is a file.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: expected no such file yet, found one; nothing was overwritten, give another --out")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: expected a folder for it, found none; make the folder, or give another --out")


def read_file(path: Path, *, what: str) -> bytes:
    """Return the content of a file that somebody sent.

    Raises:
        UsageError: There is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: expected {what}, found no such file; check the path")
    return path.read_bytes()


def write_new(path: Path, data: bytes) -> None:
    """Write a file to carry: whole or not at all."""
    write_atomic(path, data, mode=0o644)


def say_fingerprint(public: PublicKey) -> None:
    """Print a key's fingerprint on two lines."""
    first, second = two_lines(public.fingerprint)
    say(f"fingerprint  {first}\n             {second}")


def now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def say(text: str) -> None:
    """Print the command's output."""
    print(text, flush=True)  # noqa: T201  the command's output
