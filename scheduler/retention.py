"""How long runs are kept: by age, and by number for each task. They go in small batches and a little at a time: the
round that removes them is the one that fires tasks, and nothing due waits for that.
"""

import time
from datetime import timedelta

from django.conf import settings
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from scheduler.models import Run, Task
from scheduler.states import OPEN_RUNS

BATCH = 10


def prune(most_seconds: float = 0.2) -> int:
    """Remove ended runs that are too old, or more than a task keeps; returns how many. Begins no batch once the time
    is over: where something was removed, there may be more.
    """
    removed = 0
    oldest = timezone.now() - timedelta(days=settings.RUN_KEEP_DAYS)
    until = time.monotonic() + most_seconds
    while not removed or time.monotonic() < until:
        ids = list(_ended().filter(finished_at__lt=oldest).order_by("pk").values_list("pk", flat=True)[:BATCH])
        ids = ids or _beyond_the_number()
        if not ids:
            break
        removed += _remove(ids)
    return removed


def _ended() -> QuerySet[Run]:
    return Run.objects.exclude(state__in=OPEN_RUNS)


def _beyond_the_number() -> list[int]:
    """Some of the oldest runs of a task that has too many; open ones count for nothing, however many wait."""
    ended = Count("runs", filter=~Q(runs__state__in=OPEN_RUNS))
    counted = Task.objects.annotate(n=ended).filter(n__gt=settings.RUN_KEEP_COUNT).order_by("-n")
    for task in counted.only("pk")[:1]:
        ids = _ended().filter(task=task).order_by("-pk").values_list("pk", flat=True)
        return list(ids[settings.RUN_KEEP_COUNT :])[-BATCH:]
    return []


def _remove(ids: list[int]) -> int:
    """A batch's results go with it; each statement is its own transaction."""
    _rows, by_model = Run.objects.filter(pk__in=ids).delete()
    return by_model.get("scheduler.Run", 0)
