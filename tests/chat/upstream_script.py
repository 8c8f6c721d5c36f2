"""A model server that does as its path ``/<behaviour>/<case>/v1/...`` says, and notes what it saw and when."""

import asyncio
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

WORDS = ["Hello", " there", ",", " how", " are", " you", "?"]

MARKDOWN = """**Two ways**, both need root:

- `ss` lists the sockets of the machine <img src=x onerror=alert(1)>
- `lsof` asks the kernel for open files

```sh
ss -ltnp 'sport = :8000'  # a long line that must scroll inside its own box and never widen the page by itself
```

The first is faster."""


@dataclass
class Seen:
    """What reached one case: requests with their headers, and moments on the monotonic clock."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    closed_at: float = 0.0
    first_sent_at: float = 0.0
    completion_tokens: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)


def chunk(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}


class ScriptedUpstream:
    """Runs in a thread with its own loop, on a free port."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = defaultdict(Seen)
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(client_max_size=10**8)
        app.router.add_post(
            "/{behaviour}/{case}/v1/{path:chat/completions|completions|embeddings|rerank}", self._complete
        )
        app.router.add_get("/{behaviour}/{case}/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self._started.set()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "listed-model", "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        seen = self.seen[request.match_info["case"]]
        raw = await request.read()
        seen.bodies.append(raw)
        seen.headers.append({name.lower(): value for name, value in request.headers.items()})
        seen.arrived.set()
        handler: Callable[[web.Request, Seen, dict], Awaitable[web.StreamResponse]]
        handler = getattr(self, request.match_info["behaviour"])
        try:
            return await handler(request, seen, json.loads(raw))
        except (asyncio.CancelledError, ConnectionResetError):
            seen.closed_at = time.monotonic()
            seen.closed.set()
            raise

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def _stream(self, request: web.Request, seen: Seen, parts: AsyncIterator[bytes]) -> web.StreamResponse:
        response = await self._events(request)
        async for part in parts:
            seen.first_sent_at = seen.first_sent_at or time.monotonic()
            await response.write(part)
        await response.write_eof()
        return response

    async def _words(self, pause: float) -> AsyncIterator[bytes]:
        for word in WORDS:
            yield chunk(word)
            await asyncio.sleep(pause)
        yield chunk(finish="stop")
        yield b"data: [DONE]\n\n"

    # The behaviours.

    async def good(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        path = request.match_info["path"]
        if path == "embeddings":
            rows = [{"object": "embedding", "index": 0, "embedding": [0.5, 1e-7]}]
            told = {"object": "list", "data": rows, "model": "tiny", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
            return web.json_response(told)
        if path == "rerank":
            return web.json_response({"results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 5}})
        if path == "completions":
            choice = {"index": 0, "text": "once", "finish_reason": "stop", "logprobs": None}
            told = {"id": "c1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
            return web.json_response(told | {"usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}})
        if body.get("stream"):
            return await self._stream(request, seen, self._words(0.01))
        return web.json_response(whole("".join(WORDS)))

    async def echoes(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        async def parts() -> AsyncIterator[bytes]:
            for letter in body["messages"][-1]["content"]:
                yield chunk(letter)
            yield b"data: [DONE]\n\n"

        return await self._stream(request, seen, parts())

    async def counted(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        """As many words as ``max_tokens``, counted; then waits to be left when ``user`` says so. Usage as asked for."""
        words, leaves = body["max_tokens"], body.get("user") == "leaves"
        usage = {"prompt_tokens": 7, "completion_tokens": words, "total_tokens": words + 7}
        seen.completion_tokens += words
        if not body.get("stream"):
            return web.json_response(whole("w" * words) | {"usage": usage})

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(words):
                yield chunk("w")
            if leaves:
                await asyncio.sleep(60)
            yield chunk(finish="stop")
            if (body.get("stream_options") or {}).get("include_usage"):
                told = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": []}
                yield b"data: " + json.dumps(told | {"usage": usage}).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        return await self._stream(request, seen, parts())

    async def thinks(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        """Reasoning first, then the words, then a count of tokens."""

        async def parts() -> AsyncIterator[bytes]:
            for word in ("Let", " me", " see."):
                event = {"choices": [{"index": 0, "delta": {"reasoning_content": word}}]}
                yield b"data: " + json.dumps(event).encode() + b"\n\n"
                await asyncio.sleep(0.02)
            async for part in self._words(0.02):
                if part == b"data: [DONE]\n\n" and body.get("stream_options", {}).get("include_usage"):
                    usage = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 42}}
                    yield b"data: " + json.dumps(usage).encode() + b"\n\n"
                yield part

        return await self._stream(request, seen, parts())

    async def waits(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        """One word, then the next ones when told to; never silent for long."""

        async def parts() -> AsyncIterator[bytes]:
            yield chunk(WORDS[0])
            while not seen.go_on.is_set():
                yield b": still here\n\n"
                await asyncio.sleep(0.05)
            async for part in self._words(0):
                yield part

        return await self._stream(request, seen, parts())

    async def markdown(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        async def parts() -> AsyncIterator[bytes]:
            for word in re.split(r"(?<= )", MARKDOWN):
                yield chunk(word)
                await asyncio.sleep(0.005)
            yield b"data: [DONE]\n\n"

        return await self._stream(request, seen, parts())

    async def endless(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield chunk("word ")
                await asyncio.sleep(0.02)

        return await self._stream(request, seen, parts())

    async def flood(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield chunk("x" * 10_000)

        return await self._stream(request, seen, parts())

    async def silent(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async def silent_after_headers(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        await self._events(request)
        return await self.silent(request, seen, body)

    async def silent_in_the_middle(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = await self._events(request)
        await response.write(chunk(WORDS[0]))
        return await self.silent(request, seen, body)

    async def cut(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        """Two words, half an event, and the connection is reset."""
        response = await self._events(request)
        await response.write(chunk(WORDS[0]) + chunk(WORDS[1]))
        await response.write(b'data: {"choices": [{"index": 0, "del')
        assert request.transport
        request.transport.abort()
        return response

    async def half(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        """Ends in good order, but within an event."""
        response = await self._events(request)
        await response.write(chunk(WORDS[0]) + b'data: {"choices": [{"index": 0, "del')
        await response.write_eof()
        return response

    async def no_done(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = await self._events(request)
        await response.write(chunk(WORDS[0]) + chunk(finish="stop"))
        await response.write_eof()
        return response

    async def error_in_the_middle(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = await self._events(request)
        await response.write(chunk(WORDS[0]) + b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def endless_line(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = await self._events(request)
        await response.write(b"data: ")
        while True:
            await response.write(b"x" * 10_000)

    async def prose_events(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = await self._events(request)
        await response.write(b"data: once upon a time\n\n")
        await response.write_eof()
        return response

    async def lacks(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.json_response({"detail": "Not Found"}, status=404)

    async def html(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.Response(text="<h1>hello</h1>", content_type="text/html")

    async def html_500(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.Response(status=500, text="<h1>boom</h1>", content_type="text/html")

    async def nonsense(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.json_response({"hello": "world"})

    async def redirect(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{self.port}/good/redirected/v1/chat/completions")

    async def refuses(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        error = {"message": "too many tokens", "type": "BadRequestError", "param": None, "code": 400}
        return web.json_response({"error": error}, status=400)

    async def refuses_as_vllm(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        error = {"object": "error", "message": "too many tokens", "type": "BadRequestError", "param": None, "code": 400}
        return web.json_response(error, status=400)

    async def refuses_as_tgi(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.json_response({"error": "too many tokens", "error_type": "validation"}, status=422)

    async def refuses_the_key(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.json_response({"error": {"message": "Incorrect API key: sk-a…z"}}, status=401)

    async def busy(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        return web.json_response({"error": {"message": "queue is full"}}, status=503, headers={"Retry-After": "7"})

    async def gzips(self, request: web.Request, seen: Seen, body: dict) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        async for part in self._words(0):
            await response.write(part)
        await response.write_eof()
        return response
