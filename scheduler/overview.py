"""The commands' part of the overview: tasks whose last run failed or was missed, and what runs now."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from infini.badges import INFO, WARNING, Badge
from infini.dashboard import Problem, Section, Tile
from infini.display import BUSY, QUIET
from infini.models import Alert, AlertKind, AlertState
from infini.visibility import visible, visible_about
from scheduler.models import Run, Task
from scheduler.shown import task_chip
from scheduler.states import TaskStatus

SHOWN = 10
WRONG = (TaskStatus.FAILED, TaskStatus.MISSED)


def overview(request: HttpRequest) -> Section:
    if not request.user.has_perm("scheduler.view_task"):
        return Section()
    open_runs = visible(Run.objects.open(), request.user).count()
    runs_url = f"{reverse('admin:scheduler_run_changelist')}?state=open"
    tile = Tile(
        _("Runs open"),
        str(open_runs),
        runs_url,
        "play_circle",
        role=BUSY if open_runs else QUIET,
        source=_("this site's records"),
        at=timezone.now(),
    )
    known: QuerySet[Any] = visible(Task.objects.filter(enabled=True), request.user).with_status()
    wrong = list(known.filter(status__in=WRONG).defer("command")[:SHOWN])
    runs = Run.objects.only("reason").in_bulk([task.last_run_id for task in wrong])
    return Section(tiles=[tile], problems=[_problem(task, runs.get(task.last_run_id)) for task in wrong])


def _problem(task: Any, run: Run | None) -> Problem:
    url = reverse("admin:scheduler_task_page", args=[task.pk])
    return Problem(task.name, task_chip(task), run.reason if run else "", url, severity=1, since=task.last_at)


def badges(user: Any) -> dict[str, Badge]:
    """What was missed and not kept since, and what is under way."""
    if not user.has_perm("scheduler.view_run"):
        return {}
    missed = visible_about(Alert.objects.filter(kind=AlertKind.TASK_MISSED, state=AlertState.OPEN), "task", user)
    return {
        "scheduler.task": Badge(missed.count(), WARNING),
        "scheduler.run": Badge(visible(Run.objects.open(), user).count(), INFO),
    }
