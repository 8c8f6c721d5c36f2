"""Who may: refusals, observers, permissions taken away; and what is said when a server does not do its part."""

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import Client as HttpClient
from rest_framework.test import APIClient

from infini.models import Event, User
from inventory.models import Server, TerminalSession
from inventory.ssh import host_keys
from inventory.terminals import registry
from tests.real_sshd import FakeServer, RealSshd, babbles, hangs_up, make_key, refused_port, says_nothing
from tests.terminals.conftest import PROMPT, row_of, server_at
from tests.terminals.test_sessions import Make, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOOK_EVERY_SECONDS", 0.1)


async def test_role_and_server_are_told_in_a_frame(terminal: Make, viewer: User, operator: User) -> None:
    for user, to, code in ((viewer, None, 4403), (operator, 987654, 4404)):
        one = await terminal(user, to)
        await one.begin({"type": "connect", "cols": 80, "rows": 24})
        assert await one.end() == code
        assert [frame["type"] for frame in one.frames] == ["error"]


async def test_login_and_origin_are_refused_before(server: Server, operator: User, web: HttpClient) -> None:
    from infini.asgi import application

    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in web.cookies.items()).encode()
    for origin, logged_in, opens in (
        (b"http://testserver", True, True),
        (b"http://elsewhere.example", True, False),
        (b"null", True, False),
        (None, True, False),
        (b"http://testserver", False, False),
    ):
        headers = [(b"host", b"testserver"), *([(b"origin", origin)] if origin else [])]
        headers += [(b"cookie", cookie)] if logged_in else []
        socket = WebsocketCommunicator(application, f"/ws/servers/{server.pk}/terminal", headers)
        accepted, _code = await socket.connect(timeout=10)
        assert accepted is opens, (origin, logged_in)
        if accepted:
            await socket.disconnect()


@pytest.mark.parametrize(
    "frame",
    [
        *("{", "[]", "{}", '"connect"', '{"type": 5}', '{"type": "nonsense"}', "[" * 5000),
        {"type": "connect", "cols": 0, "rows": 24},
        {"type": "connect", "cols": True, "rows": 24},
        {"type": "connect", "cols": 80, "rows": 10**9},
        {"type": "connect", "cols": 80, "rows": 24, "auto_command": 5},
        {"type": "connect", "cols": 80, "rows": 24, "service": "x"},
        {"type": "connect", "cols": 80, "rows": 24, "session": "x" * 100},
        {"type": "resize"},
    ],
)
async def test_nonsense_is_one_sentence(terminal: Make, operator: User, frame: Any) -> None:
    one = await terminal(operator)
    await one.begin(frame)
    assert await one.end() == 4400
    assert [f["type"] for f in one.frames] == ["error"] and one.frames[0]["message"].endswith(".")
    assert await sync_to_async(TerminalSession.objects.count)() == 0


async def test_anothers_session_cannot_be_taken_up(terminal: Make, operator: User, make_user: Any) -> None:
    one = await (await terminal(operator)).open()
    stranger = await sync_to_async(make_user)("operator", "stranger")
    for frame in ({"type": "connect", "session": one.session}, {"type": "connect", "session": "0" * 32}):
        two = await terminal(stranger)
        await two.begin(frame)
        assert await two.end() == 4404 and two.frames[-1]["code"] == "session_unknown"


async def test_an_observer_reads_and_cannot_type(
    terminal: Make, operator: User, administrator: User, make_user: Any
) -> None:
    one = await (await terminal(operator)).open(cols=100, rows=30)
    await one.until(PROMPT)
    curious = await sync_to_async(make_user)("operator", "curious")
    refused = await terminal(curious)
    await refused.begin({"type": "observe", "session": one.session})
    assert await refused.end() == 4403

    boss = await (await terminal(administrator)).watch(one.session)
    assert {k: boss.frames[0][k] for k in ("cols", "rows", "user")} == {"cols": 100, "rows": 30, "user": "operator"}
    assert (await one.frame("observers"))["names"] == ["administrator"]
    await boss.type("echo intruder\r")
    await boss.say({"type": "resize", "cols": 10, "rows": 5})
    await boss.say({"type": "share", "on": True})
    assert await one.run("stty size") == "30 100\r\n"
    assert b"30 100" in await boss.until(b"30 100\r\n" + PROMPT)
    await one.say({"type": "resize", "cols": 70, "rows": 20})
    assert await boss.frame("resized") == {"type": "resized", "cols": 70, "rows": 20}

    await one.say({"type": "share", "on": True})
    await one.run("true")
    friend = await (await terminal(curious)).watch(one.session)
    await friend.until(PROMPT)
    one.frames.clear()
    assert (await one.frame("observers"))["names"] == ["administrator", "curious"]
    await one.say({"type": "share", "on": False})
    assert await friend.end() == 4403

    await boss.say({"type": "disconnect"})
    assert await boss.end() == 1000
    assert await one.run("echo still-here") == "still-here\r\n"


