"""The simulation from raw records to a summary, in steps that a killed run can take up again.

Why it exists: one machine plays every hospital and the coordinator with their own
code; this module only starts Flower between their folders and reads the sites' own
results afterwards (which a real coordinator could not).

The data's way: raw tables -> de-identified tables (audited) -> public base to every
site -> study after study through Flower -> what-if arm without consolidation on
copies of the sites -> leak search -> summary.

Rules:
    * Every step leaves its result in the run's folder and is skipped when it is there.
    * The what-if arm charges the ledgers of copies: no real site would run it.

What it does not do: draw or print.
"""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch

from fedmed.bundle import PLAN_DIGEST_KEY, PLAN_KEY, PLAN_SIGNATURES_KEY
from fedmed.errors import SiteFailureError
from fedmed.files import write_atomic
from fedmed.learning.ewc import Knowledge, knowledge_to_bytes
from fedmed.learning.machine import Machine
from fedmed.models import Layout, attach_adapter, folder_digest, load_module
from fedmed.privacy.engine import PrvAccountant
from fedmed.records import Plan, canonical_json, digest
from fedmed.released import StudyResult
from fedmed.secagg.masking import error_bound
from fedmed.secagg.roster import Roster
from fedmed.signed_plans import SignedPlan, signatures_to_text
from fedmed_server.result import load_knowledge, load_result
from fedmed_server.server_app import build_server_app
from fedmed_server.study import Listener, StudyFolders
from fedmed_sim.consortium import floors, found_consortium, read_roster, sign_plan
from fedmed_sim.deployment import Deployment, DeploymentFolder, at_work, run_study
from fedmed_sim.engine import Engine, open_engine, partition_of
from fedmed_sim.entropy import SimulatedEntropy
from fedmed_sim.folder import RunFolder
from fedmed_sim.leaks import LeakReport, LeakSearch
from fedmed_sim.plans import SharedNoise, plan_of, privacy_spec, sequence_digest, without_consolidation
from fedmed_sim.preparation import planted_identifiers, prepare_base, prepare_sites, rows_left_out
from fedmed_sim.settings import SimulationSettings
from fedmed_sim.summary import (
    SUMMARY_VERSION,
    AggregationSummary,
    Evaluations,
    EwcSummary,
    PrivacySummary,
    Summary,
    final_of,
    mean_accuracy,
    warnings_of,
)
from fedmed_site.agent import SiteAgent
from fedmed_site.client_app import build_client_app
from fedmed_site.participant import system_entropy

POLL_INTERVAL_S = 0.02


