"""The client's side of an exchange: what is sent to it, and noticing that it left."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from chat.asks import ClientGone, Receive
from chat.refusals import Refusal

Send = Callable[[dict[str, Any]], Awaitable[None]]

_STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}


class Reply:
    """One answer to the client: whole, or a stream of pieces with an end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        await self._start(status, {"content-type": "application/json", "content-length": str(len(body)), **headers})
        await self.last(body)

    async def refuse(self, refusal: Refusal) -> None:
        """Say why there is no answer: with its status, or inside the stream that has begun."""
        if not self.started:
            await self.whole(refusal.status, refusal.as_bytes(), refusal.headers)
        elif not self.ended:
            await self.last(refusal.as_event())

    async def piece(self, body: bytes, headers: dict[str, str]) -> None:
        """The next bytes of a stream, sent at once; ``headers`` go with the first ones."""
        if not self.started:
            await self._start(200, {**_STREAM_HEADERS, **headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def last(self, body: bytes = b"") -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.started = True
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end; cancel it the moment the client leaves and raise ClientGone."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
