"""The privacy budget of one data set: append-only, fsynced, hash-chained, owned by its site.

Why it exists: patients are protected over the life of their records, not per run. The
ledger outlives runs, reinstallations and studies, and says no when the cap would be passed.

Rules:
    * A charge is on disk BEFORE the training that it pays for; a crash over-counts, never under-counts.
    * At most one release leaves per charge id. The order at a site is: `charge`, train, store the
      reply and fsync it, `release`, send. A site that dies before `release` charges again
      under the same id at no cost, because nothing had left it; after `release` it may only
      send the stored reply again.
    * The cap and the delta are the site's. A refused request writes nothing.
    * A non-private training has no finite epsilon: it is recorded, `spent` is infinite from
      then on, and it is refused unless the cap is infinite.

What it does not do: train, add noise, or notice that an older copy of the whole file was
restored. `head` is the digest to keep elsewhere by whoever must notice that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

from fedmed.audit import ChainLog, Entry, Scalar
from fedmed.errors import BudgetError, ConfigError, RefusedError, UsageError
from fedmed.privacy.plan import Accountant, Event
from fedmed.privacy.spending import CapSet, Charged, Opened, Released, State, Unprotected, replay
from fedmed.records import digest

Body = TypeVar("Body")

_Decision: TypeAlias = tuple[str, Mapping[str, Scalar]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The state of the budget after a charge."""

    charge_id: str
    epsilon: float
    """What all charges together have spent, this one included."""
    delta: float
    cap_epsilon: float
    fresh: bool
    """False when this charge id had been charged before and cost nothing more."""

    @property
    def left(self) -> float:
        """What can still be asked for; never negative."""
        return max(0.0, self.cap_epsilon - self.epsilon) if math.isfinite(self.epsilon) else 0.0