async def test_a_slow_observer_delays_nobody(terminal: Make, operator: User, administrator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    boss = await (await terminal(administrator)).watch(one.session)
    boss.acks = False
    await one.type("seq 1 400000; echo all-$((40+2))\r")
    await one.until(b"all-42\r\n" + PROMPT, 30)
    boss.acks = True
    await boss.say({"type": "ack", "bytes": 10**9})
    skipped = await boss.frame("skipped")
    assert skipped["bytes"] > 0
    await boss.until(b"all-42\r\n" + PROMPT)


async def test_lists_and_ending_over_the_api(
    terminal: Make, operator: User, administrator: User, make_user: Any, looks_often: None
) -> None:
    one = await (await terminal(operator)).open()
    two = await (await terminal(administrator)).open()
    stranger = await sync_to_async(make_user)("operator", "stranger")

    def ask(user: User, method: str, path: str) -> Any:
        client = APIClient()
        client.force_login(user)
        return client.generic(method, path)

    async def seen_by(user: User, query: str = "") -> set[str]:
        rows = (await sync_to_async(ask)(user, "GET", f"/api/terminals{query}")).json()
        return {row["id"] for row in rows}

    assert await seen_by(operator) == {one.session}
    assert await seen_by(administrator) == {one.session, two.session}
    assert await seen_by(stranger) == set()
    assert (await sync_to_async(ask)(stranger, "DELETE", f"/api/terminals/{one.session}")).status_code == 404
    assert (await sync_to_async(ask)(administrator, "DELETE", f"/api/terminals/{one.session}")).status_code == 202
    assert await one.end() == 1000
    assert (one.frames[-1]["reason"], one.frames[-1]["by"]) == ("ended", "administrator")
    await registry.settled()
    assert (await sync_to_async(ask)(administrator, "DELETE", f"/api/terminals/{one.session}")).status_code == 409
    assert await seen_by(operator) == set() and await seen_by(operator, "?state=ended") == {one.session}
    ended = await sync_to_async(Event.objects.filter(kind="terminal.ended").first)()
    assert ended.actor_name == "administrator" and ended.data["ending"] == "ended"


async def _no_role(user: User, _server: Server) -> None:
    await sync_to_async(user.groups.clear)()


async def _inactive(user: User, _server: Server) -> None:
    await sync_to_async(User.objects.filter(pk=user.pk).update)(is_active=False)


async def _no_server(_user: User, server: Server) -> None:
    await sync_to_async(server.delete)()


@pytest.mark.parametrize("change", [_no_role, _inactive, _no_server])
async def test_what_is_taken_away_ends_the_session(
    terminal: Make, operator: User, server: Server, looks_often: None, change: Any
) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await change(operator, server)
    assert await one.end() == 4403 and one.frames[-1]["type"] == "error"
    await registry.settled()
    row = await sync_to_async(row_of)(one.session)
    assert row.ending == "revoked"


async def test_a_session_of_a_dead_process_is_told(terminal: Make, operator: User) -> None:
    one = await (await terminal(operator)).open()
    await one.until(PROMPT)
    await one.run("echo kept")
    session = registry.find(one.session)
    assert session and session.recorder
    session.look_again()
    await wait_for(lambda: session.recorder.path.exists())  # type: ignore[union-attr]
    # As another process would find it whose predecessor was killed: a row, a file, and no session.
    registry._sessions.pop(one.session)
    dead = f"{registry.rows.HOST}:4194304:dead"
    await sync_to_async(TerminalSession.objects.filter(key=one.session).update)(process=dead)
    again = await terminal(operator)
    await again.begin({"type": "connect", "session": one.session})
    assert await again.end() == 4404 and "restarted" in again.frames[-1]["message"]
    row = await sync_to_async(row_of)(one.session)
    assert (row.ending, row.recording.state) == ("restarted", "cut") and row.recording.bytes > 0
    registry._sessions[one.session] = session


# What is said when a server does not do its part


def _of(server: Any, **other: Any) -> dict[str, Any]:
    return {"host_ip": server.host, "port": server.port, "username": "root", "password": "canary", **other}


@pytest.fixture(scope="module")
def locked_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_key(tmp_path_factory.mktemp("keys") / "locked", passphrase="right")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from inventory.terminals import opening

    monkeypatch.setattr(opening, "CONNECT_TIMEOUT_SECONDS", 1.0)
    yield


@pytest.mark.parametrize(
    ("name", "start", "other"),
    [
        ("no account", nullcontext, {"username": "", "host_ip": "127.0.0.1"}),
        ("wrong password", None, {}),
        ("refused port", nullcontext, {"host_ip": "127.0.0.1"}),
        ("silent", functools.partial(FakeServer, says_nothing), {}),
        ("hangs up", functools.partial(FakeServer, hangs_up), {}),
        ("babbles", functools.partial(FakeServer, babbles), {}),
        ("unknown key", None, {"password": "", "private_key": "-----BEGIN NONSENSE-----"}),
        ("wrong passphrase", None, {"password": "", "private_key": "locked", "passphrase": "canary"}),
    ],
)
async def test_what_fails_is_one_sentence_and_an_event(
    terminal: Make,
    operator: User,
    shells: RealSshd,
    quick: None,
    locked_key: str,
    name: str,
    start: Any,
    other: dict[str, Any],
) -> None:
    with start() if start else nullcontext(shells) as place:
        given = (
            _of(place, **other)
            if place
            else {"port": refused_port(), "username": "root", "password": "canary", **other}
        )
        if given.get("private_key") == "locked":
            given["private_key"] = locked_key
        if isinstance(place, RealSshd):
            given["host_key"] = place.host_key
        at = await sync_to_async(Server.objects.create)(name=f"bad {name}", **given)
        one = await terminal(operator, at.pk)
        await one.begin({"type": "connect", "cols": 80, "rows": 24})
        assert await one.end(20) == 4502
    [frame] = one.frames
    assert frame["type"] == "error" and frame["message"].endswith(".") and len(frame["message"]) < 400
    assert "canary" not in frame["message"] and "Traceback" not in frame["message"]
    event = await sync_to_async(Event.objects.filter(kind="terminal.refused").first)()
    assert event.subject_name == f"bad {name}" and event.data["reason"] == frame["message"]


async def test_first_host_key_is_confirmed_and_a_changed_one_refused(terminal: Make, operator: User) -> None:
    with RealSshd() as sshd:
        at = await sync_to_async(server_at)(sshd, name="new", host_key="")

        async def refusal() -> dict[str, Any]:
            one = await terminal(operator, at.pk)
            await one.begin({"type": "connect", "cols": 80, "rows": 24})
            assert await one.end() == 4502
            return one.frames[0]

        first = await refusal()
        assert first["code"] == "host_key_unknown" and first["fingerprint"].startswith("SHA256:")
        assert first["key"] == sshd.host_key
        await sync_to_async(host_keys.confirm_host_key)(at, first["key"], by=operator)
        one = await (await terminal(operator, at.pk)).open()
        await one.say({"type": "disconnect"})
        await one.end()
        sshd.renew_host_key()
        changed = await refusal()
        assert changed["code"] == "host_key_changed"
        assert changed["pinned_fingerprint"] == first["fingerprint"] != changed["fingerprint"]


def test_page_offers_it_to_who_may(web: HttpClient, viewer: User, server: Server) -> None:
    page = web.get(f"/admin/inventory/terminal/?server={server.pk}")
    assert page.status_code == 200 and b'data-server-name="gpu-1"' in page.content
    assert (
        f"/admin/inventory/terminal/?server={server.pk}".encode()
        in web.get(f"/admin/inventory/server/{server.pk}/").content
    )
    assert web.get("/admin/inventory/terminal/?server=987654").status_code == 404
    other = HttpClient()
    assert other.get("/admin/inventory/terminal/").status_code == 302
    other.force_login(viewer)
    refused = other.get(f"/admin/inventory/terminal/?server={server.pk}")
    assert refused.status_code == 403 and b"inventory.open_terminal" in refused.content
    assert b"inventory/terminal/?server" not in other.get(f"/admin/inventory/server/{server.pk}/").content
