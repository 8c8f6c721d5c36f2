"""The monitor over a large fleet: agents of one process, each on a loopback address of its own, over TLS."""

import datetime
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.benchmarks.conftest import Table
from tests.benchmarks.simulated_agents import address_of
from tests.benchmarks.test_lists import Web
from tests.live.site import ROOT, free_port
from tests.real_agent import wait_until

pytestmark = pytest.mark.benchmark
AGENTS, SILENT = 500, 50
ROUND_SECONDS = 5.0
WATCHED_SECONDS = 40.0
CHANGES = 12


def make_certificate(folder: Path) -> Path:
    """Key and self-signed certificate in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "infini-agent")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 2)
    )
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "agent.pem").write_bytes(secret + pem)
    (folder / "certificate.pem").write_bytes(pem)
    return folder / "agent.pem"


class SimulatedFleet:
    """The process of simulated_agents.py."""

    def __init__(self, agents: int, silent: int, folder: Path) -> None:
        self.port, self.certificate = free_port(), folder / "certificate.pem"
        pem = make_certificate(folder)
        argv = [sys.executable, "-m", "tests.benchmarks.simulated_agents"]
        self.process = subprocess.Popen(
            [*argv, str(agents), str(silent), str(self.port), str(pem)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line: str) -> dict[str, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SimulatedFleet]:
    running = SimulatedFleet(AGENTS + SILENT, SILENT, tmp_path)
    yield running
    running.close()


@pytest.fixture
def web(fleet: SimulatedFleet, tmp_path: Path) -> Iterator[Web]:
    running = Web(tmp_path / "data", "simulated", str(AGENTS + SILENT), str(fleet.port), str(fleet.certificate))
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def monitor(web: Web) -> Iterator[psutil.Process]:
    env = web.env | {"INFINI_MONITOR_INTERVAL_SECONDS": str(ROUND_SECONDS)}
    process = subprocess.Popen([sys.executable, "manage.py", "monitor"], cwd=ROOT, env=env)
    yield psutil.Process(process.pid)
    process.terminate()
    process.wait(timeout=20)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def bare_tls_seconds(fleet: SimulatedFleet, times: int) -> float:
    """CPU seconds of this process for so many GETs of reports over one TLS connection, read and parsed, no more."""
    with requests.Session() as session:
        url = f"https://{address_of(0)}:{fleet.port}/report"
        session.get(url, verify=False)
        began = time.process_time()
        for _ in range(times):
            json.loads(session.get(url, verify=False).content)
        return time.process_time() - began


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_500_servers(fleet: SimulatedFleet, web: Web, monitor: psutil.Process, table: Table) -> None:
    """Monitor with 500 servers, 2,000 instances, 4,000 devices and 50 servers more that never answer, rounds of 5 s"""
    session = web.session()

    def online() -> int:
        return sum(s["status"] == "online" for s in session.get(f"{web.url}/api/servers", timeout=60).json())

    wait_until(lambda: online() == AGENTS, 60)
    time.sleep(2 * ROUND_SECONDS)  # past the first round, which makes connections and devices
    before, began, cpu = fleet.ask("counts"), time.monotonic(), cpu_seconds(monitor)
    time.sleep(WATCHED_SECONDS)
    after, took, cpu = fleet.ask("counts"), time.monotonic() - began, cpu_seconds(monitor) - cpu
    reports = after["requests"] - before["requests"]
    connections = after["connections"] - before["connections"]

    seen = [seconds_until_seen(fleet, web, session, number) for number in random.sample(range(AGENTS), CHANGES)]

    share = cpu / took
    reference = bare_tls_seconds(fleet, 500) / 500 * AGENTS / ROUND_SECONDS
    table.add("monitor, share of one core", f"{share:.3f}", f"bare requests + json {reference:.3f}", "0.25")
    table.add("reports a server and round", f"{reports / AGENTS / (took / ROUND_SECONDS):.2f}", "", "about 1")
    table.add("new TLS connections meanwhile", str(connections), "", "0")
    table.add("change seen in the page, median", f"{statistics.median(seen):.2f} s")
    table.add("change seen in the page, worst", f"{max(seen):.2f} s", "", f"{ROUND_SECONDS + 1:.0f} s")
    memory = monitor.memory_info().rss / 1e6
    table.add("monitor, resident", f"{memory:.0f} MB", "", "250 MB")
    assert share < 0.25
    assert max(seen) <= ROUND_SECONDS + 1
    assert 0.9 < reports / AGENTS / (took / ROUND_SECONDS) < 1.1
    assert connections == 0
    assert memory < 250


def seconds_until_seen(fleet: SimulatedFleet, web: Web, session: requests.Session, number: int) -> float:
    """From a failing instance to the page of its service that says so."""
    [service] = [s for s in session.get(f"{web.url}/api/services", timeout=60).json() if s["name"] == f"sim-{number}"]
    page = f"{web.url}/admin/deployments/service/{service['id']}/"
    assert "Exit 1." not in session.get(page, timeout=30).text
    time.sleep(random.uniform(0, ROUND_SECONDS))
    fleet.ask(f"fail {number}")
    began = time.monotonic()
    wait_until(lambda: "Exit 1." in session.get(page, timeout=30).text, 30)
    return time.monotonic() - began
