"""The event socket with a thousand browsers: from the commit to the last of them, and what it costs."""

import asyncio
import json
import time
from collections.abc import Iterator

import aiohttp
import psutil
import pytest

from tests.benchmarks.conftest import Table, p95
from tests.live.site import RealSite

pytestmark = pytest.mark.benchmark
READERS, EVENTS, PAUSE_SECONDS = 1000, 20, 0.5


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    running = RealSite(tmp_path_factory.mktemp("site") / "data").start()
    yield running
    running.stop()


async def _read(socket: aiohttp.ClientWebSocketResponse, arrivals: dict[str, list[float]]) -> None:
    frames = 0
    async for message in socket:
        now = time.perf_counter()
        frame = json.loads(message.data)
        if frame["type"] != "events":
            continue
        for event in frame["events"]:
            arrivals.setdefault(event["subject"]["name"], []).append(now)
        frames += 1
        if frames % 4 == 0:  # as static/js/events.js does
            await socket.send_str(json.dumps({"type": "ack", "seq": frame["seq"]}))


async def _measure(site: RealSite, readers: int) -> tuple[list[float], float]:
    """Seconds from each commit to the last reader, and the web process's share of one core meanwhile."""
    headers = {"Authorization": f"Bearer {site.key()}"}
    url = site.url.replace("http", "ws", 1) + "/ws/events"
    arrivals: dict[str, list[float]] = {}
    committed: dict[str, float] = {}
    web = psutil.Process(site.process_ids("web")[0])
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as client:
        sockets = []
        for start in range(0, readers, 20):
            wanted = min(20, readers - start)
            sockets += await asyncio.gather(*(client.ws_connect(url) for _ in range(wanted)))
        tasks = [asyncio.create_task(_read(socket, arrivals)) for socket in sockets]
        await asyncio.sleep(1)
        used, began = sum(web.cpu_times()[:2]), time.perf_counter()
        for number in range(EVENTS):
            name = f"event {readers}-{number}"
            async with client.post(site.url + "/api/environments", json={"name": name}) as answer:
                assert answer.status == 201
            committed[name] = time.perf_counter()
            await asyncio.sleep(PAUSE_SECONDS)
        async with asyncio.timeout(30):
            while any(len(arrivals.get(name, [])) < readers for name in committed):
                await asyncio.sleep(0.05)
        share = (sum(web.cpu_times()[:2]) - used) / (time.perf_counter() - began)
        for task in tasks:
            task.cancel()
        for socket in sockets:
            await socket.close()
    return [max(arrivals[name]) - at for name, at in committed.items()], share


def test_a_thousand_browsers(site: RealSite, table: Table) -> None:
    """Events to 1,000 open pages, two changes a second"""
    one, idle = asyncio.run(_measure(site, 1))
    many, busy = asyncio.run(_measure(site, READERS))
    table.add(
        "commit to the last of 1,000, P95", f"{p95(many) * 1000:.0f} ms", f"one page {p95(one) * 1000:.0f} ms", "1 s"
    )
    table.add("of one core, web process", f"{busy:.2f}", f"one page {idle:.2f}", "0.5")
    assert p95(many) < 1 and busy < 0.5
