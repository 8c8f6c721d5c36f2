"""Having installations worked on. A message lost or sent twice does no harm: who works on a row claims it."""

from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone

from infini.clusters import queue_run
from inventory.installation.states import State
from inventory.models import Installation

TASK = "inventory.tasks.work_off_installations"
AT_ONCE = 16  # servers one task works on side by side
MOST_TASKS = 2  # others want the queue too
REQUEUE_AFTER = timedelta(seconds=10)


def due_installations() -> QuerySet[Installation]:
    """Those nobody works on: not begun, or left by a worker whose lease ran out."""
    left = Q(state=State.RUNNING, leased_until__lt=timezone.now())
    return Installation.objects.filter(Q(state=State.QUEUED) | left)


def queue_work(count: int) -> None:
    """Queue as many tasks as ``count`` installations are worth, when the surrounding transaction commits."""
    for _ in range(min(MOST_TASKS, -(-count // AT_ONCE))):
        queue_run(TASK)


def queue_due_installations() -> int:
    """Queue work for those that have waited: by level, so that what was lost with its worker goes on. How many."""
    now = timezone.now()
    waiting = due_installations().filter(queued_at__lt=now - REQUEUE_AFTER)
    count = waiting.update(queued_at=now) if waiting.exists() else 0
    if count:
        queue_work(count)
    return count


def waits_since(moment: datetime) -> bool:
    """Whether something asked for before ``moment`` has not begun; see ``infini.clusters``."""
    return Installation.objects.filter(state=State.QUEUED, created_at__lt=moment).exists()
