"""The completions proxy against a real site and an upstream that answers well."""

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site
from tests.chat.upstream_script import WORDS, ScriptedUpstream

pytestmark = pytest.mark.live

TEXT = "".join(WORDS)
ASK = {"messages": [{"role": "user", "content": "Hi"}]}


def client(site: Site, case: Case) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{site.url}/api/services/{case.service_id}/", api_key=site.person("viewer")["key"], max_retries=0
    )


def said(history: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row["role"], row["content"], row["state"]) for row in history]


def test_official_client_streams_and_both_turns_are_kept(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    stream = client(site, good).chat.completions.create(model="tiny", stream=True, messages=ASK["messages"])
    assert [part.choices[0].delta.content for part in stream if part.choices[0].delta.content] == WORDS
    history = site.history(good.service_id)
    assert said(history) == [("user", "Hi", "complete"), ("assistant", TEXT, "complete")]
    assert history[1]["model"] == "tiny"


def test_official_client_without_streaming(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    answer = client(site, good).chat.completions.create(model="tiny", messages=ASK["messages"])
    assert answer.choices[0].message.content == TEXT
    assert said(site.history(good.service_id)) == [("user", "Hi", "complete"), ("assistant", TEXT, "complete")]


async def test_stream_headers_bytes_and_nothing_of_the_caller_upstream(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    headers = {**site.bearer(), "Cookie": "secret=1", "Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(good.url + "/", json={**ASK, "stream": True}, headers=headers) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in response.headers
        body = await response.read()
    assert body.endswith(b"data: [DONE]\n\n")
    assert not {"authorization", "cookie"} & set(good.seen.headers[0])


async def test_unknown_fields_pass_and_a_named_model_keeps_the_bytes(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    raw = b'{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],  "model":"x", "odd":{"deep":[1.50]}}'
    async with aiohttp.ClientSession() as http, http.post(good.url, data=raw, headers=site.bearer()) as response:
        assert response.status == 200, await response.text()
    assert good.seen.bodies == [raw]
    assert said(site.history(good.service_id))[0] == ("user", "a", "complete")


@pytest.mark.parametrize(
    ("served", "asked", "sent"),
    [
        ("tiny", None, "tiny"),
        ("", None, "listed-model"),
        ("tiny", "Named By Service", "tiny"),
        ("tiny", "lora", "lora"),
    ],
)
async def test_model_is_the_services_own_unless_named(
    site: Site, case: Callable[..., Case], served: str, asked: str | None, sent: str
) -> None:
    name = f"named by service {served} {asked}" if asked != "Named By Service" else "named by service"
    good = case("good", served_model=served, name=name)
    async with (
        aiohttp.ClientSession() as http,
        http.post(good.url, json={**ASK, "model": asked, "seed": 7}, headers=site.bearer()) as response,
    ):
        assert response.status == 200, await response.text()
    assert json.loads(good.seen.bodies[0]) == {**ASK, "model": sent, "seed": 7}
    assert site.history(good.service_id)[1]["model"] == sent


async def test_two_instances_share_the_work(site: Site, case: Callable[..., Case], upstream: ScriptedUpstream) -> None:
    both = case("waits", ports=[upstream.port, upstream.port])
    async with aiohttp.ClientSession(headers=site.bearer()) as http:
        servers = set()
        responses = [await http.post(both.url, json={**ASK, "stream": True}) for _ in range(4)]
        servers = [response.headers["X-Infini-Server"] for response in responses]
        both.seen.go_on.set()
        for response in responses:
            assert (await response.read()).endswith(b"[DONE]\n\n")
    assert sorted(servers.count(name) for name in set(servers)) == [2, 2]


async def test_dead_instance_is_passed_over(
    site: Site, case: Callable[..., Case], upstream: ScriptedUpstream, dead_port: int
) -> None:
    half_dead = case("good", ports=[dead_port, upstream.port])
    async with aiohttp.ClientSession(headers=site.bearer()) as http:
        for _ in range(3):
            async with http.post(half_dead.url, json=ASK) as response:
                assert response.status == 200


async def test_no_end_mark_but_a_finish_is_an_answer(site: Site, case: Callable[..., Case]) -> None:
    short = case("no_done")
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.post(short.url, json={**ASK, "stream": True}) as response,
    ):
        assert b"error" not in await response.read()
    assert said(site.history(short.service_id))[1] == ("assistant", WORDS[0], "complete")


async def test_a_compressing_upstream_is_passed_on_plain(site: Site, case: Callable[..., Case]) -> None:
    gzips = case("gzips")
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.post(gzips.url, json={**ASK, "stream": True}) as response,
    ):
        assert "Content-Encoding" not in response.headers
        assert (await response.read()).endswith(b"[DONE]\n\n")
