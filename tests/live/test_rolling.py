"""A rolling update under load: on a real site with real agents and the demo model, no request ever fails."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.deployments.conftest import TOOL
from tests.live.site import RealSite
from tests.real_agent import RealAgent, is_running, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

DEMO_MODEL = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"
SERVE = f"exec {sys.executable} {DEMO_MODEL} --host {{host}} --port {{port}} --model {{model}} --rate 400"
CALLERS = 4


class Callers:
    """People who ask all the time, streamed and whole; what they were answered."""

    def __init__(self, site: RealSite, service_id: int) -> None:
        self.url = f"{site.url}/api/services/{service_id}/chat/completions"
        self.key = site.key()
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(bool(n % 2),)) for n in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def _ask(self, stream: bool) -> None:
        session = requests.Session()
        session.trust_env = False
        body = {"messages": [{"role": "user", "content": "What is an agent?"}], "max_tokens": 30, "stream": stream}
        while not self.over.is_set():
            try:
                answer = session.post(self.url, json=body, headers={"Authorization": f"Bearer {self.key}"}, timeout=30)
                whole = answer.status_code == 200 and (not stream or answer.text.rstrip().endswith("[DONE]"))
                told = "" if whole else f"{answer.status_code} {answer.text[-300:]}"
            except requests.RequestException as problem:
                told = repr(problem)
            if told:
                self.failed.append(told)
            else:
                self.answers[answer.headers["x-infini-server"]] += 1
            time.sleep(0.02)


@contextmanager
def agent_with(devices: int, folder: Path) -> Iterator[RealAgent]:
    """An agent that finds a vendor's tool which lists so many devices."""
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(TOOL.format(python=sys.executable, count=devices))
    tool.chmod(0o755)
    with RealAgent(environment={"INFINI_DEVICE_PATH": str(folder)}) as agent:
        yield agent


@pytest.fixture
def site(new_site: Callable[..., RealSite]) -> Iterator[RealSite]:
    running = new_site(INFINI_DRAIN_SECONDS="2", INFINI_STABLE_SECONDS="2").start()
    yield running
    running.stop()


def test_no_request_fails_while_a_new_revision_goes_out(site: RealSite, tmp_path: Path) -> None:
    with ExitStack() as stack:
        roomy = stack.enter_context(agent_with(2, tmp_path / "roomy"))
        full = stack.enter_context(agent_with(1, tmp_path / "full"))
        ids = [add_server(site, name, agent) for name, agent in (("roomy", roomy), ("full", full))]
        wait_until(lambda: roomy.request("GET", "/report")[1]["devices"], 10)
        wait_until(lambda: full.request("GET", "/report")[1]["devices"], 10)
        body = {"name": "rolling", "server_ids": ids, "devices": 1, "max_unavailable": 1, "deploy_command": SERVE}
        service_id = wait_until(lambda: create(site, body), 20, "the site knows the devices")
        before = deployed(site, service_id, 1)

        with Callers(site, service_id) as callers:
            wait_until(lambda: len(callers.answers) == 2, 20, "both instances answer")
            site.json("PATCH", f"/api/services/{service_id}", json={"env": {"ROUND": "2"}})
            site.json("POST", f"/api/services/{service_id}/deploy")
            after = deployed(site, service_id, 2)
            asked = sum(callers.answers.values())
            wait_until(lambda: sum(callers.answers.values()) > asked + 10, 20)

        assert not callers.failed, callers.failed[:3]
        assert sum(callers.answers.values()) > 50
        assert not any(is_running(instance["pid"]) for instance in before.values())
        assert after["roomy"]["key"] != before["roomy"]["key"] and after["full"]["key"] == before["full"]["key"]
        log = site.json("GET", f"/api/services/{service_id}/deploy-log")
        notes = {(result["server"], result["note"].split(",")[0].split(":")[0]) for result in log["results"]}
        assert notes == {
            ("full", "Ended first"),
            ("roomy", "Started beside the old one"),
            ("roomy", "Ends"),
        }
        wait_until(lambda: revision(site, service_id, 2)["good"], 20, "the revision has proved itself")
        site.json("DELETE", f"/api/services/{service_id}")
        wait_until(lambda: site.request("GET", f"/api/services/{service_id}").status_code == 404, 30)


def add_server(site: RealSite, name: str, agent: RealAgent) -> int:
    body = {"name": name, "host_ip": "127.0.0.1", "agent_port": agent.port, "agent_token": agent.token}
    return int(site.json("POST", "/api/servers", json=body)["id"])


def create(site: RealSite, body: dict[str, Any]) -> int | None:
    """None while the devices have not been reported."""
    answer = site.request("POST", "/api/services", json=body)
    return int(answer.json()["id"]) if answer.status_code == 201 else None


def deployed(site: RealSite, service_id: int, number: int) -> dict[str, dict[str, Any]]:
    """The instances by server, once all of them are ready with this revision and nothing goes on."""

    def over() -> dict[str, dict[str, Any]] | None:
        service = site.json("GET", f"/api/services/{service_id}")
        done = service["deploy_status"] == "deployed" and {i["revision"] for i in service["instances"]} == {number}
        return {i["server"]: i for i in service["instances"]} if done else None

    found = wait_until(over, 90, f"revision {number} runs everywhere")
    assert found
    return found


def revision(site: RealSite, service_id: int, number: int) -> dict[str, Any]:
    return next(r for r in site.json("GET", f"/api/services/{service_id}/revisions") if r["number"] == number)
