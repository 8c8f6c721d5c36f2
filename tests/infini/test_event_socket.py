"""The timeline live: in order, each event once, and only what one may read."""

import asyncio
import json
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import Client

from infini import event_socket, events, keys
from infini.asgi import application
from infini.models import Event, User
from inventory.models import Brand

pytestmark = pytest.mark.django_db(transaction=True)

HOST = (b"host", b"testserver")
ORIGIN = (b"origin", b"http://testserver")
in_database = database_sync_to_async


def bearer(user: User) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {keys.create_key(user=user, name='test', by=None)[1]}".encode()


class Reader:
    """A client that acknowledges what it reads, unless told not to."""

    def __init__(self, *headers: tuple[bytes, bytes], after: str = "") -> None:
        path = f"/ws/events{f'?after={after}' if after else ''}"
        self.connection = WebsocketCommunicator(application, path, headers=[HOST, *headers])
        self.names: list[str] = []

    async def __aenter__(self) -> "Reader":
        accepted, _ = await self.connection.connect(timeout=10)
        assert accepted
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.disconnect(timeout=10)

    async def frame(self, *, ack: bool = True) -> dict[str, Any]:
        frame = json.loads(await self.connection.receive_from(timeout=10))
        if frame["type"] == "events":
            self.names += [event["subject"]["name"] for event in frame["events"]]
            if ack:
                await self.connection.send_to(json.dumps({"type": "ack", "seq": frame["seq"]}))
        return frame

    async def until(self, count: int) -> None:
        while len(self.names) < count:
            await self.frame()


def happen(*names: str, by: User | None = None) -> list[int]:
    return [events.record("brand.changed", Brand(pk=n, name=name), by=by).pk for n, name in enumerate(names, 1)]


async def test_what_is_committed_arrives_in_order_and_once(viewer: User) -> None:
    header = await in_database(bearer)(viewer)
    async with Reader(header) as reader:
        first = await reader.frame()
        assert first["type"] == "ready"
        await in_database(happen)("one", "two")
        await in_database(happen)("three")
        await reader.until(3)
        assert reader.names == ["one", "two", "three"]
        assert await reader.connection.receive_nothing(timeout=0.6)


async def test_a_reader_catches_up_by_sequence(viewer: User) -> None:
    header = await in_database(bearer)(viewer)
    seen = (await in_database(happen)("seen"))[0]
    await in_database(happen)(*[f"missed {n}" for n in range(450)])
    async with Reader(header, after=str(seen)) as reader:
        assert await reader.frame() == {"type": "ready", "seq": seen}
        await in_database(happen)("new")
        await reader.until(451)
        assert reader.names == [*[f"missed {n}" for n in range(450)], "new"]


async def test_another_history_or_too_old_is_told(viewer: User, monkeypatch: pytest.MonkeyPatch) -> None:
    header = await in_database(bearer)(viewer)
    oldest, *_, newest = await in_database(happen)(*"abcdefgh")
    async with Reader(header, after=str(newest + 1000)) as reader:
        assert await reader.frame() == {"type": "reset", "seq": newest}
    monkeypatch.setattr(event_socket, "BEHIND_MOST", 5)
    async with Reader(header, after=str(oldest)) as reader:
        assert await reader.frame() == {"type": "reset", "seq": newest}


async def test_a_reader_who_stands_still_is_sent_no_more(viewer: User) -> None:
    header = await in_database(bearer)(viewer)
    async with Reader(header) as reader:
        await reader.frame()
        frames = []
        for n in range(event_socket.WINDOW_FRAMES):
            await in_database(happen)(f"event {n}")
            frames.append(await reader.frame(ack=False))
        await in_database(happen)("held back")
        assert await reader.connection.receive_nothing(timeout=0.8)
        await reader.connection.send_to(json.dumps({"type": "ack", "seq": frames[-1]["seq"]}))
        await reader.until(event_socket.WINDOW_FRAMES + 1)
        assert reader.names[-1] == "held back"


async def test_events_about_other_people_are_not_told(viewer: User, administrator: User) -> None:
    headers = [await in_database(bearer)(user) for user in (viewer, administrator)]

    def happen_to_people() -> None:
        events.record("user.changed", administrator, by=administrator)
        events.record("apikey.created", viewer, by=viewer)
        events.record("user.changed", viewer, by=viewer)
        happen("brand")

    async with Reader(headers[0]) as low, Reader(headers[1]) as high:
        await low.frame()
        await high.frame()
        await in_database(happen_to_people)()
        await high.until(4)
        await low.until(3)
        assert high.names == ["administrator", "viewer", "viewer", "brand"]
        assert low.names == ["viewer", "viewer", "brand"]


async def test_many_readers_cost_one_reading(viewer: User) -> None:
    header = await in_database(bearer)(viewer)
    readers = [Reader(header) for _ in range(20)]
    for reader in readers:
        await reader.__aenter__()
        await reader.frame()
    await in_database(happen)("for all")
    await asyncio.gather(*(reader.until(1) for reader in readers))
    assert event_socket._frame.cache_info().hits >= 19
    for reader in readers:
        await reader.__aexit__()


async def test_refusals(make_user: Any, viewer: User) -> None:
    def cookie_of(user: User) -> tuple[bytes, bytes]:
        client = Client()
        client.force_login(user)
        name = settings.SESSION_COOKIE_NAME
        return b"cookie", f"{name}={client.cookies[name].value}".encode()

    cookie = await in_database(cookie_of)(viewer)
    for headers in ([], [cookie], [cookie, (b"origin", b"http://elsewhere.example")]):
        connection = WebsocketCommunicator(application, "/ws/events", headers=[HOST, *headers])
        assert not (await connection.connect(timeout=10))[0]
    async with Reader(cookie, ORIGIN) as reader:
        assert (await reader.frame())["type"] == "ready"
    nobody = await in_database(bearer)(await in_database(make_user)())
    viewer_key = await in_database(bearer)(viewer)
    for header, after, code in ((nobody, "", 4403), (viewer_key, "soon", 4400)):
        async with Reader(header, after=after) as reader:
            assert (await reader.frame())["type"] == "error"
            assert (await reader.connection.receive_output(timeout=10))["code"] == code


async def test_a_role_taken_away_ends_it(viewer: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_socket.EventSocket, "look_again_seconds", 0.1)
    header = await in_database(bearer)(viewer)
    async with Reader(header) as reader:
        await reader.frame()
        await in_database(viewer.groups.clear)()
        assert (await reader.frame())["type"] == "error"
        assert (await reader.connection.receive_output(timeout=10))["code"] == 4403


def test_sequences_are_those_of_the_timeline(viewer: User) -> None:
    assert happen("a")[0] == Event.objects.order_by("-pk").values_list("pk", flat=True)[0]
