"""The gateway process beside its upstream asked directly, nginx where it is installed, and peers when given.

``BENCH_PEERS`` names a directory with the peers' own benchmark (its ``peers.py up gateway`` has started them): its load
client and model server are then used for all, and its targets measured in the same rounds. Without it a small load
client and model server of our own do. CPU is the gateway's own: it is what a neighbour's noise moves least.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.benchmarks.conftest import Table, milliseconds
from tests.benchmarks.loads import Figures, measure
from tests.chat.site import Gateway, Site, start_gateway, start_site

pytestmark = pytest.mark.benchmark

LOADS = Path(__file__).with_name("loads.py")
SECONDS = float(os.environ.get("BENCH_SECONDS", "2"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CHUNKS = 50
# The tests' sites give up after a second; here a busy machine is no failure.
PATIENT = {
    "INFINI_STREAM_MAX_BYTES": "10000000",
    "INFINI_UPSTREAM_CONNECT_TIMEOUT_SECONDS": "30",
    "INFINI_UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS": "300",
    "INFINI_UPSTREAM_IDLE_TIMEOUT_SECONDS": "120",
}
UNLIMITED = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**11,
    "concurrency": 10**6,
    "tokens_per_month": 10**12,
}


@dataclass
class Server:
    """Something measured: where it answers, with which key, and whose CPU counts."""

    name: str
    url: str
    key: str
    pid: int


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """A fast model server of one process: the address below which OpenAI's paths begin."""
    process = subprocess.Popen([sys.executable, str(LOADS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = start_site(tmp_path_factory.mktemp("site"), **PATIENT)
    yield running
    running.end()


@pytest.fixture(scope="module")
def gateway(site: Site) -> Iterator[Gateway]:
    running = start_gateway(site, **PATIENT)
    yield running
    running.end()


@pytest.fixture(scope="module")
def nginx(upstream: str) -> Iterator[Server | None]:
    if shutil.which("nginx") is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = Path(tempfile.mkdtemp(prefix="infini-nginx-"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {home}/{kind};" for kind in kinds)
    (home / "conf").write_text(
        f"worker_processes 1; daemon off; pid {home}/pid; error_log {home}/log; events {{ worker_connections 4096; }}"
        f"http {{ access_log off; {paths} keepalive_requests 1000000; upstream model {{ server {upstream[7:]};"
        f" keepalive 512; keepalive_requests 1000000; }} server {{ listen 127.0.0.1:{port} backlog=2048; location / {{"
        ' proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }'
    )
    process = subprocess.Popen(["nginx", "-c", str(home / "conf"), "-e", str(home / "log")])
    time.sleep(0.3)
    yield Server("nginx", f"http://127.0.0.1:{port}/v1", "none", process.pid)
    process.terminate()
    process.wait(10)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def servers(upstream: str, site: Site, gateway: Gateway, nginx: Server | None) -> list[Server]:
    site.person("viewer")
    site.service([int(upstream.rsplit(":", 1)[1])], "/v1", "bench", name="bench")
    key = site.do("key", owner="viewer", limits=UNLIMITED)
    found = [
        Server("direct", f"{upstream}/v1", "none", 0),
        Server("gateway", f"{gateway.url}/v1", key, gateway.process.pid),
        Server("web (daphne)", f"{site.url}/v1", key, site.process.pid),
    ]
    return found + ([nginx] if nginx else [])


def rounds(servers: list[Server], **load: Any) -> dict[str, list[Figures]]:
    """Each server once a round, in turn; one short run before does not count."""
    figures: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for server in servers:
        measure(server.url, server.key, server.pid, **{**load, "seconds": 0.3})
    for _ in range(ROUNDS):
        for server in servers:
            figures[server.name].append(measure(server.url, server.key, server.pid, **load))
    for name, found in figures.items():
        assert not any(one.wrong for one in found), (name, [one.wrong for one in found])
    return figures


def middle(found: list[Figures], name: str) -> float:
    return statistics.median(getattr(one, name) for one in found)


def test_plain_requests(servers: list[Server], table: Table) -> None:
    """Plain requests at 32 connections, with keys, limits and metering"""
    figures = rounds(servers, at_once=32, stream=False, seconds=SECONDS)
    direct = middle(figures["direct"], "rate")
    for name, found in figures.items():
        rate = middle(found, "rate")
        table.add(f"{name}: requests/s", f"{rate:,.0f}", f"{rate / direct:.2f} of direct")
        if name != "direct":
            bar = "0.6 ms" if name == "gateway" else ""
            table.add(f"{name}: CPU a request", f"{middle(found, 'cpu_ms'):.3f} ms", "", bar)
    assert middle(figures["gateway"], "cpu_ms") < 0.6


@pytest.mark.parametrize("at_once", [32, 256])
def test_streams(servers: list[Server], table: Table, at_once: int) -> None:
    """Streams of 50 chunks without a pause"""
    table.title += f", {at_once} at once"
    figures = rounds(servers, at_once=at_once, stream=True, seconds=SECONDS)
    direct = middle(figures["direct"], "chunk_rate")
    for name, found in figures.items():
        rate = middle(found, "chunk_rate")
        bar = "0.5" if (name, at_once) == ("gateway", 256) else ""
        table.add(f"{name}: chunks/s", f"{rate:,.0f}", f"{rate / direct:.2f} of direct", bar)
        bar = "250 ms" if (name, at_once) == ("gateway", 256) else ""
        table.add(f"{name}: first chunk, P95", f"{middle(found, 'first_p95'):.1f} ms", "", bar)
        if name != "direct":
            bar = "20 us" if name == "gateway" else ""
            table.add(f"{name}: CPU a chunk", f"{middle(found, 'cpu_ms') * 1000 / CHUNKS:.1f} us", "", bar)
    assert middle(figures["gateway"], "cpu_ms") * 1000 / CHUNKS < 20
    if at_once == 256:
        assert middle(figures["gateway"], "chunk_rate") > 0.5 * direct
        assert middle(figures["gateway"], "first_p95") < 250


def test_paced_streams(servers: list[Server], table: Table) -> None:
    """Streams with 20 ms between chunks, 32 at once: what a person feels"""
    figures = rounds(servers, at_once=32, stream=True, gap_ms=20, seconds=SECONDS)
    direct = middle(figures["direct"], "first_p50")
    for name, found in figures.items():
        first = middle(found, "first_p50")
        bar = "5 ms" if name == "gateway" else ""
        table.add(f"{name}: first chunk, median", f"{first:.2f} ms", f"{first - direct:+.2f} ms to direct", bar)
    assert middle(figures["gateway"], "first_p50") - direct <= 5


def test_open_streams(site: Site, gateway: Gateway, servers: list[Server], table: Table) -> None:
    """1,000 streams open at once in one process"""
    ours = servers[1]
    process = psutil.Process(ours.pid)
    before = process.memory_info().rss
    highest = before

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, process.memory_info().rss)
            await asyncio.sleep(0.1)

    async def run() -> Figures:
        watcher = asyncio.create_task(watch())
        found = await asyncio.to_thread(
            measure, ours.url, ours.key, ours.pid, at_once=1000, stream=True, gap_ms=100, seconds=0.1
        )
        watcher.cancel()
        return found

    found = asyncio.run(run())
    table.add("streams complete and in order", f"{found.right:,} of {found.right + found.wrong:,}", "", "all of 1,000")
    table.add("memory each", f"{(highest - before) / 1000 / 1000:.1f} kB", "", "60 kB")
    assert found.right >= 1000 and not found.wrong
    assert (highest - before) / 1000 < 60_000


MILLION = """
INSERT INTO chat_usage (at, user_id, user_name, key_id, key_name, service_id, endpoint_id, service_name, instance,
  model, path, streamed, prompt_tokens, completion_tokens, estimated, first_token_ms, duration_ms, outcome)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999)
SELECT datetime('now', '-' || (i % 89) || ' days'), 1000 + i % 200, 'user', 1000 + i % 500, 'key', i % 50, 0, 'service',
  'x', 'm' || i % 50, 'chat', 1, 100, 50, 0, 80, 900, 'complete' FROM n
"""
SUMS = """
INSERT INTO chat_usageday (day, user_id, user_name, key_id, key_name, service_id, endpoint_id, service_name, model,
  requests, cancelled, failed, estimated, prompt_tokens, completion_tokens, first_token_ms, first_tokens,
  duration_ms)
SELECT date(at), user_id, 'user', key_id, 'key', service_id, 0, 'service', model, count(*), 0, 0, 0, sum(prompt_tokens),
  sum(completion_tokens), sum(first_token_ms), count(*), sum(duration_ms)
FROM chat_usage WHERE user_id >= 1000 GROUP BY 1, 2, 4, 6, 9
"""


def test_a_million_requests_listed(site: Site, table: Table) -> None:
    """The page of usage over a million requests"""
    database = sqlite3.connect(Path(site.environment["INFINI_DATA_DIR"]) / "infini.sqlite3")
    with database:
        database.execute(MILLION)
        database.execute(SUMS)
    database.close()
    session = requests.Session()
    session.headers.update(site.bearer("operator"))
    for query in ("by=model", "by=key", "by=user", "by=day"):
        taken = milliseconds(lambda query=query: session.get(f"{site.url}/api/usage?{query}", timeout=30), 10)
        table.add(f"/api/usage?{query}", f"{statistics.median(taken):.0f} ms", "", "200 ms")
        assert statistics.median(taken) < 200
    session.cookies.update(site.session_cookie("operator"))
    taken = milliseconds(lambda: session.get(f"{site.url}/admin/chat/usage/", timeout=30), 10)
    table.add("/admin/chat/usage/", f"{statistics.median(taken):.0f} ms", "", "200 ms")
    assert statistics.median(taken) < 200


PEERS = ("direct", "nginx", "vllm-router", "litellm", "gpustack")


def test_against_peers(tmp_path: Path, table: Table) -> None:
    """Beside the peers in their own benchmark, with the gateway among its targets; needs ``BENCH_PEERS``"""
    home = os.environ.get("BENCH_PEERS")
    run = Path(os.environ.get("BENCH_RUN") or f"{tempfile.gettempdir()}/bench-run")
    if not home or not (run / "gateways.json").exists():
        pytest.skip("BENCH_PEERS is not set, or no peer was started with its peers.py")
    told = json.loads((run / "gateways.json").read_text())
    site = start_site(tmp_path / "site")
    gateway = start_gateway(site, **PATIENT)
    try:
        if told.get("client_cpus"):
            psutil.Process(gateway.process.pid).cpu_affinity([1])
        site.person("viewer")
        site.service([int(re.findall(r":(\d+)", told["upstream"])[0])], "/v1", "bench", name="bench")
        key = site.do("key", owner="viewer", limits=UNLIMITED)
        found = bench_of_peers(home, run, f"{gateway.url}/v1,key={key},model=bench,pid={gateway.process.pid}")
    finally:
        gateway.end()
        site.end()
    for scenario, figures in found.items():
        for name in figures:
            wrong = sum(sum(one["errors"].values()) for one in figures[name])
            cells = [_cell(figures[name], key) for key in COLUMNS["stream" if "plain" not in scenario else "plain"]]
            table.add(f"{scenario}, {name}", "  ".join(cells), "", f"{wrong} wrong" if wrong else "")
        assert not any(one["errors"] for one in figures["infini"]), scenario
    rates = {name: _median(rounds, "rps") for name, rounds in found["plain c=32"].items()}
    for peer, times in (("gpustack", 5), ("litellm", 10)):
        if peer in rates:
            ours = rates["infini"] / rates[peer]
            table.add(f"requests/s at 32 connections, times {peer}'s", f"{ours:.1f}", "", f"{times}")
            assert ours >= times, rates


COLUMNS = {
    "plain": {"rps": "{:,.0f}/s", "p50": "p50 {:.2f} ms", "p99": "p99 {:.1f} ms", "cpu": "CPU {:.3f} ms"},
    "stream": {"chunk_rate": "{:,.0f} chunks/s", "ttfc50": "first {:.1f} ms", "ttfc95": "P95 {:.1f} ms"},
}


def bench_of_peers(home: str, run: Path, target: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Figures by scenario, by target, one of each round; the peers' directory is left as it is."""
    python = Path(os.environ.get("BENCH_VENVS") or f"{tempfile.gettempdir()}/bench-venvs") / "tools/bin/python"
    argv = [str(python), "gateway_bench.py", "--targets", str(run / "gateways.json"), "--target", f"infini={target}"]
    argv += ["--only", ",".join([*PEERS, "infini"]), "--rounds", str(ROUNDS), "--seconds", str(SECONDS)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "BENCH_RUN": str(run)}
    subprocess.run(argv, cwd=home, env=environment, check=True, timeout=900)
    newest = max((run / "results").glob("gateway-*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())["results"]


def _cell(rounds: list[dict[str, Any]], name: str) -> str:
    kind = next(columns for columns in COLUMNS.values() if name in columns)
    value = _median(rounds, name)
    return kind[name].format(value) if value is not None else "–"


def _median(rounds: list[dict[str, Any]], name: str) -> Any:
    if name == "cpu":
        rounds = [one.get("cpu_ms", {}) for one in rounds]
        name = "gateway"
    values = [one[name] for one in rounds if one.get(name) is not None]
    return statistics.median(values) if values else None
