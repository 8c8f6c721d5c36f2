"""Connections that are kept: used again, replaced when the model server has closed them, and never asked twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from chat.refusals import Refusal
from chat.upstream import ask
from chat.wire import Deadlines
from deployments.upstreams import Upstream

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
DEADLINES = Deadlines(connect=5, first_byte=5, idle=5, total=5)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def model_server(talk: Talk) -> AsyncIterator[tuple[Upstream, list[int]]]:
    """A server that speaks as ``talk`` on each connection, and the list of connections it took."""
    taken: list[int] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(len(taken))
        await talk(reader, writer)  # type: ignore[misc]
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield Upstream("i1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "s"), taken


async def request_on(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def asked(upstream: Upstream) -> bytes:
    answer = await ask(upstream, "embeddings", b"{}", DEADLINES, stream=False)
    try:
        return await answer.whole(100)
    finally:
        answer.close()


async def test_a_kept_connection_carries_the_next_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await request_on(reader)
            writer.write(ANSWER)

    async with model_server(talk) as (upstream, taken):
        for _ in range(3):
            assert await asked(upstream) == b"{}"
        assert taken == [0]


async def test_one_that_was_closed_while_it_lay_idle_is_replaced() -> None:
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_on(reader)
        writer.write(ANSWER)
        await writer.drain()
        writer.close()
        over.set()

    async with model_server(talk) as (upstream, taken):
        assert await asked(upstream) == b"{}"
        await over.wait()
        await asyncio.sleep(0)
        assert await asked(upstream) == b"{}" and taken == [0, 1]


async def test_one_that_is_closed_in_the_very_moment_is_replaced_once() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_on(reader)
        writer.write(ANSWER)
        await request_on(reader)  # and closes: this one was not begun

    async with model_server(talk) as (upstream, taken):
        for _ in range(2):
            assert await asked(upstream) == b"{}"
        assert taken == [0, 1]


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_on(reader)

    async with model_server(talk) as (upstream, taken):
        with pytest.raises(Refusal) as refused:
            await asked(upstream)
        assert (refused.value.code, refused.value.elsewhere, taken) == ("upstream_cut", True, [0])


async def test_an_answer_that_was_begun_is_never_asked_for_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_on(reader)
        writer.write(ANSWER)
        await request_on(reader)
        writer.write(ANSWER[:30])

    async with model_server(talk) as (upstream, taken):
        assert await asked(upstream) == b"{}"
        with pytest.raises(Refusal) as refused:
            await asked(upstream)
        assert (refused.value.code, refused.value.elsewhere, taken) == ("upstream_cut", False, [0])
