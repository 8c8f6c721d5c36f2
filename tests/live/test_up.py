"""`manage.py up`, `down` and `demo` as a person meets them."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from tests.live.site import ROOT, RealSite, free_port, lives, wait_until

pytestmark = pytest.mark.live

NewSite = Callable[..., RealSite]


def refused(site: RealSite, *says: str) -> None:
    """`up` ends with exit code 2 and one line that says all of ``says``."""
    done = site.manage("up")
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("infini: "), done.stderr
    assert not [text for text in says if text not in lines[0]], lines[0]


def groups_of(site: RealSite) -> list[psutil.Process]:
    return [
        psutil.Process(pid) for name in ("web", "worker", "runs", "monitor", "agent") for pid in site.process_ids(name)
    ]


# Refusing to start


@pytest.mark.parametrize("variable", ["INFINI_PORT", "INFINI_AGENT_PORT"])
def test_a_port_in_use_is_said_in_one_line(new_site: NewSite, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(new_site(**{variable: str(port)}), f"Port {port} on 127.0.0.1 is in use", f"set {variable}")


def test_a_data_directory_that_cannot_be_written(new_site: NewSite, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    site = new_site(INFINI_DATA_DIR=str(tmp_path / "file" / "data"))
    refused(site, "data directory", "cannot be used", "Set INFINI_DATA_DIR")


@pytest.mark.parametrize("value", ["eight", "0", "70000"])
def test_a_port_that_is_none(new_site: NewSite, value: str) -> None:
    refused(new_site(INFINI_PORT=value), "INFINI_PORT is", "must")


def test_one_port_for_two(new_site: NewSite) -> None:
    site = new_site()
    site.env["INFINI_AGENT_PORT"] = str(site.port)
    refused(site, "INFINI_PORT and INFINI_AGENT_PORT")


def test_a_host_that_is_not_ours(new_site: NewSite) -> None:
    refused(new_site(INFINI_HOST="203.0.113.1"), "203.0.113.1", "INFINI_HOST")


def test_a_program_that_dies_at_once_is_reported(new_site: NewSite) -> None:
    site = new_site()
    (site.data_dir / "agent").mkdir(parents=True)
    (site.data_dir / "agent" / "token").write_text("short\n")
    done = site.manage("up")
    assert done.returncode == 2
    assert "Infini cannot start: agent ended with exit code 2, 3 times" in done.stdout
    assert "shorter than 16 characters" in done.stdout
    assert not site.processes()


# Starting


def test_first_start(new_site: NewSite) -> None:
    site = new_site(from_nothing=True).start()
    begin = site.lines[: site.lines.index(f"ready: {site.url}/") + 1]
    assert begin[-1] == f"ready: {site.url}/"
    assert any(site.password in line and "Log in as admin" in line for line in begin)
    modes = {name: stat.S_IMODE((site.data_dir / name).stat().st_mode) for name in (".", "admin-password", "secrets")}
    assert modes == {".": 0o700, "admin-password": 0o600, "secrets": 0o700}
    assert requests.get(f"{site.url}/readyz", timeout=5).json() == {"status": "ready"}
    assert site.json("GET", "/api/servers")[0]["name"] == "local"
    assert len(site.json("GET", "/api/brands")) >= 10
    assert {f"{name}.log" for name in ("agent", "web")} <= {p.name for p in (site.data_dir / "logs").iterdir()}
    refused(site, "already runs", f"process {site.process.pid}", "make down")  # type: ignore[union-attr]
    groups = groups_of(site)
    assert len(groups) >= 4
    assert site.interrupt() < 5
    assert site.process.returncode == 0  # type: ignore[union-attr]
    assert not [process for process in groups if lives(process)]
    assert "No instance was running." in site.output
    site.start()
    assert site.password not in site.output.rpartition("Preparing the database")[2]  # shown once
    site.stop()


def test_a_password_given_is_kept_nowhere(new_site: NewSite) -> None:
    site = new_site(INFINI_ADMIN_PASSWORD="canary-password").start()
    try:
        assert not (site.data_dir / "admin-password").exists()
        assert "canary-password" not in site.output
        for name in ("web", "worker", "runs", "monitor", "agent"):
            environment = psutil.Process(site.process_ids(name)[0]).environ()
            assert "canary-password" not in environment.values()
        agent = psutil.Process(site.process_ids("agent")[0]).environ()
        assert not [name for name in agent if name.startswith(("INFINI_", "DJANGO_"))]
        browser = requests.Session()
        page = browser.get(f"{site.url}/admin/login/", timeout=10)
        token = page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        form = {"username": "admin", "password": "canary-password", "csrfmiddlewaretoken": token, "next": "/admin/"}
        answer = browser.post(f"{site.url}/admin/login/", form, allow_redirects=False, timeout=10)
        assert answer.status_code == 302 and answer.headers["location"] == "/admin/"
    finally:
        site.stop()


def test_two_migrations_at_once(new_site: NewSite) -> None:
    site = new_site(from_nothing=True)
    code = (
        "import django; django.setup(); from infini import first_start as f; f.prepare_data_dir(); f.prepare_database()"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=site.env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert [code for _, code in ended] == [0, 0], ended
    listed = site.manage("showmigrations", "--plan").stdout
    assert "[X]" in listed and "[ ]" not in listed


# Living and ending


@pytest.mark.parametrize("name", ["web", "worker", "runs", "monitor", "agent"])
def test_a_killed_program_comes_back(site: RealSite, name: str) -> None:
    before = [psutil.Process(pid) for pid in site.process_ids(name)]
    old = site.kill9(name)
    site.wait_for_restart(name, old)
    assert not [process for process in before if lives(process)]
    wait_until(lambda: f"{name} was ended by SIGKILL; it starts again in" in site.output)
    wait_until(lambda: _answers(site.url + "/readyz") and _answers(f"http://127.0.0.1:{site.agent_port}/health"), 30)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def test_a_killed_supervisor_leaves_instances_alone_and_nothing_else(new_site: NewSite) -> None:
    site = new_site().start()
    instance = _deploy_sleeper(site)
    groups = groups_of(site)
    assert len(groups) > 4  # the queue's forks among them
    site.interrupt(signal.SIGKILL)
    wait_until(lambda: not [process for process in groups if lives(process)], 5)
    assert lives(instance)
    done = site.manage("down")
    assert done.returncode == 0, done.stderr
    assert "The site is not running." in done.stdout and f"(process {instance.pid}): stopped." in done.stdout
    assert not lives(instance)
    again = site.manage("down")
    assert again.returncode == 0 and "No instance was running." in again.stdout
    assert not site.processes()


def test_instances_outlive_the_site_and_down_stops_them_for_good(new_site: NewSite) -> None:
    site = new_site().start()
    instance = _deploy_sleeper(site)
    assert site.interrupt(signal.SIGTERM) < 5
    assert "1 instance goes on running; `make down` stops it." in site.output
    assert lives(instance)
    site.start()
    wait_until(lambda: site.json("GET", "/api/services")[0]["deploy_status"] == "deployed")
    assert site.json("GET", "/api/services")[0]["instances"][0]["pid"] == instance.pid
    site.stop()
    assert not lives(instance)
    site.start()
    time.sleep(3)
    service = site.json("GET", "/api/services")[0]
    assert (service["wanted"], service["deploy_status"]) == ("stopped", "online")
    site.stop()


def test_an_agent_left_over_makes_way(new_site: NewSite) -> None:
    site = new_site().start()
    site.interrupt()
    argv = ["--host", "127.0.0.1", "--port", str(site.agent_port), "--state-dir", str(site.data_dir / "agent")]
    with subprocess.Popen([sys.executable, str(ROOT / "agent/infini_agent.py"), *argv]) as left:
        wait_until(lambda: _answers(f"http://127.0.0.1:{site.agent_port}/health"))
        site.start()
        assert left.wait(5) == 0
    assert f"An agent left by an earlier start (process {left.pid}) was ended" in site.output
    site.stop()


def _deploy_sleeper(site: RealSite) -> psutil.Process:
    server = next(row for row in site.json("GET", "/api/servers") if row["name"] == "local")
    body = {"name": "sleeper", "server_ids": [server["id"]], "deploy_command": "exec sleep 600"}
    number = site.json("POST", "/api/services", json=body)["id"]

    def running() -> int | None:
        service = site.json("GET", f"/api/services/{number}")
        return service["instances"][0]["pid"] if service["deploy_status"] == "deployed" else None

    return psutil.Process(wait_until(running, 30, "the service is deployed"))


# The demo


def test_demo_answers_twice_with_one_service(new_site: NewSite) -> None:
    site = new_site(from_nothing=True)
    for _ in range(2):
        site.start(command="demo")
        shown = site.output.rpartition("Preparing the database")[2]
        assert "\nQuestion: " in shown and "\nAnswer:   This is Infini's demo model" in shown
        assert shown.index("Answer:") < shown.index("Log in as admin") < shown.index("ready: ")
        assert len(site.json("GET", "/api/services")) == 1
        assert site.interrupt() < 5
    assert site.output.count("Deploying the service") == 1
    listed = site.manage("apikey", "list").stdout
    assert [line.split()[2] for line in listed.splitlines() if line.endswith("make demo")] == ["revoked", "revoked"]
    site.stop()


def test_a_demo_that_fails_says_why_and_leaves_nothing(new_site: NewSite) -> None:
    site = new_site(INFINI_PORT_RANGE_FIRST="65535", INFINI_PORT_RANGE_LAST="65535")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 65535))
        taken.listen()
        done = site.manage("demo", seconds=150)
    assert done.returncode == 1, done.stdout
    assert "The demo failed." in done.stdout and "ready: " not in done.stdout
    assert not site.processes()


def test_the_environment_reaches_no_test_site(site: RealSite) -> None:
    """The shared site runs on the product's settings, not on those of these tests."""
    environment = psutil.Process(site.process_ids("web")[0]).environ()
    assert environment["DJANGO_SETTINGS_MODULE"] == "infini.settings"
    assert environment["INFINI_DATA_DIR"] == str(site.data_dir) != os.environ.get("INFINI_DATA_DIR")


# The gateway


def test_a_gateway_of_its_own_when_it_has_a_port(new_site: NewSite) -> None:
    port = str(free_port())
    site = new_site(INFINI_GATEWAY_PORT=port).start()
    assert f"OpenAI gateway: http://127.0.0.1:{port}/v1" in site.output
    assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).json() == {"status": "ok"}
    assert requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=5).status_code == 401
    assert site.interrupt() < 5
    assert not site.processes()


def test_the_demo_goes_on_when_strangers_have_its_first_ports(new_site: NewSite) -> None:
    first = free_port()
    with socket.create_server(("127.0.0.1", first)):
        site = new_site(INFINI_PORT_RANGE_FIRST=str(first), INFINI_PORT_RANGE_LAST=str(min(65535, first + 20)))
        site.start(command="demo")
    assert "trying the next" in site.output and "Answer:" in site.output
    service = site.json("GET", "/api/services")[0]
    assert service["deploy_status"] == "deployed" and service["instances"][0]["port"] > first
    site.json("POST", f"/api/services/{service['id']}/stop")
    wait_until(lambda: not site.json("GET", f"/api/services/{service['id']}")["instances"][0]["pid"], 15, "it stopped")
