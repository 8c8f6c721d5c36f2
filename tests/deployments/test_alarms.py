"""When the fleet raises an alarm: by level, never on our own silence, not in maintenance, once."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from deployments import lifecycle
from deployments.alarms import raise_alarms
from deployments.asking import refresh_now
from deployments.models import Instance, Service
from deployments.specs import create_service
from infini.alert_delivery import deliver_due
from infini.models import Alert, AlertTarget
from inventory.models import Server
from tests.deployments.conftest import turn
from tests.deployments.test_monitor import ticks
from tests.real_agent import wait_until
from tests.receivers import http_receiver

pytestmark = pytest.mark.django_db(transaction=True)


def server_seen(name: str, ago: float, *, asked: float = 1, **columns: Any) -> Server:
    now = timezone.now()
    seen = {"agent_seen_at": now - timedelta(seconds=ago), "agent_asked_at": now - timedelta(seconds=asked)}
    return Server.objects.create(**{"name": name, "host_ip": "127.0.0.1", "agent_token": "t", **seen, **columns})


def instance_on(server: Server, name: str = "svc") -> Instance:
    service = create_service(Service(name=name), servers=[server], spec={"command": "x"}, by=None)
    lifecycle.deploy(service, by=None)
    return Instance.objects.get(placement__service=service)


def open_now() -> list[tuple[str, str]]:
    return list(Alert.objects.filter(state="open").order_by("pk").values_list("kind", "subject_name"))


def ending() -> str:
    return Alert.objects.exclude(state="open").latest("recovered_at").ending


def test_a_server_falls_silent_and_comes_back() -> None:
    server = server_seen("gpu-07", ago=60)
    assert (raise_alarms(), raise_alarms()) == (1, 0)
    assert open_now() == [("server_offline", "gpu-07")]
    assert Alert.objects.get().message.startswith("gpu-07: no answer since 20")

    Server.objects.filter(pk=server.pk).update(agent_seen_at=timezone.now())
    assert (raise_alarms(), raise_alarms()) == (1, 0)
    assert (open_now(), ending()) == ([], "gpu-07 answers again.")


@pytest.mark.parametrize(
    "columns",
    [
        {"ago": 5},
        {"ago": 3600, "asked": 3599},  # nobody asked lately: the monitor was down, not the server
        {"ago": 60, "maintenance": True},
        {"ago": 60, "agent_token": ""},
        {"ago": 60, "agent_seen_at": None},
    ],
)
def test_no_reason_for_an_alarm(columns: dict) -> None:
    server_seen("gpu-07", **columns)
    assert raise_alarms() == 0


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"maintenance": True}, "gpu-07 is in maintenance."),
        ({"agent_token": ""}, "gpu-07 is not asked any more: no token is stored."),
        (None, "gpu-07 was removed."),
    ],
)
def test_other_ends_of_silence(columns: dict | None, said: str) -> None:
    server_seen("gpu-07", ago=60)
    raise_alarms()
    Server.objects.update(**columns) if columns else Server.objects.all().delete()
    raise_alarms()
    assert (open_now(), ending()) == ([], said)


def test_an_instance_fails_until_ready_or_not_wanted() -> None:
    instance = instance_on(server_seen("gpu-07", ago=1))
    rows = Instance.objects.filter(pk=instance.pk)
    rows.update(phase="failed", reason="Exit 1.")
    raise_alarms()
    assert open_now() == [("instance_failed", "svc on gpu-07")]
    assert Alert.objects.get().message == "svc on gpu-07 failed: Exit 1."

    rows.update(phase="starting")
    assert raise_alarms() == 0, "tried once more is not recovered"
    rows.update(phase="running", ready=True)
    raise_alarms()
    assert (open_now(), ending()) == ([], "svc on gpu-07 is ready.")

    Alert.objects.all().delete()
    rows.update(phase="failed", ready=False)
    raise_alarms()
    rows.update(wanted="stopped")
    raise_alarms()
    assert (open_now(), ending()) == ([], "svc on gpu-07 is not wanted any more.")


def test_an_instance_in_maintenance_or_removed() -> None:
    instance = instance_on(server_seen("gpu-07", ago=1))
    Instance.objects.update(phase="failed")
    Server.objects.update(maintenance=True)
    assert raise_alarms() == 0
    Server.objects.update(maintenance=False)
    raise_alarms()
    Server.objects.update(maintenance=True)
    raise_alarms()
    assert ending() == "svc on gpu-07: its server is in maintenance."
    Server.objects.update(maintenance=False)
    assert raise_alarms() == 1
    instance.results.all().delete()
    instance.delete()
    raise_alarms()
    assert (open_now(), ending()) == ([], "svc on gpu-07 is gone.")


def test_an_instance_that_is_tried_again_and_again() -> None:
    instance = instance_on(server_seen("gpu-07", ago=1))
    rows, now = Instance.objects.filter(pk=instance.pk), timezone.now()
    rows.update(phase="starting", restart_streak=2, reason="Restarts in 8 s after: Exited with code 1.")
    assert raise_alarms() == 0, "twice is not yet often"
    rows.update(restart_streak=3)
    raise_alarms()
    said = "svc on gpu-07 keeps failing, started again 3 times in a row: Exited with code 1."
    assert [alert.message for alert in Alert.objects.filter(state="open")] == [said]

    rows.update(phase="running", ready=True, ready_since=now, restart_streak=4)
    assert raise_alarms() == 0, "ready for a moment is not recovered"
    rows.update(ready_since=now - timedelta(minutes=2))
    raise_alarms()
    assert (open_now(), ending()) == ([], "svc on gpu-07 is ready.")

    rows.update(ready=False, ready_since=None)
    assert raise_alarms() == 0, "the streak is of the run before"


def test_a_real_crash_loop_raises_an_alarm(server: Server, make_service: Callable[..., Service]) -> None:
    restart = {"policy": "always", "backoff_first_seconds": 0.1, "backoff_most_seconds": 0.2}
    service = make_service("exit 4", server)
    lifecycle.deploy(service, by=None)
    instance = Instance.objects.get()
    body = {"command": "exit 4", "generation": instance.generation, "restart": restart}
    server.agent.request("POST", f"/service/{instance.key}/deploy", body)
    Instance.objects.update(acked_generation=instance.generation)
    wait_until(lambda: refresh_now() or raise_alarms(), 15)
    assert open_now() == [("instance_failed", "svc on one")]
    assert Alert.objects.get().message.startswith("svc on one keeps failing, started again ")


def test_the_brake_comes_first_and_goes() -> None:
    for number in range(4):
        server_seen(f"gpu-{number}", ago=60)
    raise_alarms()
    assert open_now()[0] == ("brake", "Infini") and len(open_now()) == 5
    assert Alert.objects.get(kind="brake").message.startswith("4 of 4 servers fell silent")
    Server.objects.update(agent_seen_at=timezone.now())
    raise_alarms()
    assert open_now() == []


def test_queries_do_not_grow_with_the_fleet() -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            raise_alarms()
        return len(asked)

    def grow(tag: str, count: int) -> None:
        for number in range(count):
            instance_on(server_seen(f"{tag}{number}", ago=60), f"svc-{tag}{number}")
        Instance.objects.update(phase="failed", ready=False)

    grow("a", 5)
    changing, steady = queries(), queries()
    grow("b", 25)
    assert queries() <= changing
    assert (queries(), steady) == (steady, steady) and steady <= 6
    assert not [q for q in _captured() if not q.startswith("SELECT")], "looking takes no write lock"


def _captured() -> list[str]:
    with CaptureQueriesContext(connection) as asked:
        raise_alarms()
    return [query["sql"] for query in asked]


def test_from_a_failing_process_to_the_receiver(server: Server, make_service: Callable[..., Service]) -> None:
    """The whole way: a real agent, the monitor's rounds, the queue, a real receiver."""
    with http_receiver() as receiver:
        AlertTarget.objects.create(name="hook", address=receiver.url)
        turn(lifecycle.deploy(make_service("exit 4", server), by=None))
        OrmQ.objects.all().delete()
        ticks(1)
        assert [row.task["func"] for row in OrmQ.objects.all()] == ["infini.tasks.deliver_alerts"]
        deliver_due()
        [post] = receiver.posts
    assert (post.json["kind"], post.json["subject"]["name"]) == ("instance_failed", "svc on one")
    assert "4" in post.json["message"]
