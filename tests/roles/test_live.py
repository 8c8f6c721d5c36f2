"""Sockets and the gateway as each kind of person, and as somebody limited to an environment."""

import asyncio
import json
from typing import Any

import pytest
from channels.db import database_sync_to_async
from channels.testing import HttpCommunicator, WebsocketCommunicator

from chat.book import book
from deployments.models import Instance, Service
from deployments.phases import Phase, Wanted
from infini import events, keys
from infini.asgi import application
from infini.models import User
from inventory.limits import limit
from inventory.models import Server
from tests.roles.table import GATEWAY, SOCKETS, VIEWER
from tests.roles.test_table import WHO
from tests.roles.world import HIDDEN, SHOWN, World

pytestmark = pytest.mark.django_db(transaction=True)
HOST = (b"host", b"testserver")
in_database = database_sync_to_async


@pytest.fixture
def headers(world: World) -> dict[str, list[tuple[bytes, bytes]]]:
    """What each shows; ``nobody`` nothing."""
    made = {who: _bearer(user) for who, user in world.people.items()}
    return {"nobody": [HOST], **{who: [HOST, key] for who, key in made.items()}}


def _bearer(user: User) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {keys.create_key(user=user, name='test', by=None)[1]}".encode()


def _first(path: str, world: World, who: str) -> dict[str, Any] | None:
    """What makes a socket say something when it is open."""
    if path == "/ws/chat":
        return {"type": "history", "conversation": int(world.shown.talks.get(who, "0"))}
    return {"type": "no such frame"} if path.endswith("/terminal") else None


async def outcome(path: str, first: dict[str, Any] | None, headers: list[tuple[bytes, bytes]]) -> int:
    """403: refused before it opened; the code it was closed with; 0: it is open."""
    socket = WebsocketCommunicator(application, path, headers=headers)
    accepted, _code = await socket.connect(timeout=10)
    if not accepted:
        return 403
    try:
        for turn in range(2):
            if turn == 0 and first:
                await socket.send_to(json.dumps(first))
            told = await socket.receive_output(timeout=10)
            if told["type"] == "websocket.close":
                return told["code"]
            if json.loads(told["text"])["type"] != "error" or turn == 1:
                return 0
        return 0
    finally:
        await socket.disconnect(timeout=10)


async def test_each_socket_takes_its_role(world: World, headers: dict[str, Any]) -> None:
    for path, least in SOCKETS.items():
        for who, role in WHO.items():
            found = await outcome(world.shown.fill(path), _first(path, world, who), headers[who])
            told = f"{path} as {who}: {found}"
            if who == "nobody":
                assert found == 403, told
            elif role < least:
                assert found == 4403, told
            else:
                assert found in (0, 4400), told


async def test_no_socket_opens_on_another_environment(world: World, headers: dict[str, Any]) -> None:
    for path in SOCKETS:
        if "<" in path:
            assert await outcome(world.hidden.fill(path), None, headers["operator"]) == 4404, path


async def test_the_timeline_tells_live_only_of_ones_own_environments(world: World, headers: dict[str, Any]) -> None:
    """Both know of the same event last; the administrator heard of the other one too."""
    names: dict[str, list[str]] = {"operator": [], "administrator": []}
    sockets = {}
    for who in names:
        sockets[who] = WebsocketCommunicator(application, "/ws/events", headers=headers[who])
        await sockets[who].connect(timeout=10)
        await sockets[who].receive_from(timeout=10)
    await in_database(_something_happens)(world)
    for who, seen in names.items():
        while f"{SHOWN}-server" not in seen:
            frame = json.loads(await sockets[who].receive_from(timeout=10))
            seen += [event["subject"]["name"] for event in frame["events"]]
        await sockets[who].disconnect(timeout=10)
    assert names["operator"] == [f"{SHOWN}-server"]
    assert names["administrator"] == [f"{HIDDEN}-server", f"{HIDDEN}-service", f"{SHOWN}-server"]


