"""A fast model server (run as a program) and a load client that checks every answer, on httptools and uvloop.

The server answers ``/v1/chat/completions`` with ``max_tokens`` pieces ``nonce:i;``, whole or as a stream with
``gap_ms`` (in the request's ``user``) between them; the nonce comes from the last message. So the client can tell a
lost, reordered or mixed-up piece.
"""

import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import psutil
import uvloop

CHUNKS = 50


class ModelServer(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.transport: Any = None
        self.gone = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = []

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        asked = json.loads(b"".join(self.body) or b"{}")
        if not asked:
            return self._whole({"object": "list", "data": [{"id": "bench", "object": "model"}]})
        nonce, count = asked["messages"][-1]["content"], asked["max_tokens"]
        usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": count + 10}
        if not asked.get("stream"):
            text = "".join(f"{nonce}:{i};" for i in range(count))
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            told = {"id": "c", "object": "chat.completion", "created": 1, "model": "bench", "choices": [choice]}
            return self._whole(told | {"usage": usage})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.transport.write(head + framed(event({"role": "assistant", "content": ""})))
        end = framed(event({}, "stop"))
        if (asked.get("stream_options") or {}).get("include_usage"):
            told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": []}
            end += framed(b"data: " + json.dumps(told | {"usage": usage}).encode() + b"\n\n")
        self._later(
            nonce, 0, count, float(asked.get("user") or 0) / 1000, end + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        return None

    def _later(self, nonce: str, i: int, count: int, gap: float, end: bytes) -> None:
        if gap:
            self.loop.call_later(gap, self._piece, nonce, i, count, gap, end)
        else:
            self.loop.call_soon(self._piece, nonce, i, count, gap, end)

    def _piece(self, nonce: str, i: int, count: int, gap: float, end: bytes) -> None:
        if self.gone:
            return
        if i == count:
            self.transport.write(end)
            return
        self.transport.write(framed(HEAD + f"{nonce}:{i};".encode() + TAIL))
        self._later(nonce, i + 1, count, gap, end)

    def _whole(self, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": [choice]}
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD, TAIL = event({"content": "@@"}).split(b"@@")


@dataclass
class Figures:
    """One measurement. Times in milliseconds; ``cpu_ms`` is the server's per request."""

    rate: float
    chunk_rate: float
    first_p50: float
    first_p95: float
    cpu_ms: float
    right: int
    wrong: int


class Client(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.parser: Any = None
        self.answer: asyncio.Future[bytes] | None = None
        self.parts: list[bytes] = []
        self.nonce = b""
        self.first_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_result(b"")

    def ask(self, request: bytes, nonce: bytes) -> "asyncio.Future[bytes]":
        self.parser, self.parts, self.nonce, self.first_at = httptools.HttpResponseParser(self), [], nonce, 0.0
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first_at and self.nonce in body:
            self.first_at = time.perf_counter()
        self.parts.append(body)

    def on_message_complete(self) -> None:
        if self.answer and not self.answer.done():
            right = self.parser.get_status_code() == 200
            self.answer.set_result(b"".join(self.parts) if right else b"")


def measure(url: str, key: str, pid: int, *, at_once: int, stream: bool, seconds: float, gap_ms: float = 0) -> Figures:
    """Load ``url`` for so long from a process of its own; every answer is checked."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (url, key, pid, at_once, stream, seconds, gap_ms))


def _measured(url: str, key: str, pid: int, at_once: int, stream: bool, seconds: float, gap_ms: float) -> Figures:
    return uvloop.run(_load(url, key, pid, at_once, stream, seconds, gap_ms))


async def _load(url: str, key: str, pid: int, at_once: int, stream: bool, seconds: float, gap_ms: float) -> Figures:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    firsts: list[float] = []
    right = wrong = number = 0

    def request() -> tuple[bytes, bytes]:
        nonlocal number
        number += 1
        nonce = f"n{number}x"
        asked = {"model": "bench", "stream": stream, "max_tokens": CHUNKS, "user": str(gap_ms)}
        body = json.dumps(asked | {"messages": [{"role": "user", "content": nonce}]}).encode()
        lines = [
            f"POST {parts.path}/chat/completions HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Bearer {key}",
        ]
        head = "\r\n".join([*lines, "Content-Type: application/json", f"Content-Length: {len(body)}", "", ""])
        return head.encode() + body, nonce.encode()

    async def person(client: Client, until: float) -> None:
        nonlocal right, wrong
        while True:
            data, nonce = request()
            began = time.perf_counter()
            answer = await client.ask(data, nonce)
            if _is_right(answer, nonce, stream):
                right += 1
                firsts.append((client.first_at - began) * 1000)
            else:
                wrong += 1
            if time.perf_counter() > until:
                client.transport.close()
                return

    clients = []
    for _ in range(at_once):
        clients.append((await loop.create_connection(Client, parts.hostname, parts.port))[1])
    before, began = _cpu(pid), time.perf_counter()
    await asyncio.gather(*(person(client, began + seconds) for client in clients))
    took, used = time.perf_counter() - began, _cpu(pid) - before
    ordered = sorted(firsts) or [0.0]
    return Figures(
        rate=right / took,
        chunk_rate=right * CHUNKS / took,
        first_p50=statistics.median(ordered),
        first_p95=ordered[int(len(ordered) * 0.95) - 1],
        cpu_ms=used / max(1, right) * 1000,
        right=right,
        wrong=wrong,
    )


def _is_right(answer: bytes, nonce: bytes, stream: bool) -> bool:
    wanted = [b"%s:%d;" % (nonce, i) for i in range(CHUNKS)]
    if not stream:
        return b"".join(wanted) in answer
    pieces = [line for line in answer.split(b"\n\n") if b'"content":"n' in line]
    in_order = len(pieces) == CHUNKS and all(want in piece for want, piece in zip(wanted, pieces, strict=True))
    return in_order and answer.endswith(b"data: [DONE]\n\n")


def _cpu(pid: int) -> float:
    if not pid:
        return 0.0
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ModelServer(loop), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    try:
        asyncio.run(_serve())
    except KeyboardInterrupt:
        sys.exit(0)
