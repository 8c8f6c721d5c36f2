"""The whole way on a real site: deploy, chat with the official client, kill what can be killed, see the truth."""

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests

from tests.live.site import RealSite
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.live

DEMO_MODEL = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"
SERVE = f"exec {sys.executable} {DEMO_MODEL} --host {{host}} --port {{port}} --model {{model}} --rate 200"

Deploy = Callable[..., dict[str, Any]]


@pytest.fixture
def deploy(site: RealSite) -> Iterator[Deploy]:
    """Creates a service on the local server and waits until its operation is over."""
    made: list[int] = []

    def make(command: str, wait: bool = True, **fields: Any) -> dict[str, Any]:
        local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
        name = f"svc-{uuid.uuid4().hex[:6]}"
        body = {"name": name, "server_ids": [local["id"]], "deploy_command": command} | fields
        made.append(site.json("POST", "/api/services", json=body)["id"])
        return settled(site, made[-1]) if wait else site.json("GET", f"/api/services/{made[-1]}")

    yield make
    for service_id in made:
        site.json("DELETE", f"/api/services/{service_id}")
    for service_id in made:
        wait_until(
            lambda pk=service_id: site.request("GET", f"/api/services/{pk}").status_code == 404, 30, "it is gone"
        )


def settled(site: RealSite, service_id: int, seconds: float = 60) -> dict[str, Any]:
    """The service once nothing is being done to it."""

    def over() -> dict[str, Any] | None:
        service = site.json("GET", f"/api/services/{service_id}")
        return service if service["deploy_status"] != "deploying" else None

    return wait_until(over, seconds, f"service {service_id} is no longer deploying")


def client_of(site: RealSite, service: dict[str, Any]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{site.url}/api/services/{service['id']}", api_key=site.key(), max_retries=0)


def test_deploy_and_chat_with_the_official_client(site: RealSite, deploy: Deploy) -> None:
    service = deploy(SERVE)
    assert (service["deploy_status"], service["ready"]) == ("deployed", "1/1")
    client, question = client_of(site, service), [{"role": "user", "content": "What is an agent?"}]

    whole = client.chat.completions.create(model=service["name"], messages=question, max_tokens=40)
    stream = client.chat.completions.create(model=service["name"], messages=question, max_tokens=40, stream=True)
    words = [c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content]

    assert "demo model" in (whole.choices[0].message.content or "")
    assert len(words) > 5 and "demo model" in "".join(words)
    history = site.json("GET", f"/api/services/{service['id']}/chat")
    assert [m["role"] for m in history] == ["user", "assistant"] * 2
    assert history[-1]["content"] == "".join(words) and history[-1]["state"] == "complete"


def test_the_agent_is_killed_and_nothing_is_lost(site: RealSite, deploy: Deploy) -> None:
    service = deploy("i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done")
    pid = service["instances"][0]["pid"]

    old = site.kill9("agent")
    site.wait_for_restart("agent", old)

    def seen_again() -> dict[str, Any] | None:
        instance = site.json("POST", "/api/services/refresh-status")
        mine = next(s for s in instance if s["id"] == service["id"])
        return mine if mine["deploy_status"] == "deployed" else None

    after = wait_until(seen_again, 30)
    assert after["instances"][0]["pid"] == pid and is_running(pid)
    assert after["instances"][0]["restarts"] == 0


def test_the_worker_is_killed_in_mid_deployment_and_it_finishes(site: RealSite, deploy: Deploy) -> None:
    service = deploy(f"sleep 3; {SERVE}", wait=False)
    assert service["deploy_status"] == "deploying"
    wait_until(lambda: site.json("GET", f"/api/services/{service['id']}")["instances"][0]["pid"])

    old = site.kill9("worker")

    assert settled(site, service["id"])["deploy_status"] == "deployed"
    site.wait_for_restart("worker", old)
    log = site.json("GET", f"/api/services/{service['id']}/deploy-log")
    assert log["state"] == "done"
    mark = service["name"]
    copies = [p for p in psutil.process_iter() if _instance_of(p, mark)]
    assert len(copies) == 1, "started twice"


def _instance_of(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("INFINI_INSTANCE", "").startswith(name) and "demo_model.py" in " ".join(
            process.cmdline()
        )
    except psutil.Error:
        return False


def test_a_killed_process_is_seen_with_its_signal_in_api_and_admin(site: RealSite, deploy: Deploy) -> None:
    service = deploy(SERVE)
    os.kill(service["instances"][0]["pid"], signal.SIGKILL)

    def failed() -> dict[str, Any] | None:
        now = site.json("GET", f"/api/services/{service['id']}")
        return now if now["deploy_status"] == "online" else None

    now = wait_until(failed, 20, "the monitor sees it")
    assert (now["instances"][0]["phase"], now["instances"][0]["exit_code"]) == ("failed", 137)
    assert "SIGKILL" in now["reason"]
    page = logged_in(site).get(f"{site.url}/admin/deployments/service/{service['id']}/", timeout=10)
    assert page.status_code == 200 and "Not running" in page.text and "SIGKILL" in page.text


def logged_in(site: RealSite) -> requests.Session:
    browser = requests.Session()
    login = f"{site.url}/admin/login/"
    form = {"username": "admin", "password": site.password}
    browser.get(login, timeout=10)
    token = next(c.value for c in browser.cookies if "csrf" in c.name)
    answer = browser.post(login, data=form | {"csrfmiddlewaretoken": token}, headers={"Referer": login}, timeout=10)
    assert answer.status_code == 200 and "/admin/login" not in answer.url
    return browser
