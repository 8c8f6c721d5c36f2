"""HTTP/1.1 to model servers: what the gateway needs of a client, and nothing else (decision 0011 has figures).

A connection carries one exchange at a time and is kept for the next one. Bytes are handed on as they arrive; a reader
that lags stops the socket. Every wait has a deadline, told as ``Late``. No cookies, no proxies, no redirects.
"""

import asyncio
import ssl
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from chat.per_loop import PerLoop

# Making a connection costs as much as a request, to a provider far away much more. A model server may end an idle one
# sooner (uvicorn after 5 s): that is noticed, and a request that meets the very moment goes out once more on a new one.
KEEPALIVE_SECONDS = 60.0
IDLE_MOST = 512  # per address
HEAD_MAX_BYTES = 64 * 1024
_PAUSE_AT_BYTES = 256 * 1024


class Unreached(Exception):
    """No connection: nothing was begun. ``late`` when it was waited for in vain."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.late = late


class Cut(Exception):
    """The connection ended before its answer did; ``begun`` when part of the answer had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class NotHttp(Exception):
    """What came is no HTTP, or has a head without end."""


class Late(Exception):
    """A deadline passed; ``begun`` when part of the answer's body had come, ``whole`` when the total ran out."""

    def __init__(self, begun: bool, total: bool) -> None:
        super().__init__()
        self.begun, self.total = begun, total


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: to connect, from the request to the body's first byte, between two pieces, and for all of it."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: ``host`` may be a number that ``name`` was resolved to; with ``tls`` the name is proved."""

    host: str
    port: int
    name: str
    tls: bool


