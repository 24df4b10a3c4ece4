"""Behaviour of the `fedmed` command itself: finding subcommands, exit codes, one line for an error."""

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
    assert "model: linear, mlp, tabular_transformer" in out
