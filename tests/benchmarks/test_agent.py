"""What an agent and its shims cost."""

import http.server
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.benchmarks.conftest import Table, milliseconds, p95
from tests.real_agent import RealAgent, wait_until

pytestmark = pytest.mark.benchmark
INSTANCES = 50


def test_report_and_memory(table: Table) -> None:
    """Agent with 50 instances"""
    with RealAgent() as agent, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {agent.token}"
        starts = []
        for number in range(INSTANCES):
            body = {"command": "sleep 1000", "generation": 1}
            starts += milliseconds_of_start(session, f"{agent.url}/service/bench-{number}/deploy", body)
        wait_until(lambda: all(s["ready"] for s in session.get(f"{agent.url}/services").json()["services"]))
        report = milliseconds(lambda: session.get(f"{agent.url}/report"), 100)
        bare = bare_server_milliseconds()
        agent_mb = psutil.Process(agent.pid).memory_info().rss / 1e6
        shims = [private_mb(pid) for pid in shim_pids(agent)]

    table.add("GET /report, median", f"{statistics.median(report):.1f} ms", f"bare http.server {bare:.1f} ms", "50 ms")
    table.add("GET /report, P95", f"{p95(report):.1f} ms")
    table.add("start of one, median", f"{statistics.median(starts):.1f} ms", f"fork+exec {spawn_ms():.1f} ms")
    table.add("agent, resident", f"{agent_mb:.1f} MB", f"idle python3 {idle_python_mb():.1f} MB", "40 MB")
    table.add("shim, private, median", f"{statistics.median(shims):.2f} MB", "", "5 MB")
    assert statistics.median(report) < 50
    assert agent_mb < 40
    assert len(shims) == INSTANCES and max(shims) < 5


def milliseconds_of_start(session: requests.Session, url: str, body: dict) -> list[float]:
    began = time.perf_counter()
    answer = session.post(url, json=body)
    assert answer.status_code in (200, 201), answer.text
    return [(time.perf_counter() - began) * 1000]


def shim_pids(agent: RealAgent) -> list[int]:
    """Parents of the instances' processes."""
    services = agent.request("GET", "/services")[1]["services"]
    return [psutil.Process(service["pid"]).ppid() for service in services]


def private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def bare_server_milliseconds() -> float:
    """The same client against the least an HTTP server of the standard library can do."""

    class Bare(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare) as server, requests.Session() as session:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        taken = milliseconds(lambda: session.get(f"http://127.0.0.1:{server.server_port}/"), 100)
        server.shutdown()
    return statistics.median(taken)


def spawn_ms() -> float:
    return statistics.median(milliseconds(lambda: subprocess.run(["true"], check=True), 20))


def idle_python_mb() -> float:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        memory = psutil.Process(process.pid).memory_info().rss
        process.communicate(b"\n")
    return memory / 1e6
