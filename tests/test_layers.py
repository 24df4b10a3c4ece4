"""The floors and fences hold, and the referee would notice if they did not."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts over the packages below `folder`."""
    paths = ":".join(str(folder / part) for part in (".", "sites", "server", "simulations"))
    return subprocess.run(  # noqa: S603  our own tool on our own code
        [str(LINT_IMPORTS), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


SOURCES = ("fedmed", "sites", "server", "simulations", "benchmarks")
LONGEST_FUNCTION, LONGEST_MODULE = 60, 400


def long_functions(path: Path) -> list[str]:
    """Return the functions of a module that don't fit a screen."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]
    return [f"{path.name}: {name} has {length} lines" for name, length in lengths if length > LONGEST_FUNCTION]


def test_functions_fit_a_screen_and_modules_are_one_idea() -> None:
    """At most sixty lines, tests too; and four hundred for a module of the product."""
    modules = [path for part in (*SOURCES, "tests") for path in sorted((ROOT / part).rglob("*.py"))]
    assert [line for path in modules for line in long_functions(path)] == []
    sources = [path for part in SOURCES for path in sorted((ROOT / part).rglob("*.py"))]
    assert len(sources) > 100
    lengths = {path.name: len(path.read_text().splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_the_contracts_hold() -> None:
    """Every import of the project keeps its floor and its fence."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("fedmed/records.py", "import fedmed.models.build"),
        ("fedmed/privacy/plan.py", "import opacus"),
        ("fedmed/learning/local.py", "import flwr"),
        ("sites/fedmed_site/agent.py", "import fedmed_server.study"),
        ("server/fedmed_server/study.py", "import fedmed_site.agent"),
        ("fedmed/data/tabular.py", "import hydra"),
        ("fedmed/audit.py", "import torch"),
        ("fedmed/secagg/masking.py", "import torch"),
        ("fedmed/deid/tabular.py", "import fedmed.data.schema"),
    ],
)
def test_a_step_across_a_floor_or_fence_is_caught(tmp_path: Path, module: str, statement: str) -> None:
    """One wrong import anywhere turns the contracts red."""
    for part in ("fedmed", "sites", "server", "simulations"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    changed = tmp_path / module
    changed.write_text(changed.read_text() + f"\n{statement}\n")
    assert lint(tmp_path).returncode != 0
