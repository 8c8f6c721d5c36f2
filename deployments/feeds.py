"""Following logs: one poll loop per instance, however many watch it in this process.

Those at the end of the log share what the loop reads. Whoever is behind, because he came with an old offset or takes
in slowly, reads for himself until he has caught up: he delays nobody and nothing is kept for him.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from django.utils.translation import gettext_noop

from deployments.logs import OFFSET_MAX, PIECE_BYTES, LogSource, NoLogYet, Piece, read_piece, read_tail
from inventory.agents import AgentClient, AgentError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BUSY_SECONDS = 0.05  # between two reads while there is more: 1.3 MB/s, so that a flood does not fill the process's time
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 0.5, 10.0
START_BYTES = 64 * 1024
TAIL_MOST_BYTES = 256 * 1024
NO_LOG_SECONDS = 1.0
KEPT_PIECES = 4


class Feed:
    """One instance's log as it grows. ``source`` may be exchanged when the agent's address has changed."""

    def __init__(self, source: LogSource, client: AgentClient) -> None:
        self.source = source
        self._client = client
        self._head: int | None = None  # where the loop reads next
        self._pieces: OrderedDict[int, Piece] = OrderedDict()  # what it read last, by the offset it asked for
        self._waiting: list[asyncio.Future[None]] = []
        self._somebody_waits = asyncio.Event()
        self._failing = False
        self._retry_seconds = RETRY_FIRST_SECONDS

    async def start(self, *, tail: int | None) -> int:
        """Where a watcher without an offset begins: ``tail`` lines before the end, else 64 KB; raises AgentError."""
        if tail is None:
            end = await self._read(OFFSET_MAX, PIECE_BYTES)
            return max(0, end.size - START_BYTES)
        await self._recovered()
        try:
            last = await read_tail(self._client, self.source, lines=tail)
        except AgentError:
            self._failing = True
            raise
        return max(last.offset, last.size - TAIL_MOST_BYTES)

    async def after(self, position: int) -> Piece:
        """What follows ``position``; without text when nothing was written within a poll. Raises AgentError, and then
        the next call waits until the loop has tried again."""
        await self._recovered()
        if position == self._head:
            await self._polled()
        if position in self._pieces:
            return self._pieces[position]
        if position == self._head:
            return Piece(position, position, position, "")
        return await self._catch_up(position)

    async def _catch_up(self, position: int) -> Piece:
        ahead = self._head - position if self._head is not None and self._head > position else PIECE_BYTES
        piece = await self._read(position, min(PIECE_BYTES, ahead))
        if piece.size < position:  # the agent lost its state: the log began anew
            self._head = None
            self._pieces.clear()
            piece = await self._read(0, PIECE_BYTES)
        if self._head is None or self._head < piece.next_offset:
            self._head = piece.next_offset
        return piece

    async def _read(self, offset: int, limit: int) -> Piece:
        await self._recovered()
        try:
            return await read_piece(self._client, self.source, offset=offset, limit=limit)
        except AgentError:
            self._failing = True
            raise

    async def _recovered(self) -> None:
        if self._failing:
            await self._polled()

    async def _polled(self) -> None:
        """The loop's next answer; raises what it met."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._somebody_waits.set()
        await waiter

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)

    async def run(self) -> None:
        """Poll for as long as somebody waits, until cancelled."""
        while True:
            await self._somebody_waits.wait()
            pause, problem = await self._poll()
            self._tell(problem)
            await asyncio.sleep(pause)

    async def _poll(self) -> tuple[float, AgentError | None]:
        try:
            more = await self._advance()
        except AgentError as error:
            return self._failed(error)
        except Exception:  # noqa: BLE001  (whoever waits must be told, whatever it was)
            logger.exception("log.poll_broken", extra={"instance": self.source.key})
            return self._failed(AgentError(gettext_noop("Reading the log failed; it is tried again.")))
        self._failing, self._retry_seconds = False, RETRY_FIRST_SECONDS
        return (BUSY_SECONDS if more else POLL_SECONDS), None

    def _failed(self, error: AgentError) -> tuple[float, AgentError]:
        self._failing = True
        if isinstance(error, NoLogYet):
            return NO_LOG_SECONDS, error
        self._retry_seconds = min(self._retry_seconds * 2, RETRY_MOST_SECONDS)
        return self._retry_seconds, error

    async def _advance(self) -> bool:
        """Read on from the head; tells whether there is more."""
        asked = self._head
        piece = await read_piece(
            self._client, self.source, offset=OFFSET_MAX if asked is None else asked, limit=PIECE_BYTES
        )
        if asked is None:
            self._head = piece.size
        elif piece.size < asked:
            self._head = None  # began anew: watchers find that out by reading for themselves
            self._pieces.clear()
        elif asked == self._head and piece.next_offset != asked:
            self._head = piece.next_offset
            self._pieces[asked] = piece
            while len(self._pieces) > KEPT_PIECES:
                self._pieces.popitem(last=False)
        return piece.next_offset < piece.size

    def _tell(self, problem: AgentError | None) -> None:
        waiting, self._waiting = self._waiting, []
        self._somebody_waits.clear()
        for waiter in waiting:
            if waiter.done():
                continue
            if problem is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(problem)


_feeds: dict[tuple[int, int], tuple[Feed, asyncio.Task[None], list[object]]] = {}


@asynccontextmanager
async def watching(source: LogSource) -> AsyncIterator[Feed]:
    """The instance's feed, shared with all who watch it on this loop; it ends with the last of them."""
    place = (id(asyncio.get_running_loop()), source.instance_id)
    if place not in _feeds:
        feed = Feed(source, await AgentClient().__aenter__())  # entering waits for nothing, so nobody comes between
        _feeds[place] = feed, asyncio.create_task(feed.run()), []
    feed, task, watchers = _feeds[place]
    me = object()
    watchers.append(me)
    try:
        yield feed
    finally:
        watchers.remove(me)
        if not watchers:
            del _feeds[place]
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await feed.close()
