"""A person's way through the real site in Chromium: log in, deploy, watch it turn ready, chat, stop.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.live.site import RealSite, wait_until

pytestmark = pytest.mark.live

DEMO_MODEL = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"
SERVE = f"exec {sys.executable} {DEMO_MODEL} --host {{host}} --port {{port}} --model {{model}} --rate 100"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


def chromium() -> str | None:
    named = os.environ.get("INFINI_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:  # noqa: F821
    path = chromium()
    if path is None:
        missing = "Chromium is not installed (set INFINI_CHROMIUM to its path): no page was seen in a browser"
        pytest.fail(missing) if os.environ.get("INFINI_CI") == "1" else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield running
        running.close()


@pytest.fixture
def page(browser: "Browser", site: RealSite) -> Iterator["Page"]:  # noqa: F821
    """Logged in; fails the test when a script has failed on any page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.set_default_timeout(15_000)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(f"{page.url}: {error}"))
    page.goto(f"{site.url}/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", site.password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(f"{site.url}/admin/")
    yield page
    context.close()
    assert broken == []


def test_log_in_deploy_chat_and_stop(page: "Page", site: RealSite) -> None:  # noqa: F821
    name = f"seen-{uuid.uuid4().hex[:6]}"
    page.get_by_role("navigation").get_by_role("link", name="Services", exact=True).click()
    page.get_by_role("main").wait_for()
    page.goto(f"{site.url}/admin/deployments/service/add/")
    page.fill("#id_name", name)
    page.select_option("#id_placed_on", label="local", force=True)
    page.fill("#id_deploy_command", SERVE)
    page.locator("#plan .chip", has_text="starts there").wait_for()
    page.get_by_role("button", name="Save and deploy").click()
    page.wait_for_url("**/admin/deployments/service/*/")

    # Turns ready before our eyes, without a reload.
    page.evaluate("window.notReloaded = true")
    page.locator("#live .page-title .chip", has_text="Running").wait_for(timeout=60_000)
    page.locator("#live .table .chip", has_text="Ready").wait_for()
    assert page.evaluate("window.notReloaded") is True
    service_page = page.url

    page.locator(".page-buttons").get_by_role("link", name="Chat", exact=True).click()
    page.wait_for_url("**/admin/chat/conversation/?service=*")
    page.get_by_label("Your message").fill("What is an agent?")
    page.get_by_role("button", name="Send").click()
    page.locator(".turn[data-role=assistant][data-state=complete]", has_text="demo model").wait_for(timeout=30_000)

    # Stopping asks first, with the focus on No; Escape leaves everything as it is, and the focus where it was.
    page.goto(service_page)
    stop = page.get_by_role("button", name="Stop", exact=True)
    stop.click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_text("1 instance ends, 1 of them ready.").wait_for()
    assert is_focused(dialog.get_by_role("button", name="Cancel"))
    page.keyboard.press("Escape")
    assert dialog.count() == 0 and is_focused(stop)
    assert site.json("GET", f"/api/services/{service_page.rstrip('/').rpartition('/')[2]}")["wanted"] == "running"
    # The last ready instance goes with it: that takes its name, and nothing else.
    stop.click()
    word = dialog.get_by_label(f"Type {name} to confirm")
    word.fill(name[:-1])
    dialog.get_by_role("button", name="Stop", exact=True).click()
    assert word.evaluate("field => field.validationMessage").startswith("This is not it")
    word.fill(name)
    dialog.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text(f"Stopping: {name}.").wait_for()
    page.locator("#live .page-title .chip", has_text="Stopped").wait_for(timeout=30_000)

    # The same from the list, in the same dialog.
    page.goto(f"{site.url}/admin/deployments/service/?q={name}")
    page.locator("tr.data-row input.action-select").check(force=True)
    page.select_option("#changelist-actions select[name=action]", "delete")
    page.get_by_role("button", name="Run", exact=True).click()
    dialog.get_by_text(f"Delete {name}?").wait_for()
    dialog.get_by_label(f"Type {name} to confirm").fill(name)
    dialog.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text(f"Deleting: {name}.").wait_for()
    wait_until(lambda: all(s["name"] != name for s in site.json("GET", "/api/services")), 30, "the service is gone")


def is_focused(element: "Locator") -> bool:  # noqa: F821
    return element.evaluate("element => element === document.activeElement")


def test_a_failing_service_says_why(page: "Page", site: RealSite) -> None:  # noqa: F821
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
    command = "echo the model file is missing; exit 3"
    body = {"name": f"bad-{uuid.uuid4().hex[:6]}", "server_ids": [local["id"]], "deploy_command": command}
    made = site.json("POST", "/api/services", json=body)
    page.goto(f"{site.url}/admin/deployments/service/{made['id']}/")
    page.locator("#live .row-detail .log", has_text="the model file is missing").wait_for(timeout=60_000)
    page.locator("#live .page-title .chip", has_text="Not running").wait_for()
    page.goto(f"{site.url}/admin/")
    line = page.locator(".problems li", has_text=body["name"])
    assert line.locator("time").inner_text().endswith(" ago")
    line.get_by_role("link").click()
    page.wait_for_url(f"**/admin/deployments/service/{made['id']}/")

    # From the failed row to its whole log; what it printed last stays while the page is patched.
    page.locator(".last-lines", has_text="the model file is missing").wait_for()
    page.evaluate("document.querySelector('.last-lines').dataset.mark = 'mine'")
    page.locator("#live .card .source time").first.wait_for()
    page.wait_for_timeout(5500)
    assert page.locator(".last-lines[data-mark=mine]", has_text="the model file is missing").count() == 1
    page.get_by_role("link", name="The whole log").click()
    page.locator("#log-view", has_text="the model file is missing").wait_for()
    tabs = page.get_by_role("navigation", name=f"Parts of {body['name']}")
    assert tabs.locator("[aria-current=page]").inner_text() == "Logs"
    page.get_by_role("main").get_by_role("link", name="Events", exact=True).click()
    page.get_by_role("link", name="Deploy #").wait_for()
    tabs.get_by_role("link", name="Revisions").focus()
    page.keyboard.press("Enter")
    page.get_by_text("All revisions").wait_for()
    site.request("DELETE", f"/api/services/{made['id']}")


def test_errors_stay_three_at_a_time(page: "Page", site: RealSite) -> None:  # noqa: F821
    mark = f"idle-{uuid.uuid4().hex[:6]}"
    made = [site.json("POST", "/api/services", json={"name": f"{mark}-{n}"})["id"] for n in range(4)]
    page.goto(f"{site.url}/admin/deployments/service/?q={mark}")
    page.locator("#action-toggle").check(force=True)
    page.select_option("#changelist-actions select[name=action]", "deploy")
    page.get_by_role("button", name="Run", exact=True).click()
    told = page.locator(".notices-float > li", has_text="has no deploy command yet")
    told.nth(2).wait_for()
    assert told.count() == 3 and page.locator(".notices-more").inner_text() == "1 more"
    told.first.get_by_role("button", name="Close").click()
    assert told.count() == 3 and page.locator(".notices-more").count() == 0
    page.wait_for_timeout(5200)
    assert told.count() == 3, "errors stay until they are closed"
    for service in made:
        site.request("DELETE", f"/api/services/{service}")


def test_keyboard_reaches_content_and_phone_does_not_scroll_sideways(page: "Page", site: RealSite) -> None:  # noqa: F821
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main-content"
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("", "inventory/server/", "deployments/service/", "inventory/card/", "deployments/service/add/"):
        page.goto(f"{site.url}/admin/{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_a_preset_fills_the_form_and_keeps_what_was_typed(page: "Page", site: RealSite) -> None:  # noqa: F821
    page.goto(f"{site.url}/admin/deployments/service/add/")
    page.select_option("#id_preset", "vllm-container")
    assert "docker run" in page.input_value("#id_deploy_command") and page.input_value("#id_probe_path") == "/health"
    page.locator("summary", has_text="Health check").click()
    page.fill("#id_probe_path", "/mine")
    page.select_option("#id_preset", "mindie")
    assert "mindieservice_daemon" in page.input_value("#id_deploy_command")
    assert (page.input_value("#id_stop_command"), page.input_value("#id_port")) == ("", "1025")
    assert page.input_value("#id_probe_path") == "/mine"
    told = page.locator(".preset-note").inner_text()
    assert "Needs MindIE" in told and "Kept as you entered it: Path asked." in told and "never run" in told
    page.select_option("#id_preset", "")
    assert (page.input_value("#id_deploy_command"), page.input_value("#id_probe_path")) == ("", "/mine")

    name = f"demo-{uuid.uuid4().hex[:6]}"
    page.fill("#id_probe_path", "")
    page.fill("#id_name", name)
    page.select_option("#id_placed_on", label="local", force=True)
    page.select_option("#id_preset", "demo")
    page.get_by_role("button", name="Save and deploy").click()
    page.wait_for_url("**/admin/deployments/service/*/")
    page.locator("#live .page-title .chip", has_text="Running").wait_for(timeout=60_000)
    site.request("DELETE", f"/api/services/{page.url.rstrip('/').rpartition('/')[2]}")


def test_check_a_server_from_its_page(page: "Page", site: RealSite) -> None:  # noqa: F821
    page.goto(f"{site.url}/admin/inventory/server/")
    page.get_by_role("link", name="local", exact=False).first.click()
    page.wait_for_url("**/admin/inventory/server/*/")
    page.get_by_role("button", name="Check", exact=True).click()
    page.get_by_text("Checked local: online.").wait_for()
    page.locator("#live .figures progress").first.wait_for()


def test_the_history_of_a_server(page: "Page", site: RealSite) -> None:  # noqa: F821
    """Lines with their gap, values under the pointer and by key, and the same as a table."""
    [server] = [s["id"] for s in site.json("GET", "/api/servers") if s["name"] == "local"]
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    minutes = [n for n in range(2, 50) if not 20 < n < 30]
    rows = [(server, str((now - timedelta(minutes=n)).replace(tzinfo=None)), n, "{}") for n in minutes]
    with closing(sqlite3.connect(site.data_dir / "infini.sqlite3", timeout=20)) as database:
        database.execute("DELETE FROM inventory_sample")  # what the site has written itself by now
        database.executemany(
            "INSERT INTO inventory_sample (server_id, at, cpu_percent, devices) VALUES (?, ?, ?, ?)", rows
        )
        database.commit()

    page.goto(f"{site.url}/admin/inventory/server/{server}/")
    page.get_by_role("main").get_by_role("link", name="History").click()
    line = page.locator("#history .chart-line.line-0").first
    line.wait_for()
    assert line.get_attribute("d").count("M") == 2, "the gap stays a gap"
    plot = page.get_by_role("img", name="CPU, memory, disk")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    seen = plot.get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    assert plot.get_attribute("aria-label") != seen and "CPU " in seen

    page.get_by_role("button", name="6 h").click()
    page.locator("#history [data-span='6h'][aria-pressed=true]").wait_for()
    page.get_by_text("As table").click()
    page.locator("#history tbody tr").nth(359).wait_for()
    told = page.locator("#history tbody tr th").first.inner_text()
    minutes = {(datetime.now(UTC) - timedelta(minutes=n)).strftime("%H:%M") for n in range(4)}
    assert told[-5:] in minutes, f"{told}: not in the account's time zone, which is UTC where none is set"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
