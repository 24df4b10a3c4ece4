"""A whole consortium on one machine: a coordinator and its sites as processes of their own, with their own keys.

Why it exists: a simulation hands messages over in memory. This runs the same study over what hospitals
install: certificates, mutual TLS, SuperLink, SuperNodes, approvals, secure aggregation. Everything is done
with the commands that people type, so that what works here works there.

Rules:
    * Every step is a `fedmed` command in a process of its own; nothing is reached into.
    * Each party has a folder and a key file of its own; only public files are carried between them.
    * A step that was done is not done again, so an interrupted run goes on.
    * All processes end with the block, however it ends.

What it does not do: prepare data, or know what a study is.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from fedmed.crypto.keyfiles import CONSORTIUM, load_private_key, load_public_key
from fedmed.crypto.passphrases import Secret, obtain_secret
from fedmed.errors import SiteFailureError
from fedmed.files import write_atomic
from fedmed.receipts import Signer, receipt_key, receipts_seed, sign_mandate
from fedmed.records import Plan, canonical_json, digest
from fedmed.secagg.roster import Policy
from fedmed.signed_plans import SignedPlan, agree_to, launch
from fedmed_server.coordinator_home import read_coordinator

LOOK_S: Final = 0.5
ENDING_S: Final = 40.0
READY_S: Final = 120.0
_BLOCKS: Final = re.compile(r"(?<=\s)[0-9A-Fa-f]{4}(?=\s)")
"""The blocks of a fingerprint, as the commands show it."""


@dataclass(frozen=True, slots=True)
class DeploymentFolder:
    """Where each party's things are; `mail` is what people carry between them."""

    root: Path

    @property
    def consortium(self) -> Path:
        """The consortium's own machine."""
        return self.root / "consortium"

    @property
    def coordinator(self) -> Path:
        """The coordinator's machine."""
        return self.root / "coordinator"

    @property
    def mail(self) -> Path:
        """Invitations, requests, kits, rosters, plans."""
        return self.root / "mail"

    @property
    def keys(self) -> Path:
        """What each party's keys are sealed under."""
        return self.root / "unlock"

    @property
    def logs(self) -> Path:
        """What the processes say."""
        return self.root / "logs"

    def key(self, party: str) -> Path:
        """Return the key file of a party."""
        return self.keys / f"{party}.key"


