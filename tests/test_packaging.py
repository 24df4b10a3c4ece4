"""What is installed is what the project says it is."""

import tomllib
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import fedmed
from fedmed.config import config_dir

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_everywhere() -> None:
    """The package, its metadata and pyproject.toml agree."""
    assert fedmed.__version__ == version("fedmed") == PROJECT["version"]


def test_the_command_and_its_subcommands_are_entry_points() -> None:
    """`fedmed simulate` is found through entry points, as later subcommands will be."""
    assert {entry.name for entry in entry_points(group="fedmed.commands")} >= {"simulate"}
    assert any(entry.name == "fedmed" for entry in entry_points(group="console_scripts"))


def test_the_configuration_is_found() -> None:
    """The YAML stands beside the package or in the checkout."""
    assert (config_dir() / "config.yaml").is_file()


def test_the_licence_is_apache() -> None:
    """LICENSE and metadata say Apache-2.0."""
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert metadata("fedmed")["License-Expression"] == "Apache-2.0"


def test_moving_internals_are_pinned_to_what_was_tested() -> None:
    """flwr, opacus, peft, transformers and torch are pinned, and the constraints keep the pins."""
    pins = {line.split("==")[0]: line.split("==")[1] for line in PROJECT["dependencies"] if "==" in line}
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name in ("flwr[simulation]", "opacus", "peft", "transformers", "torch"):
        tested = constraints[name.split("[")[0]]
        assert tested.startswith(pins[name].removesuffix("*")), name


def test_no_local_path_stands_in_the_project() -> None:
    """Files that users get name no folder of the machine that they were written on."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conf/**/*.yaml"), ROOT / "Makefile"]:
        assert "/work/" not in path.read_text(), path.name


def test_no_leftover_of_a_patch_or_editor_is_a_source() -> None:
    """Git ignores what a failed patch or an editor leaves, and no package holds such a file."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for leftover in ("*.orig", "*.rej", "*~", "*.swp"):
        assert leftover in ignored
        for package in ("fedmed", "sites", "server", "simulations", "conf"):
            assert list((ROOT / package).rglob(leftover)) == []
