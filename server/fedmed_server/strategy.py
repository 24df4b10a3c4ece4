"""The coordinator's exchanges over Flower's Grid.

Why it exists: Flower's `send_and_receive` sleeps three seconds between looks and
holds all replies; the study wants each reply as it arrives.

Rules:
    * Push to all, then pull what is still owed, one reply at a time, so that large ones never pile up here;
      a reply is matched by the message it answers.
    * An error reply comes from Flower (a dead node, a crashed app); its text is not passed on.
    * The layout of messages is the one that `fedmed_site.client_app` reads.

What it does not do: aggregate, retry, or choose the cohort.
"""

import time
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmed.exchange import Answer, Failure, Task
from fedmed_server.channel import Traffic


class GridChannel:
    """A `Channel` over Flower's Grid."""

    def __init__(self, grid: Grid, *, poll_interval_s: float = 0.2) -> None:
        self.traffic = Traffic()
        self._grid = grid
        self._poll_interval_s = poll_interval_s

    def addresses(self) -> tuple[int, ...]:
        """Return the identifiers of the connected nodes, sorted."""
        return tuple(sorted(self._grid.get_node_ids()))

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        """See `Channel.ask`."""
        owed = self._push(tasks)
        deadline = time.monotonic() + timeout_s
        while owed and time.monotonic() < deadline:
            for identifier in list(owed):
                for reply in self._grid.pull_messages([identifier]):
                    yield owed.pop(identifier), self._read(reply)
            if owed:
                time.sleep(self._poll_interval_s)
        for address in owed.values():
            yield address, Failure(site="", code="timeout", reason=f"no reply within {timeout_s:g} seconds")

    def _push(self, tasks: Mapping[int, Task]) -> dict[str, int]:
        """Send the tasks and return whom each message identifier belongs to; equal tasks are encoded once."""
        contents = {id(task): _content_of(task) for task in tasks.values()}
        messages = []
        for address, task in sorted(tasks.items()):
            content = contents[id(task)]
            self.traffic.down += _size(content)
            messages.append(Message(content, dst_node_id=address, message_type=task.action))
        return dict(zip(self._grid.push_messages(messages), sorted(tasks), strict=True))

    def _read(self, message: Message) -> Answer | Failure:
        try:
            return self._reply_from(message)
        except (KeyError, ValueError, TypeError):
            return Failure(site="", code="malformed", reason="the reply is not of the agreed form; check its version")

    def _reply_from(self, message: Message) -> Answer | Failure:
        if message.has_error():
            return Failure(
                site="", code=f"flower-{message.error.code}", reason="the site's client stopped; see its log"
            )
        self.traffic.up += _size(message.content)
        failure = message.content.config_records.get("failure")
        if failure is not None:
            return Failure(site=str(failure["site"]), code=str(failure["code"]), reason=str(failure["reason"]))
        answer = message.content.config_records["answer"]
        facts: dict[str, str | float] = {
            key: str(value) for key, value in answer.items() if key not in ("site", "message")
        }
        for key, value in message.content.metric_records["numbers"].items():
            if isinstance(value, int | float):
                facts[key] = float(value)
        arrays = {name: array.numpy() for name, array in message.content.array_records["arrays"].items()}
        return Answer(
            site=str(answer["site"]), arrays=arrays, facts=facts, message=cast("bytes", answer.get("message", b""))
        )


def _content_of(task: Task) -> RecordDict:
    arrays = {name: Array(np.ascontiguousarray(array)) for name, array in task.arrays.items()}
    config = ConfigRecord({"plan-digest": task.plan_digest, "round": task.round})
    if task.works:
        config["works"] = " ".join(task.works)
    if task.message:
        config["message"] = task.message  # Flower can't count the bytes of empty values, so they are left out
    return RecordDict({"arrays": ArrayRecord(arrays), "task": config})


def _size(content: RecordDict) -> int:
    """Return the payload bytes of a message: its arrays, numbers and texts."""
    return sum(record.count_bytes() for record in content.values())
