"""What a site computes from its records: statistics, updates, Fisher information, evaluations.

Why it exists: all that reads records, charges the ledger or needs torch stands here, apart
from the agent, so that phases of secure aggregation without training load none of it.

Rules:
    * Order: refuse, charge (durable), read, compute. The agent stores and releases.
    * What a record decides (too few of them, a value that can't be used) is refused after the charge: it is an answer.
      That a view has too few is said again without one (see `too_few`).
    * Work is a mean over the site's training records and their number: `mean` and `weight`.
    * Evaluations of held-out patients stay at the site.
    * What the machine can't compute or hold, and a model that can't be trained, is refused before the charge.
    * How many records had no finite gradient is for the site's own log.

What it does not do: decide who may ask, store answers, or speak a protocol.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmed import __version__
from fedmed.data.source import Cohort, Split
from fedmed.errors import ConfigError, DataError, ModelError, RefusedError
from fedmed.exchange import Answer, Task, Work
from fedmed.learning.ewc import Knowledge
from fedmed.learning.local import (
    evaluate,
    fisher_sum,
    statistics_from_sum,
    statistics_scale,
    statistics_sum,
    train_locally,
)
from fedmed.learning.memory import Memory, memory_of
from fedmed.learning.rehearsal import rehearse_fisher, rehearse_training
from fedmed.models import Layout, enter_round, state_digest
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedmed.privacy.plan import Event
from fedmed.records import DataSpec, Plan, canonical_json, digest
from fedmed_site.adapters import OWN, SHARED, AdapterEntry, Adapters
from fedmed_site.approvals import written
from fedmed_site.datasets import DataSets
from fedmed_site.evaluations import EvaluationLog
from fedmed_site.home import SiteHome
from fedmed_site.normaliser import Normaliser, Statistics
from fedmed_site.personal import PersonalModels
from fedmed_site.plan_model import machine_for, module_of
from fedmed_site.policy import SitePolicy
from fedmed_site.replies import charge_id
from fedmed_site.shared_noise import agreed_terms, require_noise
from fedmed_site.too_few import TooFew, too_few

Counts = NDArray[np.floating]


class Trainer:
    """The computing part of one site's agent."""

    def __init__(
        self,
        home: SiteHome,
        *,
        name: str,
        policy: SitePolicy,
        datasets: DataSets,
        evaluations: EvaluationLog,
        ledger: Callable[[str], Ledger],
        log: Callable[[Task], str],
        note: Callable[[str], None],
    ) -> None:
        self._home = home
        self._name = name
        self._policy = policy
        self._datasets = datasets
        self._evaluations = evaluations
        self._ledger = ledger
        self._log = log
        self._note = note
        self._normaliser = Normaliser(home.normalisation)
        self._personal = PersonalModels(home.root / "personal")
        self._adapters = Adapters(home.root / "adapters")
        self._too_few = TooFew(home.root / "refused")
        self._works: dict[str, Callable[[Plan, Task, int], Answer]] = {
            "query.statistics": self._statistics,
            "train.fit": self._fit,
            "train.fisher": self._fisher,
        }

    def work(self, plan: Plan, task: Task, *, edition: int) -> Answer:
        """Do one kind of work, after charging for it.

        Args:
            plan: What was agreed.
            task: A kind of work, its round and the arrays it starts from.
            edition: How often this round was worked before in sums that are spent; 0 for the first time.

        Returns:
            An answer with the array `mean` and the fact `weight`; it must not leave before it is stored.

        Raises:
            RefusedError: The plan, the policy or the budget forbids it.
            DataError: The view can't be trained on.
        """
        if task.action != "query.statistics":
            machine_for(self._home, plan)
        policy, version = self._policy, self._datasets.version(plan.data.schema)
        self._too_few.refuse_again(plan.data, version=version, min_records=policy.min_records)
        return self._works[task.action](plan, task, edition)

    def describe(self, plan: Plan) -> Answer:
        """Say which software and which start the site has, so that a mismatch shows before training."""
        machine_for(self._home, plan)
        start = state_digest(module_of(self._home, plan))
        return Answer(site=self._name, facts={"fedmed": __version__, "start": start})

    def evaluate(self, plan: Plan, task: Task) -> Answer:
        """Evaluate the released model on every view of the plan; the results stay here."""
        module, machine = module_of(self._home, plan), machine_for(self._home, plan)
        model = _model(plan, task, module)
        self._adapters.keep(_entry(plan, task, SHARED), model, task.arrays.get("frozen"))
        for view, data in enumerate((plan.data, *plan.continual.earlier)):
            try:
                statistics = self._statistics_for(plan, data, task if view == 0 else None)
                test = _normalised(self._cohort(data, "test"), statistics)
                found = evaluate(module, model, test, spec=plan.model, machine=machine)
                self._evaluations.add_final(plan, view, found)
            except DataError:
                self._log(task)  # whether a view has patients is not for the coordinator to know
        if plan.model.personal:
            self._finish_personal(plan, task, module)
        return Answer(site=self._name)

    def _finish_personal(self, plan: Plan, task: Task, module: nn.Module) -> None:
        """Write this site's own model where its hospital can use it, and evaluate it; neither leaves."""
        own = self._personal.last(task.plan_digest)
        if own is None:  # this site took part in no round
            return
        self._adapters.keep(_entry(plan, task, OWN), own, task.arrays.get("frozen"))
        base = self._home.models / plan.base_digest
        self._personal.release(task.plan_digest, module, own, base=base)
        try:
            test = _normalised(self._cohort(plan.data, "test"), self._statistics_for(plan, plan.data, task))
            found = evaluate(module, own, test, spec=plan.model, machine=machine_for(self._home, plan))
            self._evaluations.add_personal(plan, found)
        except DataError:
            self._log(task)

    # --- work ------------------------------------------------------------------------------

    def _statistics(self, plan: Plan, task: Task, edition: int) -> Answer:
        if plan.data.normalisation != "federated":
            raise RefusedError(f"the plan normalises by {plan.data.normalisation} ranges; no statistics are needed")
        self._check_noise(plan, task)
        self._charge(plan, charge_id(task, edition), _one_release(plan), purpose="statistics")
        cohort = self._cohort(plan.data, "train")
        noise = self._noise(plan, task.action, task.round, edition)
        total = statistics_sum(cohort, privacy=plan.privacy, noise=noise)
        scaled = total * statistics_scale(cohort.features.shape[1])
        return self._mean(scaled, len(cohort.labels), _shared_noise(plan, "query.statistics"))

    def _fit(self, plan: Plan, task: Task, edition: int) -> Answer:
        module, machine = module_of(self._home, plan), machine_for(self._home, plan)
        model = _model(plan, task, module, number=task.round)
        memory = _memory(plan, task, module)
        at_once = self._rehearsed(plan, rehearse_training, module, machine=machine, privacy=plan.privacy)
        self._check_statistics(plan, task)
        self._check_noise(plan, task)
        statistics = self._statistics_for(plan, plan.data, task)
        self._charge(plan, charge_id(task, edition), _training(plan), purpose="training")
        train = _normalised(self._cohort(plan.data, "train"), statistics)
        test = _normalised(self._cohort(plan.data, "test"), statistics)
        if len(test):  # a small site may have nobody held out
            found = evaluate(module, model, test, spec=plan.model, machine=machine)
            self._evaluations.add_round(plan, task.round, found)
        noise = self._noise(plan, task.action, task.round, edition)
        own = self._personal.before(task) if plan.model.personal else None
        trained = train_locally(
            module,
            model,
            train,
            training=plan.training,
            privacy=plan.privacy,
            noise=noise,
            memory=memory,
            own=own,
            spec=plan.model,
            machine=machine,
            at_once=at_once,
        )
        if trained.nonfinite:
            self._note(
                f"round {task.round} of plan {task.plan_digest}: {trained.nonfinite} gradients of records were not"
                " finite and counted as zero"
            )
        if plan.model.personal:
            self._personal.keep(task, Layout.of(module).read(module))
        facts = {"weight": float(len(train.labels)), **_shared_noise(plan, "train.fit")}
        return Answer(site=self._name, arrays={"mean": trained.delta}, facts=facts)

    def _fisher(self, plan: Plan, task: Task, edition: int) -> Answer:
        if not plan.continual.release_fisher:
            raise RefusedError("the plan does not ask for the Fisher information")
        module, machine = module_of(self._home, plan), machine_for(self._home, plan)
        model = _model(plan, task, module)
        at_once = self._rehearsed(plan, rehearse_fisher, module, machine=machine, continual=plan.continual)
        self._check_noise(plan, task)
        statistics = self._statistics_for(plan, plan.data, task)
        self._charge(plan, charge_id(task, edition), _one_release(plan), purpose="Fisher information")
        train = _normalised(self._cohort(plan.data, "train"), statistics)
        noise = self._noise(plan, task.action, task.round, edition)
        total = fisher_sum(
            module,
            model,
            train,
            continual=plan.continual,
            privacy=plan.privacy,
            noise=noise,
            spec=plan.model,
            machine=machine,
            at_once=at_once,
        )
        return self._mean(total, len(train.labels), _shared_noise(plan, "train.fisher"))

    def _mean(self, total: Counts, records: int, shared: Mapping[str, float]) -> Answer:
        return Answer(site=self._name, arrays={"mean": total / records}, facts={"weight": float(records), **shared})

    # --- what the work stands on -----------------------------------------------------------

    def _rehearsed(self, plan: Plan, rehearse: Callable[..., int], module: nn.Module, **given: object) -> int:
        """Return how many records at a time fit, by a rehearsal on synthetic ones.

        Raises:
            RefusedError: Not one does, or the model can't be trained record by record.
        """
        features, _ = self._datasets.dimensions(plan.data)
        try:
            return rehearse(module, features=features, spec=plan.model, **given)
        except ModelError as error:
            raise RefusedError(f"the plan's model can't be trained here: {error}") from None

    def _check_statistics(self, plan: Plan, task: Task) -> None:
        """Raise unless statistics that came with the task have one entry per feature, before they are pinned."""
        features, _ = self._datasets.dimensions(plan.data)
        for name in ("mean", "scale"):
            if name in task.arrays and task.arrays[name].shape != (features,):
                raise RefusedError(f"expected {name} of {features} features, got shape {task.arrays[name].shape}")

    def _check_noise(self, plan: Plan, task: Task) -> None:
        """Raise where sites share the noise and the agreed roster's rings can't hold it, before it is paid for.

        What the plan releases beside this work is checked as well: it would refuse the round later.
        """
        if plan.privacy.trust_model != "distributed":
            return
        terms = agreed_terms(self._home, name=self._name, now=datetime.now(UTC))
        together: tuple[Work, ...] = ("train.fit", "train.fisher")
        for work in together if task.action in together else (cast("Work", task.action),):
            segment = terms.segment(work)
            released = work != "train.fisher" or plan.continual.release_fisher
            if released and terms.length(segment):
                require_noise(_shared_noise(plan, work), segment, terms)

    def _cohort(self, data: DataSpec, split: Split) -> Cohort:
        cohort = self._datasets.load(data, split)
        if split == "train" and len(cohort.labels) < self._policy.min_records:
            least = self._policy.min_records
            self._too_few.say(data, version=self._datasets.version(data.schema), min_records=least)
            raise too_few(least)
        return cohort

    def _charge(self, plan: Plan, name: str, event: Event | None, *, purpose: str, dataset: str | None = None) -> None:
        """Charge a data set's ledger, durably, before a record is read; no event means no protection."""
        ledger = self._ledger(dataset or plan.data.schema)
        if event is None:
            ledger.record_unprotected(name, purpose=purpose)
        else:
            ledger.charge(name, event, purpose=purpose)

    def _statistics_for(self, plan: Plan, data: DataSpec, task: Task | None) -> Statistics | None:
        """Return what a view is standardised by; a site's own statistics are released once they are stored."""
        name = f"{digest(data)}/statistics"
        if data.normalisation == "site" and plan.privacy.trust_model == "distributed":
            raise RefusedError("a site's own statistics have no shared noise; use public or federated normalisation")

        def own(data: DataSpec) -> Statistics:
            self._charge(plan, name, _one_release(plan), purpose="statistics of the site", dataset=data.schema)
            cohort, noise = self._cohort(data, "train"), self._noise(plan, name, 0, 0)
            mean, scale = statistics_from_sum(statistics_sum(cohort, privacy=plan.privacy, noise=noise))
            return Statistics(mean=mean, scale=scale)

        found = self._normaliser.statistics(data, task, own)
        if found is not None and data.normalisation == "site":
            stored = hashlib.sha256(found.mean.tobytes() + found.scale.tobytes()).hexdigest()
            self._ledger(data.schema).release(name, stored)
        return found

    def _noise(self, plan: Plan, purpose: str, number: int, edition: int) -> NoiseSource:
        """Return the operating system's noise, or a seeded stream where no privacy is claimed or it is simulated.

        The seeded stream is keyed by the site's name as well, so no two sites draw the same; it does not
        depend on how updates are aggregated, so that runs which differ only in that can be compared.
        """
        if plan.privacy.private and plan.privacy.noise == "system":
            return SystemNoise()
        label = canonical_json([plan.seed, self._name, plan.study, digest(plan.data), purpose, number, edition])
        return SeededNoise(hashlib.sha256(b"FedMed-seeded/v1\0" + label).digest())


