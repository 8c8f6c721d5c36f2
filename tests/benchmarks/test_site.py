"""The running site: deploying on many agents at once, and the first chunk through the proxy."""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.benchmarks.conftest import Table, p95
from tests.live.site import RealSite
from tests.real_agent import RealAgent, wait_until

pytestmark = pytest.mark.benchmark
AGENTS = 50
DEMO_MODEL = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    running = RealSite(tmp_path_factory.mktemp("site") / "data").start()
    yield running
    running.stop()


def deployed_after(site: RealSite, name: str, servers: list[int], command: str) -> tuple[int, float]:
    """The service's id, and how many seconds passed from asking until all its instances were ready."""
    began = time.perf_counter()
    body = {"name": name, "server_ids": servers, "deploy_command": command}
    service_id = site.json("POST", "/api/services", json=body)["id"]

    def ready() -> bool:
        status = site.json("GET", f"/api/services/{service_id}")["deploy_status"]
        assert status in ("deploying", "deployed"), site.json("GET", f"/api/services/{service_id}/deploy-log")
        return status == "deployed"

    wait_until(ready, 120)
    return service_id, time.perf_counter() - began


def gone(site: RealSite, service_id: int) -> None:
    site.json("DELETE", f"/api/services/{service_id}")
    wait_until(lambda: site.request("GET", f"/api/services/{service_id}").status_code == 404, 60)


def test_deploy_to_many_agents(site: RealSite, table: Table) -> None:
    """Deploying on 50 real agents at once"""
    with ExitStack() as stack:
        servers = []
        for number in range(AGENTS):
            agent = stack.enter_context(RealAgent())
            body = {"name": f"b{number}", "host_ip": "127.0.0.1", "agent_port": agent.port, "agent_token": agent.token}
            servers.append(site.json("POST", "/api/servers", json=body)["id"])
        ones, alls = [], []
        for number in range(3):
            service_id, seconds = deployed_after(site, f"one-{number}", servers[:1], "sleep 1000")
            ones.append(seconds)
            gone(site, service_id)
            service_id, seconds = deployed_after(site, f"all-{number}", servers, "sleep 1000")
            alls.append(seconds)
            gone(site, service_id)
        for server_id in servers:
            site.json("DELETE", f"/api/servers/{server_id}")
    one, many = statistics.median(ones), statistics.median(alls)
    table.add("50 agents, asked to ready", f"{many:.2f} s", f"1 agent {one:.2f} s", f"{2 * one + 1:.2f} s")
    assert many <= 2 * one + 1


def first_chunk_ms(session: requests.Session, url: str) -> float:
    """From sending the request to the first chunk with content."""
    body = {"messages": [{"role": "user", "content": "What is an agent?"}], "stream": True, "max_tokens": 8}
    began = time.perf_counter()
    with session.post(url, json=body, stream=True, timeout=30) as answer:
        assert answer.status_code == 200, answer.text
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                taken = (time.perf_counter() - began) * 1000
                break
        else:
            raise AssertionError("no content")
        for _ in answer.iter_lines():
            pass
    return taken


def test_first_chunk(site: RealSite, table: Table) -> None:
    """First chunk of a stream through the proxy"""
    local = next(s["id"] for s in site.json("GET", "/api/servers") if s["name"] == "local")
    command = f"exec {sys.executable} {DEMO_MODEL} --host {{host}} --port {{port}} --rate 0"
    service_id, _ = deployed_after(site, "stream", [local], command)
    port = site.json("GET", f"/api/services/{service_id}")["instances"][0]["port"]
    straight, through = [], []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {site.key()}"
        for _ in range(60):
            straight.append(first_chunk_ms(session, f"http://127.0.0.1:{port}/v1/chat/completions"))
            through.append(first_chunk_ms(session, f"{site.url}/api/services/{service_id}/chat/completions"))
    gone(site, service_id)
    added = statistics.median(through) - statistics.median(straight)
    table.add(
        "first chunk, median", f"{statistics.median(through):.1f} ms", f"direct {statistics.median(straight):.1f} ms"
    )
    table.add("added, median", f"{added:.1f} ms", "", "10 ms")
    table.add("first chunk, P95", f"{p95(through):.1f} ms", f"direct {p95(straight):.1f} ms")
    assert added <= 10
