"""A service asked from inside the site: the gateway's own way, on a person's behalf."""

import asyncio
from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group

from chat.asking import ask_service, text_of
from chat.book import book
from chat.exchange import balance
from chat.models import Message, Usage
from chat.refusals import Refusal
from deployments.models import Instance, Placement, Revision, Service
from infini.models import User
from inventory.models import Server
from tests.chat.upstream_script import WORDS, ScriptedUpstream

pytestmark = pytest.mark.django_db(transaction=True)
FIELDS = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}

Ready = Callable[[str], tuple[int, int]]


@pytest.fixture
def ready(upstream: ScriptedUpstream, transactional_db: None) -> Ready:
    """A viewer and a service whose instance behaves in one way; their ids."""

    def make(behaviour: str) -> tuple[int, int]:
        user = User.objects.create_user("ann", password="a-long-password")
        user.groups.add(Group.objects.get(name="viewer"))
        service = Service.objects.create(
            name="svc", path_prefix=f"/{behaviour}/asking-{behaviour}/v1", served_model="tiny"
        )
        revision = Revision.objects.create(service=service, number=1, command="serve")
        server = Server.objects.create(name="one", host_ip="127.0.0.1")
        placement = Placement.objects.create(service=service, server=server)
        state = {"phase": "running", "ready": True, "port": upstream.port}
        Instance.objects.create(placement=placement, revision=revision, key=f"asking-{behaviour}", **state)
        return user.pk, service.pk

    return make


async def used() -> list[tuple[str, str, int, int]]:
    await book.flush()
    columns = ("user_name", "outcome", "key_id", "completion_tokens")
    return await sync_to_async(lambda: list(Usage.objects.values_list(*columns)))()


async def test_events_come_and_usage_is_the_persons(ready: Ready, upstream: ScriptedUpstream) -> None:
    user_id, service_id = await sync_to_async(ready)("counted")
    async with ask_service(user_id=user_id, service_id=service_id, fields={**FIELDS, "max_tokens": 4}) as events:
        got = [event async for event in events]
    assert "".join(map(text_of, got)) == "wwww"
    assert got[-1]["usage"]["completion_tokens"] == 4
    assert await used() == [("ann", "complete", 0, 4)]
    assert not await Message.objects.aexists(), "nothing is stored in any history"


async def test_leaving_closes_the_upstream_at_once(ready: Ready, upstream: ScriptedUpstream) -> None:
    user_id, service_id = await sync_to_async(ready)("endless")
    async with ask_service(user_id=user_id, service_id=service_id, fields=FIELDS) as events:
        async for event in events:
            if text_of(event):
                break
    assert await asyncio.to_thread(upstream.seen["asking-endless"].closed.wait, 1)
    [(_, outcome, _, tokens)] = await used()
    assert outcome == "cancelled" and tokens >= 1
    assert not any(standing.in_flight for standing in balance._standings.values())


async def test_what_goes_wrong_is_a_refusal_in_words(ready: Ready) -> None:
    user_id, service_id = await sync_to_async(ready)("cut")
    got = ""
    with pytest.raises(Refusal, match="broke off") as refused:
        async with ask_service(user_id=user_id, service_id=service_id, fields=FIELDS) as events:
            async for event in events:
                got += text_of(event)
    assert got == "".join(WORDS[:2]) and refused.value.status == 502
    assert await used() == [("ann", "failed", 0, 2)]
    with pytest.raises(Refusal, match="no service"):
        async with ask_service(user_id=user_id, service_id=service_id + 1, fields=FIELDS):
            pass
    await User.objects.filter(pk=user_id).aupdate(is_active=False)
    with pytest.raises(Refusal, match="role"):
        async with ask_service(user_id=user_id, service_id=service_id, fields=FIELDS):
            pass
