"""Starts a site with a small fleet, goes through the ten main pages in four looks, and writes each as a small PNG."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import django

from tests.live.site import ROOT, RealSite

VIEWS = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
COLOURS = 192
# Agents listen on loopback; a fleet does not.
AS_A_FLEET = """() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    if (text.data.includes("127.20.0.")) text.data = text.data.replaceAll("127.20.0.", "10.20.0.");
  }
}"""


def pages(ids: dict[str, Any]) -> dict[str, str]:
    return {
        "overview": "/admin/",
        "servers": "/admin/inventory/server/",
        "server": f"/admin/inventory/server/{ids['server']}/",
        "services": "/admin/deployments/service/",
        "service": f"/admin/deployments/service/{ids['service']}/",
        "deploy": f"/admin/deployments/service/{ids['service']}/change/#plan",
        "cards": f"/admin/inventory/card/compare/?ids={ids['cards']}",
        "chat": f"/admin/chat/conversation/{ids['conversation']}/",
        "run": f"/admin/scheduler/run/{ids['run']}/",
        "usage": "/admin/chat/usage/",
    }


def main(folder: Path) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from playwright.sync_api import sync_playwright

    from tests.live.test_browser import QUIET, chromium
    from tests.screenshots import fleet

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        site = RealSite(Path(place) / "data", INFINI_STABLE_SECONDS="1").start()
        try:
            ids: dict[str, Any] = fleet.make(site)
            browser = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
            ids["conversation"] = talk(browser, site, ids["chat"])
            for view, size in VIEWS.items():
                for scheme in SCHEMES:
                    look(browser, site, ids, folder, view, size, scheme)
        finally:
            site.stop()


def log_in(browser: Any, site: RealSite, **looks: Any) -> Any:
    page = browser.new_context(**looks).new_page()
    page.goto(f"{site.url}/admin/login/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", site.password)
    page.click("#login-form button[type=submit]")
    page.wait_for_url("**/admin/")
    return page


def talk(browser: Any, site: RealSite, service: int) -> str:
    """One question to the real model; returns the conversation's id."""
    from tests.screenshots.fleet import ASKED

    page = log_in(browser, site)
    page.goto(f"{site.url}/admin/chat/conversation/?service={service}")
    page.fill("#chat-message, textarea[name=message], main textarea", ASKED)
    page.keyboard.press("Enter")
    page.locator(".turn[data-role=assistant][data-state=complete]").wait_for(timeout=30_000)
    [conversation, *_] = site.json("GET", "/api/conversations")
    page.context.close()
    return str(conversation["id"])


def look(browser: Any, site: RealSite, ids: dict[str, Any], folder: Path, view: str, size: Any, scheme: str) -> None:
    page = log_in(browser, site, viewport=size, color_scheme=scheme, reduced_motion="reduce", locale="en")
    for name, path in pages(ids).items():
        page.goto(site.url + path)
        page.wait_for_load_state("networkidle")
        if "#" in path:
            page.locator("#" + path.partition("#")[2]).evaluate("part => part.scrollIntoView({block: 'center'})")
        page.evaluate(AS_A_FLEET)
        small(page.screenshot(), folder / f"{name}-{view}-{scheme}.png")
        print(f"{name}-{view}-{scheme}.png", flush=True)
    page.context.close()


def small(png: bytes, path: Path) -> None:
    """With few colours, which pages have anyway."""
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "images")
