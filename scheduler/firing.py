"""Firing what is due: the leading monitor's part. Each time of a schedule becomes one run row, unique by task and time.

A round may die anywhere or be done twice, by two monitors at once even: the rows and the task's next time are written
in one transaction, and the unique row decides. A time that could not be kept is no less visible: it becomes a missed
run.
"""

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini import alerts
from infini.alerts import Subject
from infini.errors import InfiniError
from infini.models import AlertKind
from scheduler import runs, targets
from scheduler.models import Run, Task
from scheduler.schedules import Schedule
from scheduler.states import Misfire, Overlap, RunState, ScheduleType, Trigger

logger = logging.getLogger(__name__)

ON_TIME = timedelta(seconds=60)  # later than this, a time counts as missed and the task's rule decides
TASKS_AT_ONCE = 100
MISSED_SHOWN = 20  # older ones share one row
STEPPED_SECONDS = 5.0


@dataclass
class Plan:
    """What becomes of the times of one task that have come: each is fired or missed; ``earlier`` stands for more."""

    fired: list[datetime] = field(default_factory=list)
    missed: list[datetime] = field(default_factory=list)
    merged: list[datetime] = field(default_factory=list)  # came within the last minute, together with a later one
    earlier: datetime | None = None
    next_at: datetime | None = None


def plan(task: Task, schedule: Schedule, now: datetime) -> Plan:
    """Decide about every time from ``task.next_run_at`` to ``now``."""
    assert task.next_run_at is not None
    due = task.next_run_at
    most = max(MISSED_SHOWN, task.catch_up_most)
    shown = schedule.latest(due, now, most) if task.schedule_type != ScheduleType.ONCE else []
    made = Plan(next_at=schedule.after(now))
    if len(shown) == most and due < shown[0]:
        made.earlier = due
    elif due not in shown:  # promised, whatever the schedule would say by now
        shown.insert(0, due)
    late = [at for at in shown if now - at > ON_TIME]
    made.fired = [at for at in shown if now - at <= ON_TIME]
    startable = [at for at in late if (now - at).total_seconds() <= task.late_most_seconds and schedule.may_begin(now)]
    if task.misfire == Misfire.CATCH_UP:
        made.fired = startable[-task.catch_up_most :] + made.fired
    elif task.misfire == Misfire.ONCE and not made.fired:
        made.fired = startable[-1:]
    made.missed = [at for at in shown if at not in made.fired]
    if task.misfire != Misfire.CATCH_UP:
        made.merged, made.fired = made.fired[:-1], made.fired[-1:]
    return made


def fire_due() -> float | None:
    """Fire every task that is due; returns the seconds until the next one is, None when none is planned."""
    while _fire_some() == TASKS_AT_ONCE:
        pass
    following = Task.objects.filter(enabled=True, next_run_at__isnull=False).order_by("next_run_at")
    at = following.values_list("next_run_at", flat=True).first()
    return None if at is None else (at - timezone.now()).total_seconds()


def _fire_some() -> int:
    """Up to ``TASKS_AT_ONCE`` tasks in one transaction; returns how many."""
    if not Task.objects.due().exists():  # looking takes no write lock
        return 0
    with transaction.atomic():
        due = list(Task.objects.due().select_for_update(skip_locked=True)[:TASKS_AT_ONCE])
        started = [_fire(task) for task in due]
        if any(started):
            runs.wake_hosts()
    return len(due)


def _fire(task: Task) -> bool:
    """Write the runs of one task and move it on; True when one of them can be begun."""
    now = timezone.now()
    try:
        made = plan(task, task.schedule(), now)
        aims = targets.aims_of(task) if made.fired else []
    except InfiniError as error:
        made, aims = Plan(missed=[task.next_run_at or now]), []
        _missed(task, made, error.message)
        Task.objects.filter(pk=task.pk).update(next_run_at=None)
        return False
    Task.objects.filter(pk=task.pk, next_run_at=task.next_run_at).update(next_run_at=made.next_at)
    _leave_out_known(task, made)
    if made.missed or made.earlier:
        _missed(task, made, _why_missed(task, now))
    elif made.fired and task.notify:
        alerts.recover(AlertKind.TASK_MISSED, Subject.of(task), _("%(task)s began on time.") % {"task": task})
    for at in made.merged:
        skipped = runs.snapshot(task, trigger=Trigger.SCHEDULE, fire_at=at)
        runs.store_ended(skipped, RunState.SKIPPED, _("It came together with a later time, which stands for both."))
    together = len(made.fired) > 1
    return any([_begin(task, at, aims, together=together) for at in made.fired])


