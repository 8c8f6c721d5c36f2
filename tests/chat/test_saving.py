"""The answer's row while it is written, and after the process that wrote it died."""

import asyncio
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site, start_site
from tests.chat.upstream_script import WORDS, ScriptedUpstream

pytestmark = pytest.mark.live

STREAM = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
TEXT = "".join(WORDS)


async def test_the_answer_is_saved_as_it_arrives(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(waits.url, json=STREAM) as response:
        for _ in range(60):
            rows = await asyncio.to_thread(site.history, waits.service_id)
            if len(rows) == 2 and rows[1]["content"]:
                break
            await asyncio.sleep(0.05)
        assert (rows[1]["content"], rows[1]["state"]) == (WORDS[0], "streaming")
        waits.seen.go_on.set()
        await response.read()
    rows = site.history(waits.service_id)
    assert (rows[1]["content"], rows[1]["state"], rows[1]["reason"]) == (WORDS[0] + TEXT, "complete", "")


async def test_clearing_while_an_answer_is_written_leaves_nothing(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(waits.url, json=STREAM) as response:
        while not site.history(waits.service_id):
            await asyncio.sleep(0.02)
        async with http.delete(f"{site.url}/api/services/{waits.service_id}/chat") as cleared:
            assert cleared.status == 204
        waits.seen.go_on.set()
        assert (await response.read()).endswith(b"[DONE]\n\n")
    assert site.history(waits.service_id) == []


async def test_text_no_database_takes_is_kept_without_it(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    raw = b'{"messages": [{"role": "user", "content": "a\\ud800b\\u0000c"}], "stream": true}'
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(good.url, data=raw) as response:
        assert response.status == 200
        await response.read()
    rows = site.history(good.service_id)
    assert [row["content"] for row in rows] == ["a?bc", TEXT]


async def test_a_database_that_refuses_does_not_break_the_stream(site: Site, case: Callable[..., Case]) -> None:
    """The tables are locked by somebody else for the whole stream; afterwards the whole answer is there."""
    good = case("waits")
    database = sqlite3.connect(Path(site.environment["INFINI_DATA_DIR"]) / "infini.sqlite3", isolation_level=None)
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(good.url, json=STREAM) as response:
        database.execute("BEGIN IMMEDIATE")
        good.seen.go_on.set()
        assert (await asyncio.wait_for(response.read(), 5)).endswith(b"[DONE]\n\n")
        database.execute("ROLLBACK")
    database.close()
    for _ in range(100):
        rows = await asyncio.to_thread(site.history, good.service_id)
        if len(rows) == 2 and rows[1]["state"] == "complete":
            break
        await asyncio.sleep(0.05)
    assert rows[1]["content"] == WORDS[0] + TEXT


async def test_an_orphan_is_shown_as_failed(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    async with aiohttp.ClientSession(headers=site.bearer()) as http, http.post(good.url, json=STREAM) as response:
        await response.read()
    site.do("orphan", service_id=good.service_id)
    row = site.history(good.service_id)[1]
    assert row["state"] == "failed"
    assert "site was stopped" in row["reason"]


async def test_sigterm_in_mid_stream_leaves_a_row_that_ends(site: Site, upstream: ScriptedUpstream) -> None:
    """daphne runs no ``finally`` at its end: what is left is an orphan, or already ended."""
    second = start_site(Path(site.environment["INFINI_DATA_DIR"]), migrate=False)
    try:
        service_id = site.service([upstream.port], "/endless/sigterm/v1")
        async with aiohttp.ClientSession(headers=site.bearer()) as http:
            response = await http.post(second.completions(service_id), json=STREAM)
            while not site.history(service_id):
                await asyncio.sleep(0.02)
            second.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.process.wait, 10) is not None
            assert await asyncio.to_thread(upstream.seen["sigterm"].closed.wait, 5)
            response.close()
        site.do("orphan", service_id=service_id)
        assert site.do("states", name="viewer", service_id=service_id) == ["complete", "failed"]
        [row] = site.used(service_id=service_id)
        assert row["outcome"] == "cancelled" and row["completion_tokens"] > 0, "stored as the process ended"
    finally:
        second.end()
