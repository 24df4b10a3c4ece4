"""A count, sum or mean of a data set's patients, released with Laplace noise and charged to the data set's budget.

Why it exists: how many patients a study could have is asked before any study. A number without noise, asked twice
around one patient, is that patient; a number with noise that nobody charges is one after enough questions.

Rules:
    * The order is: the charge is on the disk, then the number is made, then the audit record says value, epsilon,
      sensitivity, scales and clamps, then the ledger says that it left, and only then it is returned.
    * A ledger counts Gaussian noise. Laplace noise of epsilon is charged as one step of the Gaussian mechanism that
      tells no less about anybody: that of mu = 2 * inverse normal(e^epsilon / (1 + e^epsilon)), since any mechanism of
      epsilon is mu-GDP (Dong, Roth and Su 2022: the trade-off of the one lies above that of the other, which is convex
      and meets it in its corner). It costs more than epsilon at the ledger's delta, never less.
    * Each number costs anew, and none is given twice.

What it does not do: choose epsilon or clamps, or count what a column holds beside numbers.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import polars as pl

from fedmed.audit import ChainLog
from fedmed.data.tabular import PATIENT
from fedmed.deid.laplace import LaplaceRelease, noised_count, noised_mean, noised_sum
from fedmed.errors import UsageError
from fedmed.privacy.ledger import Ledger, Spent
from fedmed.privacy.plan import Accountant, Event
from fedmed.records import canonical_json, require
from fedmed_site.datasets import DataSets
from fedmed_site.home import SiteHome

KIND: Final = "noised-number-released"
MOST_EPSILON: Final = 10.0
_SLACK: Final = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a data set; without a column the number of its patients.

    `mean` asks for the mean instead of the sum. `low` and `high` are the clamps of a column's values, and
    `contributions` how many values of a patient count.
    """

    dataset: str
    epsilon: float
    column: str | None = None
    mean: bool = False
    low: float | None = None
    high: float | None = None
    contributions: int = 1

    def __post_init__(self) -> None:
        require(0 < self.epsilon <= MOST_EPSILON, f"epsilon must be above 0, {MOST_EPSILON:g} at most")
        clamped = self.low is not None and self.high is not None
        require(self.column is None or clamped, "a sum or mean needs low and high: clinical limits, not the data's own")


def event_of(epsilon: float) -> Event:
    """Return the Gaussian step that a mechanism of pure `epsilon` is charged as.

    >>> round(event_of(1.0).noise_multiplier, 4)
    0.8119
    """
    mu = 2 * NormalDist().inv_cdf(1 / (1 + math.exp(-epsilon))) * _SLACK
    return Event(noise_multiplier=1 / mu, sample_rate=1.0, steps=1)


def release(home: SiteHome, question: Question, accountant: Accountant) -> tuple[LaplaceRelease, Spent]:
    """Charge the budget, and return the number with noise and what is left of the budget.

    Args:
        home: The site.
        question: What is asked.
        accountant: What composes the ledger's charges.

    Raises:
        UsageError: There is no such data set or column of numbers, or OpenDP is not installed; nothing is charged.
        IntegrityError: The audit log does not vouch for the table; nothing is charged.
        BudgetError: The cap would be passed; nothing is charged.
    """
    log = ChainLog(home.audit_path)
    table = DataSets(home, log).table(question.dataset)
    _require_numbers(table, question)
    _answer(table.head(0), question)  # whatever is wrong is found before anything is charged
    ledger = Ledger.open(home.ledgers / f"{question.dataset}.jsonl", accountant)
    charge_id, event = f"noised/{secrets.token_hex(8)}", event_of(question.epsilon)
    what = f"{_kind(question)} of {question.column or 'patients'}"
    spent = ledger.charge(charge_id, event, purpose=f"{what} with Laplace noise of epsilon {question.epsilon:g}")
    released = _answer(table, question)
    body = released.audit_body() | {
        "dataset": question.dataset,
        "column": question.column,
        "charge_id": charge_id,
        "charged_noise_multiplier": event.noise_multiplier,
    }
    log.append(KIND, body)
    ledger.release(charge_id, hashlib.sha256(canonical_json(body)).hexdigest())
    return released, spent


def _kind(question: Question) -> str:
    if question.column is None:
        return "count"
    return "mean" if question.mean else "sum"


def _require_numbers(table: pl.DataFrame, question: Question) -> None:
    column = question.column
    if column is not None and (column not in table.columns or not table.schema[column].is_numeric()):
        numbers = ", ".join(name for name, kind in table.schema.items() if kind.is_numeric()) or "none"
        raise UsageError(f"{question.dataset}: expected a column of numbers, got {column!r}; it has: {numbers}")


def _answer(table: pl.DataFrame, question: Question) -> LaplaceRelease:
    if question.column is None or question.low is None or question.high is None:
        return noised_count(table[PATIENT], epsilon=question.epsilon)
    made = noised_mean if question.mean else noised_sum
    return made(
        table[question.column],
        table[PATIENT],
        low=question.low,
        high=question.high,
        epsilon=question.epsilon,
        contributions=question.contributions,
    )
