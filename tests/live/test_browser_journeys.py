"""What people come for, from page to page in Chromium, in both languages: one site, one login a language.

Deploying, chatting, commands, terminals, logs, brands and installing have files of their own beside this one. Without
Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyotp
import pytest
from django.utils import translation

from tests.live.site import RealSite, wait_until
from tests.live.test_browser import browser, is_focused  # noqa: F401  (fixture)

pytestmark = pytest.mark.live

LOCALES = {"en": "en-US", "zh-hans": "zh-CN"}
PASSWORD = "a-long-passphrase-7"


@dataclass
class Reader:
    """Somebody who reads ``language``, logged in as the administrator."""

    language: str
    page: Any
    site: RealSite
    broken: list[str] = field(default_factory=list)

    def said(self, text: str, **values: Any) -> str:
        """``text`` as its pages say it; a text without a translation fails the test."""
        with translation.override(self.language):
            told = translation.gettext(text)
        assert self.language == "en" or told != text, f"not translated: {text}"
        return told % values if values else told

    def go(self, path: str) -> None:
        self.page.goto(f"{self.site.url}/admin/{path}")

    def button(self, text: str, within: Any = None, **values: Any) -> Any:
        return (within or self.page).get_by_role("button", name=self.said(text, **values), exact=True)

    @property
    def dialog(self) -> Any:
        return self.page.locator("dialog[open]")

    @property
    def path(self) -> str:
        return str(self.page.url.removeprefix(f"{self.site.url}/admin/"))


def log_in(page: Any, site: RealSite, name: str, password: str) -> None:
    page.goto(f"{site.url}/admin/login/")
    page.fill("#id_username", name)
    page.fill("#id_password", password)
    page.click("#login-form button[type=submit]")


@pytest.fixture(scope="module", params=LOCALES)
def reading(request: pytest.FixtureRequest, browser: Any, site: RealSite) -> Iterator[Reader]:  # noqa: F811
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale=LOCALES[request.param])
    reader = Reader(request.param, context.new_page(), site)
    reader.page.set_default_timeout(15_000)
    reader.page.on("pageerror", lambda error: reader.broken.append(f"{reader.page.url}: {error}"))
    log_in(reader.page, site, "admin", site.password)
    reader.page.wait_for_url(f"{site.url}/admin/")
    yield reader
    context.close()


@pytest.fixture
def reader(reading: Reader) -> Iterator[Reader]:
    yield reading
    assert reading.broken == []


@pytest.fixture
def person(site: RealSite) -> str:
    """A viewer of the test's own."""
    name = f"viewer-{uuid.uuid4().hex[:6]}"
    code = (
        "from infini.models import User; from django.contrib.auth.models import Group; "
        f"u = User.objects.create_user({name!r}, password={PASSWORD!r}, is_staff=True); "
        "u.groups.add(Group.objects.get(name='viewer'))"
    )
    assert site.manage("shell", "-c", code).returncode == 0
    return name


def test_from_the_overview_to_what_it_counts(reader: Reader) -> None:
    reader.go("")
    reader.page.locator(".tile", has_text=reader.said("Servers online")).click()
    reader.page.wait_for_url(re.compile(r"/inventory/server/(\?.*)?$"))
    reader.page.get_by_role("link", name="local", exact=False).first.click()
    reader.page.wait_for_url(re.compile(r"/inventory/server/\d+/"))
    reader.page.locator("#figures-title", has_text=reader.said("Resources")).wait_for()
    reader.page.locator("header").get_by_role("link", name=reader.said("servers").capitalize(), exact=True).click()
    assert reader.path == "inventory/server/"


def test_keys_lead_everywhere_and_not_out_of_a_field(reader: Reader) -> None:
    keys = reader.page.keyboard
    reader.go("inventory/brand/")
    rows = reader.page.locator("tr.data-row")
    keys.press("j")
    keys.press("j")
    assert rows.nth(1).evaluate("row => row.contains(document.activeElement)")
    keys.press("k")
    keys.press("x")
    assert (
        rows.nth(0).locator("input.action-select").is_checked() and not rows.nth(1).locator("input").first.is_checked()
    )
    keys.press("?")
    reader.dialog.get_by_text(reader.said("Next and previous row")).wait_for()
    keys.press("Escape")
    assert reader.dialog.count() == 0
    keys.press("/")
    keys.type("jx?/")
    assert is_focused(reader.page.locator("#searchbar")) and reader.dialog.count() == 0
    assert reader.page.locator("#searchbar").input_value() == "jx?/"
    keys.press("Escape")
    keys.press("j")
    keys.press("Enter")
    reader.page.wait_for_url(re.compile(r"/inventory/brand/\d+/$"))

    keys.press("Control+k")
    assert reader.page.get_by_role("combobox").get_attribute("aria-label") == reader.said("Name of what you look for")
    keys.type("local")
    reader.page.locator("#find-rows li", has_text="local").first.wait_for()
    keys.press("Enter")
    reader.page.wait_for_url(re.compile(r"/inventory/server/\d+/$"))


