"""A federation in memory: real site agents and a real coordinator, with nothing between them but calls.

Why it exists: most behaviour has nothing to do with Flower; this beats mocks,
because every part but the wire is the one that ships.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmed.exchange import Answer, Failure, Task
from fedmed.records import Plan
from fedmed_server.channel import Traffic
from fedmed_site.agent import SiteAgent


@dataclass
class MemoryChannel:
    """A `Channel` whose addresses are positions in a list of site folders."""

    homes: Sequence[Path]
    plan_json: bytes
    traffic: Traffic = field(default_factory=Traffic)
    silent: set[int] = field(default_factory=set)
    """Addresses that never answer."""
    seen: list[tuple[int, Task, Answer | Failure]] = field(default_factory=list)
    before: Callable[[int, Task], None] = lambda _address, _task: None
    """Called before a site sees a task; may raise to kill the coordinator there."""

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(len(self.homes)))

    def ask(self, task: Task, addresses: Sequence[int], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        for address in addresses:
            if address in self.silent:
                yield address, Failure(site="", code="timeout", reason=f"no reply within {timeout_s:g} seconds")
                continue
            self.before(address, task)
            reply = SiteAgent.open(self.homes[address]).respond(self.plan_json, task)
            self.seen.append((address, task, reply))
            yield address, reply


class SilentListener:
    """A `Listener` that remembers failures and rounds."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.rounds: list[int] = []

    def study_started(self, plan: Plan, *, first_round: int, sites: tuple[str, ...]) -> None: ...

    def site_answered(self, plan: Plan, task: Task, site: str) -> None: ...

    def round_finished(self, plan: Plan, number: int, *, sites: tuple[str, ...], seconds: float) -> None:
        self.rounds.append(number)

    def site_failed(self, plan: Plan, failure: Failure) -> None:
        self.failures.append(failure)

    def study_finished(self, plan: Plan) -> None: ...
