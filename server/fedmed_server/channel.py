"""How a coordinator asks sites, free of any transport.

Why it exists: the study, the aggregator and the tests need `ask`; only
`strategy.GridChannel` knows that Flower carries it.

What it does not do: decide whom to ask, or what to do with an answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedmed.exchange import Answer, Failure, Task


@dataclass(slots=True)
class Traffic:
    """Payload bytes since the last look: `down` to the sites, `up` from them."""

    down: int = 0
    up: int = 0

    def take(self) -> "Traffic":
        """Return the counts and start again at zero."""
        taken = Traffic(down=self.down, up=self.up)
        self.down = self.up = 0
        return taken


class Channel(Protocol):
    """A way to ask sites and get their answers as they come."""

    traffic: Traffic

    def addresses(self) -> tuple[int, ...]:
        """Return the addresses of the sites that are connected now, sorted."""

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        """Send each address its task and yield each reply as it arrives, holding one at a time.

        A site that does not reply in `timeout_s` seconds yields a `Failure` with code `timeout`.
        """
