"""OpenAI's paths below /v1, in the web process and in the gateway's own, through the official client."""

import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Gateway, Site
from tests.chat.upstream_script import WORDS

pytestmark = pytest.mark.live

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
TEXT = "".join(WORDS)


@pytest.fixture(params=["web", "gateway"])
def base(request: pytest.FixtureRequest, site: Site, gateway: Gateway) -> str:
    return site.url if request.param == "web" else gateway.url


def client(base: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)


async def post(url: str, key: str, body: Any) -> tuple[int, Any, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as http, http.post(url, data=data, headers=headers) as response:
        raw = await response.read()
        return response.status, json.loads(raw) if raw[:1] == b"{" else raw, response.headers


def test_official_client_on_every_path(base: str, site: Site, case: Callable[..., Case]) -> None:
    good = case("good", served_model="")
    api = client(base, site.person("viewer")["key"])
    assert good.model in [model.id for model in api.models.list()]
    assert api.models.retrieve(good.model).id == good.model
    stream = api.chat.completions.create(model=good.model, stream=True, messages=ASK["messages"])
    assert [part.choices[0].delta.content for part in stream if part.choices[0].delta.content] == WORDS
    assert api.chat.completions.create(model=good.model, messages=ASK["messages"]).choices[0].message.content == TEXT
    assert api.completions.create(model=good.model, prompt="Once").choices[0].text == "once"
    found = api.embeddings.create(model=good.model, input="a", encoding_format="float").data[0].embedding
    assert found == [0.5, 1e-7]
    assert site.history(good.service_id) == [], "/v1 stores no prompts"
    rows = site.used(service_id=good.service_id, least=4)
    assert [(r["path"], r["prompt_tokens"], r["completion_tokens"], r["estimated"]) for r in rows] == [
        ("chat", 0, len(WORDS), True),
        ("chat", 0, 0, True),
        ("completions", 2, 1, False),
        ("embeddings", 3, 0, False),
    ]
    assert {r["outcome"] for r in rows} == {"complete"} and rows[0]["first_token_ms"] is not None
    assert (rows[0]["user_name"], rows[0]["key_name"], rows[0]["model"]) == ("viewer", "test", "listed-model")


async def test_rerank_and_what_an_upstream_lacks(base: str, site: Site, case: Callable[..., Case]) -> None:
    good, key = case("good"), site.person("viewer")["key"]
    asked = {"model": good.model, "query": "q", "documents": ["a", "b"]}
    status, answer, _ = await post(f"{base}/v1/rerank", key, asked)
    assert (status, answer["results"][0]["index"]) == (200, 1)
    status, answer, _ = await post(f"{base}/v1/rerank", key, {**asked, "model": case("lacks").model})
    assert (status, answer["error"]["code"]) == (404, "not_offered")


async def test_bytes_pass_untouched_but_for_what_must_differ(base: str, site: Site, case: Callable[..., Case]) -> None:
    served = f"served-{time.monotonic_ns()}"
    good, key = case("good", served_model=served), site.person("viewer")["key"]
    rich = (
        b'{"model": "%s", "messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,x"}}]}],'
        b' "tools":[{"type":"function","function":{"name":"f"}}],"n":2, "logprobs":true, "x": {"deep":[1.50, 1e-9]},'
        b'"response_format":{"type":"json_object"}%s}'
    )
    raw = rich % (served.encode(), b"")
    assert (await post(f"{base}/v1/chat/completions", key, raw))[0] == 200
    assert good.seen.bodies[0] == raw
    streamed = rich % (served.encode(), b', "stream": true')
    assert (await post(f"{base}/v1/chat/completions", key, streamed))[0] == 200
    assert good.seen.bodies[1] == streamed[:-1] + b', "stream_options": {"include_usage": true}}'
    renamed = rich % (good.model.encode(), b"")
    assert (await post(f"{base}/v1/chat/completions", key, renamed))[0] == 200
    assert json.loads(good.seen.bodies[2]) == json.loads(raw)


async def test_usage_in_the_stream_is_for_who_asked(base: str, site: Site, case: Callable[..., Case]) -> None:
    counted, key = case("counted"), site.person("viewer")["key"]
    asked = {**ASK, "model": counted.model, "stream": True, "max_tokens": 3}
    _, hidden, _ = await post(f"{base}/v1/chat/completions", key, asked)
    assert b'"usage"' not in hidden and hidden.endswith(b"data: [DONE]\n\n") and hidden.count(b'"w"') == 3
    _, shown, _ = await post(f"{base}/v1/chat/completions", key, {**asked, "stream_options": {"include_usage": True}})
    assert b'"usage": {"prompt_tokens": 7' in shown
    rows = site.used(service_id=counted.service_id, least=2)
    assert {(r["prompt_tokens"], r["completion_tokens"], r["estimated"]) for r in rows} == {(7, 3, False)}


async def test_what_is_refused_and_how(base: str, site: Site, case: Callable[..., Case]) -> None:
    good, key = case("good"), site.person("viewer")["key"]
    url = f"{base}/v1/chat/completions"
    ask = {**ASK, "model": good.model}
    tries: list[tuple[str, str, Any, int, str]] = [
        (url, "", ask, 401, "not_authenticated"),
        (url, "inf_wrong", ask, 401, "invalid_api_key"),
        (url, site.person("nobody")["key"], ask, 403, "permission_denied"),
        (url, key, ASK, 400, "model_missing"),
        (url, key, {**ask, "model": "no such"}, 404, "model_not_found"),
        (url, key, b"{", 400, "invalid_json"),
        (url, key, {**ask, "stream_options": 1}, 400, "invalid_value"),
        (f"{base}/v1/completions", key, {"model": good.model}, 400, "invalid_value"),
        (f"{base}/v1/embeddings", key, {"model": good.model, "input": "a", "stream": True}, 400, "invalid_value"),
        (f"{base}/v1/rerank", key, {"model": good.model, "query": "a", "documents": []}, 400, "invalid_value"),
        (f"{base}/v1/audio/speech", key, ask, 404, "not_found"),
        (f"{base}/v1/models", key, ask, 405, "method_not_allowed"),
        (url, key, b" " * 1_000_001, 413, "request_too_large"),
    ]
    for where, who, body, wanted, code in tries:
        status, answer, _ = await post(where, who, body)
        assert (status, answer.get("error", {}).get("code")) == (wanted, code), (where, body, answer)
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    site.do("stop", service_id=good.service_id)
    deadline = time.monotonic() + 1.0
    while (await post(url, key, ask))[0] == 200:
        assert time.monotonic() < deadline
    status, answer, headers = await post(url, key, ask)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "service_not_ready", "5")
    assert "stopped" in answer["error"]["message"]


