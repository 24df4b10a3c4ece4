"""The `fedmed` command: find the subcommand, run it, turn errors into one line.

Why it exists: every part of FedMed brings its own subcommand through the entry
point group `fedmed.commands`; this module only dispatches.

Rules:
    * A `FedMedError`, or the operating system's refusal, is one line on standard error; exit code 2.
    * Ctrl-C and SIGTERM end with what the subcommand has to say about resuming; exit code 130.
    * A reader that has gone, as in `fedmed ... | head`, ends the command without a word; exit code 1.

What it does not do: parse a subcommand's own arguments.
"""

import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import NoReturn

from fedmed import __version__
from fedmed.errors import FedMedError, UsageError

GROUP = "fedmed.commands"
INTERRUPTED = 130
UNREAD = 1


def console() -> NoReturn:
    """Run as the installed command; never returns.

    An interrupted run leaves at once: its state is on disk, and the threads and workers that it
    still has would otherwise be waited for.
    """
    try:
        code = main()
    finally:
        _flush()
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code.

    Args:
        arguments: What stands after `fedmed`; the process's own arguments if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except FedMedError as error:
        print(f"fedmed: {error}", file=sys.stderr)  # noqa: T201  the command line's output
        return error.exit_code
    except BrokenPipeError as error:
        return UNREAD if _reader_has_gone() else _refused(error)
    except OSError as error:  # a full disk, a folder that can't be written, a file where a folder belongs
        return _refused(error)
    except KeyboardInterrupt as interruption:
        print(f"fedmed: stopped{_after(interruption)}", file=sys.stderr)  # noqa: T201  likewise
        return INTERRUPTED


def _refused(error: OSError) -> int:
    place = f" ({error.filename})" if error.filename else ""
    cure = "check the path, its permissions and the disk"
    print(f"fedmed: {error.strerror or error}{place}; {cure}", file=sys.stderr)  # noqa: T201  likewise
    return FedMedError.exit_code


def _reader_has_gone() -> bool:
    """Say whether nobody reads standard output any more; a pipe to a worker may break as well."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush() -> None:
    """Write out what is buffered, or discard it where its reader has gone; the interpreter would complain at its end.

    Source: the note on SIGPIPE in the documentation of Python's `signal`.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _dispatch(words: Sequence[str]) -> int:
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    listing = ", ".join(sorted(commands))
    if not words or words[0] in {"-h", "--help"}:
        print(_usage(listing))  # noqa: T201  likewise
        return 0
    if words[0] == "--version":
        print(f"fedmed {__version__}")  # noqa: T201  likewise
        return 0
    if words[0] not in commands:
        raise UsageError(f"unknown command {words[0]!r}; expected one of: {listing}")
    command = commands[words[0]].load()
    return int(command(words[1:]))


def _usage(listing: str) -> str:
    return (
        f"fedmed {__version__}: federated learning across hospital sites\n\n"
        f"usage: fedmed COMMAND [ARGUMENTS]\ncommands: {listing}\n\nfedmed COMMAND --help says more."
    )


def _after(interruption: KeyboardInterrupt) -> str:
    return f"; {interruption}" if str(interruption) else ""
