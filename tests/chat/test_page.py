"""The chat page in a real browser: log in, ask, see words arrive, stop, retry, reload, clear."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.chat.conftest import Case
from tests.chat.site import Site
from tests.chat.upstream_script import WORDS

CHROMIUM = Path("/usr/bin/chromium")
MISSING = not CHROMIUM.exists()
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(MISSING and os.environ.get("INFINI_CI") != "1", reason=f"no browser at {CHROMIUM}"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TEXT = "".join(WORDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def logged_in(browser: Browser, site: Site) -> Callable[[str], BrowserContext]:
    """A browser context per role, logged in through the form."""
    contexts: dict[str, BrowserContext] = {}

    def context_of(role: str) -> BrowserContext:
        if role not in contexts:
            site.person(role)
            contexts[role] = browser.new_context()
            page = contexts[role].new_page()
            page.goto(f"{site.url}/admin/chat/service/1/")
            page.locator("input[name=username]").fill(role)
            page.locator("input[name=password]").fill("a-long-password")
            page.locator("input[name=password]").press("Enter")
            page.wait_for_url("**/admin/chat/service/1/")
            page.close()
        return contexts[role]

    return context_of


@pytest.fixture
def open_chat(logged_in: Callable[[str], BrowserContext], site: Site) -> Iterator[Callable[..., Page]]:
    pages: list[Page] = []

    def open_(
        case: Case, role: str = "operator", width: int = 1280, scheme: Literal["light", "dark"] = "light"
    ) -> Page:
        page = logged_in(role).new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{site.url}/admin/chat/service/{case.service_id}/")
        return page

    yield open_
    for page in pages:
        page.close()


def ask(page: Page, text: str) -> None:
    expect(page.locator("#chat[data-ready]")).to_be_visible()
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def photograph(page: Page, name: str) -> None:
    """Keeps a picture where INFINI_PICTURES names a folder."""
    if folder := os.environ.get("INFINI_PICTURES"):
        page.screenshot(path=f"{folder}/chat-{name}.png")


def answers(page: Page):
    return page.locator(".chat-message[data-role=assistant]")


def test_words_arrive_and_a_reload_shows_the_history(site: Site, case: Callable[..., Case], open_chat) -> None:
    waits = case("waits")
    page = open_chat(waits)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    ask(page, "Hi <b>there</b>")
    expect(answers(page).locator(".chat-text")).to_have_text(WORDS[0])
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    waits.seen.go_on.set()
    expect(answers(page).locator(".chat-text")).to_have_text(WORDS[0] + TEXT)
    expect(answers(page).locator(".chat-foot")).to_contain_text(re.compile(r"机 · first word after \d+ ms"))
    expect(page.locator("#chat-status")).to_have_text("The answer is complete.")
    page.reload()
    expect(page.locator(".chat-message .chat-text")).to_have_text(["Hi <b>there</b>", WORDS[0] + TEXT])
    assert not problems


def test_stop_ends_the_upstream_and_is_kept(site: Site, case: Callable[..., Case], open_chat) -> None:
    endless = case("endless")
    page = open_chat(endless)
    ask(page, "Count")
    expect(answers(page).locator(".chat-text")).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    assert endless.seen.closed.wait(5)
    expect(answers(page).locator(".chat-state")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(answers(page).locator(".chat-state")).to_have_text("Stopped")


def test_reload_in_mid_answer_shows_how_it_ended(case: Callable[..., Case], open_chat) -> None:
    endless = case("endless")
    page = open_chat(endless)
    ask(page, "Count")
    expect(answers(page).locator(".chat-text")).to_contain_text("word word")
    page.reload()
    expect(answers(page).locator(".chat-state")).to_have_text("Stopped")


def test_a_failure_is_a_sentence_with_retry(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("cut"), width=390)
    ask(page, "Hi")
    expect(answers(page).locator(".chat-foot")).to_contain_text("broke off in the middle")
    photograph(page, "failed")
    page.get_by_role("button", name="Retry").click()
    expect(answers(page)).to_have_count(2)
    expect(answers(page).nth(1).locator(".chat-foot")).to_contain_text("broke off in the middle")


def test_clear_asks_first(site: Site, case: Callable[..., Case], open_chat) -> None:
    good = case("good")
    page = open_chat(good)
    ask(page, "Hi")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    page.get_by_role("button", name="Clear", exact=True).click()
    photograph(page, "dialog")
    page.get_by_role("button", name="Cancel").click()
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("button", name="Clear the history").click()
    expect(answers(page)).to_have_count(0)
    assert site.history(good.service_id, "operator") == []


def test_none_ready_says_why_and_what_to_do(site: Site, case: Callable[..., Case], open_chat) -> None:
    down = case("good")
    site.do("stop", service_id=down.service_id)
    page = open_chat(down)
    expect(page.locator("#chat-not-ready")).to_contain_text("It is stopped.")
    expect(page.get_by_role("link", name="press Deploy")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_disabled()
    photograph(page, "not-ready")
    seen_by_viewer = open_chat(down, "viewer", width=390)
    expect(seen_by_viewer.locator("#chat-not-ready")).to_contain_text("Ask an operator")


def test_a_role_too_low_is_told_the_permission(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("good"), "nobody")
    expect(page.get_by_role("alert")).to_contain_text("chat.use_chat")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_wide_and_narrow_light_and_dark(
    site: Site, case: Callable[..., Case], open_chat, scheme: Literal["light", "dark"], width: int
) -> None:
    """Nothing is wider than the page."""
    good = case("markdown", name=f"qwen-72b {scheme} {width}", served_model="Qwen2.5-72B-Instruct")
    page = open_chat(good, width=width, scheme=scheme)
    ask(page, "How do I see which process holds a port?")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    expect(answers(page).locator("pre code")).to_contain_text("ss -ltnp")
    expect(answers(page).locator("li")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".chat-text img").count() == 0
    photograph(page, f"{scheme}-{width}")