def _something_happens(world: World) -> None:
    for place, tag in ((world.hidden, HIDDEN), (world.shown, SHOWN)):
        events.record("server.changed", Server(pk=place.ids["server"], name=f"{tag}-server"), by=None)
        if tag == HIDDEN:
            events.record("service.deployed", Service(pk=place.ids["service"], name=f"{tag}-service"), by=None)


async def test_the_chat_knows_no_conversation_with_a_hidden_service(world: World, headers: dict[str, Any]) -> None:
    socket = WebsocketCommunicator(application, "/ws/chat", headers=headers["operator"])
    await socket.connect(timeout=10)
    for place, kind in ((world.shown, "history"), (world.hidden, "error")):
        await socket.send_to(json.dumps({"type": "history", "conversation": int(place.talks["operator"])}))
        assert json.loads(await socket.receive_from(timeout=10))["type"] == kind
    await socket.send_to(json.dumps({"type": "send", "service": int(world.hidden.ids["service"]), "content": "hi"}))
    frame = json.loads(await socket.receive_from(timeout=10))
    assert (frame["type"], frame["code"]) == ("error", "service_not_found")
    await socket.disconnect(timeout=10)


async def ask(method: str, path: str, headers: list[tuple[bytes, bytes]], **fields: Any) -> tuple[int, Any]:
    body = json.dumps(fields).encode() if fields else b""
    answer = await HttpCommunicator(application, method, path, body=body, headers=headers).get_response(timeout=20)
    return answer["status"], json.loads(answer["body"])


async def test_each_gateway_path_takes_its_role(world: World, headers: dict[str, Any]) -> None:
    for path, methods in GATEWAY.items():
        for method, least in methods.items():
            for who, role in WHO.items():
                status, told = await ask(method, world.shown.fill(path), headers[who])
                about = f"{method} {path} as {who}: {status} {told}"
                assert least == VIEWER
                if who == "nobody":
                    assert status == 401, about
                elif role < least:
                    assert status == 403, about
                else:
                    assert status in (200, 400, 404), about


def _make_ready() -> None:
    for port, instance in enumerate(Instance.objects.order_by("pk"), 1):
        Instance.objects.filter(pk=instance.pk).update(
            phase=Phase.RUNNING, ready=True, wanted=Wanted.RUNNING, port=port
        )


async def test_a_key_of_somebody_limited_reaches_no_other_service(world: World, headers: dict[str, Any]) -> None:
    await in_database(_make_ready)()
    _status, listed = await ask("GET", "/v1/models", headers["operator"])
    assert [model["id"] for model in listed["data"]] == ["for-both", f"{SHOWN}-endpoint", f"{SHOWN}-served"]
    _status, listed = await ask("GET", "/v1/models", headers["administrator"])
    assert len(listed["data"]) == 5
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for name in (f"{HIDDEN}-served", f"{HIDDEN}-service", f"{HIDDEN}-endpoint"):
        status, told = await ask("POST", "/v1/chat/completions", headers["operator"], model=name, **chat)
        assert (status, told["error"]["code"]) == (404, "model_not_found")
    path = "/api/services/<service>/chat/completions"
    assert (await ask("POST", world.hidden.fill(path), headers["operator"], **chat))[0] == 404
    assert (await ask("POST", world.shown.fill(path), headers["operator"], **chat))[0] == 502
    await book.flush()  # what was asked is written down while there is a database


async def test_a_limit_set_or_lifted_counts_within_a_second(world: World, headers: dict[str, Any]) -> None:
    await in_database(_make_ready)()
    assert len((await ask("GET", "/v1/models", headers["operator"]))[1]["data"]) == 3
    await in_database(limit)(world.people["operator"], [])
    async with asyncio.timeout(5):
        while len((await ask("GET", "/v1/models", headers["operator"]))[1]["data"]) != 5:
            await asyncio.sleep(0.05)
