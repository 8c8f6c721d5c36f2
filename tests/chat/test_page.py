"""The chat page in a real browser: ask, see words arrive, stop, reload in mid-answer, branch, settings, list."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

from tests.chat.conftest import Case
from tests.chat.site import Site
from tests.chat.upstream_script import WORDS, ScriptedUpstream

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
            page.goto(f"{site.url}/admin/chat/conversation/")
            page.locator("input[name=username]").fill(role)
            page.locator("input[name=password]").fill("a-long-password")
            page.locator("input[name=password]").press("Enter")
            page.wait_for_url("**/admin/chat/conversation/")
            page.close()
        return contexts[role]

    return context_of


@pytest.fixture
def open_page(logged_in: Callable[[str], BrowserContext], site: Site) -> Iterator[Callable[..., Page]]:
    """A page at an address, which must cause no error of a script."""
    pages: list[Page] = []
    problems: list[str] = []

    def open_(path: str, role: str = "operator", width: int = 1440, scheme: Literal["light", "dark"] = "light") -> Page:
        page = logged_in(role).new_page()
        pages.append(page)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_default_timeout(15_000)
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{site.url}{path}")
        return page

    yield open_
    for page in pages:
        page.close()
    assert not problems


@pytest.fixture
def open_chat(open_page: Callable[..., Page]) -> Callable[..., Page]:
    """The chat that a service's Chat button opens."""

    def open_(case: Case, *args: Any, **options: Any) -> Page:
        return open_page(f"/admin/chat/service/{case.service_id}/", *args, **options)

    return open_


def ask(page: Page, text: str) -> None:
    expect(page.locator("[data-ready]")).to_be_visible()
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def photograph(page: Page, name: str) -> None:
    """Keeps a picture where INFINI_PICTURES names a folder."""
    if folder := os.environ.get("INFINI_PICTURES"):
        page.wait_for_timeout(250)  # drawers move
        page.screenshot(path=f"{folder}/chat-{name}.png")


def answers(page: Page) -> Locator:
    return page.locator(".turn[data-role=assistant]")


def test_words_arrive_and_a_reload_in_mid_answer_sees_it_complete(case: Callable[..., Case], open_chat) -> None:
    waits = case("waits")
    page = open_chat(waits)
    ask(page, "Hi <b>there</b>")
    expect(answers(page).locator(".turn-text")).to_have_text(WORDS[0])
    expect(page.locator("#chat-status")).to_have_text("An answer is being written.")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/admin/chat/conversation/\d+/$"))
    page.reload()
    expect(answers(page).locator(".turn-text")).to_have_text(WORDS[0])
    expect(answers(page)).to_have_attribute("data-state", "streaming")
    waits.seen.go_on.set()
    expect(answers(page).locator(".turn-text")).to_have_text(WORDS[0] + TEXT)
    expect(answers(page)).to_have_attribute("data-state", "complete")
    expect(answers(page).locator(".turn-figures")).to_contain_text(re.compile(r"机\s*\d+ ms"))
    expect(page.locator("#chat-status")).to_have_text("The answer is complete.")
    page.reload()
    expect(page.locator(".turn .turn-text")).to_have_text(["Hi <b>there</b>", WORDS[0] + TEXT])
    expect(page.locator("#chat-rows a[aria-current]")).to_contain_text("Hi <b>there</b>")


