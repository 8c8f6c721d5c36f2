"""Lists and the overview at the size of a large fleet, asked of the real web server: 500 servers of 8 devices with six
hours of samples, 1,000 services, 100,000 requests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from tests.benchmarks.conftest import Table, milliseconds, p95
from tests.live.site import ROOT, free_port
from tests.real_agent import wait_until

pytestmark = pytest.mark.benchmark
PASSWORD = "a-password-for-benchmarks"
API = ("/api/servers", "/api/services")
CHARTS = ("/api/history", "/api/usage/history")  # asked once a minute, when the page is there already
PAGES = ("/admin/", "/admin/inventory/server/", "/admin/inventory/device/", "/admin/deployments/service/")
TIMES = 40


class Web:
    """The web process alone, over a fleet that nobody watches; ``fleet`` is what tests.benchmarks.fleet takes."""

    def __init__(self, data_dir: Path, *fleet: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ours = {"INFINI_DATA_DIR": str(data_dir), "INFINI_ADMIN_PASSWORD": PASSWORD, "INFINI_PORT": str(self.port)}
        self.env = os.environ | ours | {"DJANGO_SETTINGS_MODULE": "infini.settings"}
        self.key = self.fill(*fleet)
        argv = [sys.executable, "-m", "infini.web", "-v", "0", "-b", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen([*argv, "infini.asgi:application"], cwd=ROOT, env=self.env)
        wait_until(self.answers, 30)

    def fill(self, *fleet: str) -> str:
        argv = [sys.executable, "-m", "tests.benchmarks.fleet", *fleet]
        done = subprocess.run(argv, cwd=ROOT, env=self.env, capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()[-1]

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def session(self) -> requests.Session:
        """Logged in as admin, for pages and API alike."""
        browser = requests.Session()
        login = f"{self.url}/admin/login/"
        browser.get(login, timeout=10)
        token = next(c.value for c in browser.cookies if "csrf" in c.name)
        form = {"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": token}
        assert browser.post(login, data=form, headers={"Referer": login}, timeout=10).status_code == 200
        return browser


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    running = Web(tmp_path / "data", "500", "1000", "6")
    yield running
    running.process.kill()
    running.process.wait()


def test_lists(web: Web, table: Table) -> None:
    """Lists and overview of 500 servers and 1,000 services, whole requests"""
    browser = web.session()

    def ask(path: str) -> None:
        assert browser.get(web.url + path, timeout=30).status_code == 200

    reference = p95(milliseconds(lambda: ask("/healthz"), TIMES))
    slow = []
    begin = (datetime.now(UTC) - timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    goals = dict.fromkeys((*API, *PAGES), 200) | dict.fromkeys(CHARTS, 500)
    for path, goal in goals.items():
        asked = f"{path}?from={begin}" if path in CHARTS else path
        taken = p95(milliseconds(lambda asked=asked: ask(asked), TIMES))
        table.add(f"{path}, P95", f"{taken:.0f} ms", f"/healthz {reference:.1f} ms", f"{goal} ms")
        slow += [path] if taken >= goal else []
    assert not slow
