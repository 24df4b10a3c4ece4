"""The site agent: the one object that owns a hospital's data, model, keys, ledger and policy.

Why it exists: everything a coordinator can make a site do goes through `respond`,
so what is checked, charged, stored and logged is checked, charged, stored and
logged once. A simulation calls it in-process; an appliance feeds it from its SuperNode.

Rules:
    * Order of a private answer: policy, charge (durable), compute, store (durable), log, send.
    * A repeated question gets the stored bytes; nothing is charged or drawn twice.
    * What leaves as a failure is sanitised; details go to the site's own log.
    * Evaluations of held-out patients stay at the site.

What it does not do: speak a transport, or hold state that a restart would lose.
"""

import contextlib
import hashlib
import secrets
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmed import __version__
from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet
from fedmed.data.source import Cohort, Split
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import DeidReport
from fedmed.errors import DataError, IntegrityError, ModelError, PeerError, RefusedError
from fedmed.exchange import Answer, Failure, Task
from fedmed.files import append_durable, locked
from fedmed.learning.local import evaluate, fisher_sum, statistics_from_sum, statistics_sum, train_locally
from fedmed.models import Layout, attach_adapter, load_module, state_digest
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedmed.privacy.plan import Event
from fedmed.records import DataSpec, Plan, canonical_json, decode, digest
from fedmed_site.datasets import DataSets
from fedmed_site.evaluations import EvaluationLog
from fedmed_site.home import SiteHome
from fedmed_site.normaliser import Normaliser, Statistics
from fedmed_site.replies import ReplyStore

REASONS_THAT_MAY_LEAVE = (RefusedError, PeerError)
RELEASES = frozenset({"train.fit", "train.fisher", "query.statistics"})


