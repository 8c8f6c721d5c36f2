"""A person in Chromium opens a shell: confirms the host key, types, resizes, loads the page anew and finds the session
again, moves files, and an administrator plays the recording.

Without Chromium these tests are skipped and say so; with INFINI_CI=1 its absence is a failure.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.site import RealSite, wait_until
from tests.live.test_browser import browser, page  # noqa: F401  (fixtures)
from tests.real_sshd import RealSshd

pytestmark = pytest.mark.live
PROFILE = "PS1='here> '; bind 'set enable-bracketed-paste off' 2>/dev/null\n"


@pytest.fixture
def sshd() -> Iterator[RealSshd]:
    with RealSshd(max_sessions=20) as running:
        (running.folder / "home" / ".bash_profile").write_text(PROFILE)
        yield running


@pytest.fixture
def server(site: RealSite, sshd: RealSshd) -> Iterator[dict[str, Any]]:
    body = {
        "name": f"gpu-{uuid.uuid4().hex[:6]}",
        "host_ip": sshd.host,
        "port": sshd.port,
        "username": sshd.username,
        "private_key": sshd.private_key,
    }
    made: dict[str, Any] = site.json("POST", "/api/servers", json=body)
    yield made
    site.request("DELETE", f"/api/servers/{made['id']}")


def photograph(page: "Page", name: str) -> None:  # noqa: F811, F821
    """Keeps a picture where INFINI_PICTURES names a folder."""
    if folder := os.environ.get("INFINI_PICTURES"):
        page.screenshot(path=f"{folder}/terminal-{name}.png")


def shown(page: "Page", text: str) -> None:  # noqa: F811, F821
    page.locator(".term-pane:not([hidden]) .xterm-rows", has_text=text).wait_for()


def test_a_shell_in_the_browser(
    page: "Page",  # noqa: F811, F821
    site: RealSite,
    server: dict[str, Any],
    sshd: RealSshd,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # The first key is shown with its fingerprint and confirmed: the jump host's, and then that of the server behind it.
    behind = {name: server[name] for name in ("host_ip", "port", "username")} | {"name": f"behind-{server['name']}"}
    behind |= {"private_key": sshd.private_key, "jump_id": server["id"]}
    behind = site.json("POST", "/api/servers", json=behind)
    page.goto(f"{site.url}/admin/inventory/terminal/?server={behind['id']}")
    for one in (server, behind):
        page.get_by_text(f"First connection to {one['name']}.").wait_for()
        page.get_by_text("SHA256:").wait_for()
        assert page.get_by_role("button", name="Let others watch").is_disabled(), "nothing is open yet"
        photograph(page, "first-key")
        page.get_by_role("button", name="Confirm this key").click()
    shown(page, "here>")
    pins = [site.json("GET", f"/api/servers/{one['id']}/host-key")["host_key"] for one in (server, behind)]
    assert pins == [sshd.host_key] * 2
    page.keyboard.type("exit\n")
    page.get_by_text("The shell ended with exit status 0.").wait_for()
    assert page.get_by_role("button", name="End this terminal").is_disabled()
    page.get_by_role("button", name=f"Close {behind['name']}").click()
    page.locator("#servers").get_by_role("button", name=server["name"], exact=True).click()
    shown(page, "here>")

    # It is shared by a link, which plain HTTP leaves no script to copy.
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined}); document.execCommand = () => false"
    )
    page.get_by_role("button", name="Let others watch").click()
    page.get_by_text(f"Whoever may open terminals can watch now: {site.url}/").wait_for()
    page.get_by_role("button", name="Let others watch").click()
    page.get_by_text("Nobody else can watch any more").wait_for()
    page.locator(".term-pane:not([hidden]) .xterm-helper-textarea").focus()

    page.keyboard.type("echo typed-$((40+2)) 中文\n")
    shown(page, "typed-42 中文")
    page.keyboard.type("stty size\n")
    rows = page.locator(".xterm-rows > div")
    before = rows.count()
    shown(page, f"{before} ")
    page.set_viewport_size({"width": 900, "height": 500})
    fewer = wait_until(lambda: rows.count() if rows.count() < before else 0, 10, "it has fewer rows")
    page.keyboard.type("clear; stty size\n")
    shown(page, f"{fewer} ")
    photograph(page, "typed")

    # A flood is drawn as fast as the page can, and Ctrl-C is not behind it.
    page.keyboard.type("clear; yes flooded-$((40+2))\n")
    shown(page, "flooded-42")
    page.keyboard.press("Control+c")
    page.keyboard.type("clear; echo dry-$((40+2))\n")
    shown(page, "dry-42")

    # A page loaded anew finds the same shell and what it showed.
    page.keyboard.type("HERE=before\n")
    page.keyboard.type("clear; echo on-the-screen\n")
    shown(page, "on-the-screen")
    page.reload()
    shown(page, "on-the-screen")
    page.keyboard.type("echo $HERE-and-after\n")
    shown(page, "before-and-after")

    # Several lines are not pasted unasked; search finds; a second tab is a second shell.
    page.evaluate(
        "const d = new DataTransfer(); d.setData('text/plain', 'echo one\\recho two\\r');"
        "document.querySelector('.term-pane:not([hidden]) .xterm-helper-textarea').dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: d, bubbles: true, cancelable: true}))"
    )
    page.get_by_role("heading", name="Paste 2 lines?").wait_for()
    page.get_by_role("button", name="Paste").click()
    shown(page, "two")
    page.get_by_role("button", name="New terminal").click()
    page.locator("#mine").get_by_text(server["name"]).wait_for()
    page.locator("#servers").get_by_role("button", name=server["name"], exact=True).click()
    shown(page, "here>")
    assert page.get_by_role("tab").count() == 2
    page.keyboard.press("Control+Alt+1")
    shown(page, "before-and-after")

    # Files beside it.
    page.get_by_role("button", name="Files").click()
    page.get_by_label("Directory").fill(str(tmp_path))
    page.get_by_label("Directory").press("Enter")
    page.get_by_text("Nothing is here.").wait_for()
    data = os.urandom(2_500_000)
    (given_file := tmp_path_factory.mktemp("mine") / "up.bin").write_bytes(data)
    page.locator("#files-upload").set_input_files(given_file)
    page.get_by_text("Done: up.bin").wait_for()
    assert (tmp_path / "up.bin").read_bytes() == data
    photograph(page, "files")
    with page.expect_download() as given:
        page.get_by_role("button", name="up.bin").click()
    assert Path(given.value.path()).read_bytes() == data
    # What is there is not lost without a question, in the site's own dialog.
    given_file.write_bytes(b"newer")
    replace = page.get_by_role("dialog", name="up.bin exists already. Replace it?")
    page.locator("#files-upload").set_input_files(given_file)
    replace.get_by_role("button", name="Cancel").click()
    page.locator("#files-upload").set_input_files(given_file)
    photograph(page, "replace")
    assert (tmp_path / "up.bin").read_bytes() == data
    replace.get_by_role("button", name="Replace").click()
    wait_until(lambda: (tmp_path / "up.bin").read_bytes() == b"newer", 10, "it is replaced")
    # With another server in front the panel is that one's, and a file that is on its way goes where it was sent.
    page.route("**/files/upload?*", lambda route: None)  # held until it is said that nobody routes any more
    given_file.write_bytes(data)
    page.locator("#files-upload").set_input_files(given_file)
    replace.get_by_role("button", name="Replace").click()
    page.get_by_text("Uploading up.bin").wait_for()
    page.get_by_role("button", name="New terminal").click()
    page.locator("#servers").get_by_role("button", name=behind["name"], exact=True).click()
    page.get_by_role("button", name="Files").click()
    page.unroute("**/files/upload?*")
    wait_until(lambda: page.wait_for_timeout(20) or (tmp_path / "up.bin").read_bytes() == data, 10, "it is replaced")
    assert page.get_by_role("button", name="up.bin").count() == 0
    site.request("DELETE", f"/api/servers/{behind['id']}")
    page.get_by_text("This server was deleted").wait_for()
    page.get_by_role("button", name=f"Close {behind['name']}").click()
    page.keyboard.press("Control+Alt+1")

    # Its end is told with the exit status.
    page.locator(".xterm-helper-textarea").first.focus()
    page.keyboard.type("exit 5\n")
    page.get_by_text("The shell ended with exit status 5.").wait_for()
    photograph(page, "ended")

    # The recording is played.
    def finished() -> list[dict[str, Any]]:
        rows = site.json("GET", "/api/recordings")
        return [row for row in rows if (row["server"], row["state"]) == (server["name"], "finished")]

    done = wait_until(finished, 10, "recorded")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{site.url}/admin/inventory/recording/{done[0]['id']}/")
    page.locator(".ap-player").wait_for()
    page.get_by_label("Speed").select_option("10")
    page.locator(".ap-player").click()
    page.keyboard.press("End")
    page.locator(".ap-term", has_text="before-and-after").wait_for()
    photograph(page, "player")


def test_reconnecting_and_phone(page: "Page", site: RealSite, server: dict[str, Any], sshd: RealSshd) -> None:  # noqa: F811, F821
    site.json("POST", f"/api/servers/{server['id']}/host-key", json={"host_key": sshd.host_key})
    page.set_viewport_size({"width": 390, "height": 780})
    page.goto(f"{site.url}/admin/inventory/terminal/?server={server['id']}")
    shown(page, "here>")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("toolbar", name="Keys").get_by_role("button", name="Ctrl").dispatch_event("pointerdown")
    page.keyboard.type("c")
    shown(page, "^C")
    page.emulate_media(color_scheme="dark")
    photograph(page, "phone-dark")
    page.emulate_media(color_scheme="light")

    # The web process dies, and with it the shell: said, not hidden.
    old = site.kill9("web")
    page.get_by_text("Reconnecting").wait_for()
    photograph(page, "reconnecting")
    site.wait_for_restart("web", old)
    page.get_by_text("The site was restarted").wait_for()
    page.get_by_role("button", name="Open a new one").click()
    shown(page, "here>")
    [row] = [r for r in site.json("GET", "/api/terminals?state=ended") if r["server_id"] == server["id"]]
    assert row["ending"] == "restarted"

    # A changed key is refused with both fingerprints.
    sshd.renew_host_key()
    page.goto(f"{site.url}/admin/inventory/terminal/?server={server['id']}&again=1")
    page.get_by_text("has changed").wait_for()
    assert page.get_by_text("SHA256:").count() == 2
    photograph(page, "changed-key")
