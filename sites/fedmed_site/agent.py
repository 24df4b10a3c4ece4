"""The site agent: the one object that owns a hospital's data, model, keys, ledger and policy.

Why it exists: everything a coordinator can make a site do goes through `respond`,
so what is checked, charged, stored and logged is checked, charged, stored and
logged once. A simulation calls it in-process; an appliance feeds it from its SuperNode.

Rules:
    * Order of a private answer: policy, charge (durable), compute, store (durable), log, send.
    * Under secure aggregation, work leaves only inside a masked vector; in clear only where plan and policy say so.
    * A repeated question gets the stored bytes; nothing is charged or drawn twice.
    * What leaves as a failure is sanitised; details go to the site's own log.
    * torch is loaded by the first task that needs it (`training`), not by the others.

What it does not do: speak a transport, or hold state that a restart would lose.
"""

import contextlib
import hashlib
import secrets
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fedmed import __version__
from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import DeidReport
from fedmed.errors import IntegrityError, PeerError, RefusedError
from fedmed.exchange import ACTIONS, Answer, Failure, Phase, Task, Work
from fedmed.files import append_durable, is_full, locked
from fedmed.privacy.ledger import Ledger
from fedmed.records import Plan, canonical_json, decode
from fedmed.secagg.shamir import Entropy
from fedmed.signed_plans import signatures_from_text, verify
from fedmed_site.approvals import WAITS, Approvals
from fedmed_site.datasets import DataSets
from fedmed_site.evaluations import EvaluationLog
from fedmed_site.home import SiteHome
from fedmed_site.hours import Hours
from fedmed_site.item_sets import Opened
from fedmed_site.membership import Membership
from fedmed_site.participant import Participant, system_entropy
from fedmed_site.receipts import SiteReceipts
from fedmed_site.replies import ReplyStore, Stored, charge_id
from fedmed_site.study_cost import require_declared

if TYPE_CHECKING:
    from fedmed_site.training import Trainer

REASONS_THAT_MAY_LEAVE = (RefusedError, PeerError)
DISK_FULL = "this site's disk is full; it takes part again by itself once its administrator has made room"


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