class Simulation:
    """One run over its folder."""

    def __init__(self, settings: SimulationSettings, folder: RunFolder, *, listener: Listener) -> None:
        self.plans: list[Plan] = []
        self._settings = settings
        self._folder = folder
        self._names: tuple[str, ...] = ()
        self._deployment: Deployment | None = None
        self._listener = listener
        self._seconds = _read_seconds(folder.seconds)
        self._resumed = bool(self._seconds)

    def prepare(self) -> None:
        """Make every site's folder; a mistake in data or settings shows here.

        Raises:
            UsageError: It is the user's to cure, and nothing of the run is worth keeping.
        """
        with self._phase("prepare"):
            self._names = prepare_sites(self._settings, self._folder)
            if self._settings.engine == "processes":
                self._deployment = self._deploy()
            else:
                found_consortium(self._settings, self._folder, self._names)

    def run(self) -> Summary:
        """Run what is not yet there, after `prepare`, and return the summary.

        Raises:
            FedMedError: Too few sites in a round, or state that does not verify.
        """
        settings, folder, names = self._settings, self._folder, self._names
        torch.set_num_threads(1)  # so that results don't depend on the number of cores, here as in the workers
        with self._phase("base"):
            base_digest = prepare_base(settings, folder, names)
        with self._phase("calibrate"):
            privacy = privacy_spec(settings, PrvAccountant(), shared=self._shared_noise())
        identifiers = planted_identifiers(folder)
        search = LeakSearch(identifiers) if identifiers else None
        plans = self.plans
        knowledge: Knowledge | None = None
        with (
            open_engine(
                settings.engine,
                workers=min(settings.workers, len(names)),
                card=Machine.found(settings.site).device == "cuda",
            ) as engine,
            nullcontext() if self._deployment is None else at_work(self._deployment),
        ):
            roster = read_roster(folder) if settings.secagg.kind == "secure" else None
            entropy_of = SimulatedEntropy(settings.seed) if settings.privacy.noise == "simulated-seed" else None
            runner = _Studies(
                engine,
                names,
                self._listener,
                search,
                folder=folder,
                roster=roster,
                entropy_of=entropy_of,
                deployment=self._deployment,
            )
            for index in range(len(settings.scenario.studies)):
                plan = plan_of(
                    settings, index, base_digest=base_digest, privacy=privacy, knowledge_digest=_digest_of(knowledge)
                )
                plans.append(plan)
                if knowledge is not None and index + 1 == len(settings.scenario.studies):
                    with self._phase("what-if"):
                        self._naive_arm(runner, without_consolidation(plan), knowledge)
                with self._phase(f"study-{index + 1}"):
                    runner.run(
                        plan, base=folder.base, state=folder.study(index), sites=folder.sites, knowledge=knowledge
                    )
                knowledge = load_knowledge(folder.study(index))
        if search is not None:
            search.feed_folder(folder.coordinator)
            if self._deployment is not None:
                search.feed_folder(self._deployment.folder.coordinator)
            search.feed_folder(folder.what_if / "study")
        leaks = None if search is None else replace(search.report(), whole=not self._resumed)
        return self._summarise(plans, names, leaks)

    def _deploy(self) -> Deployment:
        """Return a consortium of processes over the prepared sites, founded but not started."""
        homes = {name: self._folder.sites / name for name in self._names}
        agents = {name: SiteAgent.open(home) for name, home in homes.items()}
        deployment = Deployment(DeploymentFolder(self._folder.deployment), homes, floors(self._settings, agents))
        deployment.found()
        self._folder.coordinator.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(deployment.folder.mail / "roster.json", self._folder.roster)
        return deployment

    def _shared_noise(self) -> SharedNoise | None:
        """Return what the sites' shares of noise are rounded to, where they share it."""
        if self._settings.privacy.trust_model != "distributed":
            return None
        base = self._folder.base
        architecture, module = load_module(base, expected_digest=folder_digest(base))
        module = attach_adapter(module, self._settings.model, seed=self._settings.seed)
        return SharedNoise(
            policy=read_roster(self._folder).policy, size=Layout.of(module).size, features=architecture.features
        )

    def _naive_arm(self, runner: "_Studies", plan: Plan, knowledge: Knowledge) -> None:
        """Run the last study without consolidation on copies of the sites, as they are before it."""
        target = self._folder.what_if / "sites"
        if not target.is_dir():
            stage = self._folder.what_if / ".sites"
            shutil.rmtree(stage, ignore_errors=True)
            shutil.copytree(self._folder.sites, stage, ignore=_sockets)
            stage.rename(target)
        runner.run(
            plan, base=self._folder.base, state=self._folder.what_if / "study", sites=target, knowledge=knowledge
        )

    def _summarise(self, plans: Sequence[Plan], names: Sequence[str], leaks: LeakReport | None) -> Summary:
        results = [self._result(plan, self._folder.study(index)) for index, plan in enumerate(plans)]
        plan = plans[-1]
        secure = plan.aggregation.kind != "insecure"
        summary = Summary(
            version=SUMMARY_VERSION,
            plan_digest=sequence_digest(plans),
            sites=tuple(names),
            rounds=sum(result.rounds for result in results),
            studies=tuple(plan.study for plan in plans),
            model=f"{plan.model.family}, adapter={plan.model.adapter}",
            machine=Machine.found(self._settings.site).computing(plan.model.precision),
            normalisation=plan.data.normalisation,
            final=final_of(read_evaluations(self._folder.sites, names, plan)),
            privacy=PrivacySummary(
                trust_model=plan.privacy.trust_model,
                delta=plan.privacy.delta,
                epsilon={name: self._spent(name, plan) for name in names},
                noise=plan.privacy.noise,
                noise_multiplier=plan.privacy.noise_multiplier,
            ),
            ewc=self._ewc(plans, names),
            aggregation=self._aggregation(plan, results, names),
            leaks=leaks,
            records={name: SiteAgent.open(self._folder.sites / name).datasets.counts(plan.data) for name in names},
            left_out=rows_left_out(self._folder),
            seconds={phase: round(seconds, 3) for phase, seconds in self._seconds.items()},
            warnings=warnings_of(
                plans,
                results,
                secure=secure,
                keys_from_seed=plan.privacy.noise == "simulated-seed" and self._deployment is None,
                roster=read_roster(self._folder) if secure else None,
            ),
        )
        write_atomic(self._folder.summary, msgspec.json.format(canonical_json(summary), indent=2), mode=0o644)
        return summary

    def _aggregation(self, plan: Plan, results: Sequence[StudyResult], names: Sequence[str]) -> AggregationSummary:
        secure = plan.aggregation.kind != "insecure"
        found = AggregationSummary(
            kind=plan.aggregation.kind,
            secure=secure,
            bytes_up=sum(result.bytes_up for result in results),
            bytes_down=sum(result.bytes_down for result in results),
        )
        if not secure:
            return found
        policy = read_roster(self._folder).policy
        segment = next(segment for segment in policy.segments if segment.name == "delta")
        agents = [SiteAgent.open(self._folder.sites / name) for name in names]
        records = sum(len(agent.datasets.load(plan.data, "train").labels) for agent in agents)
        bound = error_bound(segment, sites=len(names), weight_sum=records / policy.max_weight)
        return replace(found, bits=segment.bits, rounding_error=bound.maximum)

    def _ewc(self, plans: Sequence[Plan], names: Sequence[str]) -> EwcSummary | None:
        if len(plans) == 1:
            return None
        before = read_evaluations(self._folder.sites, names, plans[0])
        after = read_evaluations(self._folder.sites, names, plans[-1])
        naive = read_evaluations(self._folder.what_if / "sites", names, without_consolidation(plans[-1]))
        return EwcSummary(
            study1_before=mean_accuracy(before, view=0),
            study1_after_naive=mean_accuracy(naive, view=1),
            study1_after_ewc=mean_accuracy(after, view=1),
            study2_naive=mean_accuracy(naive, view=0),
            study2_ewc=mean_accuracy(after, view=0),
        )

    def _spent(self, name: str, plan: Plan) -> float | None:
        spent = SiteAgent.open(self._folder.sites / name).ledger(plan.data.schema).spent()
        return spent if math.isfinite(spent) else None

    def _result(self, plan: Plan, state: Path) -> StudyResult:
        result = load_result(state, plan_digest=digest(plan))
        if result is None:
            raise SiteFailureError(f"{plan.study} ended without a result; resume the run to finish it")
        return result

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Add the block's seconds to the phase, on disk, also when it is interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began
            write_atomic(self._folder.seconds, canonical_json(self._seconds), mode=0o644)


