"""Turn one exchange with many sites into one sum.

Why it exists: the study needs a mean and does not care how it was protected.
The protocol has a second implementation coming (secure aggregation); until then
the coordinator sees every update, and every report says so.

Rules:
    * Contributions are folded in the order of the sites' names, so that arrival
      order cannot change a bit of the result.
    * Fewer good contributions than the plan's minimum ends the round with an error
      that names who is missing and why.

What it does not do: weigh privacy; noise is the sites' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation import RunningSum
from fedmed.errors import ProtocolError, SiteFailureError
from fedmed.exchange import Answer, Failure, Task
from fedmed.records import AggregationSpec
from fedmed_server.channel import Channel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collected:
    """What an exchange amounts to: a sum over all records of all contributors, and its weight."""

    total: RunningSum
    sites: tuple[str, ...]
    failures: tuple[Failure, ...]


class Aggregator(Protocol):
    """One way to aggregate."""

    kind: str
    secure: bool

    def collect(self, channel: Channel, task: Task, cohort: Mapping[int, str]) -> Collected:
        """Ask the cohort and return the sum of its answers.

        Args:
            channel: Carries the exchange.
            task: What is asked; every answer holds an additive array `sum` and a fact `weight`.
            cohort: Site names by address.

        Raises:
            SiteFailureError: Too few sites contributed.
            ProtocolError: A contribution has another size than the others, or is not finite.
        """


class InsecureAggregator:
    """A sum in the clear: the coordinator sees every update and every count."""

    kind = "insecure"
    secure = False

    def __init__(self, spec: AggregationSpec) -> None:
        self._spec = spec

    def collect(self, channel: Channel, task: Task, cohort: Mapping[int, str]) -> Collected:
        """See `Aggregator.collect`."""
        answers, failures = gather(channel, task, cohort, timeout_s=self._spec.round_timeout_s)
        require_enough(len(answers), failures, minimum=self._spec.min_sites, what=f"{task.action} {task.round}")
        contributions = {name: _contribution(name, answer) for name, answer in answers.items()}
        model = task.arrays.get("model")
        size = max(len(vector) for vector, _ in contributions.values()) if model is None else len(model)
        total = RunningSum(size=size)
        for name, (vector, weight) in contributions.items():
            try:
                total.add(vector, weight=weight)
            except ProtocolError as error:
                raise ProtocolError(f"{name}: {error}") from None
        return Collected(total=total, sites=tuple(contributions), failures=tuple(failures))


def gather(
    channel: Channel, task: Task, cohort: Mapping[int, str], *, timeout_s: float
) -> tuple[dict[str, Answer], list[Failure]]:
    """Return the answers by site in the order of names, and the failures; names are those that the cohort knows."""
    answers: dict[str, Answer] = {}
    failures: list[Failure] = []
    for address, reply in channel.ask(task, sorted(cohort), timeout_s=timeout_s):
        name = cohort[address] or (reply.site or f"node {address}")
        if isinstance(reply, Failure):
            failures.append(Failure(site=name, code=reply.code, reason=reply.reason))
        else:
            answers[name] = reply
    return {name: answers[name] for name in sorted(answers)}, sorted(failures, key=lambda failure: failure.site)


def _contribution(name: str, answer: Answer) -> tuple[NDArray[np.floating], float]:
    """Return an answer's sum and weight.

    Raises:
        ProtocolError: It holds no such array or number; the message names the site.
    """
    vector, weight = answer.arrays.get("sum"), answer.facts.get("weight")
    if not (isinstance(vector, np.ndarray) and vector.ndim == 1 and np.issubdtype(vector.dtype, np.floating)):
        raise ProtocolError(f"{name}: expected a vector called sum, got none; check the site's version")
    if not isinstance(weight, int | float):
        raise ProtocolError(f"{name}: expected a number called weight, got none; check the site's version")
    return vector, float(weight)


def require_enough(got: int, failures: Sequence[Failure], *, minimum: int, what: str) -> None:
    """Raise unless at least `minimum` sites answered.

    Raises:
        SiteFailureError: Names every missing site and its reason.
    """
    if got < minimum or got == 0:
        reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in failures) or "nobody is connected"
        raise SiteFailureError(f"{what}: expected answers of at least {max(minimum, 1)} sites, got {got}; {reasons}")