def _entry(plan: Plan, task: Task, name: str) -> AdapterEntry:
    made = written(datetime.now(UTC))
    return AdapterEntry(plan=task.plan_digest, name=name, round=plan.training.rounds, made=made)


def _training(plan: Plan) -> Event | None:
    if not plan.privacy.private:
        return None
    return Event(
        noise_multiplier=plan.privacy.noise_multiplier,
        sample_rate=plan.training.sample_rate,
        steps=plan.training.local_steps,
        distance=plan.privacy.distance,
    )


def _one_release(plan: Plan) -> Event | None:
    if not plan.privacy.private:
        return None
    return Event(
        noise_multiplier=plan.privacy.release_noise_multiplier,
        sample_rate=1.0,
        steps=1,
        distance=plan.privacy.distance,
    )


def _shared_noise(plan: Plan, work: Work) -> dict[str, float]:
    """Return what a share of noise for a sum must be scaled to, where the sites share it; else nothing."""
    if plan.privacy.trust_model != "distributed":
        return {}
    clip_norms: dict[Work, float] = {
        "query.statistics": 1.0,
        "train.fit": plan.training.learning_rate * plan.privacy.clip_norm,
        "train.fisher": plan.continual.fisher_clip_norm,
    }
    multiplier = plan.privacy.noise_multiplier if work == "train.fit" else plan.privacy.release_noise_multiplier
    return {"clip_norm": clip_norms[work], "noise_multiplier": multiplier, "distance": plan.privacy.distance}


