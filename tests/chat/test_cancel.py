"""The client leaves: the upstream sees it at once, in every phase, and the history says so."""

import asyncio
import statistics
import time
from collections.abc import Callable

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site

pytestmark = pytest.mark.live

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
PHASES = [("silent", True, "before headers"), ("endless", True, "in mid-stream"), ("silent", False, "not streaming")]


async def leave(site: Site, case: Case, *, stream: bool, after_first_bytes: bool) -> float:
    """Ask, leave, and give the seconds until the upstream saw its connection closed."""
    http = aiohttp.ClientSession(headers=site.bearer())
    asking = asyncio.create_task(http.post(case.url, json={**ASK, "stream": stream}))
    if after_first_bytes:
        response = await asking
        await response.content.readany()
    assert await asyncio.to_thread(case.seen.arrived.wait, 5)
    left = time.monotonic()
    if after_first_bytes:
        response.close()
    else:
        asking.cancel()
    await http.close()
    assert await asyncio.to_thread(case.seen.closed.wait, 5)
    return case.seen.closed_at - left


async def ended(site: Site, service_id: int) -> dict:
    """The answer's row once it says how it ended."""
    for _ in range(100):
        rows = await asyncio.to_thread(site.history, service_id)
        if len(rows) == 2 and rows[1]["state"] != "streaming":
            return rows[1]
        await asyncio.sleep(0.02)
    raise AssertionError(f"never ended: {rows}")


@pytest.mark.parametrize(("behaviour", "stream", "phase"), PHASES, ids=[phase for _, _, phase in PHASES])
async def test_the_upstream_is_closed_within_100_ms(
    site: Site, case: Callable[..., Case], behaviour: str, stream: bool, phase: str
) -> None:
    took = []
    for _ in range(3):
        left = case(behaviour)
        took.append(await leave(site, left, stream=stream, after_first_bytes=phase == "in mid-stream"))
        row = await ended(site, left.service_id)
        assert (row["role"], row["state"]) == ("assistant", "stopped")
        assert row["reason"]
        assert bool(row["content"]) == (phase == "in mid-stream")
    print(f"{phase}: closed after {statistics.median(took) * 1000:.1f} ms")
    assert max(took) < 0.1


async def test_other_streams_go_on_when_one_is_left(site: Site, case: Callable[..., Case]) -> None:
    going, left = case("waits"), case("endless")
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.post(going.url, json={**ASK, "stream": True}) as response,
    ):
        await leave(site, left, stream=True, after_first_bytes=True)
        going.seen.go_on.set()
        assert (await response.read()).endswith(b"[DONE]\n\n")