def test_many_servers_are_added_after_a_look_and_checked_together(reader: Reader) -> None:
    mark = uuid.uuid4().hex[:6]
    reader.go("inventory/server/import/")
    lines = f"name,address\n{mark}-a,127.0.0.1\n{mark}-b,127.0.0.1\n{mark}-c,not an address!\n"
    reader.page.locator("textarea[name=text]").fill(lines)
    reader.button("Look at it").click()
    reader.page.get_by_text(f"{mark}-c").first.wait_for()
    add = reader.page.locator("button[name=write]")
    assert "2" in add.inner_text() and reader.page.locator("button[name=errors]").inner_text()
    add.click()
    reader.page.wait_for_url("**/inventory/server/")

    reader.go(f"inventory/server/?q={mark}")
    assert reader.page.locator("tr.data-row").count() == 2
    for box in reader.page.locator("tr.data-row input.action-select").all():
        box.check(force=True)
    reader.page.select_option("#changelist-actions select[name=action]", "check")
    reader.page.locator("#changelist-actions button[type=submit]").click()  # at once: nothing is asked
    told = reader.page.locator(".notices li", has_text=f"{mark}-a")
    told.get_by_text(re.compile(r"Checked|检查")).wait_for()
    reader.page.mouse.move(0, 0)
    told.wait_for(state="detached")  # it went well: said for a while

    for box in reader.page.locator("tr.data-row input.action-select").all():
        box.check(force=True)
    reader.page.select_option("#changelist-actions select[name=action]", "delete_selected")
    reader.page.locator("#changelist-actions button[type=submit]").click()
    reader.dialog.get_by_text(f"{mark}-b").wait_for()
    assert is_focused(reader.button("Cancel", reader.dialog))
    reader.dialog.locator("input[name=word]").fill("2")
    reader.dialog.get_by_role("button", name=f"{reader.said('Delete')} 2", exact=True).click()
    reader.page.get_by_text(re.compile(f"(Deleted: |已删除：){mark}-a, {mark}-b")).wait_for()


def test_cards_beside_each_other(reader: Reader) -> None:
    reader.go("inventory/card/?q=H100")
    names = reader.page.locator("tr.data-row").all()[:2]
    for row in names:
        row.locator("input.action-select").check(force=True)
    reader.page.select_option("#changelist-actions select[name=action]", "compare")
    reader.page.locator("#changelist-actions button[type=submit]").click()
    reader.page.wait_for_url(re.compile(r"/card/compare/"))
    reader.page.get_by_role("heading", name=reader.said("Compare cards")).wait_for()
    assert (
        reader.page.locator("thead th a[href*='/card/']").count() >= 2 and reader.page.locator("progress").count() > 4
    )


def test_a_filter_becomes_a_tab_and_columns_are_chosen(reader: Reader) -> None:
    name, page = f"mine-{uuid.uuid4().hex[:4]}", reader.page
    reader.go("inventory/card/?q=H100")
    rows = page.locator("tr.data-row").count()
    page.locator(".list-tabs summary", has_text=reader.said("Save as tab")).click()
    page.get_by_label(reader.said("Name"), exact=True).fill(name)
    reader.button("Save").click()
    tab = page.get_by_role("navigation", name=reader.said("Saved filters")).get_by_role("link", name=name, exact=True)
    tab.wait_for()
    reader.go("inventory/card/")
    tab.click()
    page.wait_for_url("**/inventory/card/?q=H100")
    assert page.locator("tr.data-row").count() == rows and tab.get_attribute("aria-current") == "page"
    page.locator(".list-tabs summary").click()
    reader.button("Remove").click()
    assert is_focused(reader.button("Cancel", reader.dialog))
    reader.button("Remove", reader.dialog).click()
    tab.wait_for(state="detached")

    for shown in (False, True):
        page.locator(".columns-menu summary").click()
        page.locator(".columns-menu").get_by_label(reader.said("Source"), exact=True).set_checked(shown)
        reader.button("Show these").click()
        page.locator("#result_list .column-source").wait_for(state="visible" if shown else "hidden")


