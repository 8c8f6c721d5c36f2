"""Commands on the real site: the monitor fires, the `runs` cluster carries out over a real sshd, people watch it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live.site import RealSite, wait_until
from tests.live.test_browser import browser  # noqa: F401
from tests.real_sshd import RealSshd

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def fleet(site: RealSite) -> Iterator[list[int]]:
    """The ids of gpu-1 to gpu-6, all one sshd; the site is left without them and without what ran on them."""
    with RealSshd() as sshd:
        access = {"host_ip": sshd.host, "port": sshd.port, "username": sshd.username, "private_key": sshd.private_key}
        made = []
        for n in range(1, 7):
            body = {"name": f"gpu-{n}", "labels": {"fleet": "yes"}, **access}
            made.append(site.json("POST", "/api/servers", json=body)["id"])
            site.json("POST", f"/api/servers/{made[-1]}/host-key", json={"host_key": sshd.host_key})
        try:
            yield made
        finally:
            for task in site.json("GET", "/api/tasks"):
                site.request("DELETE", f"/api/tasks/{task['id']}")
            for pk in made:
                site.request("DELETE", f"/api/servers/{pk}")


@pytest.fixture
def make_task(site: RealSite, fleet: list[int]) -> Callable[..., dict[str, Any]]:
    def make(count: int, command: str, **values: Any) -> dict[str, Any]:
        never = {"schedule_type": "once", "run_at": "2099-01-01T00:00:00Z"} if "schedule_type" not in values else {}
        body = {
            "name": f"task-{uuid.uuid4().hex[:6]}",
            "command": command,
            "server_ids": fleet[:count],
            **never,
            **values,
        }
        return dict(site.json("POST", "/api/tasks", json=body))

    return make


def execute(site: RealSite, task: dict[str, Any]) -> int:
    return int(site.json("POST", f"/api/tasks/{task['id']}/execute")["run_id"])


def ended(site: RealSite, run_id: int, seconds: float = 60) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        result = site.json("GET", f"/api/runs/{run_id}")
        return dict(result) if result["state"] not in ("queued", "running") else None

    return wait_until(over, seconds, f"run {run_id} has ended")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_a_schedule_really_fires_in_time(site: RealSite, make_task: Callable[..., dict[str, Any]]) -> None:
    task = make_task(2, "echo fired", schedule_type="interval", interval_seconds=2)
    path = f"/api/runs?task_id={task['id']}&state=success"
    runs = wait_until(lambda: (found := site.json("GET", path)) and len(found) >= 3 and found, 30, "it fired 3 times")
    site.json("PATCH", f"/api/tasks/{task['id']}", json={"enabled": False})
    due = sorted(moment(run["fire_at"]) for run in runs)
    assert {(later - earlier).total_seconds() for earlier, later in zip(due, due[1:], strict=False)} == {2.0}
    late = sorted((moment(run["started_at"]) - moment(run["fire_at"])).total_seconds() for run in runs)
    assert late[0] >= 0 and late[-1] < 2.0, late


def kill_hosts(site: RealSite) -> None:
    """SIGKILL to the worker processes that have the threads of a host; the cluster's leader lives on."""

    def hosts() -> list[psutil.Process]:
        workers = [psutil.Process(pid) for pid in site.process_ids("runs")[1:]]
        return [one for one in workers if one.num_threads() > 3]

    for host in wait_until(hosts, 20, "a worker hosts runs"):
        host.kill()


@pytest.mark.parametrize("victim", ["the worker", "the whole cluster"])
def test_a_worker_killed_in_mid_run(
    site: RealSite, make_task: Callable[..., dict[str, Any]], tmp_path: Path, victim: str
) -> None:
    """Done stays done, what was under way is lost contact and never runs twice, the rest goes on."""
    command = f"mktemp -p {tmp_path} >/dev/null; if [ $(ls {tmp_path} | wc -l) = 2 ]; then sleep 60; fi"
    run_id = execute(site, make_task(4, command, width=1))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 30, "the second server's turn")
    if victim == "the worker":
        kill_hosts(site)
    else:
        old = site.kill9("runs")
        site.wait_for_restart("runs", old)
    result = ended(site, run_id, 90)
    assert [r["state"] for r in result["results"]] == ["success", "lost", "success", "success"]
    assert len(list(tmp_path.iterdir())) == 4
    assert result["state"] == "failed" and result["reason"] == "1 lost contact."


