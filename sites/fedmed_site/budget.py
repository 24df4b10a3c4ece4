"""The administrator's view of the privacy budget: what was spent, on what, what is left, and how to change the cap.

Why it exists: the budget protects patients for as long as their records are kept. Whoever answers for them
must be able to read it without reading code, and to keep a proof of it elsewhere.

Rules:
    * The cap is one number for all data sets of a site: it stands in the policy, and each ledger repeats it.
    * A change of the cap is an entry of every ledger and of the audit log.
    * `verify` needs no accountant: a chain is whole or it is not, whatever it adds up to.

What it does not do: charge, or forget anything.
"""

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fedmed.audit import ChainLog, Entry
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import locked, write_atomic
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.plan import Accountant
from fedmed.privacy.spending import Charged, State, replay
from fedmed.records import canonical_json, digest
from fedmed_site.home import SiteHome

LAST_CHARGES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One charge in words that an administrator understands."""

    charge_id: str
    purpose: str
    mechanism: str
    left_the_site: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The state of the ledger of one data set; `cap_epsilon` and `spent_epsilon` may be infinite."""

    dataset: str
    spent_epsilon: float
    cap_epsilon: float
    delta: float
    charges: tuple[Charge, ...]
    entries: int
    head: str

    @property
    def left_epsilon(self) -> float:
        """What may still be spent; never negative."""
        if math.isinf(self.spent_epsilon):
            return 0.0 if math.isfinite(self.cap_epsilon) else math.inf
        return max(0.0, self.cap_epsilon - self.spent_epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapChange:
    """What changed: the policy's cap, and the data sets that have already spent more than the new one."""

    before: float
    after: float
    exhausted: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A ledger that verified. `since` counts the entries after the head that was expected, None if none was."""

    dataset: str
    entries: int
    head: str
    since: int | None


def ledgers(home: SiteHome, dataset: str | None = None) -> list[Path]:
    """Return the ledger of `dataset`, or those of all data sets by name.

    Raises:
        UsageError: There is no such ledger.
    """
    found = sorted(home.ledgers.glob("*.jsonl")) if home.ledgers.is_dir() else []
    if dataset is None:
        if not found:
            raise UsageError("this site holds no privacy ledger yet; one begins when a data set is prepared")
        return found
    chosen = [path for path in found if path.stem == dataset]
    if not chosen:
        known = ", ".join(path.stem for path in found) or "none"
        raise UsageError(f"expected a data set with a privacy ledger, got {dataset!r}; this site has: {known}")
    return chosen


def budgets(home: SiteHome, accountant: Accountant, dataset: str | None = None) -> list[Budget]:
    """Return the budget of each data set, every ledger verified.

    Raises:
        UsageError: There is no such ledger.
        IntegrityError: A ledger does not verify.
    """
    return [_budget(path, accountant) for path in ledgers(home, dataset)]


def set_cap(home: SiteHome, epsilon: float, accountant: Accountant) -> CapChange:
    """Change the cap in the site's policy, in every ledger, and note it in the audit log.

    Args:
        home: The site.
        epsilon: What each data set may ever spend; above 0. It may be below what was spent: then nothing more is.
        accountant: What composes the charges, to tell which data sets are exhausted.

    Raises:
        UsageError: The cap is not above 0 and finite.
        IntegrityError: A ledger does not verify; nothing is changed.
    """
    if not 0 < epsilon < math.inf:
        raise UsageError(f"expected a cap above 0, got {epsilon:g}; a small one stops all further charges")
    with locked(home.lock_path):
        record = home.record()
        paths = sorted(home.ledgers.glob("*.jsonl"))
        opened = [Ledger.open(path, accountant) for path in paths]
        before = record.policy.cap
        changed = replace(record, policy=replace(record.policy, cap_epsilon=epsilon))
        write_atomic(home.record_path, canonical_json(changed))
        for ledger in opened:
            if ledger.cap_epsilon != epsilon:
                ledger.set_cap(epsilon)
        body = {"before": None if math.isinf(before) else before, "after": epsilon}
        ChainLog(home.audit_path).append("cap-changed", body)
        return CapChange(
            before=before,
            after=epsilon,
            exhausted=tuple(ledger.dataset for ledger in opened if ledger.spent() >= epsilon),
        )


def verify_chain(path: Path, *, expected_head: str | None = None) -> Chain:
    """Verify a ledger, and that it still holds the entry whose digest was kept elsewhere.

    Args:
        path: The ledger.
        expected_head: The digest that an earlier `verify` printed. A ledger that has grown since still holds it.

    Raises:
        IntegrityError: An entry was changed, removed or inserted, or the file was rolled back to an older one.
    """
    entries = ChainLog(path).entries()
    state = replay(entries)
    digests = [digest(entry) for entry in entries]
    since = None
    if expected_head is not None:
        if expected_head.lower() not in digests:
            raise IntegrityError(
                f"the ledger of {state.opened.dataset} lacks the entry with digest {expected_head[:12]}: it was rolled "
                "back or replaced, and may have forgotten charges; restore the newest backup"
            )
        since = len(digests) - 1 - digests.index(expected_head.lower())
    return Chain(dataset=state.opened.dataset, entries=len(entries), head=digests[-1], since=since)


def export_json(home: SiteHome, accountant: Accountant, dataset: str | None = None) -> str:
    """Return state and entries of the ledgers as JSON; an infinite number is null."""
    plain = []
    for path, budget in zip(ledgers(home, dataset), budgets(home, accountant, dataset), strict=True):
        plain.append(
            {
                "dataset": budget.dataset,
                "delta": budget.delta,
                "spent_epsilon": _finite(budget.spent_epsilon),
                "cap_epsilon": _finite(budget.cap_epsilon),
                "left_epsilon": _finite(budget.left_epsilon),
                "head": budget.head,
                "entries": [msgspec.to_builtins(entry) for entry in ChainLog(path).entries()],
            }
        )
    document = {"format": "fedmed-budget", "version": 1, "site": home.record().name, "datasets": plain}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def export_csv(home: SiteHome, dataset: str | None = None) -> str:
    """Return the entries of the ledgers as CSV: one line each, with the digest that the chain gives it."""
    fields = ("charge_id", "purpose", "noise_multiplier", "sample_rate", "steps", "distance", "reply_digest",
              "cap_epsilon", "delta")  # fmt: skip
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("dataset", "index", "kind", *fields, "digest"))
    for path in ledgers(home, dataset):
        entries = ChainLog(path).entries()
        name = replay(entries).opened.dataset
        for entry in entries:
            writer.writerow((name, entry.index, entry.kind, *(_cell(entry, field) for field in fields), digest(entry)))
    return text.getvalue()


def shown(epsilon: float) -> str:
    """Return an epsilon for people.

    >>> shown(0.5), shown(math.inf)
    ('0.500', 'without limit')
    """
    return "without limit" if math.isinf(epsilon) else f"{epsilon:.3f}"


def _budget(path: Path, accountant: Accountant) -> Budget:
    entries = ChainLog(path).entries()
    state = replay(entries)
    return Budget(
        dataset=state.opened.dataset,
        spent_epsilon=state.spent(accountant),
        cap_epsilon=state.cap,
        delta=state.opened.delta,
        charges=_charges(state),
        entries=len(entries),
        head=digest(entries[-1]),
    )


def _charges(state: State) -> tuple[Charge, ...]:
    last = list(state.charges.values())[-LAST_CHARGES:]
    return tuple(
        Charge(
            charge_id=charge.charge_id,
            purpose=charge.purpose,
            mechanism=_mechanism(charge) if isinstance(charge, Charged) else "without differential privacy",
            left_the_site=charge.charge_id in state.releases,
        )
        for charge in reversed(last)
    )


def _mechanism(charge: Charged) -> str:
    share = "all records" if charge.sample_rate == 1 else f"a random {charge.sample_rate:.2%} of the records"
    steps = "1 step" if charge.steps == 1 else f"{charge.steps} steps"
    return f"{steps} on {share}, noise {charge.noise_multiplier:.3g} times the largest influence of one record"


def _cell(entry: Entry, field: str) -> object:
    return entry.body.get(field, "")


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
