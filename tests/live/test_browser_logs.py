"""A person reads a log in Chromium: lines appear, reading further up pauses, search, wrap, an outage of the agent.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.site import RealSite
from tests.live.test_browser import browser, page  # noqa: F401  (fixtures)

pytestmark = pytest.mark.live

# Coloured, with a progress bar, and markup that must stay text.
WRITE = r"""
printf '\033[32mINFO\033[0m <b>loading</b> weights\n'
printf 'load  10%%\rload  50%%\rload 100%%\n'
for i in $(seq 1 800); do echo "early $i"; done
i=0; while :; do i=$((i+1)); echo "INFO line $i: 127.0.0.1 POST /v1/chat/completions 200"; sleep 0.1; done
"""


@pytest.fixture
def service(site: RealSite) -> Iterator[int]:
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
    body = {"name": f"log-{uuid.uuid4().hex[:6]}", "server_ids": [local["id"]], "deploy_command": WRITE}
    made = site.json("POST", "/api/services", json=body)["id"]
    yield made
    site.request("DELETE", f"/api/services/{made}")


def test_read_a_log(page: "Page", site: RealSite, service: int) -> None:  # noqa: F811, F821
    sockets: list[str] = []
    page.on("websocket", lambda opened: "/logs" in opened.url and sockets.append(opened.url))
    page.goto(f"{site.url}/admin/deployments/service/{service}/")
    page.locator("#live .table").wait_for()
    page.wait_for_timeout(500)
    assert sockets == [], "no socket before the tab is open"

    view = page.locator("#log-view")
    page.get_by_role("main").get_by_role("link", name="Logs", exact=True).click()
    page.get_by_text("INFO line 5:").wait_for()
    page.locator("#log-status", has_text="Live").wait_for()
    assert "tail=500" in sockets[0]
    assert view.locator(".log-line").count() < 700
    assert view.evaluate("v => v.scrollHeight - v.scrollTop - v.clientHeight") < 30

    # Reading further up pauses; what comes is counted and shown when asked for.
    view.hover()
    page.mouse.wheel(0, -2000)
    follow = page.locator("#log-follow")
    page.wait_for_function("/^[0-9]+ new, follow$/.test(document.getElementById('log-follow').textContent)")
    before, top = view.locator(".log-line").count(), view.evaluate("v => v.scrollTop")
    page.wait_for_timeout(1500)
    assert (view.locator(".log-line").count(), view.evaluate("v => v.scrollTop")) == (before, top)
    follow.click()
    assert follow.is_hidden() and view.locator(".log-line").count() > before
    numbers = [int(t.split("line ")[1].split(":")[0]) for t in view.locator("text=INFO line").all_inner_texts()]
    assert numbers == list(range(1, len(numbers) + 1))

    # Search in what is loaded.
    page.get_by_label("Search in what is loaded").fill("EARLY 79")
    page.locator("#log-found", has_text="of 10").wait_for()
    page.keyboard.press("Enter")
    page.locator("#log-found", has_text="10 of 10").wait_for()
    page.get_by_role("button", name="Next match").click()
    page.locator("#log-found", has_text="1 of 10").wait_for()
    assert view.locator("mark.is-current").is_visible() and follow.is_visible()
    page.get_by_label("Search in what is loaded").fill("")
    assert view.locator("mark").count() == 0

    page.get_by_role("button", name="Wrap").click()
    assert view.evaluate("v => getComputedStyle(v).whiteSpace") == "pre"

    with page.expect_download() as given:
        page.get_by_role("link", name="Download").click()
    text = Path(given.value.path()).read_text(encoding="utf-8")
    assert text.startswith("\x1b[32mINFO\x1b[0m <b>loading</b>") and "early 1\n" in text

    # Out of sight the socket is closed; back in sight it goes on where it was.
    follow.click()
    gap = "Object.assign(document.createElement('div'), {id: 'gap', style: 'height: 200vh'})"
    page.evaluate(f"document.getElementById('logs').before({gap})")
    page.evaluate("document.getElementById('live').scrollIntoView()")
    page.locator("#log-status", has_text="Paused while out of sight").wait_for(state="attached")
    count = len(sockets)
    page.evaluate("document.getElementById('gap').remove()")
    page.evaluate("document.getElementById('logs').scrollIntoView()")
    page.locator("#log-status", has_text="Live").wait_for()
    assert len(sockets) == count + 1 and "offset=" in sockets[-1]


def test_lines_are_cleaned_and_an_outage_is_told(page: "Page", site: RealSite) -> None:  # noqa: F811, F821
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
    command = WRITE.replace("seq 1 800", "seq 1 3")
    body = {"name": f"log-{uuid.uuid4().hex[:6]}", "server_ids": [local["id"]], "deploy_command": command}
    made = site.json("POST", "/api/services", json=body)["id"]
    page.goto(f"{site.url}/admin/deployments/service/{made}/?tab=logs")
    page.get_by_text("INFO line 3:").wait_for()
    lines = page.locator("#log-view .log-line").all_inner_texts()
    assert lines[:5] == ["INFO <b>loading</b> weights", "load 100%", "early 1", "early 2", "early 3"]

    old = site.kill9("agent")
    page.locator("#log-status.is-bad", has_text="Not live since").wait_for()
    site.wait_for_restart("agent", old)
    page.locator("#log-status", has_text="Live").wait_for()
    page.wait_for_timeout(1500)
    texts = page.locator("#log-view .log-line", has_text="INFO line").all_inner_texts()
    numbers = [int(text.split("line ")[1].split(":")[0]) for text in texts]
    assert numbers == list(range(1, len(numbers) + 1))

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    site.request("DELETE", f"/api/services/{made}")


def test_a_flood_leaves_the_page_usable(page: "Page", site: RealSite) -> None:  # noqa: F811, F821
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
    body = {"name": f"log-{uuid.uuid4().hex[:6]}", "server_ids": [local["id"]], "deploy_command": "exec yes"}
    made = site.json("POST", "/api/services", json=body)["id"]
    page.goto(f"{site.url}/admin/deployments/service/{made}/?tab=logs")
    page.wait_for_function("document.querySelectorAll('#log-view .log-line').length === 5000")
    for _ in range(5):
        page.wait_for_timeout(400)
        page.locator("#log-wrap").click(timeout=6000)  # all of it is seen and drawn, by software
        assert page.locator("#log-view .log-line").count() <= 5000
    page.locator("#log-view").hover()
    page.mouse.wheel(0, -2000)
    page.wait_for_function("/ new, follow$/.test(document.getElementById('log-follow').textContent)")
    site.request("DELETE", f"/api/services/{made}")
