"""A federation in memory: real site agents and a real coordinator, with nothing between them but calls.

Why it exists: most behaviour has nothing to do with Flower; this beats mocks,
because every part but the wire is the one that ships.
"""

import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY
from fedmed.crypto.pki import make_authority
from fedmed.crypto.statements import sign
from fedmed.data.schema import Column, DataSet, Schema, SplitRule, Target
from fedmed.deid.policy import DeidPolicy
from fedmed.exchange import Answer, Failure, Task
from fedmed.kits import COORDINATOR, Coordinator, moment
from fedmed.learning.ewc import Knowledge
from fedmed.models import Architecture, build_module, save_base
from fedmed.receipts import Signer, receipt_key, receipts_seed, sign_mandate
from fedmed.records import (
    AggregationSpec,
    ContinualSpec,
    DataSpec,
    ModelSpec,
    Plan,
    PrivacySpec,
    TrainingSpec,
    canonical_json,
    digest,
)
from fedmed.secagg.roster import Policy, Roster, RosterEntry, Segment, sign_roster
from fedmed.secagg.roster_file import roster_to_bytes
from fedmed.secagg.shamir import Entropy
from fedmed.signed_plans import agree_to, signatures_to_text
from fedmed_server.channel import Traffic
from fedmed_server.receipts import StudyReceipts
from fedmed_server.server_app import aggregator_for
from fedmed_server.study import Listener, StudyFolders, StudyRunner
from fedmed_site.agent import SiteAgent
from fedmed_site.home import SiteHome, SiteRecord
from fedmed_site.participant import system_entropy
from fedmed_site.policy import AllowedView, SitePolicy


@dataclass
class MemoryChannel:
    """A `Channel` whose addresses are positions in a list of site folders."""

    homes: Sequence[Path]
    plan_json: bytes
    traffic: Traffic = field(default_factory=Traffic)
    silent: set[int] = field(default_factory=set)
    """Addresses that never answer."""
    seen: list[tuple[int, Task, Answer | Failure]] = field(default_factory=list)
    before: Callable[[int, Task], None] = lambda _address, _task: None
    """Called before a site sees a task; may raise to kill the coordinator there."""
    entropy_of: Callable[[str, bytes], Entropy] = system_entropy

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(len(self.homes)))

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, task in tasks.items():
            self.before(address, task)
            if address in self.silent:
                yield address, Failure(site="", code="timeout", reason=f"no reply within {timeout_s:g} seconds")
                continue
            reply = self.agent(address).respond(self.plan_json, task)
            self.seen.append((address, task, reply))
            yield address, reply

    def agent(self, address: int) -> SiteAgent:
        """Return the agent at an address, opened anew as after a restart."""
        return SiteAgent.open(self.homes[address], entropy_of=self.entropy_of)


class SilentListener:
    """A `Listener` that remembers failures and rounds."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.rounds: list[int] = []

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None: ...

    def site_answered(self, plan: Plan, task: Task, site: str) -> None: ...

    def round_finished(self, plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:
        self.rounds.append(number)

    def site_failed(self, plan: Plan, failure: Failure) -> None:
        self.failures.append(failure)

    def study_finished(self, plan: Plan) -> None: ...


# --- a small consortium on disk ------------------------------------------------------------

WARDS = ("north", "south")


def tiny_dataset() -> DataSet:
    """Return a data set of four features with a target that two of them decide."""
    columns = (
        Column(name="record", kind="identifier", role="patient-key"),
        Column(name="patient_name", kind="text", role="direct-identifier"),
        Column(name="ward", kind="category", role="feature", values=WARDS),
        *(
            Column(name=name, kind="number", role="feature", centre=0.0, scale=1.0, low=-50.0, high=50.0)
            for name in ("pressure", "glucose")
        ),
        Column(name="ill", kind="binary", role="target", values=("0", "1"), required=True),
    )
    schema = Schema(
        name="tiny",
        file="{site}.csv",
        columns=columns,
        targets=(Target(name="ill", column="ill", one_of=("1",)),),
        drop_first=True,
    )
    return DataSet(name="tiny", schema=schema, split=SplitRule(kind="hash", test_fraction=0.3))


def write_table(path: Path, *, rows: int, seed: int) -> list[str]:
    """Write a hospital's table and return the names of its patients."""
    rng = np.random.default_rng(seed)
    pressure, glucose = rng.normal(size=(2, rows))
    south = rng.random(rows) < 0.5
    ill = (np.where(south, glucose, pressure) + 0.3 * rng.normal(size=rows)) > 0
    names = [f"Planted Person-{seed}-{index}" for index in range(rows)]
    lines = ["record,patient_name,ward,pressure,glucose,ill"]
    for index in range(rows):
        figures = f"{pressure[index]:.4f},{glucose[index]:.4f},{int(ill[index])}"
        lines.append(f"MRN{seed:03d}{index:05d},{names[index]},{WARDS[int(south[index])]},{figures}")
    path.write_text("\n".join(lines) + "\n")
    return names


