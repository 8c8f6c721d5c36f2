"""Many rows in one statement."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from infini import bulk
from infini.bulk import Change
from infini.models import Event
from inventory.models import Device, Server

pytestmark = pytest.mark.django_db


@pytest.fixture
def servers(db: None) -> list[Server]:
    return [Server.objects.create(name=f"n{n}", host_ip="h") for n in range(3)]


def test_what_is_written_is_what_is_read(servers: list[Server], django_assert_num_queries: Callable) -> None:
    at = timezone.now()
    odd = {"text": "quotes \" and ' and \\ and 中", "none": None, "list": [1, 2.5, True], "empty": {}}
    values = {"agent_seen_at": at, "figures": odd, "maintenance": True, "port": 2222, "agent_error": "é\n%s"}
    with django_assert_num_queries(1):
        written = bulk.update(Server, [Change(s.pk, values) for s in servers[:2]] + [Change(10**6, values)])
    assert written == {servers[0].pk, servers[1].pk}
    read = Server.objects.get(pk=servers[0].pk)
    assert {name: getattr(read, name) for name in values} == values
    assert not Server.objects.get(pk=servers[2].pk).maintenance


def test_only_while_the_known_columns_hold(servers: list[Server]) -> None:
    at = timezone.now()
    Server.objects.filter(pk=servers[0].pk).update(agent_seen_at=at)
    known = {servers[0].pk: at, servers[1].pk: None, servers[2].pk: at + timedelta(microseconds=1)}
    changes = [Change(pk, {"agent_error": "x"}, {"agent_seen_at": seen}) for pk, seen in known.items()]
    assert bulk.update(Server, changes) == {servers[0].pk, servers[1].pk}


def test_changes_of_one_statement_are_alike(servers: list[Server]) -> None:
    with pytest.raises(ValueError, match="the same columns"):
        bulk.update(Server, [Change(servers[0].pk, {"port": 1}), Change(servers[1].pk, {"agent_port": 1})])
    assert bulk.update(Server, []) == set()


def test_inserted_in_one_statement_and_once(servers: list[Server], django_assert_num_queries: Callable) -> None:
    def rows() -> list[Device]:
        return [
            Device(server=servers[0], uuid=f"u{n}", index=n, vendor="nvidia", name="H", memory_bytes=2**40)
            for n in range(300)
        ]

    with django_assert_num_queries(1):
        bulk.insert(rows())
    bulk.insert(rows())
    assert Device.objects.count() == 300
    made = Device.objects.get(uuid="u7")
    assert (made.index, made.memory_bytes, made.visible_by, made.present) == (7, 2**40, {}, True)

    bulk.insert([Event(kind="k", subject_kind="s", subject_id="1", subject_name="n", data={"a": [1]})])
    assert Event.objects.get(kind="k").data == {"a": [1]}
    bulk.insert([])