def test_deploy_with_a_plan_and_roll_back(reader: Reader) -> None:
    name, site = f"way-{uuid.uuid4().hex[:6]}", reader.site
    reader.go("deployments/service/add/")
    reader.page.fill("#id_name", name)
    reader.page.select_option("#id_placed_on", label="local", force=True)
    reader.page.fill("#id_deploy_command", "exec sleep 1001")
    reader.page.locator("#plan .chip", has_text=reader.said("starts there")).wait_for()
    reader.button("Save and deploy").click()
    reader.page.wait_for_url(re.compile(r"/deployments/service/\d+/$"))
    running = reader.page.locator("#live .page-title .chip", has_text=reader.said("Running"))
    running.wait_for(timeout=60_000)
    service = reader.path.split("/")[2]

    site.json("PATCH", f"/api/services/{service}", json={"deploy_command": "exec sleep 1002"})
    site.json("POST", f"/api/services/{service}/deploy")
    wait_until(lambda: site.json("GET", f"/api/services/{service}")["deploy_status"] == "deployed", 60)
    reader.go(f"deployments/service/{service}/revisions/")
    reader.page.locator(".diff-old", has_text="1001").wait_for()
    reader.page.locator("td form[data-asks] button").first.click()
    reader.dialog.get_by_text(
        reader.said("Roll back") if reader.language != "en" else f"Roll back {name}?"
    ).first.wait_for()
    reader.dialog.locator("button[type=submit]").click()
    reader.page.wait_for_url(f"**/deployments/service/{service}/")
    reader.page.get_by_text(reader.said("Rolling back: %(names)s.", names=name)).wait_for()
    running.wait_for(timeout=60_000)
    reader.page.locator("pre", has_text="1001").first.wait_for()
    site.request("DELETE", f"/api/services/{service}")


def test_two_steps_language_and_sessions_of_ones_own(reader: Reader, browser: Any, person: str) -> None:  # noqa: F811
    site, other = reader.site, "zh-hans" if reader.language == "en" else "en"
    pages = [browser.new_context(locale=LOCALES[reader.language]).new_page() for _ in range(2)]
    mine, elsewhere = pages
    own = Reader(reader.language, mine, site)
    log_in(mine, site, person, PASSWORD)
    mine.wait_for_url(f"{site.url}/admin/")
    own.go("account/")
    own.button("Set up").click()
    secret = mine.locator("form code").inner_text()
    mine.fill("#two-step-code", pyotp.TOTP(secret).now())
    own.button("Turn on").click()
    codes = mine.locator("main code, main li").all_inner_texts()
    assert len(codes) >= 8

    # Somewhere else the password is not enough; a recovery code is the second step.
    log_in(elsewhere, site, person, PASSWORD)
    elsewhere.wait_for_url("**/login/code/**")
    elsewhere.fill("#id_code", "000000")
    elsewhere.click("#login-code-form button")
    elsewhere.locator("#login-code-form").wait_for()
    elsewhere.fill("#id_code", codes[0].strip())
    elsewhere.click("#login-code-form button")
    elsewhere.wait_for_url(f"{site.url}/admin/")

    # The first ends the other's session, which has to log in again.
    own.go("account/")
    mine.locator("form[data-asks] button").first.click()
    ending = own.dialog.locator("button[type=submit]")
    ending.wait_for()
    assert "1" in ending.inner_text()
    ending.click()
    mine.get_by_text(own.said("Sessions ended: %(n)d.", n=1)).wait_for()
    elsewhere.goto(f"{site.url}/admin/account/")
    assert "/login/" in elsewhere.url

    mine.select_option("select[name=language]", other)
    own.button("Save").click()
    turned = Reader(other, mine, site)
    mine.get_by_role("heading", name=turned.said("Two-step login")).wait_for()
    assert mine.locator("html").get_attribute("lang") == other
    for page in pages:
        page.context.close()
