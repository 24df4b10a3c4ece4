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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedmed.exchange import Answer, Failure, Task
from fedmed_server.channel import Traffic

LONGEST_TEXT: Final = 400
"""Characters of anything that a site says for people."""
MALFORMED: Final = Failure(site="", code="malformed", reason="the reply is not of the agreed form; check its version")


class GridChannel:
    """A `Channel` over Flower's Grid."""

    def __init__(
        self,
        grid: Grid,
        *,
        poll_interval_s: float = 0.2,
        names: Callable[[], Mapping[int, str]] | None = None,
        pull: Callable[[Collection[str]], Iterator[tuple[str, Message | None]]] | None = None,
    ) -> None:
        """Prepare the channel.

        Args:
            grid: Flower's.
            poll_interval_s: Seconds between looks for replies.
            pull: Looks once for replies to these messages, and yields each with the message that it answers as it
                is put together, None where it can't be; the grid's own way, one by one, where it is None.
            names: The members' names by node, where they are known from certificates; a site that calls itself
                something else has not answered.
        """
        self.traffic = Traffic()
        self._names = names
        self._grid = grid
        self._poll_interval_s = poll_interval_s
        self._pull = pull or self._one_by_one

    def addresses(self) -> tuple[int, ...]:
        """Return the identifiers of the connected nodes, sorted."""
        return tuple(sorted(self._grid.get_node_ids()))

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        """See `Channel.ask`."""
        owed = self._push(tasks)
        names = {} if self._names is None else dict(self._names())
        deadline = time.monotonic() + timeout_s
        while owed and time.monotonic() < deadline:
            for identifier, message in self._pull(tuple(owed)):
                address = owed.pop(identifier)
                reply = MALFORMED if message is None else self._read(message)
                yield address, reply if self._names is None else _named(reply, names.get(address, ""))
            if owed:
                time.sleep(self._poll_interval_s)
        for address in owed.values():
            late = Failure(site="", code="timeout", reason=f"no reply within {timeout_s:g} seconds")
            yield address, late if self._names is None else _named(late, names.get(address, ""))

    def _one_by_one(self, identifiers: Collection[str]) -> Iterator[tuple[str, Message | None]]:
        """Yield what answers each message; what Flower can't put together is a failure of the site that sent it."""
        for identifier in identifiers:
            try:
                messages = list(self._grid.pull_messages([identifier]))
            except (AttributeError, TypeError, ValueError, KeyError, MemoryError):
                yield identifier, None
                continue
            for message in messages[:1]:
                yield identifier, message

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
        except Exception:  # noqa: BLE001  arrays are read by NumPy, which fails in many ways; it is the site's fault
            return MALFORMED

    def _reply_from(self, message: Message) -> Answer | Failure:
        if message.has_error():
            return Failure(
                site="", code=f"flower-{message.error.code}", reason="the site's client stopped; see its log"
            )
        self.traffic.up += _size(message.content)
        failure = message.content.config_records.get("failure")
        if failure is not None:
            return Failure(site=_plain(failure["site"]), code=_plain(failure["code"]), reason=_plain(failure["reason"]))
        answer = message.content.config_records["answer"]
        facts: dict[str, str | float] = {
            key: _plain(value) for key, value in answer.items() if key not in ("site", "message", "receipt")
        }
        for key, value in message.content.metric_records.get("numbers", MetricRecord()).items():
            if isinstance(value, int | float):
                facts[key] = float(value)
        sent = message.content.array_records.get("arrays", ArrayRecord())
        arrays = {name: array.numpy() for name, array in sent.items()}
        return Answer(
            site=str(answer["site"]),
            arrays=arrays,
            facts=facts,
            message=cast("bytes", answer.get("message", b"")),
            receipt=cast("bytes", answer.get("receipt", b"")),
        )


def _named(reply: Answer | Failure, name: str) -> Answer | Failure:
    """Return a reply under the name that the site's certificate has."""
    if isinstance(reply, Failure):
        return replace(reply, site=name)
    return reply if reply.site == name else replace(MALFORMED, site=name)


def _plain(text: object) -> str:
    """Return a site's text as people may see it: short, on one line, without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:LONGEST_TEXT])


def _content_of(task: Task) -> RecordDict:
    config = ConfigRecord({"plan-digest": task.plan_digest, "round": task.round})
    if task.works:
        config["works"] = " ".join(task.works)
    if task.message:
        config["message"] = task.message  # Flower can't count the bytes of empty values, so they are left out
    if task.receipt:
        config["receipt"] = task.receipt
    content = RecordDict({"task": config})
    if task.arrays:  # every record is an object of its own on the way, so there are none without content
        arrays = {name: Array(np.ascontiguousarray(array)) for name, array in task.arrays.items()}
        content["arrays"] = ArrayRecord(arrays)
    return content


def _size(content: RecordDict) -> int:
    """Return the payload bytes of a message: its arrays, numbers and texts."""
    return sum(record.count_bytes() for record in content.values())
