"""What axe finds on the pages, in both colour schemes, wide and on a phone: nothing serious.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

from collections.abc import Iterator

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
]
FORMS = [
    *("inventory/server/add/", "inventory/server/import/", "deployments/service/add/", "inventory/brand/add/"),
    *("infini/apikey/add/", "infini/alerttarget/add/", "infini/user/add/", "account/", "password_change/"),
    *("chat/usage/", "chat/endpoint/add/", "chat/trafficrule/add/"),
]


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
    context.close()
    assert found == [], "\n".join(found)