def test_stop_ends_the_upstream_and_is_kept(case: Callable[..., Case], open_chat) -> None:
    endless = case("endless")
    page = open_chat(endless)
    ask(page, "Count")
    expect(answers(page).locator(".turn-text")).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    assert endless.seen.closed.wait(5)
    expect(answers(page).locator(".turn-end")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(answers(page).locator(".turn-end")).to_have_text("Stopped")


def test_two_tabs_and_scrolling_up_stops_following(case: Callable[..., Case], open_chat, open_page) -> None:
    endless = case("endless")
    page = open_chat(endless, width=390)
    ask(page, "Count")
    expect(answers(page).locator(".turn-text")).to_contain_text("word word")
    other = open_page(re.sub(r"^https?://[^/]+", "", page.url))
    expect(answers(other).locator(".turn-text")).to_contain_text("word word")
    scroll = page.locator(".thread-scroll")
    page.wait_for_function("document.querySelector('.thread-scroll').scrollTop > 200")
    scroll.hover()
    page.mouse.wheel(0, -150)
    expect(page.get_by_role("button", name="Follow")).to_be_visible()
    top = scroll.evaluate("box => box.scrollTop")
    length = len(answers(page).locator(".turn-text").inner_text())
    page.wait_for_function(
        "n => document.querySelector('.turn[data-role=assistant] .turn-text').innerText.length > n + 200", arg=length
    )
    assert scroll.evaluate("box => box.scrollTop") == top
    page.get_by_role("button", name="Follow").click()
    assert scroll.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight") < 48
    other.get_by_role("button", name="Stop").click()
    for tab in (page, other):
        expect(answers(tab).locator(".turn-end")).to_have_text("Stopped")


def test_edit_answer_again_and_choose_a_branch(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("good"))
    ask(page, "first question")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    answers(page).get_by_role("button", name="Answer again").click()
    expect(answers(page).locator(".turn-place")).to_have_text("2 of 2")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    answers(page).get_by_role("button", name="Previous branch").click()
    expect(answers(page).locator(".turn-place")).to_have_text("1 of 2")
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit").fill("second question")
    photograph(page, "edit")
    page.get_by_role("textbox", name="Edit").press("Enter")
    question = page.locator(".turn[data-role=user]")
    expect(question.locator(".turn-text")).to_have_text("second question")
    expect(question.locator(".turn-place")).to_have_text("2 of 2")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    question.get_by_role("button", name="Previous branch").click()
    expect(question.locator(".turn-text")).to_have_text("first question")
    expect(answers(page).locator(".turn-place")).to_have_text("2 of 2")


def test_a_failure_is_a_sentence_with_retry(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("cut"), width=390)
    ask(page, "Hi")
    expect(answers(page).locator(".turn-end")).to_contain_text("broke off in the middle")
    photograph(page, "failed")
    page.get_by_role("button", name="Retry").click()
    expect(answers(page).locator(".turn-place")).to_have_text("2 of 2")
    expect(answers(page).locator(".turn-end")).to_contain_text("broke off in the middle")


def test_settings_list_rename_delete_export(site: Site, case: Callable[..., Case], open_chat) -> None:
    thinks = case("thinks", name="thinker")
    page = open_chat(thinks)
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    ask(page, "Where is the needle?")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    expect(answers(page).locator(".turn-figures")).to_contain_text("tok/s")
    details = answers(page).locator("details")
    expect(details).not_to_have_attribute("open", "")
    details.locator("summary").click()
    expect(details).to_contain_text("Let me see.")
    sent = json.loads(thinks.seen.bodies[0])
    assert (sent["temperature"], sent["messages"][0]) == (0.3, {"role": "system", "content": "Be brief."})
    page.get_by_label("Max tokens").fill("77")
    page.get_by_label("Temperature").fill("7")
    page.reload()
    expect(page.get_by_label("Max tokens")).to_have_value("77")
    expect(page.get_by_label("Temperature")).to_have_value("0.3")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")

    page.locator("#chat-menu summary").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Title").fill("Haystack")
    page.get_by_role("textbox", name="Title").press("Enter")
    expect(page.locator("#chat-rows a[aria-current]")).to_contain_text("Haystack")
    page.get_by_label("Search conversations").fill("needle?")
    expect(page.locator("#chat-rows a")).to_have_count(1)
    page.locator("#chat-menu summary").click()
    with page.expect_download() as given:
        page.get_by_role("link", name="Export as Markdown").click()
    assert given.value.suggested_filename == "haystack.md"
    assert "Where is the needle?" in Path(given.value.path()).read_text()
    with page.expect_download() as given:
        page.get_by_role("link", name="Export as JSON").click()
    assert [turn["role"] for turn in json.loads(Path(given.value.path()).read_text())["messages"]] == [
        "user",
        "assistant",
    ]

    page.get_by_role("link", name="New", exact=True).click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("System prompt")).to_have_value("")
    page.locator("#chat-rows a").click()
    expect(page.locator(".turn")).to_have_count(2)
    page.locator("#chat-menu summary").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the conversation").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#chat-rows")).to_contain_text("No conversation matches.")
    assert site.history(thinks.service_id, "operator") == []


def test_saved_is_said_of_what_stands_there_and_the_newest_is_stored_last(
    site: Site, case: Callable[..., Case], open_chat: Callable[..., Page]
) -> None:
    page = open_chat(case("good"))
    saved, most = page.locator("#chat-saved"), page.get_by_label("Max tokens")
    held: list[Route] = []
    page.route("**/api/conversations/*", lambda route: held.append(route))
    ask(page, "Hi")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    with page.expect_request(lambda request: request.method == "PATCH"):
        most.fill("77")
    most.fill("78")
    page.wait_for_timeout(900)  # longer than a change waits to be stored
    assert [route.request.post_data_json["parameters"]["max_tokens"] for route in held] == [77]
    expect(saved).to_have_text("")
    while held:
        held.pop(0).continue_()
        page.wait_for_timeout(200)
    expect(saved).to_have_text("Saved")
    page.unroute_all()
    page.reload()
    expect(most).to_have_value("78")
    page.get_by_role("link", name="New", exact=True).click()
    page.locator("#chat-rows a").first.click()
    expect(most).to_have_value("78")
    most.fill("79")  # and away at once
    page.get_by_role("link", name="New", exact=True).click()
    expect(most).to_have_value("")
    page.locator("#chat-rows a").first.click()
    expect(most).to_have_value("79")