class Connection(asyncio.Protocol):
    """One connection. ``send`` begins an exchange, ``head`` and ``read`` take its answer, ``close`` ends it at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: Any = None
        self.alive = False
        self.idle_since = 0.0
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.touched = False  # a byte of the answer has come
        self._head_done = False
        self._head_bytes = 0
        self._body: deque[bytes] = deque()
        self._held = 0
        self._begun = False
        self._paused = False
        self._keeps = False
        self._stray = False
        self._error: Exception | None = None
        self._inflate: Any = None
        self._due = 0.0
        self._idle = 0.0
        self._end = 0.0

    # The exchange

    def send(self, request: bytes, deadlines: Deadlines) -> None:
        """Write a whole request; its answer is due within ``deadlines`` from now."""
        self._reset()
        now = self.loop.time()
        self._idle = deadlines.idle
        self._end = now + deadlines.total
        self._due = min(now + deadlines.first_byte, self._end)
        self._arm()
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(request)
        if not self.alive:
            self._fail(Cut(False))

    async def head(self) -> int:
        """The answer's status, its headers then in ``headers``; raises Cut, Late or NotHttp."""
        while not self._head_done:
            await self._more()
        return self.status

    async def read(self) -> bytes:
        """The next bytes of the body as they arrive, empty at its end; raises Cut, Late or NotHttp."""
        while not self._body:
            if self.complete:
                return b""
            await self._more()
        data = self._body.popleft() if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._held = 0
        if self._paused and self.alive:
            self._paused = False
            self.transport.resume_reading()
            self._due = min(self.loop.time() + self._idle, self._end)
            self._arm()
        return data

    @property
    def unread(self) -> bool:
        return bool(self._body)

    def hurry(self, seconds: float) -> None:
        """What is still to come is due within ``seconds`` in all."""
        self._end = self._due = min(self._end, self.loop.time() + seconds)
        self._arm()

    def finish(self) -> bool:
        """End the exchange; whether the connection can carry another one."""
        reusable = self.alive and self.complete and self._keeps and not self._error
        if not reusable:
            self.close()
        return reusable

    def close(self) -> None:
        """At once, unread and unsent bytes dropped: the other side is to know now."""
        self.alive = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self.transport:
            self.transport.abort()

    async def _more(self) -> None:
        if self._error:
            raise self._error
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.complete:
            self._error = error
            self._wake()

    def _arm(self) -> None:
        """See that the one timer rings by ``_due``. That moves on with every piece, the timer only when it rings."""
        if self._timer and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(self._due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if not self.alive or self.complete:
            return
        now = self.loop.time()
        due = self._end if self._paused else self._due  # who does not read is not kept waiting by the other side
        if now < due:
            self._timer = self.loop.call_at(due, self._on_time)
            return
        self._fail(Late(self._begun, total=now >= self._end))

    # asyncio's side

    def connection_made(self, transport: Any) -> None:
        self.transport, self.alive = transport, True

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self.complete:
            self.close()  # it speaks without being asked
            return
        self.touched = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(NotHttp())
        except (httptools.HttpParserError, zlib.error):
            self._fail(NotHttp())
        if self._body:
            self._came()

    def _came(self) -> None:
        """A piece of the body is there, for whoever waits; the next one is due from now on."""
        self._due = min(self.loop.time() + self._idle, self._end)
        if not self._begun:
            self._begun = True
            self._arm()
        if self._held > _PAUSE_AT_BYTES and not self._paused and self.alive:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.alive = False
        if self._parser is not None and not self.complete and self._head_done and self._until_eof():
            self.on_message_complete()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._fail(Cut(self.touched))

    def _until_eof(self) -> bool:
        """Whether the body has no other end than the connection's."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    # The parser's side

    def on_message_begin(self) -> None:
        self._stray = self.complete  # an answer nobody asked for: dropped, and the connection with it

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stray:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_MAX_BYTES:
            self._fail(NotHttp())
            self.transport.abort()
            return
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._stray:
            self._keeps = False
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        coding = self.headers.get(b"content-encoding", b"").strip().lower()
        if coding in (b"gzip", b"deflate", b"x-gzip"):  # we asked for none, and some cannot help it
            self._inflate = zlib.decompressobj(wbits=47)
        self._head_done = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._stray:
            return
        if self._inflate:
            body = self._inflate.decompress(body)
            if not body:
                return
        self._body.append(body)
        self._held += len(body)

    def on_message_complete(self) -> None:
        if self._stray:
            return
        if self.status < 200:  # "100 Continue" and its like come before the answer
            self.headers.clear()
            return
        self.complete = True
        self._keeps = self._parser.should_keep_alive()  # it knows no longer once it is out of here
        self._wake()


class Pool:
    """One loop's connections: idle ones wait here for the next request to the same address, the youngest first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Address, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    def take(self, address: Address) -> Connection | None:
        """An idle connection that is alive, if there is one."""
        waiting = self._idle.get(address)
        while waiting:
            connection = waiting.pop()
            if connection.alive:
                return connection
        return None

    async def connect(self, address: Address, seconds: float) -> Connection:
        """A new connection; raises Unreached."""
        try:
            async with asyncio.timeout(seconds):
                if address.tls and self._tls is None:  # reading all the world's authorities takes a while
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop),
                    address.host,
                    address.port,
                    ssl=self._tls if address.tls else None,
                    server_hostname=address.name if address.tls else None,
                )
        except TimeoutError:
            raise Unreached(late=True) from None
        except (OSError, ssl.SSLError, ValueError):
            raise Unreached from None
        return connection

    def give(self, address: Address, connection: Connection) -> None:
        """Take a connection back after its exchange: kept when it can be used again, else closed."""
        waiting = self._idle.setdefault(address, [])
        if not connection.finish():
            return
        if len(waiting) >= IDLE_MOST:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        waiting.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(1.0, self._sweep)

    def _sweep(self) -> None:
        oldest = self._loop.time() - KEEPALIVE_SECONDS
        for address, waiting in list(self._idle.items()):
            for connection in waiting:
                if connection.idle_since < oldest:
                    connection.close()
            kept = [connection for connection in waiting if connection.alive]
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        self._sweeper = self._loop.call_later(1.0, self._sweep) if self._idle else None


pool = PerLoop(Pool)


def taken_apart(url: str) -> tuple[str, int, bool, str]:
    """Host, port, whether TLS, and path of an address; raises ValueError when it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(url)
    tls = parts.scheme == "https"
    return parts.hostname, parts.port or (443 if tls else 80), tls, parts.path


def host_header(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
