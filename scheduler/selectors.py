"""Questions about tasks and runs."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Avg, F, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from infini.visibility import visible
from scheduler.models import Run, Target, Task
from scheduler.states import BAD_RUNS, RunState

STRIP = 30


def counts(user: Any) -> dict[str, int]:
    """This app's part of the site's counts."""
    return {"task_count": visible(Task.objects.all(), user).count()}


def runs_wait_since(moment: datetime) -> bool:
    """Whether a run that could be carried out has waited since before ``moment``."""
    claimable = Run.objects.claimable()
    if claimable.filter(state=RunState.QUEUED, created_at__lt=moment).exists():
        return True
    return claimable.filter(state=RunState.RUNNING, leased_until__lt=moment).exists()


def server_ids(tasks: list[int]) -> dict[int, list[int]]:
    """The servers each of these tasks names, by id; one query. A task that names none is left out."""
    found: dict[int, list[int]] = {}
    rows = Target.objects.order_by("server").filter(task__in=tasks, server__isnull=False)
    for task, server in rows.values_list("task", "server"):
        found.setdefault(task, []).append(server)
    return found


def strips(tasks: list[int], most: int = STRIP) -> dict[int, list[Run]]:
    """The newest runs of each of these tasks, oldest first; one query."""
    numbered = Run.objects.filter(task__in=tasks).annotate(
        number=Window(RowNumber(), partition_by=F("task"), order_by=F("pk").desc())
    )
    rows = numbered.filter(number__lte=most).only(
        "pk", "name", "task", "state", "created_at", "started_at", "finished_at"
    )
    found: dict[int, list[Run]] = {pk: [] for pk in tasks}
    for run in rows.order_by("pk"):
        found[run.task_id or 0].append(run)
    return found


def statistics(task: Task) -> dict[str, Any]:
    """Of the runs that are kept: how many ended how, the share that went well, how long they took on average."""
    runs = task.runs.all()
    by_state = Counter(runs.values_list("state", flat=True).order_by())
    well, badly = by_state[RunState.SUCCESS], sum(by_state[state] for state in BAD_RUNS)
    ended = runs.filter(state__in=[RunState.SUCCESS, *BAD_RUNS], started_at__isnull=False)
    took = ended.aggregate(mean=Avg(F("finished_at") - F("started_at")))["mean"]
    return {
        "by_state": dict(by_state),
        "success_percent": round(100 * well / (well + badly)) if well + badly else None,
        "mean_seconds": took.total_seconds() if took else None,
        "as_of": timezone.now(),
    }


@dataclass(frozen=True)
class Duration:
    """One run in the chart of durations: ``height`` in percent of the longest shown."""

    run: Run
    seconds: float
    height: float
    left: int


def durations(task: Task, most: int = STRIP) -> list[Duration]:
    """How long the newest runs that ran took, oldest first."""
    rows = task.runs.filter(started_at__isnull=False, finished_at__isnull=False).order_by("-pk")
    ended = list(rows.only("pk", "name", "task", "state", "created_at", "started_at", "finished_at")[:most])[::-1]
    took = [(run.finished_at - run.started_at).total_seconds() for run in ended]  # type: ignore[operator]
    longest = max(took, default=0) or 1
    return [
        Duration(run, seconds, max(2.0, 100 * seconds / longest), 10 * place)
        for place, (run, seconds) in enumerate(zip(ended, took, strict=True))
    ]