@dataclass(slots=True)
class Deployment:
    """Sites (by name, with their folders) and their coordinator."""

    folder: DeploymentFolder
    sites: dict[str, Path]
    policy: Policy
    say: Callable[[str], None] = lambda _text: None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def found(self) -> None:
        """Make the consortium and its coordinator, and enrol every site.

        Raises:
            SiteFailureError: A command failed; the message is its own.
        """
        folder = self.folder
        for path in (folder.mail, folder.keys, folder.logs):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for party in ("consortium", "coordinator", *self.sites):
            if not folder.key(party).is_file():
                write_atomic(folder.key(party), secrets.token_bytes(32))
        own = ("--dir", folder.consortium, "--key-file", folder.key("consortium"))
        if not (folder.consortium / "consortium.pub.json").is_file():
            self._do("consortium", "init", "--out", folder.consortium, "--key-file", folder.key("consortium"))
        if not (folder.coordinator / "coordinator.json").is_file():
            port = _free_port()
            self._do("consortium", "coordinator", *own, "--name", "coordinator", "--host", "127.0.0.1",
                     "--port", port, "--out", folder.coordinator,
                     "--coordinator-key-file", folder.key("coordinator"))  # fmt: skip
        for name, home in self.sites.items():
            if not (home / "tls" / "current").exists():
                self._enrol(name, home, own)
        self._sign_roster(own)
        for name in ("members.json", "revoked.json"):
            shutil.copyfile(folder.consortium / name, folder.coordinator / name)

    def start(self) -> None:
        """Start the coordinator and every site."""
        self.start_coordinator()
        for name in self.sites:
            self.start_site(name)

    def start_coordinator(self) -> None:
        """Start the coordinator's process."""
        folder = self.folder
        self._spawn("coordinator", "coordinator", "start", "--home", folder.coordinator, "--listen", "127.0.0.1",
                    "--key-file", folder.key("coordinator"))  # fmt: skip

    def start_site(self, name: str, *, environment: Mapping[str, str] | None = None) -> None:
        """Start one site's process, with these variables beside those that are set."""
        words = ("site", "start", "--home", self.sites[name], "--key-file", self.folder.key(name))
        self._spawn(name, *words, environment=environment)

    def launch(self, plan: Plan, base: Path) -> str:
        """Have the consortium sign a plan and the coordinator launch it; return its digest.

        Raises:
            SiteFailureError: A command failed.
        """
        folder, name = self.folder, digest(plan)
        if any(state["digest"] == name for state in self.status()):
            return name
        unsigned, signed = folder.mail / f"{name}.json", folder.mail / f"{name}.signed.json"
        write_atomic(unsigned, canonical_json(plan))
        if not signed.is_file():
            self._do("consortium", "plan", "sign", unsigned, "--key", folder.consortium / "consortium.key",
                     "--out", signed, "--key-file", folder.key("consortium"))  # fmt: skip
        self._do("coordinator", "launch", signed, "--base", base, "--home", folder.coordinator,
                 "--sites", len(self.sites), "--key-file", folder.key("coordinator"))  # fmt: skip
        return name

    def sign(self, plan: Plan) -> SignedPlan:
        """Return a plan with the signatures of both, for what is tried on copies and launched nowhere."""
        folder = self.folder
        root = load_private_key(folder.consortium / "consortium.key", purpose=CONSORTIUM)
        identity = read_coordinator(folder.coordinator, now=datetime.now(UTC))
        agreed = agree_to(plan, root.unseal_ed25519(_secret(folder.key("consortium"))))
        return launch(agreed, identity.plan_key(_secret(folder.key("coordinator"))))

    def signer(self, plan: Plan) -> Signer:
        """Return what signs the receipts of such a plan: the sites' copies insist on them as the sites do."""
        name = digest(plan)
        identity = read_coordinator(self.folder.coordinator, now=datetime.now(UTC))
        plan_key = identity.plan_key(_secret(self.folder.key("coordinator")))
        mandate = sign_mandate(name, coordinator=identity.name, plan_key=plan_key)
        return Signer(receipt_key(receipts_seed(plan_key), name), mandate.decode(), identity.name)

    def approve(self, study: str, *, patience_s: float = READY_S) -> None:
        """Have every site's administrator approve a study as soon as it shows up there.

        Raises:
            SiteFailureError: It did not show up.
        """
        deadline = time.monotonic() + patience_s
        missing = dict(self.sites)
        while missing:
            for name, home in list(missing.items()):
                if (home / "studies" / study / "state.json").is_file():
                    self._do("site", "approve", study, "--home", home, "--yes")
                    del missing[name]
            if missing and time.monotonic() > deadline:
                raise SiteFailureError(f"the study did not reach {', '.join(missing)} in time; see {self.folder.logs}")
            time.sleep(LOOK_S if missing else 0)

    def wait(self, study: str, *, timeout_s: float) -> None:
        """Wait until a study is finished.

        Raises:
            SiteFailureError: It failed or was stopped, or the time is over.
        """
        self._do("coordinator", "wait", study, "--minutes", timeout_s / 60, "--home", self.folder.coordinator)

    def fetch(self, study: str, target: Path) -> None:
        """Copy a finished study's result to `target`."""
        self._do("coordinator", "fetch", study, "--to", target, "--home", self.folder.coordinator)

    def status(self) -> list[dict[str, Any]]:
        """Return what `fedmed coordinator status` says of all studies."""
        found: list[dict[str, Any]] = json.loads(
            self._do("coordinator", "status", "--json", "--home", self.folder.coordinator)
        )
        return found

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a process a signal and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.terminate()
        for name in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                self.stop(name)

    def _enrol(self, name: str, home: Path, own: Sequence[object]) -> None:
        """Invite a site, let it make its request, and let it take in its kit."""
        mail, key = self.folder.mail, self.folder.key(name)
        invitation, request, kit = (mail / f"{name}.{kind}.json" for kind in ("invitation", "request", "kit"))
        for path in (invitation, request, kit):
            path.unlink(missing_ok=True)
        self._do("consortium", "invite", name, "--dir", own[1], "--out", invitation, *own[2:])
        print_ = load_public_key(self.folder.consortium / "consortium.pub.json", purpose=CONSORTIUM).fingerprint
        said = self._do("site", "join", invitation, "--home", home, "--out", request, "--fingerprint", print_,
                        "--key-file", key)  # fmt: skip
        theirs = " ".join(_BLOCKS.findall(said)[-16:])
        self._do("consortium", "enrol", request, *own, "--out", kit, "--fingerprint", theirs)
        self._do("site", "join", kit, "--home", home, "--key-file", key)

    def _sign_roster(self, own: Sequence[object]) -> None:
        """Sign the roster of all sites and give it to the coordinator and to each of them."""
        folder = self.folder
        roster, draft = folder.mail / "roster.json", folder.mail / "roster.yaml"
        if not roster.is_file():
            segments = [
                {"name": one.name, "bits": one.bits, "kind": one.kind, "clip": one.clip,
                 "fraction_bits": one.fraction_bits, "max_length": one.max_length}
                for one in self.policy.segments
            ]  # fmt: skip
            policy = {"n_min": self.policy.n_min, "max_corrupt": self.policy.max_corrupt,
                      "max_weight": self.policy.max_weight, "segments": segments}  # fmt: skip
            write_atomic(draft, yaml.safe_dump({"serial": 1, "policy": policy}).encode())
            self._do("consortium", "roster", "sign", draft, "--from-register", folder.consortium,
                     "--key", folder.consortium / "consortium.key", "--out", roster, *own[2:])  # fmt: skip
        shutil.copyfile(roster, folder.coordinator / "roster.json")
        for home in self.sites.values():
            self._do("site", "roster", roster, "--home", home)

    def _do(self, *arguments: object) -> str:
        """Run one command to its end and return what it printed.

        Raises:
            SiteFailureError: It failed; the message is its own.
        """
        words = [str(word) for word in arguments]
        done = subprocess.run(  # noqa: S603  our own command
            _command(*words), capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True
        )
        if done.returncode:
            raise SiteFailureError(f"fedmed {' '.join(words[:3])}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _spawn(self, name: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        """Start a process whose output goes to a log of its own."""
        with (self.folder.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603  our own command
                _command(*map(str, arguments)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(environment or {}),
            )
        self.say(f"started {name} (process {self.processes[name].pid})")


@contextmanager
def at_work(deployment: Deployment) -> Iterator[Deployment]:
    """Start a founded consortium's processes, and end them with the block."""
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.end()


def run_study(deployment: Deployment, plan: Plan, *, base: Path, state: Path, timeout_s: float = 24 * 3600.0) -> None:
    """Run one study over a consortium at work, from its plan to its result in `state`.

    Args:
        deployment: At work.
        plan: The study's.
        base: The folder of its public base.
        state: Gets the folder `result`.
        timeout_s: How long it may take.

    Raises:
        SiteFailureError: It did not come to its end.
    """
    study = deployment.launch(plan, base)
    deployment.approve(study)
    deployment.wait(study, timeout_s=timeout_s)
    state.mkdir(parents=True, exist_ok=True)
    deployment.fetch(study, state / "result")


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fedmed", *words]


def _secret(key: Path) -> Secret:
    return obtain_secret(passphrase_file=None, key_file=key, use="existing key")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