def test_none_ready_says_why(site: Site, case: Callable[..., Case], open_chat) -> None:
    down = case("good")
    site.do("stop", service_id=down.service_id)
    page = open_chat(down, width=390)
    expect(page.locator("#composer-notice")).to_contain_text("cannot answer now. It is stopped.")
    expect(page.get_by_role("link", name="Open the service")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    photograph(page, "not-ready")


def test_a_role_too_low_is_told_the_permission(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("good"), "nobody")
    expect(page.get_by_role("alert")).to_contain_text("chat.use_chat")


def test_drawers_on_a_phone(case: Callable[..., Case], open_chat) -> None:
    page = open_chat(case("good"), width=390)
    expect(page.get_by_label("System prompt")).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("System prompt")).to_be_visible()
    photograph(page, "drawer-settings")
    page.keyboard.press("Escape")
    expect(page.get_by_label("System prompt")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_label("Search conversations")).to_be_visible()
    photograph(page, "drawer-list")
    page.locator("#chat-shade").click(position={"x": 380, "y": 400})
    expect(page.get_by_label("Search conversations")).to_be_hidden()


def test_compare_one_fails_and_the_other_goes_on(
    site: Site, upstream: ScriptedUpstream, case: Callable[..., Case], open_page
) -> None:
    """The one that goes on runs elsewhere."""
    cut = case("cut", name="right")
    base_url = f"http://127.0.0.1:{upstream.port}/markdown/{cut.model}/v1"
    endpoint = site.do("endpoint", name="left", base_url=base_url, key="", served_model="gpt-x")
    page = open_page(f"/admin/chat/conversation/compare/?targets=endpoint-{endpoint},service-{cut.service_id}")
    ask(page, "Which is better?")
    left, right = page.locator("#compare-pane-0"), page.locator("#compare-pane-1")
    expect(left.locator("select option:checked")).to_have_text("left · gpt-x · External")
    expect(left.locator(".compare-chip")).to_have_text(re.compile("External"))
    expect(right.locator(".turn[data-state=failed] .turn-end")).to_contain_text("broke off in the middle")
    expect(left.locator(".turn[data-role=assistant]")).to_have_attribute("data-state", "complete")
    expect(left.locator("[data-figure=first]")).to_contain_text("ms")
    expect(left.locator("[data-figure=speed]")).not_to_have_text("–")
    expect(left.locator("[data-figure=total]")).not_to_have_text("–")
    photograph(page, "compare")
    left.get_by_role("button", name="Maximise").click()
    expect(right).to_be_hidden()
    left.get_by_role("button", name="Side by side").click()
    expect(right).to_be_visible()
    page.reload()
    expect(left.locator(".turn")).to_have_count(2)
    expect(right.locator(".turn")).to_have_count(2)
    page.set_viewport_size({"width": 390, "height": 800})
    expect(right).to_be_hidden()
    page.get_by_role("tab", name="right").click()
    expect(right).to_be_visible()
    expect(left).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    photograph(page, "compare-390")
    page.goto(f"{site.url}/admin/chat/endpoint/{endpoint}/chat/")
    expect(answers(page).locator("pre code")).to_contain_text("ss -ltnp")
    expect(page.locator("#chat-chip")).to_have_text(re.compile("External"))
    photograph(page, "external-390")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_wide_and_narrow_light_and_dark(
    case: Callable[..., Case], open_chat, scheme: Literal["light", "dark"], width: int
) -> None:
    """Nothing is wider than the page."""
    good = case("markdown", name=f"qwen-72b {scheme} {width}", served_model="Qwen2.5-72B-Instruct")
    page = open_chat(good, width=width, scheme=scheme)
    ask(page, "How do I see which process holds a port?")
    expect(answers(page)).to_have_attribute("data-state", "complete")
    expect(answers(page).locator("pre code")).to_contain_text("ss -ltnp")
    expect(answers(page).locator("li")).to_have_count(2)
    expect(answers(page).locator("pre code .hljs-comment")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".turn-text img").count() == 0
    photograph(page, f"{scheme}-{width}")
