"""Requests that wait at the server until there is something to answer.

Why it exists: Flower's parties look for messages by asking again and again. Asked seldom, every message waits;
asked often, many sites keep a coordinator busy with nothing. A request that waits costs one message and comes at once.

Rules:
    * A caller's first request, and each one after something came, is served at once; others wait, for a bounded time.
    * Of one caller only the newest request waits and is served: what an older one gets may be lost with its connection.
    * A caller that has gone away while it waited is not served either.

What it does not do: know what came, or who may ask (the gate does).

Source: the ASGI specification 3.0; RFC 6202, section 2.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_CALLERS: Final = 4096
"""Whose last request is remembered; who is forgotten is served at once."""


class Bell:
    """Rung from any thread when something came; heard by coroutines of any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def rings(self) -> int:
        """How often it was rung."""
        return self._rings

    def ring(self) -> None:
        """Wake all who wait."""
        with self._lock:
            self._rings += 1
            waiting = list(self._waiting)
        for loop, event in waiting:
            with suppress(RuntimeError):  # that loop has ended, and who waited on it
                loop.call_soon_threadsafe(event.set)

    async def heard(self, since: int) -> None:
        """Return once it was rung more than `since` times."""
        event = asyncio.Event()
        entry = asyncio.get_running_loop(), event
        with self._lock:
            if self._rings > since:
                return
            self._waiting.add(entry)
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiting.discard(entry)


class LongPoll:
    """An ASGI application in front of another, where some requests wait for the sake of others."""

    def __init__(
        self,
        inner: Application,
        *,
        waits: Mapping[str, Bell],
        rings: Mapping[str, Callable[[], None]],
        caller_header: bytes,
        longest_s: float,
    ) -> None:
        """Prepare it.

        Args:
            inner: What answers.
            waits: For each path whose requests wait, the bell that they wait for.
            rings: For each path, what is called once a request of it was served.
            caller_header: The header that tells callers apart, in lower case.
            longest_s: How long a request waits at most.
        """
        self._inner = inner
        self._waits = waits
        self._rings = rings
        self._caller_header = caller_header
        self._longest_s = longest_s
        self._served: dict[tuple[str, bytes], int] = {}
        self._newest: dict[tuple[str, bytes], asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = str(scope.get("path", ""))
        bell = self._waits.get(path) if scope["type"] == "http" else None
        if bell is None:
            await self._inner(scope, receive, send)
            if path in self._rings:
                self._rings[path]()
            return
        caller = path, next((value for name, value in scope["headers"] if name == self._caller_header), b"")
        body = await _body(receive)
        if body is None:
            return
        if await self._may_go_on(caller, bell, receive):
            await self._inner(scope, _again(body, receive), send)
        else:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async def _may_go_on(self, caller: tuple[str, bytes], bell: Bell, receive: Receive) -> bool:
        """Wait as long as is called for; return whether the caller is still there and asked nothing newer."""
        if caller in self._newest:
            self._newest[caller].set()  # the older one ends at once, so that nobody holds more than one place
        superseded = self._newest[caller] = asyncio.Event()
        since = self._served.get(caller, -1)
        if bell.rings <= since:
            gone = asyncio.ensure_future(_gone(receive))
            waited = {gone, asyncio.ensure_future(bell.heard(since)), asyncio.ensure_future(superseded.wait())}
            try:
                await asyncio.wait(waited, timeout=self._longest_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return False
            finally:
                for future in waited:
                    future.cancel()
                await asyncio.gather(*waited, return_exceptions=True)
            if superseded.is_set():
                return False
        self._served.pop(caller, None)
        self._served[caller] = bell.rings
        while len(self._served) > MOST_CALLERS:
            oldest = next(iter(self._served))
            del self._served[oldest]
            self._newest.pop(oldest, None)
        return True


async def _body(receive: Receive) -> list[MutableMapping[str, Any]] | None:
    """Return a request's whole body, or None if the caller has gone; the gate has bounded it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message)
        if not message.get("more_body", False):
            return parts


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _again(parts: list[MutableMapping[str, Any]], receive: Receive) -> Receive:
    """Return a `receive` that gives the body again, and then what comes."""
    left = iter(parts)

    async def again() -> MutableMapping[str, Any]:
        part = next(left, None)
        return await receive() if part is None else part

    return again
