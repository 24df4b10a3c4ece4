"""What a real consortium costs: start-up, secure rounds beside plain Flower rounds, bytes, memory.

Why it exists: a secure round has four exchanges where plain Flower has one. This measures both on one machine
in one run: FedMed's processes as hospitals install them, and Flower's own as its documentation starts them.

Run from the repository: `python benchmarks/consortium.py [--quick] [--json PATH]`.

Rules:
    * Both have the same number of sites and parameters; Flower's clients do nothing, and its connections have no
      TLS and no authentication: what is compared with is Flower at its cheapest.
    * A round is timed at the coordinator, to its model; the first, in which everybody loads, is not counted.
    * Bytes are those that the loopback interface carried, of all parties together.

What it does not do: model networks; nothing here leaves the machine.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from fedmed import config
from fedmed.privacy.engine import PrvAccountant
from fedmed_server.result import load_knowledge
from fedmed_server.studies import Studies
from fedmed_server.study_process import STUDIES
from fedmed_sim.consortium import floors
from fedmed_sim.deployment import Deployment, DeploymentFolder, _free_port
from fedmed_sim.folder import RunFolder
from fedmed_sim.plans import plan_of, privacy_spec
from fedmed_sim.preparation import prepare_base, prepare_sites
from fedmed_sim.settings import SimulationSettings
from fedmed_site.agent import SiteAgent

SITES: Final = 4
PATIENCE_S: Final = 600.0
LOOK_S: Final = 0.02
TARGETS: Final = {
    "empty_exchange_s": "at most 3 (Flower: 6.5)",
    "secure_over_plain_flower": "at most 1.5",
}


@dataclass(slots=True)
class Measured:
    """Seconds of each round but the first, bytes of one round, and megabytes of each process."""

    rounds_s: list[float]
    round_bytes: float
    memory_mb: dict[str, int] = field(default_factory=dict)
    exchanges_s: dict[str, float] = field(default_factory=dict)
    start_up_s: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Measure, print a table and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="two counted rounds of each, not eight; the start takes minutes"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the figures")
    wanted = parser.parse_args()
    rounds = 3 if wanted.quick else 9
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        ours, size = fedmed(Path(name) / "ours", rounds)
        theirs = flower(Path(name) / "flower", rounds, size)
    figures = {
        "sites": SITES,
        "parameters": size,
        "rounds": rounds - 1,
        "start_up_s": ours.start_up_s,
        "exchanges_s": ours.exchanges_s,
        "empty_exchange_s": ours.exchanges_s["query.certify"],
        "secure_round_s": statistics.median(ours.rounds_s),
        "plain_flower_round_s": statistics.median(theirs.rounds_s),
        "secure_over_plain_flower": statistics.median(ours.rounds_s) / statistics.median(theirs.rounds_s),
        "secure_round_bytes": ours.round_bytes,
        "plain_flower_round_bytes": theirs.round_bytes,
        "memory_mb": ours.memory_mb,
        "plain_flower_memory_mb": theirs.memory_mb,
    }
    for key, value in figures.items():
        shown = f"{value:.2f}" if isinstance(value, float) else value
        _say(f"{key:28} {shown}   {TARGETS.get(key, '')}".rstrip())
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def fedmed(root: Path, rounds: int) -> tuple[Measured, int]:
    """Found a consortium, run one study over it, and return what that cost and how long its vector is."""
    settings = config.compose(
        SimulationSettings,
        [f"scenario.sites={SITES}", "scenario.patients_per_site=120", "model=linear", "privacy=off",
         f"plan.rounds={rounds}", "plan.local_steps=1", "engine=processes", f"out={root}"],
    )  # fmt: skip
    folder = RunFolder(root / "run")
    names = prepare_sites(settings, folder)
    base = prepare_base(settings, folder, names)
    homes = {name: folder.sites / name for name in names}
    policy = floors(settings, {name: SiteAgent.open(home) for name, home in homes.items()})
    deployment = Deployment(DeploymentFolder(folder.deployment), homes, policy)
    plan = plan_of(
        settings, 0, base_digest=base, privacy=privacy_spec(settings, PrvAccountant(), shared=None),
        knowledge_digest=None,
    )  # fmt: skip
    start_up = {}
    try:
        start_up["enrol four sites"] = _timed(deployment.found)
        began = time.monotonic()
        deployment.start()
        study = deployment.launch(plan, folder.base)
        deployment.approve(study)
        log = Studies(deployment.folder.coordinator / STUDIES).folder(study).log
        _until(lambda: '"study-started"' in log.read_text(), "the study's start")
        start_up["start everything, launch and approve a study"] = time.monotonic() - began
        carried, counted = _rounds(lambda: len(_finished(log)), rounds)
        entries = _finished(log)[1:]
        phases = {name: statistics.median(entry["phases"][name] for entry in entries) for name in entries[0]["phases"]}
        memory = {
            name: _memory(process.pid)
            for name, process in deployment.processes.items()
            if name in {"coordinator", names[0]}
        }
        deployment.wait(study, timeout_s=PATIENCE_S)
        deployment.fetch(study, root / "result")
    finally:
        deployment.end()
    parties = {f"{party} {place}": megabytes for party, found in memory.items() for place, megabytes in found.items()}
    size = len(load_knowledge(root).anchor)
    return Measured([entry["seconds"] for entry in entries], carried / counted, parties, phases, start_up), size


def flower(root: Path, rounds: int, size: int) -> Measured:
    """Run Flower's own processes with FedAvg and clients that send back what they got."""
    root.mkdir(parents=True)
    app, marks, home = root / "app", root / "marks", root / "home"
    home.mkdir()
    (app / "plain").mkdir(parents=True)
    for name, text in APP.items():
        (app / name).write_text(text.format(size=size, rounds=rounds, marks=marks, sites=SITES))
    port = _free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = os.environ | {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    with _spawned(root, environment) as spawn:
        link = spawn(
            "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port), "--database",
            str(root / "state.db"), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        _until(lambda: _open(port), "Flower's SuperLink")
        nodes = [
            spawn("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1",
                  "--port", str(_free_port()))
            for _ in range(SITES)
        ]  # fmt: skip
        spawn("flwr", "run", str(app), "here")
        carried, counted = _rounds(lambda: len(marks.read_text().split()) - 1 if marks.is_file() else 0, rounds)
        memory = {f"superlink {key}": value for key, value in _memory(link.pid).items()}
        memory |= {f"supernode {key}": value for key, value in _memory(nodes[0].pid).items()}
        times = [float(word) for word in marks.read_text().split()]
    return Measured([later - earlier for earlier, later in itertools.pairwise(times[1:])], carried / counted, memory)


def _say(line: str) -> None:
    print(line)  # noqa: T201  a command's output


def _rounds(count: Callable[[], int], rounds: int) -> tuple[float, int]:
    """Wait for the last round; return the bytes that were carried since the first ended, and the rounds since."""
    _until(lambda: count() >= 1, "the first round")
    first, before = count(), _carried()
    _until(lambda: count() >= rounds, "the last round")
    return _carried() - before, rounds - first


def _carried() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_recv)


def _finished(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines if '"round-finished"' in line]


def _memory(pid: int) -> dict[str, int]:
    """Return the resident megabytes of a process and those below it."""
    parent = psutil.Process(pid)
    found = {}
    for place, process in enumerate([parent, *parent.children(recursive=True)]):
        with contextlib.suppress(psutil.NoSuchProcess):
            found["itself" if place == 0 else f"child {place}"] = process.memory_info().rss >> 20
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} took longer than {PATIENCE_S:g} s; look at what else the machine does")
        time.sleep(LOOK_S)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _spawned(root: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Yield what starts a process of Flower's; all end with the block, and all that they started."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(*words: str) -> subprocess.Popen[bytes]:
        program = shutil.which(words[0], path=environment["PATH"])
        if program is None:
            raise SystemExit(f"expected {words[0]} beside {sys.executable}, found none; install FedMed there")
        with (root / "log").open("ab") as log:
            started.append(
                subprocess.Popen([program, *words[1:]], stdout=log, stderr=log, env=environment, cwd=root)  # noqa: S603  Flower's own commands
            )
        return started[-1]

    try:
        yield spawn
    finally:
        below = [child for one in started for child in _family(one.pid)]
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        for one in started:
            one.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


APP: Final = {
    "pyproject.toml": """[project]
name = "plain"
version = "1.0.0"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "plain.server:app"
clientapp = "plain.client:app"
[tool.flwr.app.config]
size = {size}
rounds = {rounds}
sites = {sites}
marks = "{marks}"
""",
    "plain/__init__.py": "",
    "plain/server.py": """import time
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()
@app.main()
def main(grid, context):
    settings = context.run_config
    def mark(number, arrays):
        with open(settings["marks"], "a") as file:
            print(time.time(), file=file)
    sites = settings["sites"]
    FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites).start(
        grid=grid, initial_arrays=ArrayRecord([np.zeros(settings["size"], np.float32)]),
        num_rounds=settings["rounds"], evaluate_fn=mark,
    )
""",
    "plain/client.py": """from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    arrays = message.content.array_records["arrays"]
    return Message(RecordDict({{"arrays": arrays, "metrics": MetricRecord({{"num-examples": 1}})}}), reply_to=message)
""",
}


if __name__ == "__main__":
    sys.exit(main())
