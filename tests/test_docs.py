"""The documentation says what the code does: links, commands, keys and fields are checked against it."""

import argparse
import dataclasses
import importlib
import re
import shlex
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from fedmed import bundle, config
from fedmed.records import Plan
from fedmed.secagg import client, server
from fedmed_sim.settings import SimulationSettings
from fedmed_sim.summary import Summary

ROOT = Path(__file__).parents[1]
READMES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
READMES += [ROOT / folder / "README.md" for folder in ("sites", "server", "simulations")]
PAGES = sorted([*READMES, *(ROOT / "docs").rglob("*.md")])
CONFIGURATION = ROOT / "docs/reference/configuration.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_NOT_COMPOSED = ("-m", "--help", "--cfg")
_OPEN_MAPPINGS = ("data.schema.columns[].synonyms",)


@cache
def _composed(*overrides: str) -> SimulationSettings:
    return config.compose(SimulationSettings, list(overrides))


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(page.read_text()) if language in languages]


def _commands() -> dict[str, str]:
    """Return every line of a fenced block that calls fedmed, and the page that it stands on."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in _blocks(page, "", "bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if command.startswith("fedmed "):
                    found.setdefault(shlex.join(shlex.split(command, comments=True)), _name(page))
    return found


def _parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command that does not go through Hydra."""
    (entry,) = entry_points(group="fedmed.commands", name=command)
    module = importlib.import_module(entry.module)
    parser = module.parser_of(command) if hasattr(module, "parser_of") else module._parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def _first_cells(page: Path) -> list[str]:
    """Return what stands in backticks in the first cells of the tables of a page."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    return [key for line in lines for key in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


def _keys(plain: object, at: str = "") -> Iterator[str]:
    """Yield the dotted key of every leaf; `[]` stands for any entry of a list of mappings."""
    if isinstance(plain, Mapping) and at not in _OPEN_MAPPINGS:
        for key, value in plain.items():
            yield from _keys(value, f"{at}.{key}" if at else str(key))
    elif isinstance(plain, list | tuple) and plain and isinstance(plain[0], Mapping):
        for entry in plain:
            yield from _keys(entry, f"{at}[]")
    else:
        yield at


def _fields(kind: Any, at: str = "", *, inner: bool) -> Iterator[str]:
    """Yield the dotted name of every field of a record; with `inner`, those of fields that are records too."""
    for name, hint in typing.get_type_hints(kind).items():
        here = f"{at}.{name}" if at else name
        options = [hint]
        if typing.get_origin(hint) in {typing.Union, types.UnionType}:
            options = list(typing.get_args(hint))
        if typing.get_origin(hint) is dict:  # by site
            options = [typing.get_args(hint)[1]]
        records = [option for option in options if dataclasses.is_dataclass(option)]
        if inner or not records:
            yield here
        for record in records:
            yield from _fields(record, here, inner=inner)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_resolve(page: Path) -> None:
    """Every relative link leads to a file of the checkout."""
    prose = _FENCE.sub("", page.read_text())
    targets = [target.partition("#")[0] for target in _LINK.findall(prose) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    """Every page below docs/ stands in mkdocs.yml, so that a reader can find it."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    missing = [page for page in pages if page not in navigation]
    assert not missing


@pytest.mark.parametrize("command", sorted(_commands()))
def test_commands_parse(command: str) -> None:
    """Every documented fedmed command names a subcommand, and its settings are ones that it takes."""
    words = shlex.split(command)[1:]
    assert words[0] in {entry.name for entry in entry_points(group="fedmed.commands")}, _commands()[command]
    arguments = words[1:]
    if words[0] != "simulate":
        assert callable(_parser_of(words[0]).parse_args(arguments).run)
        return
    if any(word in _NOT_COMPOSED or word.startswith(("resume=", "hydra.searchpath=")) for word in arguments):
        return
    assert _composed(*arguments).version == 1


def test_sweeps_name_keys_that_exist() -> None:
    """Each combination's first value of a documented sweep composes."""
    sweeps = [command for command in _commands() if command.startswith("fedmed simulate -m ")]
    assert sweeps
    for command in sweeps:
        words = [word for word in shlex.split(command)[2:] if word != "-m"]
        assert _composed(*[word.split(",")[0] for word in words]).version == 1


