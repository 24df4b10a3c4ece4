"""YAML to records, once: the only room of Hydra and OmegaConf.

Why it exists: nothing below the command line ever sees a `DictConfig`. Hydra
composes, this module turns the result into one frozen record, and every mistake
becomes one line that names the key, what it got and what it takes.

Rules:
    * Composition is tried before Hydra starts a job, so a mistake leaves nothing on disk.
    * `config_dir` prefers the folder inside the installed package, then the checkout.

What it does not do: know what the records mean; `records.build` checks them.
"""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedmed.errors import ConfigError, UsageError
from fedmed.files import write_atomic
from fedmed.records import build

Record = TypeVar("Record")
_MULTIRUN_FLAGS = ("-m", "--multirun")
_MISSING_OPTION = re.compile(
    r"Could not find '([^']+)'(?:.*?Available options in '[^']+':\n(.*?)\n\s*Config search path)?", re.DOTALL
)
_UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
_INTERNAL = ("full_key:", "object_type", "To append to your config", "Set the environment", "See https://")


def config_dir() -> Path:
    """Return the folder of configuration that ships with this package.

    Raises:
        UsageError: The installation has none.
    """
    package = Path(__file__).parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise UsageError(f"expected FedMed's configuration beside {package}, found none; install the package again")


def compose(kind: type[Record], overrides: Sequence[str]) -> Record:
    """Return the record that the shipped configuration and `overrides` mean.

    Args:
        kind: The record of the whole configuration.
        overrides: `key=value` and `group=option`, as on the command line.

    Raises:
        ConfigError: An override names an unknown key or option, or a value does not fit.
    """
    with _translated(), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = hydra.compose("config", overrides=list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    return build(plain, kind)


def load(kind: type[Record], path: Path) -> Record:
    """Return the record stored by `save`.

    Raises:
        UsageError: There is no such file.
        ConfigError: The file does not hold a valid record.
    """
    if not path.is_file():
        raise UsageError(f"expected a configuration in {path}, found none; give the folder of an earlier run")
    with _translated():
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    return build(plain, kind)


def save(path: Path, plain: object) -> None:
    """Write a record (as plain mappings) as YAML that `load` reads."""
    write_atomic(path, OmegaConf.to_yaml(OmegaConf.create(plain)).encode(), mode=0o644)  # type: ignore[call-overload]


def run_command(kind: type[Record], arguments: Sequence[str], task: Callable[[Record, Path | None], None]) -> None:
    """Run `task` once, or once per combination of a sweep, under Hydra's command line.

    Args:
        kind: The record of the whole configuration.
        arguments: What stands after the subcommand, Hydra's own flags included.
        task: Gets the record and, in a sweep, the folder of its job.

    Raises:
        ConfigError: A mistake in the configuration.
        FedMedError: Whatever `task` raises.
    """
    sweeping = any(argument in _MULTIRUN_FLAGS for argument in arguments)
    if sweeping:  # Hydra takes no override before this flag
        arguments = ["--multirun", *(argument for argument in arguments if argument not in _MULTIRUN_FLAGS)]
    if not any(argument.startswith("-") for argument in arguments):
        task(compose(kind, arguments), None)
        return
    if sweeping:
        for overrides in _combinations([argument for argument in arguments if not argument.startswith("-")]):
            compose(kind, overrides)

    def job(composed: DictConfig) -> None:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        task(build(plain, kind), Path(HydraConfig.get().runtime.output_dir))

    decorated = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)
    with _translated(), _command_line(arguments):
        decorated()


def _combinations(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of every job of a sweep, as Hydra's basic sweeper will form them."""
    with _translated():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in parsed
    ]
    yield from itertools.product(*choices)


@contextlib.contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra see the subcommand's arguments and raise its errors instead of printing them."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["fedmed simulate", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR")
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line."""
    GlobalHydra.instance().clear()
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from None


def _one_line(error: BaseException) -> str:
    """Return Hydra's complaint without line breaks, search paths and hints to Hydra's internals."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = str(error) if cause is None else f"{error}: {cause}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: expected key=value or group=option; quote values with special characters"
    missing = _MISSING_OPTION.search(text)
    if missing:
        group, _, option = missing[1].rpartition("/")
        options = ", ".join(line.strip() for line in (missing[2] or "").splitlines())
        return f"{group or 'config'}: there is no option {option!r}; it takes one of: {options or 'see --help'}"
    unknown = _UNKNOWN_KEY.search(text)
    if unknown:
        return f"{unknown[1]}: unknown key; expected one of: {', '.join(_keys_beside(unknown[1]))}"
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_INTERNAL))


def _keys_beside(key: str) -> list[str]:
    """Return the keys of the default configuration that stand where `key` was looked for."""
    parent = key.rpartition(".")[0]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        whole = hydra.compose("config")
    node = OmegaConf.select(whole, parent) if parent else whole
    return sorted(str(name) for name in (node if isinstance(node, DictConfig) else whole))
