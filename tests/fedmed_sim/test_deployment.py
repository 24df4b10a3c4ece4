"""A real consortium on this machine: processes, keys, certificates, and what happens when something breaks."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedmed import config
from fedmed.audit import ChainLog
from fedmed.bundle import bundle
from fedmed.privacy.engine import PrvAccountant
from fedmed.records import Plan, canonical_json, digest
from fedmed.signed_plans import signatures_to_text
from fedmed_server.result import load_knowledge
from fedmed_server.studies import Studies, StudyProgress
from fedmed_server.study_process import STUDIES
from fedmed_sim.consortium import floors
from fedmed_sim.deployment import Deployment, DeploymentFolder, run_study
from fedmed_sim.folder import RunFolder
from fedmed_sim.harness import Simulation
from fedmed_sim.plans import plan_of, privacy_spec
from fedmed_sim.preparation import prepare_base, prepare_sites
from fedmed_sim.settings import SimulationSettings
from fedmed_site.agent import SiteAgent

pytestmark = pytest.mark.slow
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

    @property
    def studies(self) -> Studies:
        """The coordinator's studies."""
        return Studies(self.deployment.folder.coordinator / STUDIES)

    def begin(self, study: str, *, rounds: int) -> str:
        """Launch a study, have every site approve it, and return its digest."""
        plan = replace(self.plan, study=study, training=replace(self.plan.training, rounds=rounds))
        name = self.deployment.launch(plan, self.folder.base)
        self.deployment.approve(name, patience_s=PATIENCE_S)
        return name

    def until(self, study: str, seen: Callable[[StudyProgress], bool]) -> None:
        """Wait until the study's progress is `seen`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            progress = self.studies.progress(study)
            if progress is not None and seen(progress):
                return
            state = self.studies.find(study)
            assert state.state in {"queued", "running"}, state.reason
            time.sleep(0.02)
        pytest.fail(f"{study[:12]} did not get that far: {self.studies.progress(study)}")

    def finish(self, study: str) -> None:
        """Wait for a study's end."""
        self.deployment.wait(study, timeout_s=PATIENCE_S)

    def log(self, study: str, event: str) -> list[dict[str, object]]:
        """Return the entries of one kind in a study's log."""
        lines = self.studies.folder(study).log.read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def child(self, party: str, name: str) -> psutil.Process:
        """Return the process below a party's whose threads or arguments bear `name`."""
        below = psutil.Process(self.deployment.processes[party].pid).children(recursive=True)
        (found,) = [one for one in below if name in " ".join(one.cmdline())] or below[:1]
        return found

    def rounds(self, study: str) -> list[object]:
        """Return the rounds that were finished, in order."""
        return [entry["round"] for entry in self.log(study, "round-finished")]


def settings_of(*overrides: str) -> SimulationSettings:
    """Return what the simulation would be told."""
    return config.compose(SimulationSettings, [*OVERRIDES, *overrides])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Found a consortium of four synthetic hospitals and start all its processes."""
    root = tmp_path_factory.mktemp("c")
    settings, folder = settings_of("engine=processes", f"out={root}"), RunFolder(root / "run")
    names = prepare_sites(settings, folder)
    base = prepare_base(settings, folder, names)
    homes = {name: folder.sites / name for name in names}
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
        yield World(root, folder, deployment, plan)
    finally:
        deployment.end()


def test_the_model_is_the_simulations(world: World, tmp_path: Path):
    """The same plan and data over processes, TLS and secure aggregation gives the simulation's model."""
    run_study(world.deployment, world.plan, base=world.folder.base, state=tmp_path / "state", timeout_s=PATIENCE_S)
    simulation = Simulation(settings_of("engine=inprocess"), RunFolder(tmp_path / "sim"), listener=Silence())
    simulation.prepare()
    simulation.run()
    ours, theirs = load_knowledge(tmp_path / "state"), load_knowledge(RunFolder(tmp_path / "sim").study(0))
    assert simulation.plans[0] == world.plan
    assert np.abs(ours.anchor - theirs.anchor).max() <= 1e-6
    assert np.abs(theirs.anchor).max() > 0.01


