"""Logs by offset, as a file and live over the socket, from real agents."""

import asyncio
import json
import os
import re
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import AsyncClient, Client
from rest_framework.test import APIClient

from deployments import consumers, feeds, lifecycle
from deployments.models import Instance, Service
from deployments.phases import Phase, Wanted
from infini.asgi import application
from infini.keys import create_key
from infini.models import User
from inventory.models import Server
from tests.deployments.conftest import turn

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = (b"origin", b"http://testserver")
HOST = (b"host", b"testserver")
# What is written can be told by its numbers.
COUNT = 'i=0; while :; do i=$((i+1)); echo "line $i 字"; sleep 0.02; done'


@pytest.fixture
def run(make_service: Callable[..., Service], server: Server) -> Callable[..., Instance]:
    """An instance that runs ``command`` on a real agent."""

    def start(command: str, **spec: object) -> Instance:
        service = make_service(command, server, **spec)
        turn(lifecycle.deploy(service, by=None))
        return Instance.objects.get(placement__service=service)

    return start


@pytest.fixture
def viewer_key(viewer: User) -> str:
    return create_key(user=viewer, name="test", by=None)[1]


def socket(path: str, *headers: tuple[bytes, bytes]) -> WebsocketCommunicator:
    return WebsocketCommunicator(application, path, headers=[HOST, *headers])


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {key}".encode()


def cookie_of(user: User) -> tuple[bytes, bytes]:
    client = Client()
    client.force_login(user)
    name = settings.SESSION_COOKIE_NAME
    return b"cookie", f"{name}={client.cookies[name].value}".encode()