def _normalised(cohort: Cohort, statistics: Statistics | None) -> Cohort:
    return cohort if statistics is None else statistics.apply(cohort)


def _model(plan: Plan, task: Task, module: nn.Module, *, number: int = 0) -> NDArray[np.float32]:
    """Return the task's model, checked before anything is charged for it; `module` has entered the round then.

    Raises:
        RefusedError: There is none, or the module can't take it.
    """
    model = task.arrays.get("model")
    if model is None:
        raise RefusedError(f"expected a model with {task.action}, got none")
    try:
        layout = enter_round(module, plan.model, number=number, frozen=task.arrays.get("frozen"))
        layout.write(module, model)
    except ModelError as error:
        raise RefusedError(f"the model of {task.action} can't be used: {error}") from None
    return np.asarray(model, dtype=np.float32)


def _memory(plan: Plan, task: Task, module: nn.Module) -> Memory | None:
    """Return the pull of earlier studies that came with a round, checked before anything is charged.

    Raises:
        RefusedError: The plan has a penalty and knowledge and none came, or it can't be used.
    """
    continual = plan.continual
    if continual.penalty == 0:
        return None
    anchor, fisher, frozen = (task.arrays.get(name) for name in ("anchor", "fisher", "anchor_frozen"))
    if anchor is None or fisher is None:
        if continual.knowledge_digest is None:  # a first study has nothing to remember
            return None
        raise RefusedError("expected anchor and Fisher information of earlier studies with the round, got none")
    try:
        knowledge = Knowledge(
            anchor=anchor.astype(np.float64),
            fisher=fisher.astype(np.float64),
            frozen=None if frozen is None else frozen.astype(np.float64),
            kind=continual.fisher,
        )
        return memory_of(module, plan.model, continual, knowledge)
    except (ConfigError, ModelError, ValueError) as error:
        raise RefusedError(f"the knowledge of earlier studies can't be used: {error}") from None
