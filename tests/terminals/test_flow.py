"""Floods: a client that does not read costs no memory, and Ctrl-C is not behind what was flooded."""

import asyncio
import itertools
import json
import time
from typing import Any

import psutil
import pytest

from infini.models import User
from inventory.terminals import registry
from inventory.terminals.buffer import BLOCK_BYTES, OutputBuffer
from inventory.terminals.outlet import Outlet
from inventory.terminals.session import HISTORY_BYTES, WINDOW_BYTES
from tests.terminals.conftest import PROMPT, Terminal
from tests.terminals.test_sessions import Make

pytestmark = pytest.mark.django_db(transaction=True)
MIB = 1024 * 1024


async def starved(one: Terminal, command: str) -> int:
    """How many bytes came to a client that acknowledges nothing, until none come any more."""
    one.acks = False
    await one.type(command + "\r")
    before = one.offset
    while not await one.silence(0.3):
        await one.take()
    return one.offset - before


async def test_an_unread_flood_stops_at_the_window(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    process = psutil.Process()
    memory = process.memory_info().rss
    assert await starved(one, "yes flood") <= WINDOW_BYTES
    time_before = process.cpu_times().user
    assert await one.silence(0.5)
    assert process.cpu_times().user - time_before < 0.3, "nothing turns while nobody reads"
    session = registry.find(one.session)
    assert session and session.buffer.end - session.buffer.start <= WINDOW_BYTES + HISTORY_BYTES + MIB // 2
    assert process.memory_info().rss - memory < 5 * MIB

    one.acks = True
    began = time.perf_counter()
    await one.type("\x03")
    await one.say({"type": "ack", "bytes": WINDOW_BYTES})
    await one.until(PROMPT)
    assert time.perf_counter() - began < 1
    assert await one.run("echo alive") == "alive\r\n"


async def test_a_flood_that_is_read_loses_nothing(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    size = 10_000_000
    await one.type(f"head -c {size} /dev/zero | tr '\\0' x; echo; echo END-$((40+2))\r")
    count = (await one.until(b"END-42\r\n", 60)).count(b"x")
    assert count == size + 1  # and the one typed
    session = registry.find(one.session)
    assert session and session.buffer.end - session.buffer.start <= WINDOW_BYTES + HISTORY_BYTES + MIB // 2


async def test_a_large_paste_arrives_whole(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.type("stty -echo; head -c 2000000 | md5sum; stty echo\r")
    await one.until(b"stty echo\r\n")
    lines = b"".join(b"%07d\n" % n for n in range(250_000))
    for start in range(0, len(lines), 4096):
        await one.type(lines[start : start + 4096])
    import hashlib

    assert hashlib.md5(lines).hexdigest().encode() in await one.until(PROMPT, 30)


async def test_more_than_the_shell_takes_is_refused(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.type("stty -echo -icanon; kill -STOP $$\r")
    await one.until(b"$$\r\n")
    for _ in range(60):
        await one.type(b"x" * 100_000)
    assert await one.end() == 4400 and "pieces" in one.frames[-1]["message"]
    session: Any = registry.find(one.session)
    assert session and session.owner is None, "the shell is there still"


async def test_keys_by_the_web_servers_short_way(terminal: Make, operator: User, administrator: User) -> None:
    one = await terminal(operator)
    await one.begin({"type": "connect", "cols": 80, "rows": 24})
    assert not one.listeners[0](b"too early\r", True), "no shell is there yet"
    await one.frame("connected")
    await one.until(PROMPT)
    assert one.listeners[0](b"echo short-$((40+2))\r", True)
    await one.until(b"short-42\r\n")

    watcher = await (await terminal(administrator)).watch(one.session)
    assert not watcher.listeners[0](b"echo never\r", True)

    await one.until(PROMPT)
    await one.type("stty -echo -icanon; kill -STOP $$\r")
    await one.until(b"$$\r\n")
    for _ in range(60):
        one.listeners[0](b"x" * 100_000, True)
    assert await one.end() == 4400 and "pieces" in one.frames[-1]["message"]
    assert not one.listeners[0](b"over", True)


async def test_acknowledgements_by_the_web_servers_short_way(terminal: Make, operator: User) -> None:
    """The flood stops at the window and goes on with each, without any other frame."""
    one = await terminal(operator)
    one.acks = False
    await one.open()
    hear, session = one.listeners[0], registry.find(one.session)
    assert session and session.owner
    await one.type("head -c 1000000 /dev/zero | tr '\\0' x; echo E''ND\r")
    while len(one.output) < WINDOW_BYTES:
        await one.take()
    while b"END" not in one.output[-20:]:
        unacked = len(one.output) - session.owner.acked
        assert hear(json.dumps({"type": "ack", "bytes": unacked}).encode(), False)
        await one.take()
    acked = session.owner.acked
    for other in (
        b'{"type": "ack", "bytes": -1}',
        b'{"type": "ack"}',
        b'{"type": "resize", "cols": 1}',
        b"ack",
        b"\xff",
    ):
        assert not hear(other, False), "said on the long way"
    assert session.owner.acked == acked


@pytest.mark.parametrize("sizes", [(999,), (BLOCK_BYTES, 7), (3, BLOCK_BYTES + 1, 500, 500)])
def test_buffer_by_offset(sizes: tuple[int, ...]) -> None:
    buffer = OutputBuffer()
    whole = bytes(n % 251 for n in range(5 * BLOCK_BYTES))
    size = itertools.cycle(sizes)
    while buffer.end < len(whole):
        buffer.append(whole[buffer.end : buffer.end + next(size)])
    for offset, most in ((0, 10), (BLOCK_BYTES - 5, 10), (3 * BLOCK_BYTES, 2 * BLOCK_BYTES), (len(whole), 5)):
        assert buffer.read(offset, most) == whole[offset : offset + most]
    buffer.forget_before(2 * BLOCK_BYTES + 100)
    assert BLOCK_BYTES < buffer.start <= 2 * BLOCK_BYTES + 100
    assert buffer.read(buffer.start, len(whole)) == whole[buffer.start :]
    assert buffer.end == len(whole)


async def test_a_web_server_that_waits_gets_everything_in_order() -> None:
    """daphne never waits; others do, and some of what they do fails when the client is gone."""
    got: list[int] = []
    gate = asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        number = message["number"]
        if number == 1:
            await gate
        elif number % 2:
            await asyncio.sleep(0)
        elif number == 4:
            raise OSError("the client is gone")
        got.append(number)

    outlet = Outlet(send)
    for number in range(3):
        outlet.send({"number": number})
    assert got == [0]
    gate.set_result(None)
    await outlet.emptied()
    for number in range(3, 8):
        outlet.send({"number": number})
    await asyncio.wait_for(outlet.emptied(), 5)
    assert got == [0, 1, 2, 3, 5, 6, 7]
