"""The monitor's round of this app: fire what is due, see that queued runs are taken, tell of long ones, tidy up."""

import time
from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from infini import alerts
from infini.alerts import Subject
from infini.models import AlertKind
from scheduler import claims, firing, retention, runs
from scheduler.models import Run
from scheduler.states import RunState

WAKE_AGAIN_SECONDS = 5.0
LOOK_FOR_DEAD_SECONDS = 1.0
PRUNE_SECONDS = 600.0
PRUNE_ON_SECONDS = 2.0  # while there is more to remove


class _Clock:
    """What the process remembers from one round to the next."""

    def __init__(self) -> None:
        self.watch = firing.ClockWatch()
        self.woken = self.looked = self.prune_at = 0.0


_clock = _Clock()


def round_of_runs() -> float | None:
    """Everything that is due now; returns the seconds until the next task is. Safe to repeat and to interrupt."""
    if _clock.watch.stepped_back():
        firing.realign()
    pause = firing.fire_due()
    now = time.monotonic()
    if now - _clock.looked > LOOK_FOR_DEAD_SECONDS:
        _clock.looked = now
        take_over()
    if now - _clock.woken > WAKE_AGAIN_SECONDS:
        _clock.woken = now
        wake_forgotten()
        tell_of_long_runs()
    if now > _clock.prune_at:
        removed = retention.prune()
        _clock.prune_at = now + (PRUNE_ON_SECONDS if removed else PRUNE_SECONDS)
    return pause


def take_over() -> None:
    """Have the runs of a host that died on this machine go on."""
    if claims.give_back_of_the_dead():
        with transaction.atomic():
            runs.wake_hosts()


def wake_forgotten() -> bool:
    """Queue a job when a run has waited for some seconds: its wake-up, or the worker that had it, was lost."""
    if not Run.objects.claimable().filter(created_at__lt=timezone.now() - timedelta(seconds=2)).exists():
        return False
    with transaction.atomic():
        runs.wake_hosts()
    return True


def tell_of_long_runs() -> int:
    """Open an alert for each task whose run goes on for longer than it should; returns how many are new."""
    now = timezone.now()
    running = Run.objects.filter(
        state=RunState.RUNNING, task__notify=True, task__long_after_seconds__isnull=False
    ).select_related("task")
    messages: dict[Subject, str] = {}
    for run in running.defer("command", "task__command"):
        assert run.task is not None and run.started_at is not None and run.task.long_after_seconds is not None
        if now - run.started_at > timedelta(seconds=run.task.long_after_seconds):
            said = _("%(run)s has run for more than %(n)d s.") % {"run": run, "n": run.task.long_after_seconds}
            messages[Subject.of(run.task)] = said
    return alerts.open_all(AlertKind.TASK_LONG, messages) if messages else 0
