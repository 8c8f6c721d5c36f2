"""The monitor's loop against real agents, a hanging one and an absent one."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from deployments import lifecycle
from deployments.models import Instance, Service
from deployments.monitor import Monitor
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
