"""Brands put in order in Chromium: dragged, and moved by keys; saved at once, undone, put back when refused.

Without Chromium this test is skipped and says so; with INFINI_CI=1 its absence is a failure.
"""

import re

import pytest

from tests.live.site import RealSite
from tests.live.test_browser import browser, page  # noqa: F401  (fixtures)

pytestmark = pytest.mark.live


def stored(site: RealSite) -> list[str]:
    return [brand["name"] for brand in site.json("GET", "/api/brands")]


def test_brands_are_dragged_and_moved_by_keys(page: "Page", site: RealSite) -> None:  # noqa: F811, F821
    def shown() -> list[str]:
        return page.locator(".order").evaluate_all("marks => marks.map((mark) => mark.dataset.name)")

    def told(pattern: str) -> None:
        page.locator("#order-told", has_text=re.compile(pattern)).wait_for(timeout=10_000)

    before = stored(site)
    page.goto(f"{site.url}/admin/inventory/brand/")
    assert shown() == before

    handle, target = page.locator(".order-handle").nth(0), page.locator(".order-handle").nth(2)
    start, end = handle.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 5, end["y"] + end["height"] + 12, steps=8)
    page.mouse.up()
    told(f"^{before[0]} is now number 3 of {len(before)}. Saved.$")
    dragged = [before[1], before[2], before[0], *before[3:]]
    assert shown() == dragged == stored(site)

    page.get_by_role("button", name="Undo").click()
    told("as it was")
    assert shown() == before == stored(site)

    page.get_by_role("button", name=f"Move {before[1]} up").focus()
    page.keyboard.press("Enter")
    told(f"^{before[1]} is now number 1 ")
    assert shown() == [before[1], before[0], *before[2:]] == stored(site)
    button = page.get_by_role("button", name=f"Move {before[1]} up")
    assert button.evaluate("button => button === document.activeElement")
    assert button.get_attribute("aria-disabled") == "true"
    page.keyboard.press("Enter")  # it is the first: nothing moves

    page.route("**/api/brands/reorder", lambda route: route.abort())
    page.get_by_role("button", name=f"Move {before[1]} down").click()
    told("^Not saved, and put back")
    assert shown() == [before[1], before[0], *before[2:]] == stored(site)

    # On a phone a row is a card, and its buttons do the same.
    page.unroute("**/api/brands/reorder")
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    page.get_by_role("button", name=f"Move {before[0]} up").click()
    told(f"^{before[0]} is now number 1 ")
    assert shown() == before == stored(site)
