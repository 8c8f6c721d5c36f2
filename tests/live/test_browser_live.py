"""Pages that stay true while they stand open, in Chromium: what anybody does shows up without a reload.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.live.site import RealSite
from tests.live.test_browser import browser, page  # noqa: F401  (fixtures)

pytestmark = pytest.mark.live

QUICK_MS = 4000  # less than a page waits between two looks of its own


@pytest.fixture
def brand(site: RealSite) -> Iterator[Callable[[], dict]]:
    made: list[int] = []

    def make() -> dict:
        row = site.json("POST", "/api/brands", json={"name": f"brand {uuid.uuid4().hex[:6]}"})
        made.append(row["id"])
        return row

    yield make
    for pk in made:
        site.request("DELETE", f"/api/brands/{pk}")


def test_the_overview_tells_what_happens(page: "Page", site: RealSite, brand: Callable) -> None:  # noqa: F811, F821
    frames: list[object] = []  # the first may come before the page has wholly loaded
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    timeline = page.context.new_page()
    timeline.goto(f"{site.url}/admin/infini/event/")
    before = timeline.locator("tr.data-row .field-does").all_inner_texts()
    page.goto(f"{site.url}/admin/")
    for _ in range(150):
        if frames:
            break
        page.wait_for_timeout(100)
    assert frames
    page.evaluate("window.notReloaded = true")
    made = brand()
    page.locator(".events li", has_text=made["name"]).wait_for(timeout=QUICK_MS)
    assert page.evaluate("window.notReloaded") is True
    timeline.get_by_role("button", name="came or went, refresh").wait_for(timeout=QUICK_MS)
    assert timeline.locator("tr.data-row .field-does").all_inner_texts() == before  # many rows tell of one subject


def test_a_list_is_patched_and_rows_do_not_jump(page: "Page", site: RealSite, brand: Callable) -> None:  # noqa: F811, F821
    made = brand()
    page.goto(f"{site.url}/admin/inventory/brand/")
    row = page.locator("tr.data-row", has_text=made["name"])
    row.locator("input.action-select").check(force=True)
    site.request("PATCH", f"/api/brands/{made['id']}", json={"name": f"{made['name']} renamed"})
    page.locator("tr.data-row", has_text=f"{made['name']} renamed").wait_for(timeout=QUICK_MS)
    assert row.locator("input.action-select").is_checked()

    other = brand()
    pill = page.get_by_role("button", name="1 row came or went, refresh")
    pill.wait_for(timeout=QUICK_MS)
    assert page.locator("tr.data-row", has_text=other["name"]).count() == 0
    pill.click()
    page.locator("tr.data-row", has_text=other["name"]).wait_for()