class Ledger:
    """The append-only budget of one data set.

    Every call reads and verifies the whole file, so several processes can share it and
    a change by anyone else is noticed at the next call.
    """

    def __init__(self, log: ChainLog, accountant: Accountant) -> None:
        self._log = log
        self._accountant = accountant

    @classmethod
    def create(cls, path: Path, *, dataset: str, cap_epsilon: float, delta: float, accountant: Accountant) -> Self:
        """Write a new ledger and return it.

        Args:
            path: Where it lives from now on; its folder must exist.
            dataset: The name of the data set whose patients it protects.
            cap_epsilon: What may ever be spent; `math.inf` for a data set without a cap.
            delta: The site's delta, for the ledger's whole life.
            accountant: What composes the events.

        Raises:
            UsageError: A ledger is already there; a budget is never started over.
            ConfigError: The cap or the delta is out of range.
        """
        opened = _valid(lambda: Opened(dataset=dataset, cap_epsilon=_stored_cap(cap_epsilon), delta=delta))

        def decide(entries: Sequence[Entry]) -> _Decision:
            if entries:
                raise UsageError(f"{path.name}: a ledger is already here; a budget is never started over: open it")
            return "opened", _body(opened)

        ledger = cls(ChainLog(path), accountant)
        ledger._log.extend(decide)
        return ledger

    @classmethod
    def open(cls, path: Path, accountant: Accountant) -> Self:
        """Return the ledger at `path`, verified.

        Raises:
            UsageError: There is none.
            IntegrityError: It does not verify.
        """
        if not path.exists():
            raise UsageError(f"{path.name}: expected a privacy ledger, found none; create it for this data set first")
        ledger = cls(ChainLog(path), accountant)
        ledger.verify()
        return ledger

    def charge(self, charge_id: str, event: Event, *, purpose: str) -> Spent:
        """Spend `event` and return once that is on disk; only then may training start.

        Args:
            charge_id: Names what will leave the site, such as "study/round/site"; one release per id.
            event: What the mechanism is about to do.
            purpose: One line for the administrator.

        Returns:
            The budget after the charge. A charge id that was charged before with the same event,
            and whose reply has not left, costs nothing again.

        Raises:
            BudgetError: The cap would be passed; the message gives the epsilon asked, spent and left.
            RefusedError: The id's reply has already left, or the id was charged with another event.
        """
        asked = _valid(
            lambda: Charged(
                charge_id=charge_id,
                purpose=purpose,
                noise_multiplier=float(event.noise_multiplier),
                sample_rate=float(event.sample_rate),
                steps=int(event.steps),
                distance=float(event.distance),
            )
        )
        answer: list[Spent] = []

        def decide(entries: Sequence[Entry]) -> _Decision:
            state = replay(entries)
            fresh = _is_fresh(state, asked)
            after = state.spent(self._accountant, asked.event) if fresh else state.spent(self._accountant)
            if fresh and not after <= state.cap:
                raise _over_cap(state, self._accountant, after)
            answer.append(
                Spent(
                    charge_id=charge_id,
                    epsilon=after,
                    delta=state.opened.delta,
                    cap_epsilon=state.cap,
                    fresh=fresh,
                )
            )
            return ("charged", _body(asked)) if fresh else None

        self._log.extend(decide)
        return answer[0]

    def record_unprotected(self, charge_id: str, *, purpose: str) -> None:
        """Record a training without differential privacy before it starts; `spent` is infinite from then on.

        Raises:
            BudgetError: The site has a finite cap, which such a training would pass.
            RefusedError: The id's reply has already left, or the id was charged with an event.
        """
        asked = _valid(lambda: Unprotected(charge_id=charge_id, purpose=purpose))

        def decide(entries: Sequence[Entry]) -> _Decision:
            state = replay(entries)
            if not _is_fresh(state, asked):
                return None
            if math.isfinite(state.cap):
                raise _over_cap(state, self._accountant, math.inf)
            return "unprotected", _body(asked)

        self._log.extend(decide)

    def release(self, charge_id: str, reply_digest: str) -> None:
        """Record, before sending it, that the reply with this digest leaves under `charge_id`.

        The same digest again is a repeated send of the stored reply and writes nothing.

        Raises:
            RefusedError: The id was never charged, or another reply has left under it.
        """
        leaving = _valid(lambda: Released(charge_id=charge_id, reply_digest=reply_digest))

        def decide(entries: Sequence[Entry]) -> _Decision:
            state = replay(entries)
            if charge_id not in state.charges:
                raise RefusedError(f"release {charge_id!r}: expected a charge before it, found none; nothing may leave")
            known = state.releases.get(charge_id)
            if known == reply_digest:
                return None
            if known is not None:
                raise RefusedError(f"release {charge_id!r}: another reply has already left under this charge")
            return "released", _body(leaving)

        self._log.extend(decide)

    def set_cap(self, epsilon: float) -> None:
        """Change what may ever be spent; below `spent()`, everything more is refused.

        Raises:
            ConfigError: The cap is negative or not a number.
        """
        cap = _valid(lambda: CapSet(cap_epsilon=_stored_cap(epsilon)))

        def decide(entries: Sequence[Entry]) -> _Decision:
            replay(entries)
            return "cap", _body(cap)

        self._log.extend(decide)

    def spent(self) -> float:
        """Return the epsilon of all charges together at the ledger's delta; infinite after an unprotected training."""
        return self._state().spent(self._accountant)

    def events(self) -> list[Event]:
        """Return every charged event, oldest first."""
        return self._state().events

    def released(self, charge_id: str) -> str | None:
        """Return the digest of the reply that left under `charge_id`, or None."""
        return self._state().releases.get(charge_id)

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self._state().opened.dataset

    @property
    def delta(self) -> float:
        """The site's delta."""
        return self._state().opened.delta

    @property
    def cap_epsilon(self) -> float:
        """What may ever be spent."""
        return self._state().cap

    def head(self) -> str:
        """Return the digest of the last entry, to keep where a restored old copy would be noticed."""
        return digest(self._log.entries()[-1])

    def verify(self) -> None:
        """Check every stored entry.

        Raises:
            IntegrityError: An entry was changed, removed, inserted or does not mean anything.
        """
        self._state()

    def _state(self) -> State:
        return replay(self._log.entries())


def _is_fresh(state: State, asked: Charged | Unprotected) -> bool:
    """Return whether `asked` is new; raise when its id is used up or stands for something else."""
    name = asked.charge_id
    if name in state.releases:
        raise RefusedError(f"charge {name!r}: its reply has already left; send the stored reply again instead")
    known = state.charges.get(name)
    if known is not None and known != asked:
        raise RefusedError(f"charge {name!r}: the id was charged before for something else; use a new id")
    return known is None


def _over_cap(state: State, accountant: Accountant, after: float) -> BudgetError:
    spent = state.spent(accountant)
    asked = after - spent if math.isfinite(spent) else math.inf
    left = max(0.0, state.cap - spent)
    return BudgetError(
        f"privacy budget of {state.opened.dataset!r}: asked epsilon {asked:.4g}, spent {spent:.4g}, "
        f"left {left:.4g} of {state.cap:.4g} at delta {state.opened.delta:g}; the request was refused and not charged"
    )


def _valid(make: Callable[[], Body]) -> Body:
    """Return the record that `make` builds; what it finds wrong is the caller's mistake."""
    try:
        return make()
    except ValueError as error:
        raise ConfigError(f"privacy ledger: {error}") from None


def _body(record: Opened | Charged | Unprotected | Released | CapSet) -> dict[str, Scalar]:
    return asdict(record)


def _stored_cap(epsilon: float) -> float | None:
    return None if epsilon == math.inf else float(epsilon)
