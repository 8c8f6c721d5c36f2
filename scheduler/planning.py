"""Making, changing and removing tasks: what must hold whoever writes one, and when it fires next."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.utils import timezone
from django.utils.translation import gettext as _

from infini import alerts, events, records
from infini.alerts import Subject
from infini.errors import Conflict, Invalid
from infini.models import AlertKind
from inventory.models import Server
from scheduler import parameters, targets
from scheduler.limits import refuse_wide_selector
from scheduler.models import COMMAND_MAX_BYTES, Target, Task
from scheduler.schedules import check_cron, zone_named
from scheduler.states import ScheduleType

TASK_ALERTS = (AlertKind.TASK_FAILED, AlertKind.TASK_MISSED, AlertKind.TASK_LONG)
PAST_GRACE = timedelta(seconds=60)
# What each kind of schedule needs; what the others need is cleared.
NEEDS = {
    ScheduleType.ONCE: "run_at",
    ScheduleType.INTERVAL: "interval_seconds",
    ScheduleType.DAILY: "time_of_day",
    ScheduleType.WEEKLY: "time_of_day",
    ScheduleType.CRON: "cron",
}
_OWN = {"run_at": None, "interval_seconds": None, "time_of_day": None, "weekday": None, "cron": ""}


def create_task(task: Task, *, servers: Collection[Server], by: events.Actor) -> Task:
    """Store a new task; raises Invalid naming the field at fault, Conflict when its name is taken."""
    settle(task, named=[server.pk for server in servers])
    refuse_wide_selector(task.selector, by=by)
    _plan(task, timezone.now())
    with transaction.atomic():
        records.create(task, by=by, many={"servers": servers})
        _name_targets(task)
    return task


def change_task(
    task: Task,
    columns: Collection[str],
    *,
    by: events.Actor,
    servers: Collection[Server] | None = None,
    version: int | None = None,
) -> Task:
    """Write ``columns`` and, when given, the servers. A schedule that was touched starts anew from now.

    Raises Invalid, StaleVersion when ``version`` is not the stored one, NotFound, Conflict.
    """
    before = Task.objects.filter(pk=task.pk).first()
    named = [s.pk for s in servers] if servers is not None else task.targets.values_list("server_id", flat=True)
    settle(task, named=[pk for pk in named if pk], before=before)
    refuse_wide_selector(task.selector, by=by)
    touched = before is None or any(getattr(before, name) != getattr(task, name) for name in Task.SCHEDULE)
    written = set(columns) | (set(_OWN) if touched else set())
    with transaction.atomic():
        many = {} if servers is None else {"servers": servers}
        records.change(task, written, by=by, version=version, many=many)
        if servers is not None:
            task.targets.filter(server=None).delete()
            _name_targets(task)
        if touched:
            _plan(task, timezone.now())
            Task.objects.filter(pk=task.pk).update(anchor_at=task.anchor_at, next_run_at=task.next_run_at)
        if not (task.enabled and task.notify):
            end_alerts(
                task, _("%(task)s is switched off.") if task.notify else _("%(task)s raises no alerts any more.")
            )
    return task


def set_enabled(task: Task, enabled: bool, *, by: events.Actor) -> None:
    """Switch the schedule on or off; open runs go on. Intervals count anew from being switched on."""
    task.enabled = enabled
    change_task(task, {"enabled"}, by=by)


def delete_task(task: Task, *, by: events.Actor) -> None:
    """Remove the task; its runs stay as history. Raises Conflict while one is open."""
    if task.runs.open().exists():
        raise Conflict(_("A run of %(task)s is open; cancel it or wait for its end.") % {"task": task})
    with transaction.atomic():
        end_alerts(task, _("%(task)s was deleted."))
        records.remove(task, by=by)


def end_alerts(task: Task, why: str) -> None:
    for kind in TASK_ALERTS:
        alerts.recover(kind, Subject.of(task), why % {"task": task})


def next_fire(task: Task, moment: datetime) -> datetime | None:
    return task.schedule().after(moment) if task.enabled else None


def settle(task: Task, *, named: Sequence[int], before: Task | None = None) -> None:
    """Check all of ``task`` and bring it into its one form; raises Invalid about every field at fault.

    ``named`` are the servers it shall have, ``before`` what is stored of it.
    """
    problems: dict[str, list[str]] = {}

    def attempt(check: Any, *args: Any) -> None:
        try:
            check(*args)
        except Invalid as error:
            for field, texts in error.fields.items():
                problems.setdefault(field, []).extend(texts)

    attempt(check_command, task.command)
    attempt(parameters.check_environment, task.environment)
    attempt(zone_named, task.timezone)
    attempt(_settle_schedule, task, before)
    attempt(_check_window, task)
    attempt(_check_targets, task, named)
    if not problems:
        attempt(_check_it_fires, task, before)
    if problems:
        name, texts = next(iter(problems.items()))
        raise Invalid(f"{name}: {texts[0]}", fields=problems)


def check_command(command: str) -> None:
    """Raises Invalid for a command that is empty, too long, or cannot travel."""
    if not command.strip():
        raise _at("command", _("Write the command to run."))
    if len(command.encode("utf-8", "surrogatepass")) > COMMAND_MAX_BYTES:
        raise _at("command", _("A command has at most 64 kB; put longer ones into a file on the servers."))
    if "\0" in command or not command.isascii() and not _encodable(command):
        raise _at("command", _("The command holds a character that no shell can read."))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _settle_schedule(task: Task, before: Task | None) -> None:
    if task.schedule_type not in ScheduleType.values:
        raise _at("schedule_type", _("One of: %(kinds)s.") % {"kinds": ", ".join(ScheduleType.values)})
    needed = NEEDS[ScheduleType(task.schedule_type)]
    if getattr(task, needed) in (None, ""):
        raise _at(needed, _("This schedule needs it."))
    if task.schedule_type == ScheduleType.WEEKLY and task.weekday is None:
        raise _at("weekday", _("This schedule needs it: 0 is Monday, 6 is Sunday."))
    if task.schedule_type == ScheduleType.CRON:
        task.cron = check_cron(task.cron)
    kept = {needed, "weekday"} if task.schedule_type == ScheduleType.WEEKLY else {needed}
    for name, empty in _OWN.items():
        if name not in kept:
            setattr(task, name, empty)


def _check_window(task: Task) -> None:
    if (task.window_opens is None) != (task.window_closes is None):
        missing = "window_opens" if task.window_opens is None else "window_closes"
        raise _at(missing, _("A window has both a beginning and an end."))
    if task.window_opens is not None and task.window_opens == task.window_closes:
        raise _at("window_closes", _("A window ends at another time than it begins."))


def _check_targets(task: Task, named: Sequence[int]) -> None:
    terms = targets.read_selector(task.selector)
    if not named and not terms:
        raise _at("server_ids", _("Name a server, or a label selector."))


def _check_it_fires(task: Task, before: Task | None) -> None:
    """Only of what was touched: a task that ran once and is renamed need not run again."""
    if not task.enabled:
        return
    if before is not None and all(getattr(before, name) == getattr(task, name) for name in Task.SCHEDULE):
        return
    field = NEEDS[ScheduleType(task.schedule_type)]
    if task.schedule_type == ScheduleType.ONCE:
        same = before is not None and before.run_at == task.run_at
        if not same and task.run_at is not None and task.run_at < timezone.now() - PAST_GRACE:
            raise _at(field, _("This lies in the past."))
        if task.run_at is not None and not task.schedule().may_begin(task.run_at):
            raise _at(field, _("This never comes true within the window."))
        return
    task.anchor_at = timezone.now()
    if task.schedule().after(timezone.now()) is None:
        raise _at(field, _("This never comes true within the window."))


def _at(field: str, text: str) -> Invalid:
    return Invalid(text, fields={field: [text]})


def _plan(task: Task, now: datetime) -> None:
    """Count from ``now``. A moment of ``once`` that lies a little in the past is still due, unless it fired."""
    task.anchor_at = now
    task.next_run_at = next_fire(task, now)
    if task.enabled and task.schedule_type == ScheduleType.ONCE and task.run_at is not None:
        fired = task.pk is not None and task.runs.filter(fire_at=task.run_at).exists()
        task.next_run_at = None if fired or task.run_at < now - PAST_GRACE else task.run_at


def _name_targets(task: Task) -> None:
    """A target remembers its server's name beyond the server."""
    name = Server.objects.filter(pk=OuterRef("server")).values("name")[:1]
    Target.objects.filter(task=task, server_name="").exclude(server=None).update(server_name=Subquery(name))


def preview(task: Task, named: Sequence[int], *, by: events.Actor, count: int = 5) -> Mapping[str, Any]:
    """What an unsaved task would do: its next fires, the servers it reaches, the terms that fit none; raises Invalid as
    saving would.
    """
    settle(task, named=named)
    refuse_wide_selector(task.selector, by=by)
    task.anchor_at = timezone.now()
    upcoming = task.schedule().upcoming(timezone.now(), count)
    aims = targets.aims(named, task.selector, task.account)
    return {"next": upcoming, "aims": aims, "idle_terms": targets.idle_terms(task.selector, by=by)}