@dataclass(frozen=True)
class Consortium:
    """Prepared sites, the public base that all of them hold, and who their patients are."""

    root: Path
    homes: tuple[Path, ...]
    base: Path
    base_digest: str
    dataset: DataSet
    patients: tuple[str, ...]
    roster: Roster
    consortium_key: Ed25519PrivateKey

    def plan(self, **changes: Any) -> Plan:
        """Return a small non-private plan of a linear model, with `changes` to its fields."""
        plan = Plan(
            study="tiny",
            seed=7,
            data=DataSpec(schema="tiny", schema_digest=self.dataset.schema.digest, target="ill"),
            model=ModelSpec(family="linear", adapter="full"),
            base_digest=self.base_digest,
            training=TrainingSpec(rounds=3, local_steps=2, sample_rate=1.0, learning_rate=1.0),
            privacy=PrivacySpec(trust_model="none"),
            aggregation=AggregationSpec(kind="insecure", min_sites=2),
            continual=ContinualSpec(strength=0.0, release_fisher=True),
        )
        return replace(plan, **changes)

    def run_config(self, plan: Plan) -> dict[str, str]:
        """Return what a run of `plan` tells both apps, with the consortium's signature."""
        signatures = signatures_to_text(agree_to(plan, self.consortium_key).signatures)
        plan_json = canonical_json(plan).decode()
        return {PLAN_KEY: plan_json, PLAN_DIGEST_KEY: digest(plan), PLAN_SIGNATURES_KEY: signatures}

    def channel(self, plan: Plan) -> MemoryChannel:
        """Return a channel to all sites under `plan`."""
        return MemoryChannel(self.homes, canonical_json(plan))

    def runner(
        self,
        plan: Plan,
        state: Path,
        *,
        channel: MemoryChannel | None = None,
        knowledge: Knowledge | None = None,
        signer: Signer | None = None,
        listener: Listener | None = None,
    ) -> StudyRunner:
        """Return a coordinator for `plan` that keeps its state in `state`."""
        return StudyRunner(
            plan,
            StudyFolders(base=self.base, state=state),
            channel=channel or self.channel(plan),
            aggregator=aggregator_for(plan, roster=self.roster, state=state, signer=signer),
            knowledge=knowledge,
            listener=listener or SilentListener(),
        )


PRIVATE = PrivacySpec(
    trust_model="local",
    epsilon=50.0,
    delta=1e-5,
    noise_multiplier=1.0,
    release_noise_multiplier=2.0,
    noise="simulated-seed",
)


def build_consortium(root: Path, *, sites: int = 3, rows: int = 160, cap_epsilon: float | None = None) -> Consortium:
    """Make `sites` prepared sites below `root`.

    Args:
        root: An empty folder.
        sites: How many.
        rows: Patients of each.
        cap_epsilon: The cap of every site; None allows training without privacy.
    """
    dataset = tiny_dataset()
    architecture = Architecture.of(ModelSpec(family="linear", adapter="full"), features=3, classes=2)
    base_digest = save_base(root / "base", architecture, build_module(architecture, seed=0))
    cohorts = [AllowedView(schema="tiny", target="ill", cohort_column="ward", cohort=(ward,)) for ward in WARDS]
    views = (AllowedView(schema="tiny", target="ill"), *cohorts)
    policy = SitePolicy(
        cap_epsilon=cap_epsilon,
        delta=1e-5,
        views=views,
        allow_simulated_noise=True,
        allow_insecure_aggregation=True,
        allow_shared_noise=True,
        min_cohort=1,
        approval="policy",
    )
    homes, patients = [], []
    for index in range(sites):
        record = SiteRecord(name=f"h{index + 1}", policy=policy)
        home = SiteHome.create(root / "sites" / record.name, record, pseudonym_key=bytes([index]) * 32)
        table = root / f"h{index + 1}.csv"
        patients += write_table(table, rows=rows, seed=index)
        SiteAgent(home).prepare(table, dataset, DeidPolicy())
        shutil.copytree(root / "base", home.models / base_digest)
        homes.append(home.root)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    roster = sign_in(homes, key)
    return Consortium(
        root=root,
        homes=tuple(homes),
        base=root / "base",
        base_digest=base_digest,
        dataset=dataset,
        patients=tuple(patients),
        roster=roster,
        consortium_key=key,
    )