async def test_what_several_serve_under_one_name_is_shared(base: str, site: Site, case: Callable[..., Case]) -> None:
    served = f"shared-{time.monotonic_ns()}"
    both, key = [case("waits", served_model=served) for _ in range(2)], site.person("viewer")["key"]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        ask = {**ASK, "model": served, "stream": True}
        responses = [await http.post(f"{base}/v1/chat/completions", json=ask) for _ in range(4)]
        assert [len(one.seen.bodies) for one in both] == [2, 2]
        for one in both:
            one.seen.go_on.set()
        for response in responses:
            assert (await response.read()).endswith(b"[DONE]\n\n")


async def test_an_endpoint_elsewhere(base: str, site: Site, upstream: Any) -> None:
    name = f"elsewhere-{time.monotonic_ns()}"
    address = f"http://127.0.0.1:{upstream.port}/good/{name}/v1"
    site.do("endpoint", name=name, base_url=address, key="sk-theirs", served_model="theirs")
    key = site.person("viewer")["key"]
    assert (await post(f"{base}/v1/chat/completions", key, {**ASK, "model": name}))[0] == 200
    seen = upstream.seen[name]
    assert json.loads(seen.bodies[0])["model"] == "theirs"
    assert seen.headers[0]["authorization"] == "Bearer sk-theirs"
    site.do("endpoint", name=f"{name}-r", base_url=address.replace("/good/", "/redirect/"), key="", served_model="")
    status, answer, _ = await post(f"{base}/v1/chat/completions", key, {**ASK, "model": f"{name}-r"})
    assert (status, answer["error"]["code"]) == (502, "bad_upstream_answer")
    assert not upstream.seen["redirected"].bodies


async def test_announced_too_large_is_refused_before_it_is_sent(gateway: Gateway, site: Site) -> None:
    """Under uvicorn: the answer comes although not a byte of the body was sent."""
    import asyncio

    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    key = site.person("viewer")["key"]
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", "Content-Length: 2000000"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_refusals_come_in_the_callers_language_with_the_same_code(base: str, site: Site) -> None:
    body: dict[str, Any] = {"model": "none-of-that", **ASK}

    async def refused(language: str = "") -> dict[str, str]:
        headers = site.bearer() | ({"Accept-Language": language} if language else {})
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{base}/v1/chat/completions", json=body) as response,
        ):
            return (await response.json())["error"]

    plain, chinese = await refused(), await refused("zh-CN,zh;q=0.9")
    assert plain["message"] == "There is no model 'none-of-that'. GET /v1/models lists them."
    assert plain["code"] == chinese["code"] == "model_not_found"
    assert chinese["message"] == "没有模型 'none-of-that'；可用 GET /v1/models 查看。"
    body["messages"] = []
    assert (await refused("zh-CN"))["message"] == "messages 必须是列表，且至少有一条消息。"
    assert (await refused("*"))["message"] == "messages must be a list with at least one message."
