"""Behaviour of the `fedmed` command itself: finding subcommands, exit codes, one line for an error."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from fedmed import __version__
from fedmed.cli import GROUP, main

COMMANDS = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP)))


def test_an_unknown_command_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing mistake ends with exit code 2, one line and the list."""
    assert main(["simulat"]) == 2
    assert {"consortium", "simulate"} <= set(COMMANDS.split(", "))
    assert capsys.readouterr().err == f"fedmed: unknown command 'simulat'; expected one of: {COMMANDS}\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, the usage is shown and nothing runs."""
    assert main(words) == 0
    assert f"commands: {COMMANDS}\n" in capsys.readouterr().out


CONSOLE = """
import sys
from fedmed import cli
def command(words):
    for _ in range(int(words[0])):
        print("a line of some length")
    if words[1:]:
        raise eval(words[1])
    return 0
command.load = lambda: command
command.name = "command"
cli.entry_points = lambda group: [command]
cli.console()
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["command", "1"], 0, ""),
        (["command", "100000"], 1, ""),
        (["--help"], 0, ""),
        (["command", "1", "SystemExit(3)"], 3, ""),
        (["command", "1", "BrokenPipeError(32, 'a worker')"], 1, ""),
        (["command", "1", "cli.UsageError('no such key')"], 2, "fedmed: no such key\n"),
        (["command", "1", "KeyboardInterrupt('resume it')"], 130, "fedmed: stopped; resume it\n"),
    ],
)
def test_a_reader_that_has_gone_ends_the_command_without_a_word(words: list[str], code: int, said: str) -> None:
    """`fedmed ... | head` shows no traceback and no complaint of the interpreter; what went wrong besides is said."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", CONSOLE, *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=buffered,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_broken_pipe_that_is_not_the_reader_s_is_an_error() -> None:
    """A worker that has gone is not taken for a reader who has seen enough."""
    words = ["command", "1", "BrokenPipeError(32, 'Broken pipe')"]
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", CONSOLE, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == "a line of some length\n"
    assert done.stderr.startswith("fedmed: Broken pipe; check")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`fedmed --version` says what is installed."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedmed {__version__}\n"


def test_the_simulations_help_shows_examples_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """`fedmed simulate --help` says how to sweep, resume, and which options a group has."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--help"])
    out = capsys.readouterr().out
    assert ended.value.code in {0, None}
    assert "experiment=heart data.root=PATH" in out
    assert "linear, mlp, ngrams, survival, tabular_transformer" in out
