"""Every list page and list answer at the size of a large site, asked of the real web server; see large.py, lists.py."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.benchmarks.conftest import Table, milliseconds, p95
from tests.live.site import ROOT, free_port
from tests.real_agent import wait_until

pytestmark = pytest.mark.benchmark
PASSWORD = "a-password-for-benchmarks"
GOAL_MS, CHART_GOAL_MS = 200, 500  # a chart is asked for once a minute, when its page is there already
CHARTS = ("/api/history", "/api/usage/history")
TIMES = 40  # of fewer the 95th percentile is the slowest, whatever made it so


def filled(env: dict[str, str], module: str, *arguments: str) -> str:
    """Have a module of this folder write its rows; returns the key of the administrator it prints."""
    argv = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    done = subprocess.run(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


class Web:
    """The web process alone, over a fleet that nobody watches; ``fleet`` is what the module that fills it takes."""

    def __init__(self, data_dir: Path, *fleet: str, filled_by: str = "fleet") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ours = {"INFINI_DATA_DIR": str(data_dir), "INFINI_ADMIN_PASSWORD": PASSWORD, "INFINI_PORT": str(self.port)}
        self.env = os.environ | ours | {"DJANGO_SETTINGS_MODULE": "infini.settings"}
        self.key = filled(self.env, filled_by, *fleet)
        argv = [sys.executable, "-m", "infini.web", "-v", "0", "-b", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen([*argv, "infini.asgi:application"], cwd=ROOT, env=self.env)
        wait_until(self.answers, 30)

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
def large(tmp_path: Path) -> Iterator[Web]:
    running = Web(tmp_path / "large", "100", filled_by="large")
    yield running
    running.process.kill()
    running.process.wait()


def counted(env: dict[str, str]) -> dict[str, int]:
    """Every list of the site over the data directory in ``env``, and how many queries each takes."""
    argv = [sys.executable, "-m", "tests.benchmarks.lists"]
    return json.loads(subprocess.run(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True).stdout)


def test_lists(large: Web, tmp_path: Path, table: Table) -> None:
    """Every list of 500 servers, 5,000 instances, 100,000 events, a million requests: whole requests, queries"""
    queries = counted(large.env)
    browser = large.session()

    def ask(path: str) -> None:
        assert browser.get(large.url + path, timeout=30).status_code == 200

    reference = p95(milliseconds(lambda: ask("/healthz"), TIMES))
    slow = []
    for path, count in queries.items():
        goal = CHART_GOAL_MS if path.startswith(CHARTS) else GOAL_MS
        taken = p95(milliseconds(lambda path=path: ask(path), TIMES))
        table.add(f"{path}, P95", f"{taken:.0f} ms, {count} queries", f"/healthz {reference:.1f} ms", f"{goal} ms")
        slow += [path] if taken >= goal else []
    small = large.env | {"INFINI_DATA_DIR": str(tmp_path / "small")}
    filled(small, "large", "2")
    fewer = {path.partition("?from")[0]: count for path, count in counted(small).items()}
    grown = {path: count for path, count in queries.items() if count != fewer[path.partition("?from")[0]]}
    table.add("lists whose number of queries is another at 2 % of that", str(len(grown)), "", "0")
    assert not slow and not grown
