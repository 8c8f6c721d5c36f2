"""The queue for long work: which cluster takes a message, and when it counts as stuck."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ

from infini import clusters
from infini.models import Lease

pytestmark = pytest.mark.django_db


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[datetime]]:
    """Since when work waits; the test fills it."""
    since: list[datetime] = []
    monkeypatch.setattr(clusters, "_waiting", [lambda moment: any(at < moment for at in since)])
    yield since


def test_long_work_goes_to_its_own_queue_on_commit(
    django_capture_on_commit_callbacks: Callable[..., object],
) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():  # type: ignore[attr-defined]
        clusters.queue_run("tests.none.such", 7)
        assert not OrmQ.objects.exists()
    message = OrmQ.objects.get()
    task = message.task
    assert (message.key, task["func"], task["args"]) == ("runs", "tests.none.such", (7,))


def test_work_that_waits_while_nothing_moves_is_a_stall(waiting: list[datetime]) -> None:
    assert not clusters.runs_stalled()
    waiting.append(timezone.now() - timedelta(seconds=50))
    assert not clusters.runs_stalled()
    waiting.append(timezone.now() - timedelta(seconds=70))
    assert clusters.runs_stalled()


def test_a_busy_cluster_is_not_stuck(waiting: list[datetime]) -> None:
    waiting.append(timezone.now() - timedelta(hours=1))
    Lease.take("runs.one", "worker", seconds=15)
    Lease.take("monitor", "monitor", seconds=15)
    assert not clusters.runs_stalled()
    Lease.objects.filter(name="runs.one").update(expires_at=timezone.now() - timedelta(seconds=31))
    assert clusters.runs_stalled()
