"""What was used: equal to the model server's own count, also when clients leave; stored in bulk, summed by day."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from django.db import Error as AnyDatabaseError
from django.test import Client
from rest_framework.test import APIClient

from chat import book as book_module
from chat import usage
from chat.book import Book
from chat.models import Usage, UsageDay
from infini.keys import create_key
from infini.models import User
from tests.admin.conftest import count_queries
from tests.chat.conftest import Case
from tests.chat.site import Gateway, Site

REQUESTS = 1000
AT_ONCE = 32


@pytest.mark.live
async def test_a_thousand_mixed_requests_add_up(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    """Streams, whole answers, and streams left in the middle: not a token more or less than the model server sent."""
    counted, key = case("counted"), site.person("viewer")["key"]
    dice = random.Random(7)
    left = 0

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal left
        words = dice.randrange(1, 12)
        body: dict[str, Any] = {"model": counted.model, "messages": [{"role": "user", "content": "Hi"}]}
        body |= {"max_tokens": words, "stream": number % 3 > 0}
        if number % 10 == 1:
            body |= {"stream": True, "user": "leaves"}
        response = await http.post(f"{gateway.url}/v1/chat/completions", json=body)
        assert response.status == 200
        if body.get("user"):
            left += 1
            seen = b""
            while seen.count(b'"w"') < words:
                seen += await response.content.readany()
            response.close()
        else:
            await response.read()

    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, connector=connector) as http:
        for begin in range(0, REQUESTS, AT_ONCE):
            await asyncio.gather(*(one(http, n) for n in range(begin, min(begin + AT_ONCE, REQUESTS))))
    rows = site.used(service_id=counted.service_id, least=REQUESTS)
    assert len(rows) == REQUESTS == len(counted.seen.bodies)
    assert sum(row["completion_tokens"] for row in rows) == counted.seen.completion_tokens
    ended = [row for row in rows if row["outcome"] == "complete"]
    assert len(ended) == REQUESTS - left and {row["prompt_tokens"] for row in ended} == {7}
    assert not any(row["estimated"] for row in ended)
    gone = [row for row in rows if row["outcome"] == "cancelled"]
    assert len(gone) == left == 100 and all(row["estimated"] for row in gone)
    days = site.do("used_by_day", service_id=counted.service_id)
    assert days["completion_tokens"] == counted.seen.completion_tokens
    assert (days["requests"], days["cancelled"], days["estimated"], days["failed"]) == (REQUESTS, left, left, 0)


@pytest.mark.live
async def test_failures_are_counted_as_what_they_are(site: Site, gateway: Gateway, case: Callable[..., Case]) -> None:
    wanted = {"refuses": "refused", "html": "failed", "cut": "failed", "error_in_the_middle": "failed"}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {site.person('viewer')['key']}"}) as http:
        for behaviour, outcome in wanted.items():
            bad = case(behaviour)
            body = {"model": bad.model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                await response.read()
            rows = await asyncio.to_thread(site.used, service_id=bad.service_id)
            assert [row["outcome"] for row in rows] == [outcome], behaviour


def entry(**columns: Any) -> usage.Entry:
    blank = dict.fromkeys(usage.Entry._fields, "") | {"key_id": 0, "service_id": 0, "endpoint_id": 0, "duration_ms": 0}
    blank |= {"streamed": False, "estimated": False, "first_token_ms": None}
    given = {"at": datetime(2026, 3, 4, 5, tzinfo=UTC), "user_id": 1, "user_name": "ann", "model": "m", "path": "chat"}
    return usage.Entry(
        **{**blank, **given, "prompt_tokens": 10, "completion_tokens": 5, "outcome": "complete", **columns}
    )


@pytest.mark.django_db
def test_days_are_summed_with_the_rows() -> None:
    late = datetime(2026, 3, 5, tzinfo=UTC)
    usage.store([entry(), entry(first_token_ms=30), entry(user_id=2, user_name="bob", outcome="failed")])
    usage.store([entry(at=late, outcome="cancelled", estimated=True), entry(first_token_ms=10, user_name="Ann")])
    assert Usage.objects.count() == 5
    days = UsageDay.objects.order_by("day", "user_id").values_list("day", "user_name", "requests", "prompt_tokens")
    assert list(days) == [
        (date(2026, 3, 4), "Ann", 3, 30),
        (date(2026, 3, 4), "bob", 1, 10),
        (date(2026, 3, 5), "ann", 1, 10),
    ]
    [ann, bob] = usage.summed_by("user", first=date(2026, 3, 4), last=date(2026, 3, 4))
    assert (ann["requests"], ann["mean_first_token_ms"], bob["failed"], bob["mean_first_token_ms"]) == (3, 20, 1, None)


@pytest.mark.django_db
def test_a_database_that_refuses_loses_nothing_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()
    monkeypatch.setattr(book_module, "ENTRIES_MOST", 3)
    for number in range(5):
        book.ended(None, entry(key_id=9, user_id=number, at=datetime.now(UTC)))  # type: ignore[arg-type]
    assert book.unstored_tokens(9) == 45
    with monkeypatch.context() as broken:
        broken.setattr(usage, "store", lambda entries: (_ for _ in ()).throw(AnyDatabaseError("locked")))
        book.store()
    assert not Usage.objects.exists()
    assert book.store()[9] == 45
    assert Usage.objects.count() == 3


@pytest.mark.django_db
def test_old_requests_go_and_sums_stay() -> None:
    now = datetime.now(UTC)
    usage.store([entry(at=now - timedelta(days=10)), entry(at=now)])
    assert usage.prune(9) == 1
    assert Usage.objects.count() == 1 and UsageDay.objects.count() == 2


def test_the_api_tells_own_usage_or_all(
    viewer: User, operator: User, api_as: Callable[[User | None], APIClient]
) -> None:
    today = datetime.now(UTC)
    ours, theirs = (
        entry(at=today, user_id=user.pk, user_name=name) for user, name in ((viewer, "viewer"), (operator, "=x()"))
    )
    usage.store([ours, theirs])
    own, everybody = api_as(viewer), api_as(operator)
    assert [row["user_name"] for row in own.get("/api/usage?by=user").json()] == ["viewer"]
    assert len(everybody.get("/api/usage?by=user").json()) == 2
    [row] = everybody.get("/api/usage").json()
    assert (row["model"], row["requests"], row["total_tokens"]) == ("m", 2, 30)
    told = everybody.get("/api/usage?by=user&format=csv")
    text = b"".join(told.streaming_content).decode()  # type: ignore[attr-defined]
    assert told["Content-Type"].startswith("text/csv") and "user_name,requests" in text and "'=x()" in text
    empty = b"".join(own.get("/api/usage?by=day&format=csv&to=2026-01-02&from=2026-01-01").streaming_content)  # type: ignore[attr-defined]
    assert empty.decode().startswith("day,requests,") and empty.count(b"\r\n") == 1, (
        "its columns are known all the same"
    )
    for query in ("by=nothing", "from=yesterday", "from=2026-02-02&to=2026-01-01"):
        assert everybody.get(f"/api/usage?{query}").status_code == 400


def test_the_page_shows_sums_and_counts_no_queries_per_row(viewer: User, operator: User) -> None:
    today = datetime.now(UTC)
    usage.store([entry(at=today, user_id=viewer.pk, user_name="viewer", key_id=3, key_name="laptop")])
    browser = Client()
    browser.force_login(operator)
    page = browser.get("/admin/chat/usage/?by=key").content.decode()
    assert "laptop (viewer)" in page and "<svg" in page and "REDIS_URL" in page
    before = count_queries(browser, "/admin/chat/usage/")
    usage.store([entry(at=today, user_id=n, model=f"m{n}", user_name=f"u{n}") for n in range(30)])
    assert count_queries(browser, "/admin/chat/usage/") == before
    mine = Client()
    mine.force_login(viewer)
    assert ">u7<" not in mine.get("/admin/chat/usage/?by=user").content.decode()
    assert browser.get("/admin/chat/usage/?csv=1")["Content-Type"].startswith("text/csv")
    assert browser.get("/admin/chat/usage/?by=x").status_code == 400


def test_a_key_for_models_opens_no_api(viewer: User) -> None:
    client = APIClient()
    for scopes, method, status in (
        ({"use": "models"}, "get", 403),
        ({"use": "read"}, "get", 200),
        ({"use": "read"}, "post", 403),
    ):
        _key, text = create_key(user=viewer, name="k", by=None, scopes=scopes)
        answer = getattr(client, method)("/api/services", headers={"Authorization": f"Bearer {text}"})
        assert answer.status_code == status, scopes