def _leave_out_known(task: Task, made: Plan) -> None:
    """A clock that was set back brings times again that have their row."""
    times = [*made.fired, *made.missed, *made.merged]
    known = set(Run.objects.filter(task=task, fire_at__in=times).values_list("fire_at", flat=True))
    for some in (made.fired, made.missed, made.merged):
        some[:] = [at for at in some if at not in known]


def _begin(task: Task, at: datetime, aims: list[targets.Aim], *, together: bool) -> bool:
    """One run that shall go out now: queued, or skipped since its predecessor still runs. Those that are caught up
    with ``together`` wait for each other.
    """
    run = runs.snapshot(task, trigger=Trigger.SCHEDULE, fire_at=at)
    open_before = task.runs.open()
    if task.overlap == Overlap.SKIP and not together and open_before.exists():
        runs.store_ended(run, RunState.SKIPPED, _("The run before still went on."))
        return False
    if task.overlap == Overlap.REPLACE and not together:
        runs.ask_to_cancel(open_before, by=None)
    runs.store(run, aims, scheduled=True)
    return run.state == RunState.QUEUED


def _why_missed(task: Task, now: datetime) -> str:
    if task.misfire == Misfire.SKIP:
        return _("Nothing could begin it in time; the rule is to skip.")
    if not task.schedule().may_begin(now):
        return _("Nothing could begin it in time, and now lies outside of its window.")
    if task.misfire == Misfire.ONCE:
        return _("Nothing could begin it in time; the rule is to run once, not later than %(n)d s.") % {
            "n": task.late_most_seconds
        }
    return _("Nothing could begin it in time; the rule is to catch up with %(n)d, not later than %(s)d s.") % {
        "n": task.catch_up_most,
        "s": task.late_most_seconds,
    }


def _missed(task: Task, made: Plan, why: str) -> None:
    rows = [runs.snapshot(task, trigger=Trigger.SCHEDULE, fire_at=at) for at in made.missed]
    if made.earlier:
        first = runs.snapshot(task, trigger=Trigger.SCHEDULE, fire_at=made.earlier)
        first.reason = _("This and every later time before those shown. %(why)s") % {"why": why}
        rows.insert(0, first)
    now = timezone.now()
    for row in rows:
        row.state, row.finished_at, row.reason = RunState.MISSED, now, (row.reason or why)[:500]
    Run.objects.bulk_create(rows, ignore_conflicts=True)
    if task.notify and not made.fired:
        last = made.missed[-1] if made.missed else made.earlier
        due = f"{last:%Y-%m-%d %H:%M:%S} UTC"
        said = _("%(task)s was due %(due)s and did not run. %(why)s") % {"task": task, "due": due, "why": why}
        alerts.open_alert(AlertKind.TASK_MISSED, Subject.of(task), said)


class ClockWatch:
    """Notices that the wall clock was set back: a task moved on by a clock that ran ahead would else wait for hours."""

    def __init__(self) -> None:
        self._skew: float | None = None

    def stepped_back(self) -> bool:
        """Whether it was since the last call; True at the first: before, nobody watched."""
        skew = time.time() - time.monotonic()
        before, self._skew = self._skew, skew
        return before is None or skew < before - STEPPED_SECONDS


def realign() -> int:
    """Plan anew every task whose next time is not what its schedule says, as after a clock that ran ahead or new rules
    of a time zone; returns how many. What is due already stays so. A time that has its run does not fire again: the
    row is there.
    """
    now, moved = timezone.now(), 0
    planned = Task.objects.filter(enabled=True, next_run_at__gt=now).exclude(schedule_type=ScheduleType.ONCE)
    for task in planned.defer("command", "environment"):
        try:
            expected = task.schedule().after(now)
        except InfiniError:
            continue  # the round that it is due in says so
        assert task.next_run_at is not None
        if expected and expected != task.next_run_at:
            moved += Task.objects.filter(pk=task.pk, next_run_at=task.next_run_at).update(next_run_at=expected)
    return moved