class Watcher:
    """A client of the socket that checks each frame against the one before."""

    def __init__(self, connection: WebsocketCommunicator) -> None:
        self.connection = connection
        self.offset: int | None = None
        self.text = ""
        self.kinds: list[str] = []

    async def frame(self, *, ack: bool = True, seconds: float = 15) -> dict[str, Any]:
        frame = json.loads(await self.connection.receive_from(timeout=seconds))
        self.kinds.append(frame["type"])
        if frame["type"] == "log":
            assert self.offset is None or frame["offset"] == self.offset, "a gap or a repetition"
            assert len(frame["data"].encode()) == frame["next_offset"] - frame["offset"]
            self.offset = frame["next_offset"]
            self.text += frame["data"]
            if ack:
                await self.ack()
        return frame

    async def ack(self) -> None:
        await self.connection.send_to(json.dumps({"type": "ack", "offset": self.offset}))

    async def until(self, condition: Callable[[], Any], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await self.frame()

    def numbers(self) -> list[int]:
        return [int(number) for number in re.findall(r"line (\d+) 字\n", self.text)]


@asynccontextmanager
async def watch(instance: Instance, key: str, query: str = "") -> Any:
    connection = socket(f"/ws/instances/{instance.pk}/logs{query}", bearer(key))
    accepted, _ = await connection.connect(timeout=10)
    assert accepted
    try:
        yield Watcher(connection)
    finally:
        await connection.disconnect(timeout=10)


# HTTP


def test_pieces_by_offset_and_the_last_lines(run: Callable[..., Instance], api: APIClient) -> None:
    instance = run("printf 'one\\ntwo\\n字字\\nfour\\n'")
    path = f"/api/instances/{instance.pk}/logs"
    whole = api.get(path).json()
    assert whole == {"offset": 0, "next_offset": 20, "size": 20, "data": "one\ntwo\n字字\nfour\n"}
    assert api.get(f"{path}/?offset=4&limit=4").json() == {"offset": 4, "next_offset": 8, "size": 20, "data": "two\n"}
    assert api.get(f"{path}?tail=1").json()["data"] == "four\n"
    told, at = "", 0
    while at < 20:
        piece = api.get(f"{path}?offset={at}&limit=5").json()
        assert piece["offset"] == at and piece["next_offset"] > at
        told, at = told + piece["data"], piece["next_offset"]
    assert told == whole["data"]
    for query in ("offset=x", "offset=-1", "limit=0", "limit=99999999", "tail=1&offset=3"):
        assert api.get(f"{path}?{query}").status_code == 400, query
    assert api.get("/api/instances/987654/logs").status_code == 404


def test_an_agent_that_is_away_is_told(run: Callable[..., Instance], server: Server, api: APIClient) -> None:
    instance = run("echo here")
    server.agent.kill9()
    for path in (f"/api/instances/{instance.pk}/logs", f"/api/instances/{instance.pk}/logs/download"):
        answer = api.get(path)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "agent_unreachable"


def test_an_instance_the_agent_does_not_know(make_service: Any, server: Server, api: APIClient) -> None:
    instance = new_instance(make_service("echo x", server))
    answer = api.get(f"/api/instances/{instance.pk}/logs")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_log"


async def test_the_whole_log_as_a_file(run: Callable[..., Instance], viewer: User) -> None:
    command = 'awk \'BEGIN { for (i = 1; i <= 200000; i++) print "line " i " 字" }\''
    instance = await database_sync_to_async(run)(command)
    client = AsyncClient()
    await client.aforce_login(viewer)
    answer = await client.get(f"/api/instances/{instance.pk}/logs/download")
    assert answer.status_code == 200 and answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Content-Disposition"] == f'attachment; filename="{instance.key}.log"'
    chunks = [chunk async for chunk in answer.streaming_content]
    assert len(chunks) > 2 and max(map(len, chunks)) <= 1024 * 1024
    assert b"".join(chunks).decode() == "".join(f"line {i} 字\n" for i in range(1, 200001))


# Who may watch


async def test_refused_before_it_is_accepted(viewer: User, viewer_key: str) -> None:
    cookie = await database_sync_to_async(cookie_of)(viewer)
    path = "/ws/instances/987654/logs"
    refused: list[tuple[str, list[tuple[bytes, bytes]]]] = [
        (path, []),
        (path, [ORIGIN]),
        (path, [bearer("inf_unknown")]),
        (path, [bearer("inf_unknown"), cookie, ORIGIN]),
        (path, [cookie]),
        (path, [cookie, (b"origin", b"http://evil.example")]),
        (path, [cookie, (b"origin", b"http://testserver:81")]),
        (path, [cookie, (b"origin", b"https://testserver")]),
        (path, [cookie, (b"origin", b"null")]),
        ("/ws/nothing", [bearer(viewer_key)]),
        ("/ws/instances/x/logs", [bearer(viewer_key)]),
        (path + "/more", [bearer(viewer_key)]),
    ]
    for where, headers in refused:
        accepted, _ = await socket(where, *headers).connect(timeout=10)
        assert not accepted, (where, headers)


async def test_role_and_object_are_told_in_a_frame(make_user: Any, viewer: User, viewer_key: str) -> None:
    nobody = await database_sync_to_async(make_user)()
    for headers, query, code in (
        ([await database_sync_to_async(cookie_of)(nobody), ORIGIN], "", 4403),
        ([await database_sync_to_async(cookie_of)(viewer), ORIGIN], "", 4404),
        ([bearer(viewer_key)], "", 4404),
        ([bearer(viewer_key)], "?offset=x", 4400),
        ([bearer(viewer_key)], "?offset=1&tail=2", 4400),
    ):
        connection = socket(f"/ws/instances/987654/logs{query}", *headers)
        assert (await connection.connect(timeout=10))[0]
        frame = json.loads(await connection.receive_from(timeout=10))
        assert frame["type"] == "error" and frame["message"]
        assert await connection.receive_output(timeout=10) == {"type": "websocket.close", "code": code}
        await connection.disconnect()


async def test_it_ends_when_the_permission_does(
    run: Any, viewer: User, viewer_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers.LogSocket, "look_again_seconds", 0.3)
    instance = await database_sync_to_async(run)("echo once; exec sleep 600")
    async with watch(instance, viewer_key) as watcher:
        await watcher.until(lambda: "once" in watcher.text)
        await database_sync_to_async(viewer.groups.clear)()
        assert (await watcher.frame())["type"] == "error"
        assert await watcher.connection.receive_output(timeout=10) == {"type": "websocket.close", "code": 4403}


# Following


async def test_nothing_lost_or_repeated_over_an_outage(run: Any, server: Server, viewer_key: str) -> None:
    instance = await database_sync_to_async(run)(COUNT)
    async with watch(instance, viewer_key, "?offset=0") as watcher:
        await watcher.until(lambda: len(watcher.numbers()) > 20)
        server.agent.kill9()
        await watcher.until(lambda: "error" in watcher.kinds)
        await asyncio.sleep(1)
        await database_sync_to_async(server.agent.start)()
        seen = len(watcher.numbers())
        await watcher.until(lambda: len(watcher.numbers()) > seen + 60)
        half_way = watcher.offset
        assert watcher.numbers() == list(range(1, len(watcher.numbers()) + 1))
    async with watch(instance, viewer_key, f"?offset={half_way}") as again:
        await again.until(lambda: len(again.text) > 200)
    both = re.findall(r"line (\d+) 字\n", watcher.text + again.text)
    assert [int(number) for number in both] == list(range(1, len(both) + 1))


async def test_a_quiet_log_is_told_after_an_outage(run: Any, server: Server, viewer_key: str) -> None:
    instance = await database_sync_to_async(run)("echo once; exec sleep 600")
    async with watch(instance, viewer_key) as watcher:
        await watcher.until(lambda: watcher.text == "once\n")
        server.agent.kill9()
        frame = await watcher.frame()
        assert frame["type"] == "error" and "cannot be reached" in frame["message"]
        await database_sync_to_async(server.agent.start)()
        await watcher.until(lambda: watcher.kinds[-1] == "waiting")
        assert watcher.text == "once\n"


async def test_an_instance_not_started_yet_is_waited_for(make_service: Any, server: Server, viewer_key: str) -> None:
    service = await database_sync_to_async(make_service)("echo at last; exec sleep 600", server)
    instance = await database_sync_to_async(new_instance)(service)
    async with watch(instance, viewer_key) as watcher:
        assert (await watcher.frame())["type"] == "waiting"
        body = ("POST", f"/service/{instance.key}/deploy", {"command": "echo at last; exec sleep 600"})
        await database_sync_to_async(server.agent.request)(*body)
        await watcher.until(lambda: watcher.text == "at last\n")


async def test_it_starts_near_the_end(run: Any, viewer_key: str) -> None:
    instance = await database_sync_to_async(run)("seq 1 40000; exec sleep 600")
    size = len("".join(f"{n}\n" for n in range(1, 40001)))
    async with watch(instance, viewer_key) as watcher:
        await watcher.until(lambda: watcher.text.endswith("40000\n"))
        assert len(watcher.text) == feeds.START_BYTES and watcher.offset == size
    async with watch(instance, viewer_key, "?tail=500") as watcher:
        await watcher.until(lambda: watcher.text.endswith("40000\n"))
        assert watcher.text == "".join(f"{n}\n" for n in range(39501, 40001))


async def test_a_flood_waits_for_the_client(run: Any, viewer_key: str) -> None:
    instance = await database_sync_to_async(run)("exec yes 'ab 字'")
    async with watch(instance, viewer_key, "?offset=0") as watcher:
        first = await watcher.frame(ack=False)
        begin, told = first["offset"], [first]
        while await watcher.connection.receive_nothing(timeout=1.5) is False:
            watcher.offset = None  # the flood may rotate what comes next away
            told.append(await watcher.frame(ack=False))
        sent = sum(frame["next_offset"] - frame["offset"] for frame in told)
        assert 0 < sent <= consumers.WINDOW_BYTES
        assert sent > consumers.WINDOW_BYTES - 2 * feeds.PIECE_BYTES
        await watcher.ack()
        watcher.offset = None
        assert (await watcher.frame())["offset"] > begin


async def test_a_slow_watcher_delays_nobody_and_is_alone_behind(
    run: Any, viewer_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[int] = []
    real = feeds.read_piece

    async def counted(client: Any, source: Any, **about: Any) -> Any:
        polls.append(about["offset"])
        return await real(client, source, **about)

    command = f'awk \'BEGIN {{ for (i = 1; i <= 60000; i++) print "line " i " 字" }}\'; i=60000; {COUNT[4:]}'
    instance = await database_sync_to_async(run)(command)
    async with (
        watch(instance, viewer_key, "?offset=0") as slow,
        watch(instance, viewer_key) as quick,
        watch(instance, viewer_key) as other,
    ):
        await asyncio.gather(quick.until(lambda: len(quick.text) > 60000), other.until(lambda: len(other.text) > 60000))
        await asyncio.sleep(1)
        monkeypatch.setattr(feeds, "read_piece", counted)
        seen = quick.numbers()[-1]
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(
            quick.until(lambda: quick.numbers()[-1] > seen + 100), other.until(lambda: other.numbers()[-1] > seen + 100)
        )
        took = asyncio.get_running_loop().time() - begun
        assert took < 8, "100 lines take 2 s to be written"
        assert len(polls) <= took / feeds.POLL_SECONDS + 3, "two watchers, one loop"
        await slow.until(lambda: slow.numbers() and slow.numbers()[-1] > seen + 100, seconds=40)
        assert slow.numbers() == list(range(1, len(slow.numbers()) + 1))
    assert not feeds._feeds


async def test_nonsense_from_a_client_closes(run: Any, viewer_key: str) -> None:
    instance = await database_sync_to_async(run)("exec sleep 600")
    not_acks = ('{"type":"ack"}', '{"type":"ack","offset":true}', '{"type":"x","offset":1}')
    for text in ("", "{", "[]", "[" * 9999, *not_acks):
        connection = socket(f"/ws/instances/{instance.pk}/logs", bearer(viewer_key))
        assert (await connection.connect(timeout=10))[0]
        await connection.send_input({"type": "websocket.receive", "text": text})
        while (output := await connection.receive_output(timeout=10))["type"] != "websocket.close":
            pass
        assert output["code"] == 4400, text
        await connection.disconnect()
    assert not feeds._feeds


async def test_characters_are_whole_across_pieces(run: Any, viewer_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "PIECE_BYTES", 7)
    instance = await database_sync_to_async(run)("printf '字é🙂x%.0s' 1 2 3 4 5 6 7 8 9; exec sleep 600")
    async with watch(instance, viewer_key, "?offset=0") as watcher:
        await watcher.until(lambda: watcher.text == "字é🙂x" * 9)
        assert watcher.kinds.count("log") > 9


def new_instance(service: Service) -> Instance:
    """One the agent was never asked for."""
    placement = service.placements.get()
    return Instance.objects.create(
        placement=placement,
        revision=service.current_revision,
        key=f"never-{os.getpid()}-{service.pk}",
        wanted=Wanted.RUNNING,
        phase=Phase.PENDING,
    )
