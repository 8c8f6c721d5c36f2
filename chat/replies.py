"""The client's side of an exchange: what is sent to it, and noticing that it left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from django.utils.translation import gettext_noop

from chat.asks import ClientGone, Receive
from chat.refusals import Refusal

Send = Callable[[dict[str, Any]], Awaitable[None]]

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Reply:
    """One answer to the client: whole, or a stream of pieces with an end. ``language`` finds what it reads."""

    def __init__(self, send: Send, language: Callable[[], str] = lambda: "en") -> None:
        self._send = send
        self._language = language
        self.started = False
        self.ended = False

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._start(status, own, headers)
        await self.last(body)

    async def refuse(self, refusal: Refusal) -> None:
        """Say why there is no answer: with its status, or inside the stream that has begun."""
        told = refusal.said_in(self._language())
        if not self.started:
            await self.whole(told.status, told.as_bytes(), told.headers)
        elif not self.ended:
            await self.last(told.as_event())

    async def piece(self, body: bytes, headers: dict[str, str]) -> None:
        """The next bytes of a stream, sent at once; ``headers`` go with the first ones."""
        if not self.started:
            await self._start(200, _STREAM_HEADERS, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def last_piece(self, body: bytes, headers: dict[str, str]) -> None:
        """The end of a stream with its last bytes."""
        if not self.started:
            await self._start(200, _STREAM_HEADERS, headers)
        await self.last(body)

    async def last(self, body: bytes = b"") -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, own: list[tuple[bytes, bytes]], more: dict[str, str]) -> None:
        self.started = True
        pairs = own + [(name.encode(), value.encode("latin-1")) for name, value in more.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


# Exchanges under way in this process, so that its end can end them in good order.
_running: set[asyncio.Task[None]] = set()
_ended: set[asyncio.Task[None]] = set()


async def while_connected(receive: Receive, reply: Reply, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end; cancel it the moment the client leaves and raise ClientGone."""
    task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if not reply.ended:  # servers say so too when all has been sent
            gone = True
            task.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    _running.add(task)
    try:
        await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientGone from None
        if task in _ended:
            task.uncancel()
            told = gettext_noop("The site is being restarted.")
            raise Refusal(503, told, "restarting", headers={"retry-after": "5"}) from None
        raise
    finally:
        _running.discard(task)
        _ended.discard(task)
        watcher.cancel()


async def end_all(grace_seconds: float) -> None:
    """At the end of the process: give what is under way so long, then end it with a word to its client."""
    if _running:
        await asyncio.wait(set(_running), timeout=grace_seconds)
    left = set(_running)
    for task in left:
        _ended.add(task)
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1.0)