class _Studies:
    """Runs studies one after the other on one engine."""

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        listener: Listener,
        search: LeakSearch | None,
        *,
        folder: RunFolder,
        roster: Roster | None,
        entropy_of: SimulatedEntropy | None,
        deployment: Deployment | None,
    ) -> None:
        self._deployment = deployment
        self._folder = folder
        self._roster = roster
        self._entropy_of = entropy_of
        self._engine = engine
        self._names = names
        self._listener = listener
        self._search = search

    def run(self, plan: Plan, *, base: Path, state: Path, sites: Path, knowledge: Knowledge | None) -> None:
        if load_result(state, plan_digest=digest(plan)) is not None:
            return
        if self._deployment is not None and sites == self._folder.sites:
            run_study(self._deployment, plan, base=base, state=state)
            return
        server = build_server_app(
            StudyFolders(base=base, state=state),
            knowledge=knowledge,
            listener=self._listener,
            roster=self._roster,
            signer=None if self._deployment is None else self._deployment.signer(plan),
            poll_interval_s=POLL_INTERVAL_S,
        )
        folders = [sites / name for name in self._names]
        plan_json = canonical_json(plan).decode()
        self._engine.run(
            server,
            build_client_app(_locator(folders), entropy_of=self._entropy_of or system_entropy),
            nodes=len(folders),
            run_config={
                PLAN_KEY: plan_json,
                PLAN_DIGEST_KEY: digest(plan),
                PLAN_SIGNATURES_KEY: signatures_to_text(self._sign(plan, folders).signatures),
            },
            tap=lambda data: self._feed(data, plan.study),
        )

    def _sign(self, plan: Plan, folders: Sequence[Path]) -> SignedPlan:
        """Return a plan that the sites in `folders` take, signed and approved by those who would."""
        if self._deployment is None:
            return sign_plan(self._folder, plan)
        for folder in folders:
            approvals = SiteAgent.open(folder).approvals
            approvals.note(plan, now=datetime.now(UTC))
            approvals.decide(digest(plan), "approved", by="what-if", now=datetime.now(UTC))
        return self._deployment.sign(plan)

    def _feed(self, data: bytes, study: str) -> None:
        if self._search is not None:
            self._search.feed(data, f"a message of {study}")


def read_evaluations(sites: Path, names: Sequence[str], plan: Plan) -> Evaluations:
    """Return every site's own evaluations of a study."""
    return {name: SiteAgent.open(sites / name).evaluations.read(digest(plan)) for name in names}


def _locator(folders: Sequence[Path]) -> Callable[[Any], Path]:
    def locate(context: Any) -> Path:
        torch.set_num_threads(1)
        return folders[partition_of(context)]

    return locate


def _digest_of(knowledge: Knowledge | None) -> str | None:
    return None if knowledge is None else hashlib.sha256(knowledge_to_bytes(knowledge)).hexdigest()


def _read_seconds(path: Path) -> dict[str, float]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, float]) if path.is_file() else {}


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Return which of these are sockets: of processes at work, which copies don't have."""
    return [name for name in names if (Path(folder) / name).is_socket()]
