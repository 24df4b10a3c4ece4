"""What is done with a study's model after the study is computed as the study computed it, on the site's machine."""

import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation import build_consortium, write_table
from torch import nn

from fedmed.audit import ChainLog
from fedmed.deid.policy import DeidPolicy
from fedmed.errors import DataError, RefusedError
from fedmed.learning import local
from fedmed.learning.local import evaluate
from fedmed.learning.machine import Bounds, Machine, at_work
from fedmed.models import Architecture, Layout, attach_adapter, build_module, save_base
from fedmed.records import MachineSpec, ModelSpec, Plan, canonical_json, digest
from fedmed_site import cli
from fedmed_site.adapters import SHARED, AdapterEntry, Adapters
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import Approvals
from fedmed_site.home import SiteHome
from fedmed_site.plan_model import machine_for, module_with

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SPEC = ModelSpec(
    family="tabular-transformer", adapter="lora", width=16, depth=1, heads=2, lora_rank=2, precision="bf16"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """Return a site that holds the shared adapter of a study in half precision."""
    consortium = build_consortium(tmp_path_factory.mktemp("made"), sites=1)
    home = SiteHome(consortium.homes[0])
    architecture = Architecture.of(SPEC, features=3, classes=2)
    base = build_module(architecture, seed=0)
    name = save_base(consortium.root / "half", architecture, base)
    shutil.copytree(consortium.root / "half", home.models / name)
    plan = replace(consortium.plan(), model=SPEC, base_digest=name)
    Approvals(home, ChainLog(home.audit_path)).note(plan, now=NOW)
    size = Layout.of(attach_adapter(base, SPEC, seed=plan.seed)).size
    vector = np.random.default_rng(0).normal(scale=0.5, size=size).astype(np.float32)
    entry = AdapterEntry(plan=digest(plan), name=SHARED, round=1, made="2030-01-01T00:00:00Z")
    Adapters(home.root / "adapters").keep(entry, vector)
    return home.root, plan


@pytest.fixture
def site(made: tuple[Path, Plan], tmp_path: Path) -> tuple[SiteHome, Plan]:
    """Return a copy of the site, which computes on its processor below a GiB."""
    shutil.copytree(made[0], tmp_path / "home")
    home = SiteHome(tmp_path / "home")
    return set_machine(home, MachineSpec(device="cpu", memory_gb=1.0)), made[1]


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """Return the precision and the ceiling of every piece of work that is done with a model."""
    seen: list[tuple[str, int | None]] = []

    @contextmanager
    def noting(module: nn.Module, machine: Machine | None, spec: ModelSpec | None = None) -> Iterator[Bounds]:
        with at_work(module, machine, spec) as bounds:
            frozen = {value.dtype for value in module.parameters() if not value.requires_grad}
            assert (torch.bfloat16 in frozen) == (bounds.precision == "bf16")
            seen.append((bounds.precision, None if machine is None else machine.ceiling_bytes))
            yield bounds

    monkeypatch.setattr(local, "at_work", noting)
    return seen


def set_machine(home: SiteHome, machine: MachineSpec) -> SiteHome:
    """Set what the site computes on."""
    home.record_path.write_bytes(canonical_json(replace(home.record(), machine=machine)))
    return home


def ask(home: SiteHome, folder: Path) -> list[float]:
    """Ask the shared adapter about a table, and return the probabilities of yes."""
    write_table(folder / "new.csv", rows=40, seed=9)
    words = ("predict", folder / "new.csv", "--study", "tiny", "--out", folder / "answer.csv", "--home", home.root)
    assert cli.site([*map(str, words)]) == 0
    with (folder / "answer.csv").open(newline="") as rows:
        return [float(row["yes"]) for row in csv.DictReader(rows)]


def adapt(home: SiteHome, *words: str) -> int:
    """Train adapters by ward."""
    return cli.site(["adapt", "tiny", "--by", "ward", "--steps", "2", *words, "--yes", "--home", str(home.root)])


def test_predictions_are_those_of_the_precision_that_was_trained_in(
    site: tuple[SiteHome, Plan], tmp_path: Path, works: list[tuple[str, int | None]]
) -> None:
    """The answer is the study's own evaluation to the last digit shown, below the site's ceiling."""
    home, plan = site
    found = ask(home, tmp_path)
    assert works == [("bf16", 1 << 30)]
    write_table(tmp_path / "raw.csv", rows=40, seed=9)
    SiteAgent(home).prepare(tmp_path / "raw.csv", SiteAgent(home).datasets.description("tiny"), DeidPolicy())
    adapter = Adapters(home.root / "adapters").read(digest(plan), SHARED)

    def expected(spec: ModelSpec | None) -> list[float]:
        datasets, module, machine = SiteAgent(home).datasets, module_with(home, plan, adapter), machine_for(home, plan)
        cohorts = [datasets.load(plan.data, "train"), datasets.load(plan.data, "test")]
        scores = [evaluate(module, adapter.vector, some, spec=spec, machine=machine).scores for some in cohorts]
        return sorted(np.concatenate(scores)[:, 1].tolist())

    assert sorted(found) == pytest.approx(expected(plan.model), abs=1e-6)
    assert sorted(found) != pytest.approx(expected(None), abs=1e-6)


def test_departments_are_trained_and_compared_in_the_plans_precision(
    site: tuple[SiteHome, Plan], works: list[tuple[str, int | None]]
) -> None:
    """Every pass of an adaptation, training and evaluation, runs as the study's did."""
    assert adapt(site[0], "--epsilon", "1") == 0
    assert len(works) >= 2 + 4  # two wards are trained; own and shared are evaluated in each
    assert set(works) == {("bf16", 1 << 30)}


def test_a_ceiling_decides_how_many_records_are_asked_about_at_a_time(
    site: tuple[SiteHome, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are the same, but for rounding; one record too many for the site is refused in one line."""
    home, _ = site
    whole = ask(home, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(local, "fitting", lambda *_, **__: 7)
        assert ask(home, tmp_path) == pytest.approx(whole, abs=5e-3)
    set_machine(home, MachineSpec(device="cpu", memory_gb=1e-6))
    (tmp_path / "answer.csv").unlink()
    with pytest.raises(RefusedError, match="of memory at most; one record of this model needs about"):
        ask(home, tmp_path)
    assert not (tmp_path / "answer.csv").exists()


def test_what_the_machine_can_not_compute_is_refused_before_a_record_is_read_or_paid_for(
    site: tuple[SiteHome, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits need a card: neither a question nor an adaptation begins."""
    home, _ = site
    found = replace(Machine.found(MachineSpec(device="cpu")), precisions=("fp32",))
    monkeypatch.setattr(Machine, "found", lambda _spec: found)
    monkeypatch.setattr("fedmed_site.prediction.deidentify_in_memory", _fail)
    with pytest.raises(RefusedError, match="bf16 can't be computed on"):
        ask(home, tmp_path)
    before = (home.ledgers / "tiny.jsonl").read_bytes()
    with pytest.raises(RefusedError, match="bf16 can't be computed on"):
        adapt(home, "--epsilon", "1")
    assert (home.ledgers / "tiny.jsonl").read_bytes() == before


# --- raw rows on the way ---------------------------------------------------------------------

KILLED_WHILE = """
import os, signal, sys
opened = open(sys.argv[2], "w", buffering=1)

def note(event, given):
    writing = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
    if event == "os.mkdir" or (writing and not isinstance(given[0], int)):
        print(given[0], file=opened)

from fedmed_site import cli, prediction

def die(*_, **__):
    for number in os.listdir("/proc/self/fd"):
        if os.path.islink(f"/proc/self/fd/{number}") and "memfd" in os.readlink(f"/proc/self/fd/{number}"):
            print("in memory,", oct(os.stat(f"/proc/self/fd/{number}").st_mode & 0o777), file=opened)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(prediction, sys.argv[1], die)
sys.addaudithook(note)
cli.site(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["deidentify_in_memory", "readable_rows", "evaluate"])
def test_nothing_of_a_question_is_left_by_a_killed_process(
    site: tuple[SiteHome, Plan], tmp_path: Path, stage: str
) -> None:
    """No file under a name is opened for writing before the answer, so that none can be left, in memory or on disk."""
    home, _ = site
    folder = tmp_path / "asked"
    folder.mkdir()
    write_table(folder / "new.csv", rows=40, seed=9)
    seen = tmp_path / "opened"
    before = {path: path.stat().st_mtime_ns for path in (*home.root.rglob("*"), *folder.iterdir())}
    words = ("predict", folder / "new.csv", "--study", "tiny", "--out", folder / "answer.csv", "--home", home.root)
    ended = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", KILLED_WHILE, stage, seen, *map(str, words)], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    notes = seen.read_text().splitlines()
    opened = [line for line in notes if not line.startswith(("in memory", "/dev/null", "/proc/self/fd"))]
    assert [line for line in opened if "lock" not in Path(line).name] == []
    assert ("in memory, 0o600" in notes) == (stage == "deidentify_in_memory")
    assert {path: path.stat().st_mtime_ns for path in (*home.root.rglob("*"), *folder.iterdir())} == before


def test_messages_name_the_file_that_was_asked_about(site: tuple[SiteHome, Plan], tmp_path: Path) -> None:
    """Not the one in memory, whose name says nothing."""
    (tmp_path / "odd.csv").write_text("record,ward\nM1,north\n")
    words = ("predict", tmp_path / "odd.csv", "--study", "tiny", "--out", tmp_path / "o.csv", "--home", site[0].root)
    with pytest.raises(DataError, match=r"^odd\.csv: the header lacks column"):
        cli.site([*map(str, words)])


def test_departments_that_do_not_fit_are_refused_before_the_charge(site: tuple[SiteHome, Plan]) -> None:
    """What one record needs is measured on synthetic ones."""
    home, _ = site
    set_machine(home, MachineSpec(device="cpu", memory_gb=1e-6))
    before = (home.ledgers / "tiny.jsonl").read_bytes()
    with pytest.raises(RefusedError, match="of memory at most; one record of this model needs about"):
        adapt(home, "--epsilon", "1")
    assert (home.ledgers / "tiny.jsonl").read_bytes() == before


def _fail(*_: Any, **__: Any) -> None:
    pytest.fail("a record was read")
