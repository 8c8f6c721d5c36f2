"""What the gateway refuses, in its order: credentials, role, method, service, size, body."""

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import LIMITS, Site

pytestmark = pytest.mark.live

ASK = {"messages": [{"role": "user", "content": "Hi"}]}


async def send(url: str, method: str = "POST", **given: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, error and headers."""
    async with aiohttp.ClientSession() as http, http.request(method, url, allow_redirects=False, **given) as response:
        body = await response.read()
        return response.status, json.loads(body).get("error", {}) if body else {}, response.headers


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer inf_wrong"}, {"Authorization": "Bearer \xff"}])
async def test_no_credentials_is_401_before_all_else(site: Site, headers: dict[str, str]) -> None:
    for url in (site.completions(999_999), site.completions(1) + "/"):
        status, error, sent = await send(url, data=b"{", headers=headers)
        assert status == 401
        assert set(error) == {"message", "type", "param", "code"}
        assert sent["WWW-Authenticate"] == "Bearer"


async def test_a_role_too_low_is_403_and_viewers_may_chat(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    assert (await send(good.url, json=ASK, headers=site.bearer("nobody")))[0] == 403
    for role in ("viewer", "operator", "administrator"):
        assert (await send(good.url, json=ASK, headers=site.bearer(role)))[0] == 200


async def test_an_unknown_service_is_404(site: Site) -> None:
    status, error, _ = await send(site.completions(999_999), json=ASK, headers=site.bearer())
    assert (status, error["code"]) == (404, "service_not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_405(site: Site, method: str) -> None:
    for slash in ("", "/"):
        status, error, headers = await send(site.completions(1) + slash, method, headers=site.bearer())
        assert (status, error["code"], headers["Allow"]) == (405, "method_not_allowed", "POST")


BAD = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"\xff\xfe{}", None),
    (b'{"messages": [{"role": "user", "content": NaN}]}', None),
    (b"[" * 100_000, None),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({**ASK, "stream": "yes"}, "stream"),
    ({**ASK, "model": 7}, "model"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
async def test_a_bad_body_is_400_and_stores_nothing(
    site: Site, case: Callable[..., Case], body: Any, param: str | None
) -> None:
    good = case("good")
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, error, _ = await send(good.url, data=data, headers=site.bearer())
    assert (status, error["param"]) == (400, param)
    assert good.seen.bodies == []
    assert site.history(good.service_id) == []


@pytest.mark.parametrize("chunked", [True, False])
async def test_too_large_is_413(site: Site, case: Callable[..., Case], chunked: bool) -> None:
    large = json.dumps({**ASK, "pad": "x" * int(LIMITS["INFINI_REQUEST_MAX_BYTES"])}).encode()

    async def pieces() -> Any:
        for begin in range(0, len(large), 65536):
            yield large[begin : begin + 65536]

    status, error, _ = await send(case("good").url, data=pieces() if chunked else large, headers=site.bearer())
    assert (status, error["code"]) == (413, "request_too_large")


async def token_of(site: Site, http: aiohttp.ClientSession) -> str:
    async with http.get(f"{site.url}/admin/login/") as response:
        assert response.status == 200 or response.status == 302
    jar = http.cookie_jar.filter_cookies(response.url.origin())
    return jar[f"infini_csrf_{site.port}"].value


async def test_a_session_needs_its_token_and_the_same_origin(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        token = await token_of(site, http)
        jar.update_cookies(site.session_cookie(), aiohttp.client.URL(site.url))
        right = {"X-CSRFToken": token}
        tries = [
            ({}, 403),
            ({"X-CSRFToken": "x" * 32}, 403),
            ({**right, "Origin": "http://evil.example"}, 403),
            ({**right, "Origin": site.url}, 200),
            (right, 200),
        ]
        for headers, wanted in tries:
            async with http.post(good.url, json=ASK, headers=headers) as response:
                assert response.status == wanted, (headers, await response.text())
                assert wanted == 200 or (await response.json())["error"]["code"] == "csrf_failed"
        form = aiohttp.FormData({"csrfmiddlewaretoken": token})
        async with http.post(good.url, data=form) as response:
            assert response.status == 403


async def test_a_key_that_is_wrong_is_not_saved_by_a_session(site: Site) -> None:
    headers = {"Authorization": "Bearer inf_wrong"}
    status, _, _ = await send(site.completions(1), json=ASK, headers=headers, cookies=site.session_cookie())
    assert status == 401


async def test_a_socket_to_nowhere_is_refused(site: Site) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(f"{site.url}/ws/nowhere")
    assert caught.value.status == 403