class SiteAgent:
    """One hospital's agent over its folder."""

    def __init__(
        self,
        home: SiteHome,
        *,
        entropy_of: Callable[[str, bytes], Entropy] = system_entropy,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Take up a site's folder.

        Args:
            home: The folder.
            entropy_of: The generator of keys and masks, for a site and a request; only a simulation passes another.
            now: The clock, for rosters.
        """
        record = home.record()
        self.name = record.name
        self.audit = ChainLog(home.audit_path)
        self.evaluations = EvaluationLog(home.evaluations)
        self.datasets = DataSets(home, self.audit)
        self.membership = Membership(home)
        self.approvals = Approvals(home, self.audit)
        self._receipts = SiteReceipts(home, self.membership)
        self._hours = Hours(home)
        self._now = now
        self._home = home
        self._policy = record.policy
        self._replies = ReplyStore(home.replies)
        self._participant = Participant(home, name=self.name, entropy_of=entropy_of, now=now)

    @classmethod
    def open(cls, root: Path, *, entropy_of: Callable[[str, bytes], Entropy] = system_entropy) -> "SiteAgent":
        """Return the agent of the site in `root`.

        Raises:
            UsageError: There is no site there.
        """
        return cls(SiteHome.open(root), entropy_of=entropy_of)

    def admit(self, plan_json: bytes, signatures: str) -> None:
        """Raise unless this site's consortium signed the plan, and its coordinator too once the site has a kit.

        Args:
            plan_json: The canonical JSON of the plan.
            signatures: As `fedmed.signed_plans` writes them.

        Raises:
            RefusedError: A signature is missing or of another key; the reason may leave the site.
            IntegrityError: It is no plan, or the site's own pinned keys don't verify.
        """
        verify(
            decode(plan_json, Plan),
            signatures_from_text(signatures),
            consortium=self.membership.consortium_key(),
            coordinator=self.membership.coordinator_key(now=self._now()),
        )

    def respond(self, plan_json: bytes, task: Task) -> Answer | Failure:
        """Answer one task, or say why not in words that may leave the site.

        Whoever takes plans from elsewhere lets `admit` look at them first.

        Args:
            plan_json: The canonical JSON of the plan, as it travels in the run's configuration.
            task: What is asked, naming the plan by its digest.
        """
        try:
            with locked(self._home.lock_path):
                return self._answer(plan_json, task)
        except REASONS_THAT_MAY_LEAVE as error:
            if str(error) != WAITS:  # a coordinator asks that every few seconds until somebody has decided
                self._log(task)
            return Failure(site=self.name, code=type(error).__name__, reason=str(error))
        except IntegrityError:
            return Failure(site=self.name, code="IntegrityError", reason=self._unverified(task))
        except Exception:  # noqa: BLE001  nothing unforeseen may carry patient data to the coordinator
            return Failure(site=self.name, code="internal", reason=self._unforeseen(task))

    def prepare(self, source: Path, dataset: DataSet, policy: DeidPolicy) -> DeidReport:
        """De-identify a table, and begin the budget ledger of its data set if this is the first time.

        Raises:
            DataError: The table is not what the schema says; nothing is kept of it.
        """
        self._begin_ledger(dataset)
        return self.datasets.prepare(source, dataset, policy)

    def register(self, out: Path, dataset: DataSet) -> Opened:
        """Keep a folder that `deidentify` wrote as a data set, and begin its budget ledger if this is the first time.

        Raises:
            UsageError: It is no such folder, or was never finished.
            DataError: No table in it was made under the data set's schema.
            IntegrityError: An item is not what the audit log says.
        """
        self._begin_ledger(dataset)
        return self.datasets.register(out, dataset)

    def _begin_ledger(self, dataset: DataSet) -> None:
        from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch

        path = self._ledger_path(dataset.name)
        if not self.datasets.holds(dataset.name) and not path.is_file():
            Ledger.create(
                path,
                dataset=dataset.name,
                cap_epsilon=self._policy.cap,
                delta=self._policy.delta,
                accountant=PrvAccountant(),
            )

    def ledger(self, dataset: str) -> Ledger:
        """Return the budget ledger of a prepared data set, with the cap that the policy has now.

        Raises:
            IntegrityError: It is missing or was begun under another delta; a new one would forget what was spent.
        """
        from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch

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
        if task.action in get_args(Phase):
            answer = self._phase(plan, task)
        elif task.action in get_args(Work):
            answer = self._work(plan, task, spent=lambda _stored: False).answer
        elif task.action == "evaluate.held_out":
            answer = self._evaluate(plan, task)
        else:
            answer = self._trainer().describe(plan)
        named = {"plan": task.plan_digest, "action": task.action, "answer": answer.digest()}
        head = self._receipts.head()
        if head:  # so that a cut end of the receipts is noticed
            named["receipts"] = head
        self.audit.append("answer", {**named, "round": task.round})
        return answer

    def _phase(self, plan: Plan, task: Task) -> Answer:
        """Answer a phase of secure aggregation; the vector that leaves is masked."""

        def work(inner: Task, spent: Callable[[Stored], bool]) -> Stored:
            try:
                return self._work(plan, inner, spent=spent)
            except REASONS_THAT_MAY_LEAVE:
                self._log(inner)
                raise
            except IntegrityError:
                raise RefusedError(self._unverified(inner)) from None
            except Exception:  # noqa: BLE001  its text would leave in a refusal
                raise RefusedError(self._unforeseen(inner)) from None

        return self._participant.answer(
            task,
            work,
            log_clipped=lambda segment, count: self._write_log(
                f"{task.action} round {task.round} of plan {task.plan_digest}:"
                f" {count} values of {segment} were beyond the roster's clip and were cut to it"
            ),
        )

    def _work(self, plan: Plan, task: Task, *, spent: Callable[[Stored], bool]) -> Stored:
        """Return stored work, or do it, store it and note that it may leave."""
        stored = self._replies.find(task)
        if stored is None or spent(stored):
            edition = 0 if stored is None else stored.edition + 1
            if edition >= plan.aggregation.attempts:
                raise RefusedError(
                    f"this round was worked {edition} times here, as often as the plan allows; each time is charged"
                )
            self._hours.require(self._policy, task.plan_digest, now=self._now())
            with self._hours.measured(task.plan_digest, now=self._now):
                stored = Stored(answer=self._trainer().work(plan, task, edition=edition), edition=edition)
            self._replies.keep(task, stored.answer, edition=edition)
        self.ledger(plan.data.schema).release(charge_id(task, stored.edition), stored.answer.digest())
        return stored

    def _evaluate(self, plan: Plan, task: Task) -> Answer:
        stored = self._replies.find(task)
        if stored is not None:
            return stored.answer
        with self._hours.measured(task.plan_digest, now=self._now):
            answer = self._trainer().evaluate(plan, task)
        self._replies.keep(task, answer)
        return answer

    def _trainer(self) -> "Trainer":
        from fedmed_site.training import Trainer  # noqa: PLC0415  it imports torch

        return Trainer(
            self._home,
            name=self.name,
            policy=self._policy,
            datasets=self.datasets,
            evaluations=self.evaluations,
            ledger=self.ledger,
            log=self._log,
            note=self._write_log,
        )

    def _accept(self, plan_json: bytes, task: Task) -> Plan:
        self._policy = self._home.record().policy  # the administrator may have changed it
        if hashlib.sha256(plan_json).hexdigest() != task.plan_digest:
            raise RefusedError("the task names another plan than the one that came with the run")
        plan = decode(plan_json, Plan)
        if canonical_json(plan) != plan_json:
            raise RefusedError("expected the plan in canonical JSON, got another form of it")
        if task.action not in ACTIONS:
            raise RefusedError(f"this site does not know the action {task.action}; it runs fedmed {__version__}")
        phased = task.action in get_args(Phase)
        if phased and not (task.works and set(task.works) <= set(get_args(Work))):
            raise RefusedError(f"expected {task.action} to say what the round is for, got no work that this site knows")
        if phased != (plan.aggregation.kind == "secure") and (phased or task.action in get_args(Work)):
            raise RefusedError(f"the plan has {plan.aggregation.kind} aggregation, which knows no {task.action}")
        fits = task.works == ("train.fit",) if phased else task.action == "train.fit"
        rounds = plan.training.rounds if fits else 1  # one Fisher and one set of statistics a plan
        if task.round >= rounds:
            raise RefusedError(f"the plan has {rounds} rounds of {task.action}, the task asks for number {task.round}")
        if task.action != "query.end":  # an ending erases what is left of an attempt, also here
            self._receipts.require_trusted(task.plan_digest)
        self._policy.check(plan)
        for data in (plan.data, *plan.continual.earlier):
            self._policy.check_view(data)
            self.datasets.check(data)
        if phased:
            self._policy.check_cohort(self.membership.roster(now=self._now()).policy.n_min)
        if not self.approvals.knows(task.plan_digest):
            from fedmed.privacy.engine import PrvAccountant  # noqa: PLC0415  it imports torch

            require_declared(plan, PrvAccountant())
        self.approvals.note(plan, now=self._now())
        self.approvals.require(task.plan_digest, now=self._now())
        return plan

    def _unverified(self, task: Task) -> str:
        return f"stored state does not verify; the site's log has the details under {self._log(task)}"

    def _unforeseen(self, task: Task) -> str:
        reference = self._log(task)
        if is_full(sys.exception()):  # its own log may have no room for more
            return DISK_FULL
        return f"internal failure; the site's log has the details under {reference}"

    def _log(self, task: Task) -> str:
        """Write the current exception to the site's log and return a reference to it."""
        reference = secrets.token_hex(4)
        where = f"{reference} {task.action} round {task.round} of plan {task.plan_digest}"
        self._write_log(f"{where}\n{traceback.format_exc()}")
        return reference

    def _write_log(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not turn into an exception text that leaves
            append_durable(self._home.log_path, f"--- {text}\n".encode())

    def _ledger_path(self, dataset: str) -> Path:
        return self._home.ledgers / f"{dataset}.jsonl"
