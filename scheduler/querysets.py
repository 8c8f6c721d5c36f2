"""Questions about tasks and runs that lists, pages and the API must answer alike."""

from typing import TYPE_CHECKING

from django.apps import apps
from django.db import models
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Value, When
from django.utils import timezone

from infini.counting import count_of
from scheduler.states import BAD_RESULTS, BAD_RUNS, OPEN_RUNS, ResultState, RunState, TaskStatus

if TYPE_CHECKING:
    from scheduler.models import Run, Task


class TaskQuerySet(models.QuerySet["Task"]):
    def due(self) -> "TaskQuerySet":
        return self.filter(enabled=True, next_run_at__lte=timezone.now()).order_by("next_run_at")

    def with_status(self) -> "TaskQuerySet":
        """Adds ``status`` and, of the newest run that was not skipped, ``last_run_id``, ``last_state``, ``last_at``."""
        runs = apps.get_model("scheduler", "Run").objects.filter(task=OuterRef("pk"))
        newest = runs.exclude(state__in=[RunState.SKIPPED, *OPEN_RUNS]).order_by("-pk")
        return self.annotate(
            is_open=Exists(runs.filter(state__in=OPEN_RUNS)),
            last_run_id=Subquery(newest.values("pk")[:1]),
            last_state=Subquery(newest.values("state")[:1]),
            last_at=Subquery(newest.values("created_at")[:1]),
        ).annotate(
            status=Case(
                When(is_open=True, then=Value(TaskStatus.RUNNING.value)),
                When(last_state=None, then=Value(TaskStatus.IDLE.value)),
                When(last_state=RunState.SUCCESS, then=Value(TaskStatus.SUCCESS.value)),
                When(last_state=RunState.MISSED, then=Value(TaskStatus.MISSED.value)),
                default=Value(TaskStatus.FAILED.value),
            )
        )


class RunQuerySet(models.QuerySet["Run"]):
    def open(self) -> "RunQuerySet":
        return self.filter(state__in=OPEN_RUNS)

    def ended_badly(self) -> "RunQuerySet":
        return self.filter(state__in=BAD_RUNS)

    def claimable(self) -> "RunQuerySet":
        """Queued ones whose predecessor has ended, and running ones whose worker is gone; oldest first."""
        running = self.model.objects.filter(task=OuterRef("task"), state=RunState.RUNNING)
        queued = Q(state=RunState.QUEUED) & (Q(task=None) | ~Exists(running))
        orphaned = Q(state=RunState.RUNNING, leased_until__lt=timezone.now())
        return self.open().filter(queued | orphaned).order_by("pk")

    def with_counts(self) -> "RunQuerySet":
        """Adds how many servers there are, and how many in each way of ending; and how long it took."""
        results = apps.get_model("scheduler", "RunResult").objects.all()
        return self.annotate(
            server_count=count_of(results, "run"),
            ok_count=count_of(results.filter(state=ResultState.SUCCESS), "run"),
            bad_count=count_of(results.filter(state__in=BAD_RESULTS), "run"),
            took=F("finished_at") - F("started_at"),
        )
