"""From an empty site to the first answer, led by the overview's guide alone: in Chromium, over a real sshd.

Two people, one reading English and one Chinese, both see each step done by what is true, and take turns at the next.
Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest

from tests.inventory.installing import Machine
from tests.live.site import RealSite
from tests.live.test_browser import SERVE, browser
from tests.live.test_browser_install import machine
from tests.live.test_browser_journeys import LOCALES, Reader, log_in
from tests.ports import free_port

__all__ = ["browser", "machine"]

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="logs in as root, as which agents are installed"),
]

STEPS = ["Add a server", "Its agent reports", "Deploy a service", "Talk to it"]
TURNS = ["en", "zh-hans", "en", "zh-hans"]


@pytest.fixture
def readers(
    browser: Browser,  # noqa: F811, F821
    new_site: Callable[..., RealSite],
    machine: Machine,  # noqa: F811
) -> Iterator[dict[str, Reader]]:
    site = new_site(INFINI_AGENT_ROOT=str(machine.root)).start()
    [local] = site.json("GET", "/api/servers")
    site.request("DELETE", f"/api/servers/{local['id']}")  # as where the site's own machine serves no models
    readers = {}
    for language, locale in LOCALES.items():
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale=locale)
        reader = readers[language] = Reader(language, context.new_page(), site)
        reader.page.set_default_timeout(15_000)
        reader.page.on("pageerror", lambda error, reader=reader: reader.broken.append(f"{reader.page.url}: {error}"))
        log_in(reader.page, site, "admin", site.password)
        reader.page.wait_for_url(f"{site.url}/admin/")
    yield readers
    assert [reader.broken for reader in readers.values()] == [[], []]
    for reader in readers.values():
        reader.page.context.close()


def guide_leads_on(readers: dict[str, Reader], done: int, button: str) -> Reader:
    """So many steps are done, for both; the next has the only button, and is taken by whose turn it is."""
    for reader in readers.values():
        reader.go("")
        guide = reader.page.locator(".guide")
        if done:
            guide.locator("li.is-done").nth(done - 1).wait_for()  # what an agent reports comes by itself
        assert guide.locator("strong").all_inner_texts() == [reader.said(step) for step in STEPS]
        assert guide.get_by_text(reader.said("done"), exact=True).count() == done
        assert guide.get_by_role("link").all_inner_texts() == [reader.said(button)]
    mine = readers[TURNS[done]]
    mine.page.locator(".guide").get_by_role("link").click()
    return mine


def test_the_guide_leads_to_the_first_answer(readers: dict[str, Reader], machine: Machine) -> None:  # noqa: F811
    reader = guide_leads_on(readers, 0, "Add server")
    page = reader.page
    page.wait_for_url("**/inventory/server/add/")
    columns = {"name": "gpu-1", "host_ip": machine.sshd.host, "agent_port": free_port(), "port": machine.sshd.port}
    columns |= {"username": machine.sshd.username, "private_key": machine.sshd.private_key}
    for name, text in columns.items():
        page.fill(f"#id_{name}", str(text))
    page.locator("#submit-row button[name=_save]").click()
    page.wait_for_url(re.compile(r"/inventory/server/\d+/$"))

    reader = guide_leads_on(readers, 1, "Install agent")
    page = reader.page
    page.wait_for_url("**/inventory/server/install/?ids=*")
    reader.button("Install the agent").click()
    page.wait_for_url("**/install/*/")
    # To whom it talks nobody has said yet: the way to say it is a click away.
    page.locator("#live .steps .reason", has_text="SHA256:").wait_for()
    page.locator("#live .result-line strong").get_by_role("link", name="gpu-1").click()
    reader.button("Confirm").click()
    reader.button("Confirm the key", reader.dialog).click()
    page.get_by_text(reader.said("The host key of %(server)s is pinned.", server="gpu-1")).wait_for()
    reader.button("Install agent").click()
    reader.button("Install the agent").click()
    through = reader.said("%(done)d of %(total)d done", done=1, total=1)
    page.locator("#live [role=status]", has_text=through).wait_for(timeout=60_000)

    reader = guide_leads_on(readers, 2, "Add service")
    page = reader.page
    page.wait_for_url("**/deployments/service/add/")
    page.fill("#id_name", "first")
    page.select_option("#id_placed_on", label="gpu-1", force=True)
    page.fill("#id_deploy_command", SERVE)
    reader.button("Save and deploy").click()
    page.wait_for_url(re.compile(r"/deployments/service/\d+/$"))
    page.locator("#live .page-title .chip", has_text=reader.said("Running")).wait_for(timeout=60_000)

    reader = guide_leads_on(readers, 3, "Chat")
    page = reader.page
    page.wait_for_url("**/chat/conversation/?service=*")
    page.get_by_label(reader.said("Your message")).fill("What is an agent?")
    reader.button("Send").click()
    page.locator(".turn[data-role=assistant][data-state=complete]").wait_for(timeout=30_000)
    for reader in readers.values():
        reader.go("")
        reader.page.locator(".guide").wait_for(state="detached", timeout=10_000)
        reader.page.locator(".tile").first.wait_for()
