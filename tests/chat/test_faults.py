"""Upstreams that are dead, slow or lie: an error in OpenAI's shape, nothing hangs, the history tells how it ended."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from tests.chat.conftest import Case
from tests.chat.site import LIMITS, Site
from tests.chat.upstream_script import WORDS

pytestmark = pytest.mark.live

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**ASK, "stream": True}


async def post(site: Site, url: str, body: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.post(url, json=body, timeout=aiohttp.ClientTimeout(total=15)) as response,
    ):
        return response.status, await response.json()


def check_shape(answer: Any) -> dict[str, Any]:
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"]
    return answer["error"]


BEFORE_THE_FIRST_BYTE = [
    ("html", 502),
    ("html_500", 502),
    ("redirect", 502),
    ("silent", 504),
    ("silent_after_headers", 504),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("behaviour", "status"), [*BEFORE_THE_FIRST_BYTE, ("nonsense", 502)])
async def test_no_answer_at_all(
    site: Site, case: Callable[..., Case], behaviour: str, status: int, stream: bool, upstream: Any
) -> None:
    bad = case(behaviour)
    if behaviour == "silent_after_headers" and not stream:
        status = 502  # its headers announce a stream, which is no answer to a plain request
    got, answer = await post(site, bad.url, {**ASK, "stream": stream})
    assert got == status
    error = check_shape(answer)
    assert not upstream.seen["redirected"].bodies
    last = site.history(bad.service_id)[-1]
    assert (last["role"], last["state"], last["reason"]) == ("assistant", "failed", error["message"])


@pytest.mark.parametrize("behaviour", ["prose_events", "half", "endless_line"])
async def test_a_lying_stream(site: Site, case: Callable[..., Case], behaviour: str) -> None:
    bad = case(behaviour)
    async with (
        aiohttp.ClientSession(headers=site.bearer()) as http,
        http.post(bad.url, json=STREAM, timeout=aiohttp.ClientTimeout(total=15)) as response,
    ):
        body = await response.text()
    if behaviour == "half":
        assert response.status == 200
        check_shape(json.loads(body.strip().split("\n\n")[-1].removeprefix("data: ")))
    else:
        assert response.status == 502
        check_shape(json.loads(body))
    assert "[DONE]" not in body
    assert site.history(bad.service_id)[-1]["state"] == "failed"


async def test_an_endless_line_takes_no_memory(site: Site, case: Callable[..., Case]) -> None:
    process = psutil.Process(site.process.pid)
    await post(site, case("endless_line").url, STREAM)
    before = process.memory_info().rss
    for _ in range(5):
        assert (await post(site, case("endless_line").url, STREAM))[0] == 502
    assert process.memory_info().rss - before < 20_000_000


@pytest.mark.parametrize(
    ("behaviour", "kept"),
    [
        ("cut", "".join(WORDS[:2])),
        ("half", WORDS[0]),
        ("silent_in_the_middle", WORDS[0]),
        ("error_in_the_middle", WORDS[0]),
    ],
)
def test_failure_in_mid_stream_reaches_the_official_client(
    site: Site, case: Callable[..., Case], behaviour: str, kept: str
) -> None:
    bad = case(behaviour)
    client = openai.OpenAI(
        base_url=f"{site.url}/api/services/{bad.service_id}/", api_key=site.person("viewer")["key"], max_retries=0
    )
    got = []
    with pytest.raises(openai.APIError) as caught:
        for part in client.chat.completions.create(model="tiny", stream=True, messages=ASK["messages"]):
            got.append(part.choices[0].delta.content)
    assert "".join(got) == kept
    last = site.history(bad.service_id)[-1]
    assert (last["content"], last["state"]) == (kept, "failed")
    assert last["reason"] in caught.value.message


async def test_a_failed_stream_ends_without_done(site: Site, case: Callable[..., Case]) -> None:
    for behaviour in ("cut", "error_in_the_middle"):
        async with (
            aiohttp.ClientSession(headers=site.bearer()) as http,
            http.post(case(behaviour).url, json=STREAM) as response,
        ):
            events = (await response.text()).strip().split("\n\n")
        assert "error" in json.loads(events[-1].removeprefix("data: "))


async def test_a_stream_ends_at_the_cap(site: Site, case: Callable[..., Case]) -> None:
    flood = case("flood")
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(flood.url, json=STREAM) as response:
        body = await response.read()
    assert len(body) <= int(LIMITS["INFINI_STREAM_MAX_BYTES"]) + 1000
    assert b'"answer_too_long"' in body.rsplit(b"data: ", 1)[1]
    assert await asyncio.to_thread(flood.seen.closed.wait, 5)


async def test_the_upstreams_own_error_passes_with_its_status(site: Site, case: Callable[..., Case]) -> None:
    status, answer = await post(site, case("refuses").url, STREAM)
    assert status == 400
    assert answer["error"] == {
        "message": "too many tokens",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


@pytest.mark.parametrize(
    ("kind", "status", "message", "type_"),
    [
        ("refuses_as_vllm", 400, "too many tokens", "invalid_request_error"),
        ("refuses_as_tgi", 422, "too many tokens", "invalid_request_error"),
        ("refuses_the_key", 502, "The model server refuses the key that the site has for it.", "server_error"),
    ],
)
async def test_errors_of_other_shapes_are_told_in_openais(
    kind: str, status: int, message: str, type_: str, site: Site, case: Callable[..., Case]
) -> None:
    got, answer = await post(site, case(kind).url, STREAM)
    assert (got, answer["error"]["message"], answer["error"]["type"]) == (status, message, type_)


async def test_a_busy_upstream_is_asked_elsewhere_once_and_told(
    site: Site, case: Callable[..., Case], upstream: Any
) -> None:
    busy = case("busy", ports=[upstream.port] * 3)
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(busy.url, json=ASK) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "7"
    assert len(busy.seen.bodies) == 2


async def test_silence_is_not_asked_elsewhere(site: Site, case: Callable[..., Case], upstream: Any) -> None:
    silent = case("silent", ports=[upstream.port] * 3)
    assert (await post(site, silent.url, ASK))[0] == 504
    assert len(silent.seen.bodies) == 1


async def test_a_refused_connection_is_502(site: Site, case: Callable[..., Case], dead_port: int) -> None:
    begun = time.monotonic()
    status, answer = await post(site, case("good", ports=[dead_port]).url, STREAM)
    assert status == 502
    assert check_shape(answer)["code"] == "upstream_unreachable"
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("verb", "given", "says"),
    [("unready", {"phase": "failed", "reason": "exit code 1"}, "exit code 1"), ("stop", {}, "stopped")],
)
async def test_none_ready_is_503_with_the_reason(
    site: Site, case: Callable[..., Case], verb: str, given: dict[str, Any], says: str
) -> None:
    down = case("good")
    site.do(verb, service_id=down.service_id, **given)
    status, answer = await post(site, down.url, ASK)
    assert status == 503
    error = check_shape(answer)
    assert error["code"] == "service_not_ready"
    assert says in error["message"]
    assert site.history(down.service_id) == []
