"""What axe finds on the pages, in both colour schemes, wide and on a phone: nothing serious. None scrolls sideways, and
neither does the table of a list at 1280 px, long names and all columns filled included.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.live.site import RealSite
from tests.live.test_browser import browser  # noqa: F401  (fixture)

pytestmark = pytest.mark.live

LOOKS = {
    "wide, light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
ONLY = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
PAGES = ["inventory/card/compare/"]
LISTS = [
    *(
        "inventory/server/",
        "inventory/device/",
        "inventory/brand/",
        "inventory/card/",
        "inventory/aimodel/",
        "inventory/environment/",
    ),
    *("deployments/service/", "deployments/operation/"),
    *("infini/event/", "infini/alert/", "infini/alerttarget/", "infini/apikey/", "infini/user/"),
    *("chat/endpoint/", "chat/trafficrule/"),
    *("scheduler/task/", "scheduler/run/", "scheduler/savedcommand/"),
    *("inventory/installation/", "inventory/terminalsession/", "inventory/recording/"),
]
FORMS = [
    *("inventory/server/add/", "inventory/server/import/", "deployments/service/add/", "inventory/brand/add/"),
    *("infini/apikey/add/", "infini/alerttarget/add/", "infini/user/add/", "account/", "password_change/"),
    *("chat/usage/", "chat/endpoint/add/", "chat/trafficrule/add/"),
]


# Of the boxes around a list's table those that scroll sideways.
SIDEWAYS = """() => [...document.querySelectorAll("#changelist :has(#result_list)")]
  .filter((box) => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible")
  .map((box) => `${box.scrollWidth} px in ${box.clientWidth}`)"""
LONG = "a_server_with_a_long_name_in_rack_17_of_the_second_room"
GIB = 1024**3


@pytest.fixture(scope="module")
def long_ones(site: RealSite) -> Iterator[None]:
    """A server, its device, a service and a task with long names and all figures."""
    brand = next(b for b in site.json("GET", "/api/brands") if b["vendor"] == "ascend")["id"]
    card = site.json("GET", f"/api/brands/{brand}/accelerators")[0]["id"]
    place = site.json("POST", "/api/environments", json={"name": "production_of_the_second_room"})["id"]
    body = {"name": LONG, "host_ip": "2001:db8:1234:5678:9abc:def0:1234:5678", "model_id": card, "username": "someone"}
    server = site.json("POST", "/api/servers", json=body | {"environment_id": place})["id"]
    site.json("PATCH", f"/api/servers/{server}", json={"maintenance": True})
    service = {"name": f"long-{LONG}", "server_ids": [server], "environment_id": place}
    service = site.json("POST", "/api/services", json=service)["id"]
    task = {"name": f"a task for {LONG}", "command": "true", "server_ids": [server], "selector": f"name={LONG}"}
    task |= {
        "schedule_type": "weekly",
        "weekday": 2,
        "time_of_day": "03:00",
        "timezone": "America/Indiana/Indianapolis",
    }
    task = site.json("POST", "/api/tasks", json=task)["id"]
    device = {"uuid": "one", "memory_used_bytes": 1000 * GIB, "memory_total_bytes": 2000 * GIB, "power_watts": 1000}
    device |= {"utilization_percent": 100, "temperature_celsius": 100}
    figures = {"cpu_percent": 100, "memory_percent": 100, "disk_percent": 100, "devices": [device]}
    with closing(sqlite3.connect(site.data_dir / "infini.sqlite3", timeout=20)) as database:
        told = (json.dumps(figures), "0.10.12", server)
        database.execute("UPDATE inventory_server SET figures = ?, agent_version = ? WHERE id = ?", told)
        names = "server_id, uuid, [index], vendor, name, memory_bytes, slots, present, visible_by, visible_with"
        row = (server, "one", 0, "nvidia", "NVIDIA H100 80GB HBM3 of the second kind", 2000 * GIB, 1, True, "{}", "{}")
        database.execute(f"INSERT INTO inventory_device ({names}) VALUES ({', '.join('?' * len(row))})", row)
        database.commit()
    yield
    for path in (f"tasks/{task}", f"services/{service}", f"servers/{server}", f"environments/{place}"):
        site.request("DELETE", f"/api/{path}")


@pytest.fixture(scope="module")
def objects(site: RealSite) -> Iterator[list[str]]:
    """Pages of objects that are there: a server, a service that failed, its operation."""
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")["id"]
    body = {"name": "seen by axe", "server_ids": [local], "deploy_command": "exit 3"}
    service = site.json("POST", "/api/services", json=body)
    operation = service["deploy_result"]["operation_id"]
    brand = next(b for b in site.json("GET", "/api/brands") if b["vendor"] == "nvidia")["id"]
    cards = [card["id"] for card in site.json("GET", f"/api/brands/{brand}/accelerators")][:6]
    yield [
        f"inventory/brand/{brand}/",
        f"inventory/card/compare/?ids={','.join(map(str, cards))}",
        f"inventory/card/{cards[0]}/change/",
        *(f"inventory/server/{local}/?tab={tab}" for tab in ("overview", "history", "instances", "files", "events")),
        f"inventory/server/{local}/change/",
        *(
            f"deployments/service/{service['id']}/?tab={tab}"
            for tab in ("instances", "logs", "revisions", "events", "usage")
        ),
        f"deployments/service/{service['id']}/change/",
        f"deployments/operation/{operation}/",
        f"chat/service/{service['id']}/",
    ]
    site.request("DELETE", f"/api/services/{service['id']}")


@pytest.mark.usefixtures("long_ones")
@pytest.mark.parametrize("look", LOOKS)
def test_nothing_serious(browser: "Browser", site: RealSite, objects: list[str], look: str) -> None:  # noqa: F811, F821
    context = browser.new_context(**LOOKS[look], reduced_motion="reduce")
    page = context.new_page()
    found: list[str] = []

    def judge(path: str) -> None:
        for violation in Axe().run(page, options=ONLY).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = violation["nodes"]
                found.append(f"{path}: {violation['id']} in {len(nodes)} places, such as {nodes[0]['html'][:200]}")

    page.goto(f"{site.url}/admin/login/")
    judge("login/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", site.password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(f"{site.url}/admin/")
    for path in ["", *LISTS, *PAGES, *FORMS, *objects]:
        page.goto(f"{site.url}/admin/{path}", wait_until="load")
        page.locator("main").wait_for()
        judge(path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
        if page.viewport_size["width"] == 1280:
            found.extend(f"{path}: the list scrolls, {box}" for box in page.evaluate(SIDEWAYS))
    context.close()
    assert found == [], "\n".join(found)