@pytest.mark.parametrize("phase", ["train.share", "train.mask", "query.certify", "query.unmask"])
def test_a_site_that_is_killed_comes_back(world: World, phase: str):
    """Killed in any phase and started again, a site takes part again, and the study has all its rounds."""
    name = next(iter(world.deployment.sites))
    study = world.begin(f"killed in {phase}", rounds=3)
    world.until(study, lambda progress: progress.round >= 1 and progress.phase == phase)
    world.deployment.stop(name, signal.SIGKILL)
    world.deployment.start_site(name)
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2]
    assert name in next(entry for entry in world.log(study, "study-started"))["sites"]  # type: ignore[operator]
    assert SiteAgent.open(world.deployment.sites[name]).audit.entries()


def test_the_study_goes_on_when_its_own_process_is_killed(world: World):
    """The coordinator starts it again, with a new run of Flower, at the round that it had reached."""
    study = world.begin("killed study", rounds=4)
    world.until(study, lambda progress: progress.round >= 2)
    before = world.studies.find(study).run
    children = psutil.Process(world.deployment.processes["coordinator"].pid).children()
    superlink, process = sorted(children, key=lambda one: one.create_time())[:2]
    process.kill()
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2, 3]
    assert world.studies.find(study).run != before
    assert superlink.is_running()


def test_the_study_goes_on_when_the_superlink_is_killed(world: World):
    """Sites reconnect to the new one, which has the old one's database."""
    study = world.begin("killed superlink", rounds=3)
    world.until(study, lambda progress: progress.round >= 1)
    children = psutil.Process(world.deployment.processes["coordinator"].pid).children()
    min(children, key=lambda one: one.create_time()).kill()
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2]


def test_the_study_goes_on_when_the_coordinator_is_killed(world: World):
    """All of it dies at once, as in a power cut, and a new one takes everything up."""
    study = world.begin("killed coordinator", rounds=3)
    world.until(study, lambda progress: progress.round >= 1)
    world.deployment.stop("coordinator", signal.SIGKILL)
    world.deployment.start_coordinator()
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2]


def test_a_study_is_stopped_and_resumed(world: World):
    """What was reached stays; the sites are free for the next study meanwhile."""
    study = world.begin("stopped", rounds=4)
    world.until(study, lambda progress: progress.round >= 1)
    home = world.deployment.folder.coordinator
    command(world, "coordinator", "stop", study, "--home", home)
    other = world.begin("in between", rounds=1)
    world.finish(other)
    reached = len(world.rounds(study))
    assert world.studies.find(study).state == "stopped"
    command(world, "coordinator", "resume", study, "--home", home)
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2, 3]
    assert reached < 4


def test_a_bundle_with_code_is_refused_before_anything_of_it_is_opened(world: World):
    """A coordinator that turned hostile, with all its keys, starts a run with code; no site runs or unpacks it."""
    marker, folder = world.root / "it-ran", world.deployment.folder
    world.deployment.stop("coordinator")
    arguments = [str(folder.coordinator), str(folder.key("coordinator")), with_code(marker).hex(), *run_config(world)]
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", HOSTILE, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    world.deployment.start_coordinator()
    assert "the run came with another bundle" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("the run came with another bundle") == SITES
    assert not marker.exists()
    for home in world.deployment.sites.values():
        assert "bundle-refused" in {entry.kind for entry in ChainLog(home / "audit.jsonl").entries()}
        assert not list(home.rglob("*hostile*"))


def test_a_second_coordinator_is_refused(world: World):
    """Two on one folder would answer each other's sites."""
    folder = world.deployment.folder
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "fedmed", "coordinator", "start", "--home", str(folder.coordinator),
         "--key-file", str(folder.key("coordinator"))],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert "expected no coordinator at work here" in done.stderr