class SiteAgent:
    """One hospital's agent over its folder."""

    def __init__(self, home: SiteHome) -> None:
        record = home.record()
        self.name = record.name
        self.audit = ChainLog(home.audit_path)
        self.evaluations = EvaluationLog(home.evaluations)
        self.datasets = DataSets(home, self.audit)
        self._home = home
        self._policy = record.policy
        self._replies = ReplyStore(home.replies)
        self._normaliser = Normaliser(home.normalisation)
        self._actions: dict[str, Callable[[Plan, Task], Answer]] = {
            "query.describe": self._describe,
            "query.statistics": self._statistics,
            "train.fit": self._fit,
            "train.fisher": self._fisher,
            "evaluate.held_out": self._evaluate,
        }

    @classmethod
    def open(cls, root: Path) -> "SiteAgent":
        """Return the agent of the site in `root`.

        Raises:
            UsageError: There is no site there.
        """
        return cls(SiteHome.open(root))

    def respond(self, plan_json: bytes, task: Task) -> Answer | Failure:
        """Answer one task, or say why not in words that may leave the site.

        Args:
            plan_json: The canonical JSON of the plan, as it travels in the run's configuration.
            task: What is asked, naming the plan by its digest.
        """
        try:
            with locked(self._home.lock_path):
                return self._answer(plan_json, task)
        except REASONS_THAT_MAY_LEAVE as error:
            self._log(task)
            return Failure(site=self.name, code=type(error).__name__, reason=str(error))
        except IntegrityError:
            reason = f"stored state does not verify; the site's log has the details under {self._log(task)}"
            return Failure(site=self.name, code="IntegrityError", reason=reason)
        except Exception:  # noqa: BLE001  nothing unforeseen may carry patient data to the coordinator
            reason = f"internal failure; the site's log has the details under {self._log(task)}"
            return Failure(site=self.name, code="internal", reason=reason)

    def prepare(self, source: Path, dataset: DataSet, policy: DeidPolicy) -> DeidReport:
        """De-identify a table, and begin the budget ledger of its data set if this is the first time.

        Raises:
            DataError: The table is not what the schema says; nothing is kept of it.
        """
        path = self._ledger_path(dataset.name)
        if not self.datasets.holds(dataset.name) and not path.is_file():
            Ledger.create(
                path,
                dataset=dataset.name,
                cap_epsilon=self._policy.cap,
                delta=self._policy.delta,
                accountant=PrvAccountant(),
            )
        return self.datasets.prepare(source, dataset, policy)

    def ledger(self, dataset: str) -> Ledger:
        """Return the budget ledger of a prepared data set, with the cap that the policy has now.

        Raises:
            IntegrityError: It is missing or was begun under another delta; a new one would forget what was spent.
        """
        path = self._ledger_path(dataset)
        if not path.is_file():
            raise IntegrityError(f"expected the privacy ledger of {dataset}, found none; restore it from a backup")
        ledger = Ledger.open(path, PrvAccountant())
        if ledger.delta != self._policy.delta:
            raise IntegrityError(f"the ledger of {dataset} counts at delta {ledger.delta}, the policy says another")
        if ledger.cap_epsilon != self._policy.cap:
            ledger.set_cap(self._policy.cap)
        return ledger

    def _answer(self, plan_json: bytes, task: Task) -> Answer:
        plan = self._accept(plan_json, task)
        answer = self._replies.find(task)
        if answer is None:
            answer = self._actions[task.action](plan, task)
            self._replies.keep(task, answer)
        if task.action in RELEASES:
            self.ledger(plan.data.schema).release(_charge_id(task), answer.digest())
        self.audit.append(
            "answer",
            {"plan": task.plan_digest, "action": task.action, "round": task.round, "answer": answer.digest()},
        )
        return answer

    def _accept(self, plan_json: bytes, task: Task) -> Plan:
        if hashlib.sha256(plan_json).hexdigest() != task.plan_digest:
            raise RefusedError("the task names another plan than the one that came with the run")
        plan = decode(plan_json, Plan)
        if canonical_json(plan) != plan_json:
            raise RefusedError("expected the plan in canonical JSON, got another form of it")
        if task.action not in self._actions:
            raise RefusedError(f"this site does not know the action {task.action}; it runs fedmed {__version__}")
        rounds = plan.training.rounds if task.action == "train.fit" else 1
        if task.round >= rounds:
            raise RefusedError(f"the plan has {rounds} rounds of {task.action}, the task asks for number {task.round}")
        self._policy.check(plan)
        for data in (plan.data, *plan.continual.earlier):
            self._policy.check_view(data)
            self.datasets.check(data)
        return plan

    # --- actions ---------------------------------------------------------------------------

    def _describe(self, plan: Plan, task: Task) -> Answer:  # noqa: ARG002  every action has one signature
        """Say which software and which start the site has, so that a mismatch shows before training."""
        return Answer(site=self.name, facts={"fedmed": __version__, "start": state_digest(self._module(plan))})

    def _statistics(self, plan: Plan, task: Task) -> Answer:
        if plan.data.normalisation != "federated":
            raise RefusedError(f"the plan normalises by {plan.data.normalisation} ranges; no statistics are needed")
        self._charge(plan, _charge_id(task), _one_release(plan), purpose="statistics")
        cohort = self._cohort(plan.data, "train")
        total = statistics_sum(cohort, privacy=plan.privacy, noise=self._noise(plan, task.action, task.round))
        return Answer(site=self.name, arrays={"sum": total}, facts={"weight": 1.0})

    def _fit(self, plan: Plan, task: Task) -> Answer:
        module = self._module(plan)
        model = _model(task, module)
        self._check_statistics(plan, task)
        statistics = self._statistics_for(plan, plan.data, task)
        self._charge(plan, _charge_id(task), _training(plan), purpose="training")
        train = _normalised(self._cohort(plan.data, "train"), statistics)
        test = _normalised(self._cohort(plan.data, "test"), statistics)
        if len(test):  # a small site may have nobody held out
            self.evaluations.add_round(plan, task.round, evaluate(module, model, test))
        noise = self._noise(plan, task.action, task.round)
        trained = train_locally(module, model, train, training=plan.training, privacy=plan.privacy, noise=noise)
        weight = len(train.labels)
        total = trained.delta * np.float32(weight)
        return Answer(site=self.name, arrays={"sum": total}, facts={"weight": float(weight)})

    def _fisher(self, plan: Plan, task: Task) -> Answer:
        if not plan.continual.release_fisher:
            raise RefusedError("the plan does not ask for the Fisher information")
        module = self._module(plan)
        model = _model(task, module)
        statistics = self._statistics_for(plan, plan.data, task)
        self._charge(plan, _charge_id(task), _one_release(plan), purpose="Fisher information")
        train = _normalised(self._cohort(plan.data, "train"), statistics)
        noise = self._noise(plan, task.action, task.round)
        total = fisher_sum(module, model, train, continual=plan.continual, privacy=plan.privacy, noise=noise)
        return Answer(site=self.name, arrays={"sum": total}, facts={"weight": float(len(train.labels))})

    def _evaluate(self, plan: Plan, task: Task) -> Answer:
        module = self._module(plan)
        model = _model(task, module)
        for view, data in enumerate((plan.data, *plan.continual.earlier)):
            try:
                statistics = self._statistics_for(plan, data, task if view == 0 else None)
                test = _normalised(self._cohort(data, "test"), statistics)
                self.evaluations.add_final(plan, view, evaluate(module, model, test))
            except DataError:
                self._log(task)  # whether a view has patients is not for the coordinator to know
        return Answer(site=self.name)

    # --- what the actions stand on ---------------------------------------------------------

    def _module(self, plan: Plan) -> nn.Module:
        _, module = load_module(self._home.models / plan.base_digest, expected_digest=plan.base_digest)
        return attach_adapter(module, plan.model, seed=plan.seed)

    def _check_statistics(self, plan: Plan, task: Task) -> None:
        """Raise unless statistics that came with the task have one entry per feature, before they are pinned."""
        features, _ = self.datasets.dimensions(plan.data)
        for name in ("mean", "scale"):
            if name in task.arrays and task.arrays[name].shape != (features,):
                raise RefusedError(f"expected {name} of {features} features, got shape {task.arrays[name].shape}")

    def _cohort(self, data: DataSpec, split: Split) -> Cohort:
        cohort = self.datasets.load(data, split)
        if split == "train" and len(cohort.labels) < self._policy.min_records:
            raise RefusedError(f"this site trains on {self._policy.min_records} records or more; the view has fewer")
        return cohort

    def _charge(
        self, plan: Plan, charge_id: str, event: Event | None, *, purpose: str, dataset: str | None = None
    ) -> None:
        """Charge a data set's ledger, durably, before a record is read; no event means no protection."""
        ledger = self.ledger(dataset or plan.data.schema)
        if event is None:
            ledger.record_unprotected(charge_id, purpose=purpose)
        else:
            ledger.charge(charge_id, event, purpose=purpose)

    def _statistics_for(self, plan: Plan, data: DataSpec, task: Task | None) -> Statistics | None:
        """Return what a view is standardised by; a site's own statistics are released once they are stored."""
        charge_id = f"{digest(data)}/statistics"

        def own(data: DataSpec) -> Statistics:
            self._charge(plan, charge_id, _one_release(plan), purpose="statistics of the site", dataset=data.schema)
            cohort, noise = self._cohort(data, "train"), self._noise(plan, charge_id, 0)
            mean, scale = statistics_from_sum(statistics_sum(cohort, privacy=plan.privacy, noise=noise))
            return Statistics(mean=mean, scale=scale)

        found = self._normaliser.statistics(data, task, own)
        if found is not None and data.normalisation == "site":
            stored = hashlib.sha256(found.mean.tobytes() + found.scale.tobytes()).hexdigest()
            self.ledger(data.schema).release(charge_id, stored)
        return found

    def _noise(self, plan: Plan, purpose: str, number: int) -> NoiseSource:
        """Return the operating system's noise, or a seeded stream where no privacy is claimed or it is simulated.

        The seeded stream is keyed by the site's name as well, so no two sites draw the same.
        """
        if plan.privacy.private and plan.privacy.noise == "system":
            return SystemNoise()
        label = canonical_json([plan.seed, self.name, digest(plan), purpose, number])
        return SeededNoise(hashlib.sha256(b"FedMed-seeded/v1\0" + label).digest())

    def _log(self, task: Task) -> str:
        reference = secrets.token_hex(4)
        text = (
            f"--- {reference} {task.action} round {task.round} of plan {task.plan_digest}\n{traceback.format_exc()}\n"
        )
        with contextlib.suppress(OSError):  # a full disk must not turn into an exception text that leaves
            append_durable(self._home.log_path, text.encode())
        return reference

    def _ledger_path(self, dataset: str) -> Path:
        return self._home.ledgers / f"{dataset}.jsonl"


def _charge_id(task: Task) -> str:
    return f"{task.plan_digest}/{task.action}/{task.round}"


def _training(plan: Plan) -> Event | None:
    if not plan.privacy.private:
        return None
    return Event(
        noise_multiplier=plan.privacy.noise_multiplier,
        sample_rate=plan.training.sample_rate,
        steps=plan.training.local_steps,
    )


def _one_release(plan: Plan) -> Event | None:
    if not plan.privacy.private:
        return None
    return Event(noise_multiplier=plan.privacy.release_noise_multiplier, sample_rate=1.0, steps=1)


def _normalised(cohort: Cohort, statistics: Statistics | None) -> Cohort:
    return cohort if statistics is None else statistics.apply(cohort)


def _model(task: Task, module: nn.Module) -> NDArray[np.float32]:
    """Return the task's model, checked before anything is charged for it.

    Raises:
        RefusedError: There is none, or the module can't take it.
    """
    model = task.arrays.get("model")
    if model is None:
        raise RefusedError(f"expected a model with {task.action}, got none")
    try:
        Layout.of(module).write(module, model)
    except ModelError as error:
        raise RefusedError(f"the model of {task.action} can't be used: {error}") from None
    return np.asarray(model, dtype=np.float32)
