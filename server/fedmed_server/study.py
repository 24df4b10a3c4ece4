"""One study from its plan to a released model, round by round.

Why it exists: the coordinator's whole behaviour as a loop over `Channel` and
`Aggregator`, free of Flower, so that a killed study resumes at its round.

The data's way: task with the round's model -> sites train -> sum -> mean update ->
consolidation against earlier knowledge -> checkpoint -> next round; at the end the
released model is evaluated at every site, its Fisher information is collected if the
plan asks, and the result folder is written.

What it does not do: start transports, calibrate noise, see a record or a metric.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmed.errors import ConfigError, IntegrityError
from fedmed.exchange import Answer, Failure, Round, Task
from fedmed.learning.ewc import Knowledge, accumulate, fisher_from_sum
from fedmed.learning.local import statistics_from_sum, statistics_scale
from fedmed.learning.rules import LoraRounds, Start
from fedmed.models import Architecture, attach_adapter, enter_round, load_module, state_digest
from fedmed.records import Plan, digest
from fedmed.released import StudyResult
from fedmed_server.aggregators import NOT_IN_ROSTER, Aggregator, Collected, gather, require_enough
from fedmed_server.channel import Channel
from fedmed_server.checkpoint import Progress, load_progress, save_progress
from fedmed_server.optimisers import apply_mean
from fedmed_server.result import load_result, save_result

Vector = NDArray[np.float64]


class Listener(Protocol):
    """Whoever watches a study."""

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None:
        """The cohort is known; `first_round` is above 0 for a resumed study."""

    def site_answered(self, plan: Plan, task: Task, site: str) -> None:
        """A site's answer to `task` has arrived."""

    def round_finished(self, plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:
        """Round `number` (from 0) is aggregated and on disk."""

    def site_failed(self, plan: Plan, failure: Failure) -> None:
        """A site did not contribute to an exchange."""

    def study_finished(self, plan: Plan) -> None:
        """The result folder is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFolders:
    """Where a study reads its base and keeps its state."""

    base: Path
    state: Path


class StudyRunner:
    """Runs one plan over a channel."""

    def __init__(
        self,
        plan: Plan,
        folders: StudyFolders,
        *,
        channel: Channel,
        aggregator: Aggregator,
        knowledge: Knowledge | None,
        listener: Listener,
    ) -> None:
        self._plan = plan
        self._digest = digest(plan)
        self._folders = folders
        self._channel = _Watched(channel, plan, listener)
        self._aggregator = aggregator
        self._knowledge = knowledge
        self._listener = listener
        self._timeout_s = plan.aggregation.round_timeout_s

    def run(self) -> StudyResult:
        """Run the study to its end, from its checkpoint if there is one.

        Raises:
            SiteFailureError: Too few sites can take part, and who can't and why; the checkpoint stays for a resumption.
            ProtocolError: Sites send unusable updates.
            IntegrityError: The base or the checkpoint is not the plan's.
        """
        finished = load_result(self._folders.state, plan_digest=self._digest)
        if finished is not None:
            return finished
        self._folders.state.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        architecture, module = load_module(self._folders.base, expected_digest=self._plan.base_digest)
        module = attach_adapter(module, self._plan.model, seed=self._plan.seed)
        cohort = self._describe(state_digest(module))
        rounds = LoraRounds(module, self._plan.model)
        progress = self._begin(rounds, cohort, features=architecture.features)
        progress = _add_seconds(progress, "enrol", began)
        self._listener.study_started(self._plan, first_round=progress.round, sites=tuple(sorted(cohort.values())))
        while progress.round < self._plan.training.rounds:
            progress = self._round(progress, cohort, rounds)
        return self._finish(progress, cohort, architecture, module, rounds)

    def _describe(self, start: str) -> dict[int, str]:
        """Return the sites that take part, by address: those that start from the same model, under names of their own.

        A site that can't take part is reported and left out. Of nodes that call themselves the same none takes part:
        nothing here tells which one is right.
        """
        task = Task(action="query.describe", plan_digest=self._digest)
        everybody = dict.fromkeys(sorted(self._channel.addresses()), task)
        failures: list[Failure] = []
        answers: dict[int, Answer] = {}
        for address, reply in self._channel.ask(everybody, timeout_s=self._timeout_s):
            if isinstance(reply, Failure):
                failures.append(replace(reply, site=reply.site or f"node {address}"))
            else:
                answers[address] = reply
        names = Counter(answer.site for answer in answers.values())
        cohort: dict[int, str] = {}
        for address, answer in sorted(answers.items()):
            why = self._unfit(answer, start, alone=names[answer.site] == 1)
            if why is None:
                cohort[address] = answer.site
            else:
                failures.append(Failure(site=answer.site or f"node {address}", code="ProtocolError", reason=why))
        self._report(failures)
        require_enough(len(cohort), failures, minimum=self._plan.aggregation.min_sites, what=self._plan.study)
        return cohort

    def _unfit(self, answer: Answer, start: str, *, alone: bool) -> str | None:
        """Return why a site that answered can't take part, or None."""
        members = self._aggregator.members
        if members is not None and answer.site not in members:
            return NOT_IN_ROSTER
        if answer.facts.get("start") != start:
            return "it starts from another model; give it the same base model and version of FedMed as the others"
        return None if alone else f"several nodes call themselves {answer.site}; give every site a name of its own"

    def _begin(self, rounds: LoraRounds, cohort: Mapping[int, str], *, features: int) -> Progress:
        stored = load_progress(self._checkpoint_path, plan_digest=self._digest)
        if stored is not None:
            return stored
        start = rounds.first()
        if self._knowledge is not None:
            require_knowledge(self._plan, self._knowledge, rounds)
            frozen = self._knowledge.frozen if self._plan.model.refreshed else None
            start = Start(model=self._knowledge.anchor, frozen=frozen)
        progress = Progress(
            plan_digest=self._digest,
            round=0,
            model=start.model,
            average=np.zeros_like(start.model),
            frozen=start.frozen,
        )
        if self._plan.data.normalisation == "federated":
            asked = Round(works=("query.statistics",), plan_digest=self._digest, size=2 * features + 1)
            total = self._collect(asked, cohort).totals["query.statistics"]
            mean, scale = statistics_from_sum(total.vector / statistics_scale(features))
            progress = replace(progress, mean=mean, scale=scale)
        save_progress(self._checkpoint_path, progress)
        return progress

    def _round(self, progress: Progress, cohort: Mapping[int, str], rounds: LoraRounds) -> Progress:
        began = time.monotonic()
        arrays = _started(Start(model=progress.model, frozen=progress.frozen)) | self._memory()
        if progress.mean is not None and progress.scale is not None:
            arrays |= {"mean": progress.mean, "scale": progress.scale}
        asked = Round(
            works=("train.fit",),
            plan_digest=self._digest,
            number=progress.round,
            arrays=arrays,
            size=len(progress.model),
        )
        collected = self._collect(asked, invited(self._plan, progress.round, cohort))
        aggregate, moments = apply_mean(
            self._plan.optimiser,
            arrays["model"].astype(np.float64),
            collected.totals["train.fit"].mean(),
            number=progress.round,
            moments=progress.moments,
        )
        frozen = arrays["frozen"].astype(np.float64) if "frozen" in arrays else None  # as the sites had them
        reached = Start(model=aggregate, frozen=frozen)
        model = rounds.consolidated(
            aggregate,
            self._knowledge,
            start=reached,
            number=progress.round,
            strength=self._plan.continual.strength,
        )
        following = rounds.following(replace(reached, model=model), number=progress.round)
        averaging = progress.round + 1 > self._plan.training.average_from * self._plan.training.rounds
        progress = replace(
            _add_seconds(self._with_traffic(progress), "rounds", began),
            round=progress.round + 1,
            model=following.model,
            frozen=following.frozen,
            average=progress.average + model if averaging else progress.average,
            averaged=progress.averaged + averaging,
            moments=moments if following.frozen is None else {},
        )
        save_progress(self._checkpoint_path, progress)
        self._listener.round_finished(
            self._plan, progress.round - 1, sites=collected.sites, seconds=time.monotonic() - began
        )
        return progress

    def _finish(
        self,
        progress: Progress,
        cohort: Mapping[int, str],
        architecture: Architecture,
        module: nn.Module,
        rounds: LoraRounds,
    ) -> StudyResult:
        began = time.monotonic()
        last = progress.average / progress.averaged if progress.averaged else progress.model
        arrays = _started(rounds.released(Start(model=last, frozen=progress.frozen), number=progress.round))
        answers, failures = gather(
            self._channel,
            Task(action="evaluate.held_out", plan_digest=self._digest, arrays=arrays),
            cohort,
            timeout_s=self._timeout_s,
        )
        self._report(failures)
        progress = _add_seconds(progress, "evaluate", began)
        began = time.monotonic()
        fisher = self._fisher(arrays, cohort, size=rounds.fisher_size(self._plan.continual.fisher))
        frozen = arrays.get("frozen")
        knowledge = accumulate(
            self._knowledge,
            anchor=arrays["model"].astype(np.float64),
            fisher=fisher,
            decay=self._plan.continual.decay,
            frozen=rounds.frozen if frozen is None else frozen.astype(np.float64),
            kind=self._plan.continual.fisher,
        )
        enter_round(module, self._plan.model, number=0, frozen=frozen)
        progress = _add_seconds(self._with_traffic(progress), "fisher", began)
        result = StudyResult(
            plan_digest=self._digest,
            rounds=progress.round,
            sites=tuple(sorted(cohort.values())),
            evaluated=tuple(answers),
            aggregation=self._aggregator.kind,
            bytes_up=progress.bytes_up,
            bytes_down=progress.bytes_down,
            seconds=progress.seconds,
        )
        save_result(
            self._folders.state,
            result,
            plan=self._plan,
            base=self._folders.base,
            module=module,
            architecture=architecture,
            model=arrays["model"],
            knowledge=knowledge,
        )
        self._aggregator.finish(
            self._channel, cohort
        )  # not before the result is on disk: nothing can be asked after it
        self._listener.study_finished(self._plan)
        return result

    def _fisher(self, arrays: Mapping[str, NDArray[np.float32]], cohort: Mapping[int, str], *, size: int) -> Vector:
        if not self._plan.continual.release_fisher:
            return np.zeros(size)
        asked = Round(works=("train.fisher",), plan_digest=self._digest, arrays=arrays, size=size)
        total = self._collect(asked, cohort).totals["train.fisher"]
        return fisher_from_sum(total.vector, total.weight)

    def _memory(self) -> dict[str, NDArray[np.float32]]:
        """Return what sites need of earlier studies for the penalty: nothing where there is none."""
        knowledge = self._knowledge
        if knowledge is None or self._plan.continual.penalty == 0:
            return {}
        found = {"anchor": knowledge.anchor, "fisher": knowledge.fisher}
        if knowledge.kind == "delta-w" and knowledge.frozen is not None:
            found["anchor_frozen"] = knowledge.frozen
        return {name: value.astype(np.float32) for name, value in found.items()}

    def _collect(self, asked: Round, cohort: Mapping[int, str]) -> Collected:
        collected = self._aggregator.collect(self._channel, asked, cohort)
        self._report(collected.failures)
        return collected

    def _report(self, failures: tuple[Failure, ...] | list[Failure]) -> None:
        for failure in failures:
            self._listener.site_failed(self._plan, failure)

    def _with_traffic(self, progress: Progress) -> Progress:
        traffic = self._channel.traffic.take()
        return replace(progress, bytes_up=progress.bytes_up + traffic.up, bytes_down=progress.bytes_down + traffic.down)

    @property
    def _checkpoint_path(self) -> Path:
        return self._folders.state / "checkpoint.tensors"


class _Watched:
    """A channel that tells the listener of every answer."""

    def __init__(self, channel: Channel, plan: Plan, listener: Listener) -> None:
        self.traffic = channel.traffic
        self._channel = channel
        self._plan = plan
        self._listener = listener

    def addresses(self) -> tuple[int, ...]:
        return self._channel.addresses()

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address, reply in self._channel.ask(tasks, timeout_s=timeout_s):
            if isinstance(reply, Answer):
                self._listener.site_answered(self._plan, tasks[address], reply.site)
            yield address, reply


def invited(plan: Plan, number: int, cohort: Mapping[int, str]) -> dict[int, str]:
    """Return whom a round invites: everybody, or as many as the plan says, drawn anew each round.

    The draw follows from the plan's seed and the round, so a resumed round invites the same sites. It
    protects nobody and no accounting counts on it.
    """
    wanted = plan.aggregation.sites_per_round
    if wanted is None or wanted >= len(cohort):
        return dict(cohort)
    rng = np.random.default_rng([plan.seed, number])
    by_name = sorted((name, address) for address, name in cohort.items())
    chosen = rng.choice(len(by_name), size=wanted, replace=False)
    return {by_name[place][1]: by_name[place][0] for place in sorted(chosen)}


def require_knowledge(plan: Plan, knowledge: Knowledge, rounds: LoraRounds) -> None:
    """Raise unless a study can go on from what earlier ones left behind.

    Raises:
        IntegrityError: It belongs to another model, or its importance is of another kind.
        ConfigError: The penalty at the sites is so strong that a step overshoots.
    """
    continual = plan.continual
    if knowledge.kind != continual.fisher:
        raise IntegrityError(f"expected earlier knowledge of {continual.fisher}, got that of {knowledge.kind}")
    sizes = (rounds.size, rounds.fisher_size(knowledge.kind))
    frozen, seeded = knowledge.frozen, rounds.frozen
    other = (len(knowledge.anchor), len(knowledge.fisher)) != sizes
    if plan.model.refreshed:
        other |= frozen is None or seeded is None or frozen.shape != seeded.shape
    elif frozen is not None:
        other |= seeded is None or not np.array_equal(frozen, seeded)
    if other:
        raise IntegrityError(
            "the knowledge of earlier studies belongs to another model; use that study's model and seed"
        )
    if continual.penalty:
        steepest = rounds.curvature(knowledge, frozen=frozen if plan.model.refreshed else None)
        step = plan.training.learning_rate * (plan.training.proximal + continual.penalty * steepest)
        if step >= 2:
            raise ConfigError(
                f"continual.penalty: expected a step of less than 2 over the pull's curvature, got {step:.3g};"
                f" use a penalty below {continual.penalty * 2 / step:.2g} or a smaller learning_rate"
            )


def _started(start: Start) -> dict[str, NDArray[np.float32]]:
    """Return the arrays that tell sites what they start from."""
    arrays = {"model": start.model.astype(np.float32)}
    return arrays if start.frozen is None else arrays | {"frozen": start.frozen.astype(np.float32)}


def _add_seconds(progress: Progress, phase: str, began: float) -> Progress:
    seconds = dict(progress.seconds)
    seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - began
    return replace(progress, seconds=seconds)
