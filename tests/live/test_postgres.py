"""The site on a real PostgreSQL: tests that lean most on the database, a deployment, every list, events in order."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.live.site import ROOT, RealSite
from tests.live.test_journey import SERVE, client_of, settled
from tests.real_agent import wait_until
from tests.real_postgres import RealPostgres, program

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not program("postgres") and "INFINI_CI" not in os.environ, reason="PostgreSQL's server is not installed"
    ),
]
# SQL of our own, claims, conditional updates, two at once; one of them looks at SQLite's plans.
HEAVIEST = (
    *("tests/infini/test_off_loop.py", "tests/infini/test_bulk.py", "tests/inventory/test_fleet_history.py"),
    *("tests/inventory/test_devices.py", "tests/scheduler/test_firing.py", "tests/deployments/test_reports.py"),
    "tests/deployments/test_steps.py",
)
ONLY_SQLITE = "not uses_the_index"


@pytest.fixture(scope="module")
def postgres() -> Iterator[RealPostgres]:
    running = RealPostgres()
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module")
def site(postgres: RealPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    running = RealSite(tmp_path_factory.mktemp("site") / "data", DATABASE_URL=postgres.url).start()
    try:
        yield running
    finally:
        running.stop()


def test_what_leans_most_on_the_database(postgres: RealPostgres) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", ONLY_SQLITE, *HEAVIEST]
    outer = ("PYTEST_", "INFINI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    done = subprocess.run(
        argv, cwd=ROOT, env=env | {"DATABASE_URL": postgres.url}, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_service_is_deployed_and_talks(site: RealSite) -> None:
    [local] = site.json("GET", "/api/servers")
    wanted = {"name": "talks", "server_ids": [local["id"]], "deploy_command": SERVE}
    service = settled(site, site.json("POST", "/api/services", json=wanted)["id"])
    assert (service["deploy_status"], service["ready"]) == ("deployed", "1/1")
    question = [{"role": "user", "content": "What is an agent?"}]
    answer = client_of(site, service).chat.completions.create(model="talks", messages=question, max_tokens=20)
    assert answer.choices[0].message.content
    wait_until(lambda: site.json("GET", "/api/usage"), 10, "the request is metered")


def test_every_list_answers(site: RealSite) -> None:
    argv = [sys.executable, "-m", "tests.benchmarks.lists"]
    done = subprocess.run(argv, cwd=ROOT, env=site.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads(done.stdout)) > 50


INSERT = (
    "INSERT INTO infini_event (at, actor_name, address, kind, subject_kind, subject_id, subject_name, data) "
    "VALUES (now(), '', '', %s, 'server', '1', 'order', '{}') RETURNING id"
)


def _written(connection: psycopg.Connection, kind: str) -> int:
    row = connection.execute(INSERT, [kind]).fetchone()
    assert row is not None
    return int(row[0])


async def _follow(site: RealSite, postgres: RealPostgres) -> tuple[list[int], list[str]]:
    """The ids of two events, the second committed first, and the kinds as a reader was told them."""
    headers, url = {"Authorization": f"Bearer {site.key()}"}, site.url.replace("http", "ws", 1) + "/ws/events"
    told: list[str] = []
    async with aiohttp.ClientSession(headers=headers) as client, client.ws_connect(url) as socket:
        await socket.receive_json(timeout=10)
        with postgres.connect() as slow, postgres.connect() as quick, slow.transaction():
            ids = [_written(slow, "slow.event"), _written(quick, "quick.event")]
            # The reader has come upon the second one: he waits for the lock that the first one's writer shares.
            await asyncio.to_thread(wait_until, lambda: _waiting(quick), 10, "the reader waits")
        while len(told) < 2:
            frame = await socket.receive_json(timeout=10)
            told += [event["kind"] for event in frame.get("events", []) if event["subject"]["name"] == "order"]
    return ids, told


def _waiting(connection: psycopg.Connection) -> Any:
    return connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()


def test_a_reader_misses_no_event_that_is_committed_late(site: RealSite, postgres: RealPostgres) -> None:
    ids, told = asyncio.run(_follow(site, postgres))
    assert ids == sorted(ids)
    assert told == ["slow.event", "quick.event"]
