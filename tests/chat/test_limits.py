"""Keys: what they open, for how long, and how much of it; over the web process and the gateway's own at once."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from chat.capacity import Places
from chat.limits import Window
from chat.refusals import Refusal
from chat.targets import Target
from chat.wire import Deadlines
from tests.chat.conftest import Case
from tests.chat.site import Gateway, Site

ASK = {"messages": [{"role": "user", "content": "Hi"}]}


async def ask(base: str, key: str, case: Case, **fields: Any) -> tuple[int, dict[str, Any], Any]:
    headers = {"Authorization": f"Bearer {key}"}
    body = {**ASK, "model": case.model, **fields}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        raw = await response.read()
        return response.status, json.loads(raw).get("error", {}) if raw[:1] == b"{" else {}, response.headers


@pytest.mark.live
async def test_requests_a_minute(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    site.person("viewer")
    good, key = case("good"), site.do("key", owner="viewer", limits={"requests_per_minute": 3})
    assert [(await ask(gateway.url, key, good))[0] for _ in range(3)] == [200, 200, 200]
    status, error, headers = await ask(gateway.url, key, good)
    assert (status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(headers["Retry-After"]) <= 121


@pytest.mark.live
async def test_tokens_a_minute_and_a_month(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    site.person("viewer")
    counted = case("counted")
    key = site.do("key", owner="viewer", limits={"tokens_per_minute": 20})
    assert [(await ask(gateway.url, key, counted, max_tokens=5))[0] for _ in range(3)] == [200, 200, 429]
    key = site.do("key", owner="viewer", limits={"tokens_per_month": 20})
    assert [(await ask(gateway.url, key, counted, max_tokens=5))[0] for _ in range(2)] == [200, 200]
    status, error, headers = await ask(gateway.url, key, counted, max_tokens=5)
    assert (status, error["code"]) == (429, "budget_spent")
    assert int(headers["Retry-After"]) > 60 or time.gmtime().tm_mday >= 28
    deadline = time.monotonic() + 8
    while (await ask(site.url, key, counted, max_tokens=0))[0] != 429:  # the other process learns it from the database
        assert time.monotonic() < deadline
        await asyncio.sleep(0.3)


@pytest.mark.live
async def test_requests_at_once_are_given_back_when_the_client_leaves(
    site: Site, gateway: Gateway, case: Callable[..., Case]
) -> None:
    site.person("viewer")
    endless, good = case("endless"), case("good")
    key = site.do("key", owner="viewer", limits={"concurrency": 1})
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        body = {**ASK, "model": endless.model, "stream": True}
        response = await http.post(f"{gateway.url}/v1/chat/completions", json=body)
        await response.content.readany()
        status, error, headers = await ask(gateway.url, key, good)
        assert (status, error["code"], headers["Retry-After"]) == (429, "concurrency_limit", "1")
        response.close()
        assert await asyncio.to_thread(endless.seen.closed.wait, 2)
        assert (await ask(gateway.url, key, good))[0] == 200


@pytest.mark.live
async def test_scopes_expiry_revoking_and_locking(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    name = site.person("viewer")["name"]
    good, other = case("good"), case("good")
    scoped = site.do("key", owner=name, scopes={"models": [good.model.upper()]})
    assert (await ask(gateway.url, scoped, good))[0] == 200
    status, error, _ = await ask(gateway.url, scoped, other)
    assert (status, error["code"]) == (403, "model_not_allowed")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {scoped}"}) as http:
        async with http.post(other.url, json=ASK) as response:
            assert response.status == 403, "nor by the service's own path"
        async with http.get(f"{gateway.url}/v1/models") as response:
            assert [row["id"] for row in (await response.json())["data"]] in ([], ["tiny"])
    reads = site.do("key", owner=name, scopes={"use": "read"})
    status, error, _ = await ask(gateway.url, reads, good)
    assert (status, error["code"]) == (403, "key_scope")
    short = site.do("key", owner=name, expires_in=0.7)
    assert (await ask(gateway.url, short, good))[0] == 200
    await asyncio.sleep(0.7)
    assert (await ask(gateway.url, short, good))[0] == 401
    revoked = site.do("key", owner=name)
    for base in (site.url, gateway.url):
        assert (await ask(base, revoked, good))[0] == 200
    site.do("revoke", text=revoked)
    await asyncio.sleep(1.0)
    for base in (site.url, gateway.url):
        assert (await ask(base, revoked, good))[0] == 401
    locked = site.do("user", name="locked", role="viewer")["key"]
    assert (await ask(gateway.url, locked, good))[0] == 200
    site.do("lock_out", name="locked", locked=True)
    await asyncio.sleep(1.0)
    assert (await ask(gateway.url, locked, good))[0] == 401
    site.do("lock_out", name="locked", locked=False)
    await asyncio.sleep(1.0)
    assert (await ask(gateway.url, locked, good))[0] == 200


@pytest.mark.live
async def test_a_service_with_one_place_and_one_in_the_queue(
    site: Site, gateway: Gateway, case: Callable[..., Case]
) -> None:
    waits, key = case("waits"), site.person("viewer")["key"]
    site.do("traffic", service_id=waits.service_id, concurrency=1, queue=1, queue_seconds=0.6)
    first = asyncio.create_task(ask(gateway.url, key, waits, stream=True))
    assert await asyncio.to_thread(waits.seen.arrived.wait, 3)
    second = asyncio.create_task(ask(gateway.url, key, waits, stream=True))
    await asyncio.sleep(0.1)
    status, error, headers = await ask(gateway.url, key, waits, stream=True)
    assert (status, error["code"]) == (429, "service_busy") and headers["Retry-After"]
    assert (await second)[0] == 429, "nobody waits longer than he must"
    third = asyncio.create_task(ask(gateway.url, key, waits, stream=True))
    await asyncio.sleep(0.1)
    assert len(waits.seen.bodies) == 1
    waits.seen.go_on.set()
    assert [(await task)[0] for task in (first, third)] == [200, 200]


@pytest.mark.live
async def test_timeouts_of_a_services_own(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    silent, endless, key = case("silent"), case("endless"), site.person("viewer")["key"]
    site.do("traffic", service_id=silent.service_id, first_byte_seconds=0.2)
    began = time.monotonic()
    status, error, _ = await ask(gateway.url, key, silent)
    assert (status, error["code"]) == (504, "upstream_timeout") and time.monotonic() - began < 0.9
    site.do("traffic", service_id=endless.service_id, total_seconds=0.3)
    await asyncio.sleep(1.0)
    headers = {"Authorization": f"Bearer {key}"}
    body = {**ASK, "model": endless.model, "stream": True}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{gateway.url}/v1/chat/completions", json=body) as response,
    ):
        text = await response.text()
    assert "had not ended its answer after 0.3 s" in text and "[DONE]" not in text


def test_a_minute_slides() -> None:
    window = Window()
    window.add(10, 600.0)
    assert window.amount(630.0) == 10
    assert window.amount(690.0) == 5
    assert window.wait(10, 690.0) == 0
    window.add(5, 690.0)
    assert 0 < window.wait(10, 690.0) <= 61
    assert window.amount(690.0 + window.wait(10, 690.0)) < 10
    assert window.amount(900.0) == 0


def target(**traffic: Any) -> Target:
    return Target(1, 0, "svc", "", (), Deadlines(1, 1, 1, 1), **traffic)


async def test_places_go_in_order_and_none_is_lost() -> None:
    places, one = Places(), target(concurrency=1, queue=10, queue_seconds=5)
    assert await places.take(one)
    order: list[int] = []

    async def take(number: int) -> None:
        await places.take(one)
        order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    for _ in range(3):
        places.leave(one)
        await asyncio.sleep(0.01)
    assert order == [0, 2, 3]
    places.leave(one)
    assert not places.full(one)
    assert await places.take(one)
    raced = asyncio.create_task(take(9))
    await asyncio.sleep(0)
    places.leave(one)  # gives the place ...
    raced.cancel()  # ... to one who leaves in the same moment
    await asyncio.gather(raced, return_exceptions=True)
    assert not places.full(one)


async def test_a_full_queue_refuses() -> None:
    places, one = Places(), target(concurrency=1, queue=0, queue_seconds=5)
    assert await places.take(one)
    with pytest.raises(Refusal) as refused:
        await places.take(one)
    assert refused.value.status == 429