def test_the_table_of_the_how_to_composes(tmp_path: Path) -> None:
    """The schema and the scenario that own-table.md tells a reader to write are valid."""
    data, scenario = _blocks(ROOT / "docs/how-to/own-table.md", "yaml")
    for group, text in (("data", data), ("scenario", scenario)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "ward_table.yaml").write_text(text)
    settings = config.compose(SimulationSettings, [f"hydra.searchpath=[file://{tmp_path}]", "data=ward_table"])
    assert settings.data.schema.target(settings.scenario.studies[0].target).name == "died"


def test_configuration_keys_are_documented() -> None:
    """configuration.md lists every key that a run is composed of, and no other."""
    composed = {
        key
        for overrides in ((), ("experiment=heart", "privacy=off"))
        for key in _keys(msgspec.to_builtins(_composed(*overrides)))
    }
    documented = {key for key in _first_cells(CONFIGURATION) if "=" not in key}
    assert documented == composed


def test_group_options_are_documented() -> None:
    """configuration.md lists every option of every group that a run is composed of, and no other."""
    defaults = yaml.safe_load((ROOT / "conf/config.yaml").read_text())["defaults"]
    groups = {name for entry in defaults if isinstance(entry, dict) for name in entry}
    options = {f"{path.parent.name}={path.stem}" for path in (ROOT / "conf").glob("*/*.yaml")}
    options = {option for option in options if option.partition("=")[0] in groups}
    assert {key for key in _first_cells(CONFIGURATION) if "=" in key} == options


def test_documented_defaults_are_the_defaults() -> None:
    """A default of plan, model, privacy, secagg or optimiser in configuration.md is the one that composes."""
    settings = msgspec.to_builtins(_composed())
    for line in CONFIGURATION.read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        group, _, key = cells[0].strip(" `").partition(".")
        if group in {"plan", "model", "privacy", "secagg", "optimiser"} and key in settings[group]:
            assert yaml.safe_load(cells[2]) == settings[group][key], line


def test_summary_fields_are_documented() -> None:
    """summary.md lists every field of summary.json, and no other."""
    assert set(_first_cells(ROOT / "docs/reference/summary.md")) == set(_fields(Summary, inner=True))


def test_plan_fields_are_documented() -> None:
    """plan.md lists every field of a plan, and no other."""
    assert set(_first_cells(ROOT / "docs/reference/plan.md")) == set(_fields(Plan, inner=False))


def test_run_configuration_keys_are_documented() -> None:
    """messages.md names the keys of Flower's run configuration, which both ends take from one place."""
    keys = {bundle.PLAN_KEY, bundle.PLAN_DIGEST_KEY, bundle.PLAN_SIGNATURES_KEY}
    assert keys <= set(_first_cells(ROOT / "docs/reference/messages.md"))
    for end in ("server/fedmed_server/server_app.py", "sites/fedmed_site/client_app.py"):
        assert "from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY" in (ROOT / end).read_text()


@pytest.mark.parametrize(("name", "diagram"), [("client", client.diagram()), ("server", server.diagram())])
def test_diagrams_are_those_of_the_code(name: str, diagram: str) -> None:
    """secure-aggregation.md holds, between its two markers, exactly the diagram that the state machine prints."""
    page = (ROOT / "docs/explanation/secure-aggregation.md").read_text()
    _, _, rest = page.partition(f"<!-- {name}:begin -->\n")
    found, end, _ = rest.partition(f"<!-- {name}:end -->\n")
    assert end
    assert found == f"```mermaid\n{diagram}\n```\n"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/reference/results.md"], ids=_name)
def test_results_have_a_place(page: Path) -> None:
    """The pages that show figures keep the two markers between which they are written, once each and in order."""
    lines = page.read_text().splitlines()
    places = [lines.index(f"<!-- results:{edge} -->") for edge in ("begin", "end")]
    assert places == sorted(places)
    assert [line.startswith("<!-- results:") for line in lines].count(True) == 2


@pytest.mark.parametrize("page", sorted((ROOT / "docs/adr").glob("*.md")), ids=_name)
def test_decisions_are_short(page: Path) -> None:
    """A decision record states context, decision and consequences in at most 40 lines."""
    text = page.read_text()
    assert len(text.splitlines()) <= 40
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## Consequences"]
