"""How much later the first chunk comes through the gateway than straight from the upstream, side by side."""

import statistics
import time
from collections.abc import Callable

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site
from tests.chat.upstream_script import ScriptedUpstream

pytestmark = pytest.mark.live

STREAM = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
ROUNDS = 30
COLD_ROUNDS = 10


async def first_chunk_seconds(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> float:
    begun = time.perf_counter()
    async with http.post(url, json=STREAM, headers=headers) as response:
        await response.content.readany()
        took = time.perf_counter() - begun
        await response.read()
    return took


async def test_the_first_chunk_is_at_most_10_ms_later(
    site: Site, case: Callable[..., Case], upstream: ScriptedUpstream
) -> None:
    through = case("good")
    straight = f"http://127.0.0.1:{upstream.port}/good/straight/v1/chat/completions"
    ours, theirs, cold = [], [], []
    async with aiohttp.ClientSession() as http:
        for _ in range(ROUNDS):
            theirs.append(await first_chunk_seconds(http, straight, {}))
            ours.append(await first_chunk_seconds(http, through.url, site.bearer()))
        for _ in range(COLD_ROUNDS):
            cold.append(await first_chunk_seconds(http, case("good").url, site.bearer()))
    unknown = (statistics.median(cold) - statistics.median(theirs)) * 1000
    added = (statistics.median(ours) - statistics.median(theirs)) * 1000
    print(f"first chunk: {statistics.median(theirs) * 1000:.2f} ms straight, {added:.2f} ms more through the gateway")
    print(f"first chunk of callers not seen lately: {unknown:.2f} ms more")
    assert added <= 10
