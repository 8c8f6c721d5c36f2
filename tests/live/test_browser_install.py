"""An agent installed from the browser, on the real site, over a real sshd: refused first, then to its first report."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.inventory.installing import Machine
from tests.live.site import RealSite, wait_until
from tests.live.test_browser import browser
from tests.real_sshd import RealSshd

__all__ = ["browser"]

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="logs in as root, as which agents are installed"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with RealSshd() as sshd:
        machine = Machine(sshd, tmp_path / "root")
        try:
            yield machine
        finally:
            machine.close()


def test_install_fail_retry_and_first_report(
    browser: Browser,  # noqa: F811, F821
    new_site: Callable[..., RealSite],
    machine: Machine,
) -> None:
    site = new_site(INFINI_AGENT_ROOT=str(machine.root), INFINI_SSH_ACCEPT_NEW_HOST_KEYS="1").start()
    body = {"name": "gpu-1", "host_ip": "127.0.0.1", "port": machine.sshd.port, "username": machine.sshd.username}
    taken = socket.create_server(("127.0.0.1", 0))
    body |= {"private_key": machine.sshd.private_key, "agent_port": taken.getsockname()[1]}
    server = site.json("POST", "/api/servers", json=body)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    try:
        page.goto(f"{site.url}/")
        page.fill("#id_username", "admin")
        page.fill("#id_password", site.password)
        page.click("#login-form button[type=submit]")
        page.wait_for_url(f"{site.url}/admin/")
        page.goto(f"{site.url}/admin/inventory/server/{server['id']}/")
        page.get_by_role("button", name="Install agent").click()
        page.get_by_role("button", name="Install the agent").click()
        page.wait_for_url("**/install/*/")
        page.locator("#live .steps .reason", has_text=f"is taken by process {os.getpid()}").wait_for(timeout=30_000)
        taken.close()
        page.evaluate("window.notReloaded = true")
        page.get_by_role("button", name="Retry 1").click()
        page.locator("#live .steps", has_text="reports, with no instance").wait_for(timeout=60_000)
        page.locator("#live", has_text="1 of 1 done").wait_for()
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wait_until(
            lambda: site.json("GET", f"/api/servers/{server['id']}")["status"] == "online", 20, "the monitor hears it"
        )
    finally:
        taken.close()
        context.close()
        site.stop()
    assert broken == []
