"""A clock the test sets, servers with SSH access on paper, and tasks."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from inventory.models import Server
from scheduler import planning
from scheduler.models import Run, RunResult, Task
from tests.real_sshd import RealSshd


class Clock:
    """What ``timezone.now`` says, everywhere; ``pass_`` and ``set`` move it."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment

    def set(self, text: str) -> None:
        self.moment = datetime.fromisoformat(text).replace(tzinfo=UTC)

    def pass_(self, **span: float) -> None:
        self.moment += timedelta(**span)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(datetime(2026, 6, 1, 12, tzinfo=UTC))
    monkeypatch.setattr(timezone, "now", made)
    return made


@pytest.fixture
def make_server(db: None) -> Callable[..., Server]:
    def make(name: str, **columns: Any) -> Server:
        return Server.objects.create(
            **{"name": name, "host_ip": "127.0.0.1", "username": "root", "password": "secret", **columns}
        )

    return make


@pytest.fixture
def make_task(make_server: Callable[..., Server]) -> Callable[..., Task]:
    """A task on a server of its own, daily at 03:00 UTC unless told otherwise."""

    def make(name: str = "backup", *, servers: list[Server] | None = None, **columns: Any) -> Task:
        kind = {"schedule_type": "daily"} | ({} if "schedule_type" in columns else {"time_of_day": _three()})
        task = Task(**{"name": name, "command": "true", **kind, **columns})
        return planning.create_task(task, servers=servers or [make_server(f"for-{name}")], by=None)

    def _three() -> Any:
        return datetime(2026, 1, 1, 3).time()

    return make


@pytest.fixture(scope="session")
def sshd() -> Iterator[RealSshd]:
    """One real sshd for all: each server row is a connection of its own to it."""
    with RealSshd() as server:
        yield server


@pytest.fixture
def fleet(db: None, sshd: RealSshd) -> Callable[..., list[Server]]:
    """So many servers, all of them this sshd."""

    def make(count: int, **columns: Any) -> list[Server]:
        access = {"host_ip": sshd.host, "port": sshd.port, "username": sshd.username}
        access |= {"private_key": sshd.private_key, "host_key": sshd.host_key}
        return [Server.objects.create(name=f"gpu-{n:02}", **{**access, **columns}) for n in range(1, count + 1)]

    return make


def results_of(run: Run) -> dict[str, RunResult]:
    return {result.server_name: result for result in RunResult.objects.filter(run=run)}
