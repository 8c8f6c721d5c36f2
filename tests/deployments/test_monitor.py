"""The monitor's loop against real agents, a hanging one and an absent one."""

import asyncio
import socket
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import lifecycle
from deployments.models import Instance, Operation, OperationResult, Service
from deployments.monitor import Monitor, _record
from deployments.reports import Report
from deployments.specs import create_service
from infini.models import Alert
from inventory.agents import AgentClient
from inventory.models import Server
from tests.deployments.conftest import turn

pytestmark = pytest.mark.django_db(transaction=True)


def ticks(count: int, monitor: Monitor | None = None) -> Monitor:
    """That many rounds, one after the other."""
    monitor = monitor or Monitor()

    async def run() -> None:
        async with AgentClient() as client:
            for _ in range(count):
                await monitor.tick(client)
            for task in monitor.pending.values():
                task.cancel()
        monitor.pending.clear()

    asyncio.run(run())
    return monitor


def test_a_round_brings_figures_and_phases(server: Server, make_service: Callable[..., Service]) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server), by=None))
    Instance.objects.update(phase="starting", ready=False)

    ticks(1)

    server.refresh_from_db()
    assert server.agent_seen_at and server.boot_id and server.figures["memory_total_bytes"] > 0
    instance = Instance.objects.get()
    assert (instance.phase, instance.ready) == ("running", True)


def test_a_hanging_agent_holds_up_nobody(server: Server, make_server: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        make_server("hangs", agent_port=silent.getsockname()[1], agent_token="t")
        make_server("absent", agent_port=1, agent_token="t")
        ticks(1)

    assert Server.objects.with_status().get(name="one").status == "online"
    absent = Server.objects.with_status().get(name="absent")
    assert (absent.status, "cannot be reached" in absent.agent_error) == ("offline", True)
    assert Server.objects.with_status().get(name="hangs").status == "unknown"


def test_each_agent_is_asked_once_a_round_unless_an_operation_is_open(
    server: Server, make_service: Callable[..., Service]
) -> None:
    monitor = ticks(1)
    first = Server.objects.get().agent_asked_at
    ticks(1, monitor)
    assert Server.objects.get().agent_asked_at == first

    lifecycle.deploy(make_service("sleep 300", server), by=None)
    ticks(1, monitor)
    assert Server.objects.get().agent_asked_at > first


def test_a_round_takes_the_same_number_of_statements_for_many_servers() -> None:
    """The whole round: with changes of every instance and device, with none, and with silent servers."""
    few = statements_of_rounds("few", 10)
    assert statements_of_rounds("many", 40) == few
    assert max(few.values()) <= 40


def statements_of_rounds(name: str, count: int) -> dict[str, int]:
    Server.objects.all().delete()
    servers = [Server.objects.create(name=f"{name}-{n}", host_ip="h", agent_token="t") for n in range(count)]
    for number, server in enumerate(servers):
        service = create_service(Service(name=f"{name}-{number}"), servers=[server], spec={"command": "x"}, by=None)
        lifecycle.deploy(service, by=None)
    Operation.objects.update(state="done")
    Instance.objects.update(acked_generation=1, phase="running")
    keys = dict(Instance.objects.values_list("placement__server", "key"))

    def statements(phase: str | None, devices: int = 2, ago: float = 0) -> int:
        asked_at = timezone.now() - timedelta(seconds=ago)
        reports = [Report(pk, asked_at, answer(keys[pk], phase, devices) if phase else None) for pk in keys]
        with CaptureQueriesContext(connection) as asked:
            _record(reports)
        return len([q for q in asked if "SAVEPOINT" not in q["sql"]])

    found = {
        "first": statements("running"),
        "changed": statements("failed", devices=3),
        "same": statements("failed", devices=3),
        "back": statements("running", ago=0),
        "missing device": statements("running", devices=1),
        "unanswered": statements(None),
    }
    Server.objects.update(agent_seen_at=timezone.now() - timedelta(minutes=2))
    found["lost"] = statements(None)
    assert set(Instance.objects.values_list("phase", flat=True)) == {"lost"}
    Alert.objects.all().delete()
    OperationResult.objects.all().delete()
    Instance.objects.all().delete()
    Service.objects.all().delete()
    return found


def answer(key: str, phase: str, devices: int) -> dict:
    service = {"id": key, "phase": phase, "ready": phase == "running", "generation": 1, "pid": 7, "restarts": 0}
    cards = [{"uuid": f"GPU-{key}-{n}", "index": n, "vendor": "nvidia", "name": "H100"} for n in range(devices)]
    return {"services": [service], "devices": cards, "devices_observed_at": "x", "host": {"cpu_percent": 1}}
