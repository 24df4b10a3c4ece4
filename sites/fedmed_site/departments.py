"""One adapter for each department of a site, trained here from the shared one.

Why it exists: departments of one hospital differ as hospitals do; a model that starts from the shared one and learns a
few steps more from a department's own records may fit it better.

Rules:
    * A department is a value of a category in the site's own table. Each record is in the department that it names
      itself, or in none; nothing about another record moves it. So all departments together see each record once,
      and one charge, of what one of them does, pays for all (parallel composition under add/remove adjacency).
      A column that k-anonymity recoded is refused: what it says of a record depends on the others.
    * Which departments are trained follows from how many training records they have, and from nothing else of them.
      That number counts as public, as it does for the site; whether a department has one class only is not looked at.
    * Charge (durable), read, train, mark the charge as used, store. A crash in between costs a further charge.
    * Nothing leaves the site; held-out records are only evaluated on.

What it does not do: train with others, or say how much noise a department can bear.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import numpy as np
from torch import nn

from fedmed.data.source import Cohort, Split
from fedmed.deid.tabular import AUDIT_KIND
from fedmed.errors import RefusedError, UsageError
from fedmed.files import locked
from fedmed.learning.local import Evaluation, Trained, evaluate, train_locally
from fedmed.learning.rehearsal import rehearse_training
from fedmed.privacy.engine import PrvAccountant
from fedmed.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from fedmed.privacy.plan import Event, calibrate
from fedmed.records import Plan, PrivacySpec, TrainingSpec, digest
from fedmed_site.adapters import SHARED, Adapter, AdapterEntry, Adapters, Vector
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import written
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND
from fedmed_site.normaliser import Normaliser, Statistics
from fedmed_site.plan_model import machine_for, module_with

_SPLITS: Final[tuple[Split, ...]] = ("train", "test")
ADAPTED_KIND = "departments-adapted"
EVALUATED, COMPARED = "department ", "shared on "
"""How the stage of an evaluation of a department's adapter begins, and that of the shared one on its records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How departments are trained.

    `epsilon`: what it may cost; None trains without protection, which only a ledger without a cap allows.
    """

    column: str
    epsilon: float | None
    steps: int
    sample_rate: float
    learning_rate: float
    clip_norm: float

    def training(self, plan: Plan) -> TrainingSpec:
        """Return it as a plan would say it, with the plan's own pull to the shared model."""
        return TrainingSpec(
            rounds=1,
            local_steps=self.steps,
            sample_rate=self.sample_rate,
            learning_rate=self.learning_rate,
            proximal=plan.training.proximal,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Department:
    """What became of one department: how its adapter and the shared one do on its held-out records, if it has some."""

    name: str
    trained: bool
    held_out: int = 0
    accuracy: float | None = None
    shared_accuracy: float | None = None


def adapt(home: SiteHome, plan: Plan, how: Adaptation, *, by: str, now: datetime) -> tuple[Department, ...]:
    """Train an adapter for each department that has enough records, charge once for all, and keep them.

    Args:
        home: The site; its agent must not be at work on a task, and waits meanwhile.
        plan: Of a study whose shared adapter the site holds.
        how: Column, budget and steps.
        by: Who asked for it.
        now: The present time.

    Raises:
        UsageError: The site has no shared adapter of the study, or the column names no departments.
        BudgetError: The ledger's cap would be passed; nothing was trained.
        RefusedError: This site can't compute the plan's model, or no department has as many training records as the
            site's policy asks for.
    """
    agent = SiteAgent(home)
    with locked(home.lock_path):
        shared = Adapters(home.root / "adapters").read(digest(plan), SHARED)
        _refuse_column(agent, plan, how.column)
        machine = machine_for(home, plan)
        statistics = Normaliser(home.normalisation).stored(plan.data, digest(plan))
        privacy, event = _privacy(how, agent.ledger(plan.data.schema).delta)
        features, _ = agent.datasets.dimensions(plan.data)
        module = module_with(home, plan, shared)
        at_once = rehearse_training(module, features=features, privacy=privacy, spec=plan.model, machine=machine)
        charge = f"{digest(plan)}/adapt/{how.column}/{secrets.token_hex(4)}"
        _charge(agent, plan, charge, event, how)
        train, test = (_parts(agent, plan, split, how.column, statistics) for split in _SPLITS)
        ready = _large_enough(train, how.column, least=home.record().policy.min_records)
        fit = partial(
            train_locally,
            training=how.training(plan),
            privacy=privacy,
            spec=plan.model,
            machine=machine,
            at_once=at_once,
        )
        trained = {
            value: _trained(part, module_with(home, plan, shared), shared, partial(fit, noise=_noise(privacy)))
            for value, part in sorted(ready.items())
        }
        agent.ledger(plan.data.schema).release(charge, _fingerprint(trained))
        entries = {value: _entry(plan, how, value, shared, now) for value in trained}
        for value, vector in trained.items():
            Adapters(home.root / "adapters").keep(entries[value], vector, shared.frozen)
        agent.audit.append(ADAPTED_KIND, _facts(plan, how, charge, trained, by=by, now=now))
        module = module_with(home, plan, shared)
        return tuple(
            _department(
                agent, plan, partial(evaluate, module, spec=plan.model, machine=machine), test[value],
                name=department_name(how.column, value), vectors=(trained.get(value), shared.vector),
            )
            for value in train
        )  # fmt: skip


def department_name(column: str, value: str) -> str:
    """Return what a department's adapter is called.

    >>> department_name("ward", "cardiology")
    'ward=cardiology'
    """
    return f"{column}={value}"


def _parts(agent: SiteAgent, plan: Plan, split: Split, column: str, statistics: Statistics | None) -> dict[str, Cohort]:
    """Return the records of each department, standardised as the study had them."""
    found = agent.datasets.load_parts(plan.data, split, column)
    return found if statistics is None else {value: statistics.apply(part) for value, part in found.items()}


def _large_enough(parts: Mapping[str, Cohort], column: str, *, least: int) -> dict[str, Cohort]:
    """Return the departments with as many training records as the policy asks for.

    Raises:
        RefusedError: None has.
    """
    ready = {value: part for value, part in parts.items() if len(part) >= least}
    if not ready:
        raise RefusedError(
            f"no department of {column} has {least} training records, the policy's min_records; nothing was trained,"
            " and the charge stays"
        )
    return ready


def _refuse_column(agent: SiteAgent, plan: Plan, column: str) -> None:
    """Raise where a column names no departments, or what it says of a record may depend on other records."""
    found = agent.datasets.description(plan.data.schema).schema.column(column)
    if found.kind != "category" or not found.is_feature:
        raise UsageError(
            f"column {column!r} is no category that models read; name one that says where a record is from"
        )
    entries = agent.audit.entries()
    tables = [e.body for e in entries if e.kind == AUDIT_KIND and e.body.get("schema_name") == plan.data.schema]
    items = [e.body for e in entries if e.kind == ITEM_KIND]  # of any data set: better one refusal too many
    if any(name.endswith(f"anonymity.level.{column}") for body in (*tables[-1:], *items) for name in body):
        raise UsageError(
            f"column {column!r} was recoded for k-anonymity, so a record's department depends on other records and one"
            " charge would not pay for all; choose a column that was not"
        )


def _privacy(how: Adaptation, delta: float) -> tuple[PrivacySpec, Event | None]:
    """Return the privacy of a department's training, and the event that it is charged as."""
    if how.epsilon is None:
        return PrivacySpec(trust_model="none"), None

    def events_at(noise: float) -> tuple[Event]:
        return (Event(noise_multiplier=noise, sample_rate=how.sample_rate, steps=how.steps),)

    noise = calibrate(events_at, epsilon=how.epsilon, delta=delta, accountant=PrvAccountant())
    spec = PrivacySpec(
        trust_model="local",
        epsilon=how.epsilon,
        delta=delta,
        clip_norm=how.clip_norm,
        noise_multiplier=noise,
        release_noise_multiplier=noise,
    )
    return spec, events_at(noise)[0]


def _charge(agent: SiteAgent, plan: Plan, charge: str, event: Event | None, how: Adaptation) -> None:
    """Charge for all departments at once, before a record is read."""
    purpose = f"adapters by {how.column}: each record is in one department, so one charge pays for all"
    ledger = agent.ledger(plan.data.schema)
    if event is None:
        ledger.record_unprotected(charge, purpose=purpose)
    else:
        ledger.charge(charge, event, purpose=purpose)


def _trained(part: Cohort, module: nn.Module, shared: Adapter, fit: Callable[..., Trained]) -> Vector:
    """Return a department's adapter, shape `[size]`."""
    return np.asarray(shared.vector + fit(module, shared.vector, part).delta, dtype=np.float32)


def _noise(privacy: PrivacySpec) -> NoiseSource:
    """Return the system's noise; where no privacy is claimed, a stream for the sampling alone."""
    return SystemNoise() if privacy.private else SeededNoise(secrets.token_bytes(32))


def _fingerprint(trained: Mapping[str, Vector]) -> str:
    total = hashlib.sha256()
    for value, vector in trained.items():
        total.update(hashlib.sha256(value.encode()).digest() + hashlib.sha256(vector.tobytes()).digest())
    return total.hexdigest()


def _entry(plan: Plan, how: Adaptation, value: str, shared: Adapter, now: datetime) -> AdapterEntry:
    name = department_name(how.column, value)
    return AdapterEntry(plan=digest(plan), name=name, round=shared.entry.round, made=written(now))


def _facts(
    plan: Plan, how: Adaptation, charge: str, trained: Mapping[str, Vector], *, by: str, now: datetime
) -> dict[str, str | float | int | None]:
    return {
        "plan": digest(plan),
        "study": plan.study,
        "dataset": plan.data.schema,
        "column": how.column,
        "departments": len(trained),
        "epsilon": how.epsilon,
        "charge": charge,
        "by": by,
        "at": written(now),
    }


def _department(
    agent: SiteAgent,
    plan: Plan,
    evaluated: Callable[[Vector, Cohort], Evaluation],
    held_out: Cohort,
    *,
    name: str,
    vectors: tuple[Vector | None, Vector],
) -> Department:
    """Return what became of a department, and keep how its own and the shared adapter do there, at the site."""
    own, shared = vectors
    if own is None or not len(held_out):
        return Department(name=name, trained=own is not None, held_out=len(held_out))
    of_own, of_shared = evaluated(own, held_out), evaluated(shared, held_out)
    agent.evaluations.add_stage(plan, f"{EVALUATED}{name}", of_own)
    agent.evaluations.add_stage(plan, f"{COMPARED}{name}", of_shared)
    return Department(
        name=name,
        trained=True,
        held_out=len(held_out),
        accuracy=of_own.accuracy,
        shared_accuracy=of_shared.accuracy,
    )


def adaptation_of(plan: Plan, *, column: str, epsilon: float | None, steps: int) -> Adaptation:
    """Return an adaptation with the plan's own sampling, learning rate and clip norm."""
    return Adaptation(
        column=column,
        epsilon=epsilon,
        steps=steps,
        sample_rate=plan.training.sample_rate,
        learning_rate=plan.training.learning_rate,
        clip_norm=plan.privacy.clip_norm,
    )
