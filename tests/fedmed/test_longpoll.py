"""Requests that wait for news: who is served when, and who never."""

import asyncio
import threading
from collections.abc import MutableMapping
from typing import Any

from fedmed.longpoll import Bell, LongPoll

HEADER = b"caller"


class Caller:
    """One request as a server sees it."""

    def __init__(
        self, poll: LongPoll, *, name: bytes = b"a", path: str = "/wait", body: tuple[bytes, ...] = (b"",)
    ) -> None:
        self.incoming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.said: list[MutableMapping[str, Any]] = []
        for place, part in enumerate(body):
            self.incoming.put_nowait({"type": "http.request", "body": part, "more_body": place + 1 < len(body)})
        scope = {"type": "http", "path": path, "headers": [(HEADER, name)]}
        self.task = asyncio.ensure_future(poll(scope, self.incoming.get, self._send))

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.said.append(message)

    def hang_up(self) -> None:
        """End the connection."""
        self.incoming.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int | None:
        """The answer's number, None where there was none."""
        return next((int(one["status"]) for one in self.said if "status" in one), None)


class Desk:
    """What is behind the poll: it notes whom it served, and with what body."""

    def __init__(self) -> None:
        self.served: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        self.served.append((dict(scope["headers"])[HEADER], body))
        await send({"type": "http.response.start", "status": 200})


def desk(longest_s: float = 60.0) -> tuple[Desk, Bell, LongPoll]:
    """Return a desk, its bell and the poll before it."""
    behind, bell = Desk(), Bell()
    poll = LongPoll(
        behind, waits={"/wait": bell}, rings={"/ring": bell.ring}, caller_header=HEADER, longest_s=longest_s
    )
    return behind, bell, poll


async def settle() -> None:
    """Let everything go as far as it can without news."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_first_request_is_served_at_once_and_the_next_waits_for_the_bell():
    """A caller that was away may have missed something; one that has just looked has not."""

    async def scene() -> None:
        behind, bell, poll = desk()
        await Caller(poll, body=(b"he", b"llo")).task
        assert behind.served == [(b"a", b"hello")]
        second = Caller(poll, body=(b"again", b"!"))
        await settle()
        assert not second.task.done()
        threading.Thread(target=bell.ring).start()
        await second.task
        assert behind.served[1:] == [(b"a", b"again!")]

    asyncio.run(scene())


def test_a_request_of_another_path_rings_once_it_was_served():
    """What one party sends wakes the one that waits for it, and no one waits for what came while it was away."""

    async def scene() -> None:
        behind, _, poll = desk()
        await Caller(poll).task
        waiting = Caller(poll)
        await settle()
        await Caller(poll, path="/ring", name=b"b").task
        await waiting.task
        assert [name for name, _ in behind.served] == [b"a", b"b", b"a"]
        await Caller(poll, path="/ring", name=b"b").task
        await Caller(poll).task  # at once: something came in between
        assert len(behind.served) == 5

    asyncio.run(scene())


def test_nobody_waits_longer_than_was_said():
    """Proxies end requests that take too long; an empty answer in time is better."""

    async def scene() -> None:
        behind, _, poll = desk(longest_s=0.0)
        for _ in range(3):
            await Caller(poll).task
        assert len(behind.served) == 3

    asyncio.run(scene())


def test_who_has_gone_is_not_served():
    """What it would be given would be marked as delivered and be lost."""

    async def scene() -> None:
        behind, bell, poll = desk()
        await Caller(poll).task
        gone = Caller(poll)
        await settle()
        gone.hang_up()
        await gone.task
        bell.ring()
        await settle()
        assert len(behind.served) == 1

    asyncio.run(scene())


def test_of_one_caller_only_the_newest_request_is_served():
    """After a power cut its old connection stays open for a while; a message would be lost in it."""

    async def scene() -> None:
        behind, bell, poll = desk()
        await Caller(poll).task
        old, new, other = Caller(poll, body=(b"old",)), Caller(poll, body=(b"new",)), Caller(poll, name=b"b")
        await old.task  # at once, without the bell: nobody can take all places
        assert old.status == 503
        await settle()
        bell.ring()
        await asyncio.gather(new.task, other.task)
        assert new.status == 200
        assert sorted(behind.served[1:]) == [(b"a", b"new"), (b"b", b"")]

    asyncio.run(scene())