def sign_in(
    homes: Sequence[Path], key: Ed25519PrivateKey, *, serial: int = 1, max_corrupt: int = 0, bits: Literal[16, 32] = 32
) -> Roster:
    """Sign a roster of the sites in `homes` and let each of them join; return it."""
    agents = [SiteAgent.open(home) for home in homes]
    reals = [
        Segment(name=name, bits=bits, kind="signed", clip=4.0, fraction_bits=bits - 10, max_length=1 << 20)
        for name in ("delta", "fisher")
    ]
    aux = Segment(name="aux", bits=64, kind="integer", clip=2.0**40, fraction_bits=0, max_length=8)
    roster = Roster(
        serial=serial,
        sites=tuple(RosterEntry(site=agent.name, signing_key=agent.membership.public_key()) for agent in agents),
        policy=Policy(n_min=3, max_corrupt=max_corrupt, segments=(reals[0], aux, reals[1]), max_weight=256.0),
    )
    for agent in agents:
        signed = roster_to_bytes(sign_roster(roster, key))
        agent.membership.join(key.public_key().public_bytes_raw(), signed, now=datetime.now(UTC))
    return roster


def appoint(consortium: Consortium, plan_key: Ed25519PrivateKey, *, name: str = "centre") -> bytes:
    """Let every site know the coordinator with this plan-signing key; return the consortium's statement."""
    now = datetime.now(UTC)
    authority = make_authority(ec.generate_private_key(ec.SECP256R1()), name="consortium", now=now, years=1)
    statement = Coordinator(
        name=name,
        consortium="consortium",
        hosts=("coordinator.example",),
        port=9092,
        plan_key=plan_key.public_key().public_bytes_raw(),
        authority=authority.decode(),
        serial=1,
        made_at=moment(now),
        valid_until=moment(now + timedelta(days=30)),
    )
    data = sign(COORDINATOR, statement, consortium.consortium_key)
    for home in consortium.homes:
        folder = home / "tls" / "current"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "coordinator.json").write_bytes(data)
    return data


def signer_of(plan: Plan, plan_key: Ed25519PrivateKey, *, name: str = "centre") -> Signer:
    """Return what signs the receipts of `plan`."""
    mandate = sign_mandate(digest(plan), coordinator=name, plan_key=plan_key)
    return Signer(receipt_key(receipts_seed(plan_key), digest(plan)), mandate.decode(), name)


def twin_of(consortium: Consortium, root: Path) -> Consortium:
    """Return a copy of the consortium below `root`, keys and all."""
    shutil.copytree(consortium.root, root)
    homes = tuple(root / home.relative_to(consortium.root) for home in consortium.homes)
    return replace(consortium, root=root, homes=homes, base=root / "base")


def unsigned_receipts(folder: Path) -> StudyReceipts:
    """Return the receipts of a coordinator without a key, as in a simulation."""
    return StudyReceipts(folder / "receipts.jsonl", None, os.urandom)


SECURE = AggregationSpec(kind="secure", min_sites=3)


def answer_in_child(pipe: Connection, home: Path, plan_json: bytes, task: bytes, kill_at: int) -> None:
    """Answer a pickled task as a process of its own, and kill it at its `kill_at`-th durable write, from 1; 0 = never.

    Sends how often it has written and the pickled reply.
    """
    real, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]  # in this process only
    reply = SiteAgent.open(home).respond(plan_json, pickle.loads(task))  # noqa: S301  from our own parent
    pipe.send((count, pickle.dumps(reply)))