def test_from_new_task_to_grouped_results(site: RealSite, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    context = browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="Asia/Shanghai")
    page = context.new_page()
    page.set_default_timeout(15_000)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(f"{page.url}: {error}"))
    page.goto(f"{site.url}/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", site.password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(f"{site.url}/admin/")

    # A new task says while it is written when it will run and where.
    page.get_by_role("navigation").get_by_role("link", name="Tasks", exact=True).click()
    page.goto(f"{site.url}/admin/scheduler/task/add/")
    name = f"seen-{uuid.uuid4().hex[:6]}"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/tasks/preview" in request.url else None)
    page.fill("#id_name", name)
    page.get_by_role("button", name="Dry run").click()
    page.locator("#task-preview", has_text="Not yet:").get_by_text("Command", exact=True).wait_for()
    page.fill("#id_selector", "fleet=yes, rack=z9")
    page.select_option("#id_schedule_type", "cron", force=True)
    page.fill("#id_cron", "0 0 30 2 *")
    page.fill(
        "#id_command",
        f"for n in 1 2 3 4 5 6 7; do mkdir {tmp_path}/$n 2>/dev/null && break; done; echo checking; "
        "if [ $n != 7 ]; then sleep 4; fi; "
        f"if [ $n = 2 ]; then echo 'No space left' >&2; exit 1; fi; if [ $n = 3 ]; then echo odd; fi; echo done",
    )
    page.locator("#task-preview", has_text="never comes true").wait_for()
    assert len(asked) == 1, "nothing is asked before there is something to tell"
    assert page.input_value("#id_timezone") == "Asia/Shanghai"
    assert page.locator("#id_time_of_day").is_hidden()
    page.fill("#id_cron", "0 3 * * *")
    page.locator("#task-preview .obstacle", has_text="Fits no server: rack=z9").wait_for()
    page.fill("#id_selector", "fleet=yes")
    page.locator("#task-preview", has_text="Would run on 6 servers").wait_for()
    assert page.locator("#task-preview li", has_text="3:00:00").count() == 5
    page.select_option("#id_schedule_type", "once", force=True)
    page.fill("#id_timezone", "Europe/Berlin")
    page.fill("#id_run_at", "2035-03-25T02:30")  # clocks go forward over it
    page.locator("#task-preview li", has_text="March 25, 2035 at 3:00:00").wait_for()
    page.select_option("#id_schedule_type", "cron", force=True)
    page.locator("#task-preview li", has_text="3:00:00").nth(4).wait_for()
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/admin/scheduler/task/*/")

    # Run now asks first, in the list as on its page; then its run is watched.
    its_page = page.url
    page.goto(f"{site.url}/admin/scheduler/task/?q={name}")
    page.get_by_role("button", name=f"Run now: {name}").click()
    dialog = page.locator("dialog[open]")
    assert (
        dialog.locator("#confirm-title").inner_text() == f"Run now {name}?"
        and dialog.locator("nav, table").count() == 0
    )
    dialog.get_by_role("button", name="Cancel").click()
    page.goto(its_page)
    page.get_by_role("button", name="Run now").click()
    page.locator("dialog[open]").get_by_role("button", name="Run now").click()
    page.get_by_text(f"Begun: {name}.").wait_for()
    page.locator("#live table a", has_text="#").first.click()
    page.wait_for_url("**/admin/scheduler/run/*/")
    page.evaluate("window.notReloaded = true")
    servers = page.locator("section", has=page.locator("#servers-title"))
    servers.locator(".group-line", has_text="gpu-1").click()
    servers.locator(".group-body", has_text="checking").wait_for()  # while it runs
    assert page.locator("#live .page-title .chip", has_text="Running").is_visible()
    page.locator("#live .page-title .chip", has_text="Failed").wait_for(timeout=30_000)

    # Servers that answered alike stand together; what differs is shown against the largest group.
    groups = page.locator("section", has_text="By answer").locator(".group-line")
    assert groups.count() == 3
    groups.filter(has_text="exit 1").click()
    page.locator(".group-body", has_text="No space left").wait_for()
    groups.filter(has_text="differ").click()
    page.locator(".diff .added", has_text="odd").wait_for()
    assert page.evaluate("window.notReloaded") is True and "open=success" in page.url
    page.reload()
    page.locator(".diff .added", has_text="odd").wait_for()

    # The failed one alone is tried again.
    page.get_by_role("button", name="Retry failed").click()
    page.locator("dialog[open]").get_by_role("button", name="Retry failed").click()
    page.get_by_text("Begun again").wait_for()
    newest = site.json("GET", "/api/runs?limit=1")[0]
    again = ended(site, newest["id"])
    assert newest["trigger"] == "retry" and [r["state"] for r in again["results"]] == ["success"]
    context.close()
    assert broken == []


def test_a_due_run_on_a_busy_site_starts_while_long_ones_go_on(
    site: RealSite, make_task: Callable[..., dict[str, Any]]
) -> None:
    """More long runs than the cluster has workers keep no short one waiting."""
    long_ones = [execute(site, make_task(1, "sleep 120")) for _ in range(8)]
    begun = time.monotonic()
    ended(site, execute(site, make_task(1, "true")), 15)
    took = time.monotonic() - begun
    for run_id in long_ones:
        site.json("POST", f"/api/runs/{run_id}/cancel")
    assert {ended(site, run_id)["state"] for run_id in long_ones} == {"cancelled"}
    assert took < 10