def test_a_revoked_site_is_shut_out_and_the_others_go_on(world: World):
    """From the next request on; the study has enough sites without it. This test is the last: it is not undone."""
    name = list(world.deployment.sites)[-1]
    folder = world.deployment.folder
    study = world.begin("revoked", rounds=3)
    world.until(study, lambda progress: progress.round >= 1)
    command(
        world, "consortium", "roster", "revoke", name, "--dir", folder.consortium, "--reason", "lost",
        "--key-file", folder.key("consortium"),
    )  # fmt: skip
    for listed in ("revoked.json", "members.json"):
        shutil.copyfile(folder.consortium / listed, folder.coordinator / listed)
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2]
    last = world.log(study, "round-finished")[-1]
    assert name not in last["sites"]  # type: ignore[operator]
    audit = ChainLog(folder.coordinator / "audit.jsonl").entries()
    assert any(entry.kind == "caller-refused" and name in str(entry.body["reason"]) for entry in audit)


class Silence:
    """A listener that hears nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


def command(world: World, *words: object) -> str:
    """Run a command of FedMed."""
    return world.deployment._do(*words)


def run_config(world: World) -> tuple[str, str, str]:
    """Return what a run of the first plan says, with good signatures."""
    signed = world.deployment.sign(world.plan)
    return canonical_json(world.plan).decode(), digest(world.plan), signatures_to_text(signed.signatures)


def with_code(marker: Path) -> bytes:
    """Return our bundle with a module that would be imported, and components that name it."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle())) as ours, zipfile.ZipFile(target, "w") as archive:
        text = ours.read("pyproject.toml").decode()
        text = text.replace("fedmed_site.client_app:app", "hostile.app:app").replace(
            "fedmed_server.server_app:app", "hostile.app:app"
        )
        archive.writestr("pyproject.toml", text)
        archive.writestr("hostile/app.py", f"open({str(marker)!r}, 'w').close()\napp = None\n")
        archive.writestr("hostile/__init__.py", f"open({str(marker)!r}, 'w').close()\n")
    return target.getvalue()


HOSTILE = """
import hashlib, multiprocessing, sys, time
from datetime import UTC, datetime
from pathlib import Path
from fedmed.quiet import hush
hush()
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
import numpy as np
from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY
from fedmed.crypto.passphrases import obtain_secret
from fedmed_server import flower_run, superlink
from fedmed_server.coordinator import DATABASE
from fedmed_server.coordinator_home import read_coordinator
from fedmed_server.doorkeeper import MemberDoorkeeper

root, data = Path(sys.argv[1]), bytes.fromhex(sys.argv[3])
key = obtain_secret(passphrase_file=None, key_file=Path(sys.argv[2]), use="existing key")
identity = read_coordinator(root, now=datetime.now(UTC))
secret = bytes(32)
door = MemberDoorkeeper(
    members=identity.members_path, revoked=identity.revoked_path, consortium=identity.consortium,
    authority=identity.ca_path.read_bytes(), now=lambda: datetime.now(UTC), editions=root / "editions.json",
)
settings = superlink.SuperLinkSettings(
    host="127.0.0.1", port=identity.port, socket=root / "run" / "hostile.sock", database=root / DATABASE
)
child = multiprocessing.get_context("fork").Process(
    target=superlink.serve, args=(settings,), daemon=True,
    kwargs=dict(
        context=identity.server_context(key), secret=secret, doorkeeper=door, members=door.nodes, refused=print
    ),
)
child.start()
flower_run.bundle = lambda: data
flower_run.bundle_digest = lambda: hashlib.sha256(data).hexdigest()
while not settings.socket.exists():
    time.sleep(0.1)
time.sleep(1)
config = dict(zip((PLAN_KEY, PLAN_DIGEST_KEY, PLAN_SIGNATURES_KEY), sys.argv[4:7]))
with flower_run.hold_run(settings.socket, secret, config, before=None, started=lambda run: None) as grid:
    task = ConfigRecord({"plan-digest": sys.argv[5], "round": 0})
    content = RecordDict({"arrays": ArrayRecord({"model": Array(np.zeros(4))}), "task": task})
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.5)
    owed = set(grid.push_messages([Message(content, dst_node_id=n, message_type="query.describe") for n in nodes]))
    while owed:
        for one in list(owed):
            for reply in grid.pull_messages([one]):
                owed.discard(one)
                print(reply.content.config_records["failure"]["reason"] if reply.has_content() else reply.error)
        time.sleep(0.1)
child.terminate()
"""
