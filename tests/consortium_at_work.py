"""A consortium at work, for tests: real processes with their own folders, keys and certificates.

Tests that use it bear the mark `processes`: `make test` runs them one after the other, because each needs both cores.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedmed import config
from fedmed.files import write_atomic
from fedmed.privacy.engine import PrvAccountant
from fedmed.records import Plan
from fedmed_server.studies import Studies, StudyProgress
from fedmed_server.study_process import STUDIES
from fedmed_sim.consortium import floors
from fedmed_sim.deployment import Deployment, DeploymentFolder
from fedmed_sim.folder import RunFolder
from fedmed_sim.plans import plan_of, privacy_spec
from fedmed_sim.preparation import prepare_base, prepare_sites
from fedmed_sim.settings import SimulationSettings
from fedmed_site.agent import SiteAgent

SITES = 4
PATIENCE_S = 240.0
OVERRIDES = (
    f"scenario.sites={SITES}", "scenario.patients_per_site=120", "model=linear", "privacy=off", "plan.rounds=2",
    "plan.local_steps=1",
)  # fmt: skip


@dataclass
class World:
    """A consortium at work, and the first study's plan."""

    root: Path
    folder: RunFolder
    deployment: Deployment
    plan: Plan
    spare: dict[str, Path]
    """Hospitals that hold the data and the base as well, and that nobody has enrolled."""

    @property
    def studies(self) -> Studies:
        """The coordinator's studies."""
        return Studies(self.deployment.folder.coordinator / STUDIES)

    @property
    def names(self) -> tuple[str, ...]:
        """The sites."""
        return tuple(self.deployment.sites)

    def home(self, site: str) -> Path:
        """Return a site's folder."""
        return self.deployment.sites[site]

    def command(self, *words: object) -> str:
        """Run a command of FedMed to its end and return what it printed."""
        return self.deployment._do(*words)

    def begin(self, study: str, *, rounds: int) -> str:
        """Launch a study, have every site approve it, and return its digest."""
        plan = replace(self.plan, study=study, training=replace(self.plan.training, rounds=rounds))
        name = self.deployment.launch(plan, self.folder.base)
        self.deployment.approve(name, patience_s=PATIENCE_S)
        return name

    def until(self, study: str, seen: Callable[[StudyProgress], bool]) -> None:
        """Wait until the study's progress is `seen`."""

        def reached() -> bool:
            state = self.studies.find(study)
            assert state.state in {"queued", "running"}, state.reason
            progress = self.studies.progress(study)
            return progress is not None and seen(progress)

        wait_until(reached, lambda: f"{study[:12]} did not get that far: {self.studies.progress(study)}")

    def finish(self, study: str) -> None:
        """Wait for a study's end."""
        self.deployment.wait(study, timeout_s=PATIENCE_S)

    def enrol_stranger(self, name: str) -> Path:
        """Enrol and start a spare hospital as any other, only that no roster is signed anew; return its folder."""
        deployment, folder = self.deployment, self.deployment.folder
        home = self.spare[name]
        write_atomic(folder.key(name), secrets.token_bytes(32))
        deployment._enrol(name, home, ("--dir", folder.consortium, "--key-file", folder.key("consortium")))
        for listed in ("members.json", "revoked.json"):
            shutil.copyfile(folder.consortium / listed, folder.coordinator / listed)
        deployment._spawn(name, "site", "start", "--home", home, "--key-file", folder.key(name))
        return home

    def tried(
        self, *words: object, python: Sequence[str] = ("-m", "fedmed"), environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of FedMed that may fail, and return how it ended; `python` stands before its words."""
        return subprocess.run(  # noqa: S603  our own command
            [sys.executable, *python, *map(str, words)],
            capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE_S,
            env=os.environ | dict(environment or {}),
        )  # fmt: skip

    def start_as(self, name: str, python: Sequence[str]) -> None:
        """Start a site's process, as any other, with `python` before its words."""
        deployment = self.deployment
        words = ("site", "start", "--home", self.home(name), "--key-file", deployment.folder.key(name))
        with (deployment.folder.logs / f"{name}.log").open("ab") as log:
            deployment.processes[name] = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, *python, *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def said(self, site: str) -> str:
        """Return what a process has said so far."""
        return (self.deployment.folder.logs / f"{site}.log").read_text()

    def log(self, study: str, event: str) -> list[dict[str, object]]:
        """Return the entries of one kind in a study's log."""
        lines = self.studies.folder(study).log.read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def rounds(self, study: str) -> list[object]:
        """Return the rounds that were finished, in order."""
        return [entry["round"] for entry in self.log(study, "round-finished")]


def settings_of(*overrides: str) -> SimulationSettings:
    """Return what the simulation would be told."""
    return config.compose(SimulationSettings, [*OVERRIDES, *overrides])


def wait_until(done: Callable[[], bool], what: Callable[[], str]) -> None:
    """Look at what other processes do until it is `done`; fail and say `what` was reached if that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(what())
        time.sleep(0.02)


@contextmanager
def consortium_at_work(root: Path, *overrides: str, spare: int = 0) -> Iterator[World]:
    """Found a consortium of four synthetic hospitals, start all its processes, and end them with the block.

    Args:
        root: Gets everything.
        overrides: Of the simulation's configuration.
        spare: How many further hospitals there are, which are in no consortium.
    """
    more = f"scenario.sites={SITES + spare}"
    settings, folder = settings_of("engine=processes", f"out={root}", more, *overrides), RunFolder(root / "run")
    names = prepare_sites(settings, folder)
    base = prepare_base(settings, folder, names)
    homes = {name: folder.sites / name for name in names}
    left = {name: homes.pop(name) for name in names[SITES:]}
    policy = floors(settings, {name: SiteAgent.open(home) for name, home in homes.items()})
    deployment = Deployment(DeploymentFolder(folder.deployment), homes, policy)
    plan = plan_of(
        settings,
        0,
        base_digest=base,
        privacy=privacy_spec(settings, PrvAccountant(), shared=None),
        knowledge_digest=None,
    )
    try:
        deployment.found()
        deployment.start()
        yield World(root, folder, deployment, plan, left)
    finally:
        deployment.end()
