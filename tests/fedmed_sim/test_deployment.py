"""A real consortium on this machine: what happens when something is stopped, killed, turned hostile or revoked."""

import io
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from consortium_at_work import PATIENCE_S, SITES, World, consortium_at_work, settings_of

from fedmed.audit import ChainLog
from fedmed.bundle import bundle
from fedmed.records import canonical_json, digest
from fedmed.signed_plans import signatures_to_text
from fedmed_server.result import load_knowledge
from fedmed_sim.deployment import run_study
from fedmed_sim.folder import RunFolder
from fedmed_sim.harness import Simulation
from fedmed_site.agent import SiteAgent

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A consortium of four synthetic hospitals at work."""
    with consortium_at_work(tmp_path_factory.mktemp("c")) as world:
        yield world


def test_the_model_is_the_simulations(world: World, tmp_path: Path) -> None:
    """The same plan and data over processes, TLS and secure aggregation gives the simulation's model."""
    run_study(world.deployment, world.plan, base=world.folder.base, state=tmp_path / "state", timeout_s=PATIENCE_S)
    simulation = Simulation(settings_of("engine=inprocess"), RunFolder(tmp_path / "sim"), listener=Silence())
    simulation.prepare()
    simulation.run()
    ours, theirs = load_knowledge(tmp_path / "state"), load_knowledge(RunFolder(tmp_path / "sim").study(0))
    assert simulation.plans[0] == world.plan
    assert np.abs(ours.anchor - theirs.anchor).max() <= 1e-6
    assert np.abs(theirs.anchor).max() > 0.01


def test_a_site_that_is_killed_comes_back(world: World) -> None:
    """Killed in any phase and started again, a site takes part again, and the study has all its rounds."""
    name, phases = world.names[0], ("train.share", "train.mask", "query.certify", "query.unmask")
    study = world.begin("killed sites", rounds=len(phases) + 1)
    for number, phase in enumerate(phases):
        world.until(study, lambda now, at=number, in_=phase: now.round > at and now.phase == in_)  # type: ignore[misc]
        world.deployment.stop(name, signal.SIGKILL)
        world.deployment.start_site(name)
    world.finish(study)
    assert world.rounds(study) == [*range(len(phases) + 1)]
    assert name in next(entry for entry in world.log(study, "study-started"))["sites"]  # type: ignore[operator]
    assert SiteAgent.open(world.home(name)).audit.entries()


def test_the_study_goes_on_whatever_is_killed_at_the_coordinator(world: World) -> None:
    """The study's process, the SuperLink, and all at once as in a power cut: each time it goes on where it was."""
    study = world.begin("killed coordinator", rounds=5)
    world.until(study, lambda now: now.round >= 1)
    superlink, process = children(world)
    before = world.studies.find(study).run
    process.kill()
    world.until(study, lambda now: now.round >= 2)
    assert world.studies.find(study).run != before
    assert superlink.is_running()
    superlink.kill()
    world.until(study, lambda now: now.round >= 3)
    assert children(world)[0].pid != superlink.pid
    world.deployment.stop("coordinator", signal.SIGKILL)
    world.deployment.start_coordinator()
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2, 3, 4]


def test_a_study_is_stopped_and_resumed(world: World) -> None:
    """What was reached stays; the sites are free for the next study meanwhile."""
    study = world.begin("stopped", rounds=4)
    world.until(study, lambda progress: progress.round >= 1)
    home = world.deployment.folder.coordinator
    world.command("coordinator", "stop", study, "--home", home)
    other = world.begin("in between", rounds=1)
    world.finish(other)
    reached = len(world.rounds(study))
    assert world.studies.find(study).state == "stopped"
    world.command("coordinator", "resume", study, "--home", home)
    world.finish(study)
    assert world.rounds(study) == [0, 1, 2, 3]
    assert reached < 4


def test_a_bundle_with_code_is_refused_before_anything_of_it_is_opened(world: World) -> None:
    """A coordinator that turned hostile, with all its keys, starts a run with code; no site runs or unpacks it."""
    marker, folder = world.root / "it-ran", world.deployment.folder
    world.deployment.stop("coordinator")
    arguments = [str(folder.coordinator), str(folder.key("coordinator")), with_code(marker).hex(), *run_config(world)]
    try:
        done = subprocess.run(  # noqa: S603  our own code
            [sys.executable, "-c", HOSTILE, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    finally:
        world.deployment.start_coordinator()
    assert "the run came with another bundle" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("the run came with another bundle") == SITES
    assert not marker.exists()
    for home in world.deployment.sites.values():
        assert "bundle-refused" in {entry.kind for entry in ChainLog(home / "audit.jsonl").entries()}
        assert not list(home.rglob("*hostile*"))


def test_a_second_coordinator_is_refused(world: World) -> None:
    """Two on one folder would answer each other's sites."""
    folder = world.deployment.folder
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "fedmed", "coordinator", "start", "--home", str(folder.coordinator),
         "--key-file", str(folder.key("coordinator"))],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert "expected no coordinator at work here" in done.stderr


def test_a_revoked_site_is_shut_out_and_the_others_go_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From the next request on; the study has enough sites without it. It can't be undone: a consortium of its own."""
    with consortium_at_work(tmp_path_factory.mktemp("r")) as world:
        _revoke_in_the_middle(world)


def _revoke_in_the_middle(world: World) -> None:
    name = list(world.deployment.sites)[-1]
    folder = world.deployment.folder
    study = world.begin("revoked", rounds=3)
    world.until(study, lambda progress: progress.round >= 1)
    world.command(
        "consortium", "roster", "revoke", name, "--dir", folder.consortium, "--reason", "lost",
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


def children(world: World) -> tuple[psutil.Process, psutil.Process]:
    """Return the coordinator's SuperLink and the process of its study."""
    below = psutil.Process(world.deployment.processes["coordinator"].pid).children()
    superlink = next(one for one in below if any(to.laddr.port for to in one.net_connections("tcp")))
    return superlink, next(one for one in below if one.pid != superlink.pid)


class Silence:
    """A listener that hears nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_more: None


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
        context=identity.server_context(key), secret=secret, doorkeeper=door, members=door.nodes, refused=print,
        listening=lambda: None
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
    def send(node):
        message = Message(content, dst_node_id=node, message_type="query.describe")
        owed[list(grid.push_messages([message]))[0]] = node
    owed = {}
    for node in nodes:
        send(node)
    while owed:
        for identifier, reply in grid.each(tuple(owed)):
            node = owed.pop(identifier)
            if reply.has_content():
                print(reply.content.config_records["failure"]["reason"])
            else:  # it has not come back from the other SuperLink yet
                time.sleep(1)
                send(node)
        time.sleep(0.1)
child.terminate()
"""
