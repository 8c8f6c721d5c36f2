"""Talking to an endpoint, a model that runs elsewhere: as to a service, with the same rights, stop and resume."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site
from tests.chat.socket_client import ChatClient
from tests.chat.test_socket import TEXT, api, turns, until_ended
from tests.chat.upstream_script import WORDS, ScriptedUpstream

pytestmark = pytest.mark.live


@pytest.fixture
def external(site: Site, upstream: ScriptedUpstream) -> Callable[..., Case]:
    """An endpoint that behaves in one way; its id stands where a service's does."""

    def make(behaviour: str, served_model: str = "remote") -> Case:
        token = uuid.uuid4().hex[:8]
        base_url = f"http://127.0.0.1:{upstream.port}/{behaviour}/{token}/v1"
        made = site.do("endpoint", name=f"e-{token}", base_url=base_url, key="sk-far", served_model=served_model)
        return Case(made, base_url, upstream.seen[token], f"e-{token}")

    return make


async def begun(page: ChatClient, endpoint_id: int, content: str = "Hi") -> dict[str, Any]:
    await page.say(type="send", endpoint=endpoint_id, content=content, ref=content)
    return await page.got("start", ref=content)


async def listed_models(site: Site) -> list[str]:
    """What ``/v1/models`` lists."""
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.get(f"{site.url}/v1/models") as response,
    ):
        return [row["id"] for row in (await response.json())["data"]]


async def test_an_answer_is_kept_and_metered(site: Site, external: Callable[..., Case]) -> None:
    thinks = external("thinks")
    async with ChatClient(site) as page:
        start = await begun(page, thinks.service_id)
        told = (await page.got("created"))["conversation"]
        await page.got("done", answer=start["answer"])
    assert (told["target"], told["service_id"]) == (f"endpoint-{thinks.service_id}", None)
    assert (told["endpoint_id"], told["service_name"]) == (thinks.service_id, thinks.model)
    assert page.text(start["answer"]) == TEXT and json.loads(thinks.seen.bodies[0])["model"] == "remote"
    last = (await turns(site, start["conversation"]))[-1]
    assert (last["content"], last["server_name"], last["model"]) == (TEXT, thinks.model, "remote")
    [used] = await asyncio.to_thread(site.used, endpoint_id=thinks.service_id)
    assert (used["outcome"], used["completion_tokens"], used["user_name"]) == ("complete", 42, "viewer")
    status, rows = await api(site, "GET", f"conversations?search={thinks.model}")
    assert (status, rows) == (200, [])
    status, text = await api(site, "GET", f"conversations/{start['conversation']}/export?as=markdown")
    assert status == 200 and thinks.model in text and TEXT in text


async def test_stop_and_resume_by_offset(site: Site, external: Callable[..., Case]) -> None:
    endless, waits = external("endless"), external("waits")
    async with ChatClient(site) as page:
        start = await begun(page, endless.service_id)
        await page.got("chunk", answer=start["answer"])
        await page.say(type="cancel", answer=start["answer"])
        assert await asyncio.to_thread(endless.seen.closed.wait, 5)
        await page.got("cancelled", answer=start["answer"])
        waiting = await begun(page, waits.service_id, "Wait")
        await page.got("chunk", answer=waiting["answer"])
    async with ChatClient(site) as page:
        await page.say(type="join", conversation=waiting["conversation"])
        await page.say(type="resume", answer=waiting["answer"], offset=len(WORDS[0]))
        waits.seen.go_on.set()
        await page.got("done", answer=waiting["answer"])
        assert page.text(waiting["answer"]) == TEXT
    assert (await until_ended(site, waiting["conversation"]))["content"] == WORDS[0] + TEXT


async def test_a_conversation_moves_between_a_service_and_an_endpoint(
    site: Site, case: Callable[..., Case], external: Callable[..., Case]
) -> None:
    here, there = case("good"), external("good")
    status, made = await api(site, "POST", "conversations", json={"endpoint_id": there.service_id})
    assert (status, made["target"], made["service_name"]) == (201, f"endpoint-{there.service_id}", there.model)
    path = f"conversations/{made['id']}"
    _, moved = await api(site, "PATCH", path, json={"service_id": here.service_id})
    assert (moved["target"], moved["endpoint_id"]) == (f"service-{here.service_id}", None)
    async with ChatClient(site) as page:
        await page.say(type="send", conversation=made["id"], content="Hi", ref="a")
        await page.got("done", answer=(await page.got("start", ref="a"))["answer"])
        _, back = await api(site, "PATCH", path, json={"endpoint_id": there.service_id})
        assert back["target"] == made["target"]
        await page.say(type="send", conversation=made["id"], content="And you?", ref="b")
        await page.got("done", answer=(await page.got("start", ref="b"))["answer"])
    assert len(json.loads(there.seen.bodies[0])["messages"]) == 3, "what the service said is sent along"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 400),
        ({"service_id": None}, 400),
        ({"endpoint_id": 999999}, 404),
        ({"endpoint_id": 1, "service_id": 1}, 400),
    ],
)
async def test_bad_input_begins_nothing(site: Site, given: dict, status: int) -> None:
    assert (await api(site, "POST", "conversations", json=given))[0] == status


async def test_the_picker_tells_them_apart_and_rights_are_as_for_services(
    site: Site, case: Callable[..., Case], external: Callable[..., Case]
) -> None:
    here, there = case("good"), external("good")
    status, rows = await api(site, "GET", "chat/services")
    by_target = {row["target"]: row for row in rows}
    far, near = by_target[f"endpoint-{there.service_id}"], by_target[f"service-{here.service_id}"]
    assert status == 200 and (far["external"], near["external"]) == (True, False)
    assert (far["chip"]["word"], far["why"], far["model"]) == ("External", "", "remote")
    assert "sk-far" not in str(rows) and "127.0.0.1" not in str(far), "neither its key nor its address"
    assert (await api(site, "GET", "chat/services", "nobody"))[0] == 403

    site.do("switch_off", endpoint_id=there.service_id)
    _, rows = await api(site, "GET", "chat/services")
    off = next(row for row in rows if row["target"] == far["target"])
    assert (off["why"], off["chip"]["word"]) == ("It is switched off.", "Off")
    async with asyncio.timeout(5):  # what is known of it holds for a second
        while there.model in await listed_models(site):
            await asyncio.sleep(0.1)
    async with ChatClient(site) as page:
        await page.say(type="send", endpoint=there.service_id, content="Hi", ref="off")
        told = await page.got("error", ref="off")
        assert (told["code"], told["message"]) == (
            "endpoint_not_found",
            "This endpoint is switched off or was removed.",
        )
        await page.say(type="send", content="Hi", ref="none")
        assert (await page.got("error", ref="none"))["code"] == "invalid"
