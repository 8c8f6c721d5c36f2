"""Real agents with servers that point at them, and an engine that turns the wheel as worker and monitor would."""

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone

from deployments import steps
from deployments.asking import refresh_now
from deployments.models import Operation, Service
from deployments.specs import create_service
from inventory.devices import record_devices
from inventory.models import Device, Server
from inventory.querysets import agent_silence_limit
from tests.real_agent import RealAgent, wait_until

TOOL = """#!{python}
import sys
query = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--query-gpu=")), "")
for n in range({count} if query else 0):
    known = {{"index": n, "uuid": f"GPU-{{n}}", "name": "Demo GPU", "mig.mode.current": "Disabled"}}
    known |= {{"memory.total": 81559, "memory.used": 1}}
    print(", ".join(str(known.get(field, "[N/A]")) for field in query.split(",")))
"""


@pytest.fixture
def equip(tmp_path: Path) -> Callable[[Server, int], None]:
    """Lets the server's agent find a vendor's tool that lists so many devices, as on a machine that has them."""

    def make(server: Server, count: int) -> None:
        folder = tmp_path / server.name
        folder.mkdir(exist_ok=True)
        tool = folder / "nvidia-smi"
        tool.write_text(TOOL.format(python=sys.executable, count=count))
        tool.chmod(0o755)
        server.agent.terminate()
        server.agent.start(INFINI_DEVICE_PATH=str(folder))
        wait_until(lambda: refresh_devices(server) == count)

    return make


def refresh_devices(server: Server) -> int:
    """Record what the agent reports now; how many devices it has."""
    report = server.agent.request("GET", "/report")[1]
    with transaction.atomic():
        record_devices({server.pk: report})
    return Device.objects.filter(server=server, present=True).count()


@pytest.fixture
def start_agent() -> Iterator[Callable[[], RealAgent]]:
    agents: list[RealAgent] = []

    def start() -> RealAgent:
        agents.append(RealAgent())
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


@pytest.fixture
def make_server(db: None, start_agent: Callable[[], RealAgent]) -> Callable[..., Server]:
    """A server with a real agent of its own, or with the address and token given."""

    def make(name: str, agent: RealAgent | None = None, **columns: object) -> Server:
        if not columns:
            agent = agent or start_agent()
            columns = {"agent_port": agent.port, "agent_token": agent.token}
        server = Server.objects.create(name=name, host_ip="127.0.0.1", **columns)
        server.agent = agent
        return server

    return make


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server("one")


@pytest.fixture
def make_service(db: None) -> Callable[..., Service]:
    def make(command: str, *servers: Server, name: str = "svc", **spec: object) -> Service:
        return create_service(Service(name=name), servers=servers, spec={"command": command, **spec}, by=None)

    return make


def fall_silent(server: Server) -> None:
    """End its agent, as if that were longer ago than one waits for an agent that restarts."""
    server.agent.kill9()
    long_ago = timezone.now() - agent_silence_limit() - timedelta(seconds=1)
    Server.objects.filter(pk=server.pk, agent_seen_at__isnull=False).update(agent_seen_at=long_ago)


def turn(operation: Operation, seconds: float = 20) -> Operation:
    """Advance the operation, with reports in between, until it is closed."""

    def closed() -> bool:
        steps.advance(operation.pk)
        refresh_now()
        found = Operation.objects.filter(pk=operation.pk).first()
        return found is None or not found.is_open

    wait_until(closed, seconds, f"{operation} to close")
    return Operation.objects.filter(pk=operation.pk).first() or operation


def status_of(service: Service) -> str:
    return Service.objects.with_status().get(pk=service.pk).deploy_status
