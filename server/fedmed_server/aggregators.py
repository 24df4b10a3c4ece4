"""Turn one round of work at many sites into one sum per kind of work.

Why it exists: the study needs a mean and does not care how it was protected.
`secure` is the other implementation; here the coordinator sees every update, and
every report says so.

Rules:
    * Contributions are folded in the order of the sites' names, so that arrival
      order cannot change a bit of the result.
    * Fewer good contributions than the plan's minimum ends the round with an error
      that names who is missing and why.

What it does not do: weigh privacy; noise is the sites' own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation import RunningSum
from fedmed.errors import ProtocolError, SiteFailureError
from fedmed.exchange import Answer, Failure, Round, Task, Work
from fedmed.records import AggregationSpec
from fedmed_server.channel import Channel

NOT_IN_ROSTER: Final = (
    "it does not stand in the consortium's signed roster; sign one with it, and give it to the coordinator and to every"
    " site"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collected:
    """What a round amounts to: per kind of work a sum over all records of all contributors, and its weight."""

    totals: Mapping[Work, RunningSum]
    sites: tuple[str, ...]
    failures: tuple[Failure, ...]


class Aggregator(Protocol):
    """One way to aggregate."""

    kind: str
    secure: bool
    members: frozenset[str] | None
    """Who may stand in a sum; None where anybody may."""

    def collect(self, channel: Channel, asked: Round, cohort: Mapping[int, str]) -> Collected:
        """Ask the cohort and return the sums of its work.

        Args:
            channel: Carries the exchanges.
            asked: The work, its round and what it starts from.
            cohort: Site names by address.

        Raises:
            SiteFailureError: Too few sites contributed.
            ProtocolError: A contribution has another size than the round's, or is not finite.
        """

    def finish(self, channel: Channel, cohort: Mapping[int, str]) -> None:
        """Tell the cohort that the study is over."""


class InsecureAggregator:
    """A sum in the clear: the coordinator sees every update and every count."""

    kind = "insecure"
    secure = False
    members: frozenset[str] | None = None

    def __init__(self, spec: AggregationSpec) -> None:
        self._spec = spec

    def collect(self, channel: Channel, asked: Round, cohort: Mapping[int, str]) -> Collected:
        """See `Aggregator.collect`."""
        totals: dict[Work, RunningSum] = {}
        failures: list[Failure] = []
        sites = set(cohort.values())
        for work in asked.works:
            task = asked.task(work)
            answers, failed = gather(channel, task, cohort, timeout_s=self._spec.round_timeout_s)
            require_enough(len(answers), failed, minimum=self._spec.min_sites, what=f"{work} {asked.number}")
            totals[work] = _sum(answers, size=asked.size)
            failures += failed
            sites &= set(answers)
        return Collected(totals=totals, sites=tuple(sorted(sites)), failures=tuple(failures))

    def finish(self, channel: Channel, cohort: Mapping[int, str]) -> None:
        """See `Aggregator.finish`; there is nothing to end."""


def _sum(answers: Mapping[str, Answer], *, size: int) -> RunningSum:
    total = RunningSum(size=size)
    for name, answer in answers.items():
        mean, weight = _contribution(name, answer)
        try:
            total.add(mean * weight, weight=weight)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None
    return total


def gather(
    channel: Channel, task: Task, cohort: Mapping[int, str], *, timeout_s: float
) -> tuple[dict[str, Answer], list[Failure]]:
    """Return the answers by site in the order of names, and the failures; names are those that the cohort knows."""
    answers: dict[str, Answer] = {}
    failures: list[Failure] = []
    for address, reply in channel.ask(dict.fromkeys(sorted(cohort), task), timeout_s=timeout_s):
        name = cohort[address] or (reply.site or f"node {address}")
        if isinstance(reply, Failure):
            failures.append(Failure(site=name, code=reply.code, reason=reply.reason))
        else:
            answers[name] = reply
    return {name: answers[name] for name in sorted(answers)}, sorted(failures, key=lambda failure: failure.site)


def _contribution(name: str, answer: Answer) -> tuple[NDArray[np.float64], float]:
    """Return an answer's mean and weight.

    Raises:
        ProtocolError: It holds no such array or number; the message names the site.
    """
    mean, weight = answer.arrays.get("mean"), answer.facts.get("weight")
    if not (isinstance(mean, np.ndarray) and mean.ndim == 1 and np.issubdtype(mean.dtype, np.floating)):
        raise ProtocolError(f"{name}: expected a vector called mean, got none; check the site's version")
    if not isinstance(weight, int | float):
        raise ProtocolError(f"{name}: expected a number called weight, got none; check the site's version")
    return mean.astype(np.float64), float(weight)


def require_enough(got: int, failures: Sequence[Failure], *, minimum: int, what: str) -> None:
    """Raise unless at least `minimum` sites answered.

    Raises:
        SiteFailureError: Names every missing site and its reason.
    """
    if got < minimum or got == 0:
        reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in failures) or "nobody is connected"
        raise SiteFailureError(f"{what}: expected answers of at least {max(minimum, 1)} sites, got {got}; {reasons}")
