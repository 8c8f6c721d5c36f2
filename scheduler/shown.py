"""The words and colours of tasks, runs and results on pages."""

from collections.abc import Sequence
from datetime import tzinfo
from typing import Any

from django.utils import timezone
from django.utils.dates import WEEKDAYS
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from infini.display import ABSENT, BAD, BUSY, GOOD, QUIET, WARN, Chip, ago_text, clock
from infini.errors import Invalid
from infini.said import said
from scheduler.models import Run, RunResult, Task
from scheduler.schedules import zone_named
from scheduler.states import ResultState, RunState, ScheduleType, TaskStatus

_RUN = {
    RunState.QUEUED: (QUIET, "schedule"),
    RunState.RUNNING: (BUSY, "progress_activity"),
    RunState.SUCCESS: (GOOD, "task_alt"),
    RunState.FAILED: (BAD, "error"),
    RunState.TIMED_OUT: (BAD, "timer_off"),
    RunState.CANCELLED: (QUIET, "block"),
    RunState.MISSED: (WARN, "event_busy"),
    RunState.SKIPPED: (QUIET, "skip_next"),
}
_RESULT = {
    ResultState.WAITING: (QUIET, "schedule"),
    ResultState.RUNNING: (BUSY, "progress_activity"),
    ResultState.SUCCESS: (GOOD, "task_alt"),
    ResultState.FAILED: (BAD, "error"),
    ResultState.TIMED_OUT: (BAD, "timer_off"),
    ResultState.LOST: (WARN, "link_off"),
    ResultState.CANCELLED: (QUIET, "block"),
    ResultState.SKIPPED: (QUIET, "skip_next"),
}
_TASK = {
    TaskStatus.IDLE: (QUIET, "hourglass_empty"),
    TaskStatus.RUNNING: (BUSY, "progress_activity"),
    TaskStatus.SUCCESS: (GOOD, "task_alt"),
    TaskStatus.FAILED: (BAD, "error"),
    TaskStatus.MISSED: (WARN, "event_busy"),
}


def run_chip(run: Any) -> Chip:
    """Expects ``with_counts()``."""
    role, icon = _RUN[RunState(run.state)]
    if run.state == RunState.RUNNING and run.cancel_asked_at:
        return Chip(_("Cancelling"), BUSY, "stop", _("Asked by %(name)s") % {"name": run.cancel_asked_by})
    return Chip(str(RunState(run.state).label), role, icon, _run_title(run))


def _run_title(run: Any) -> str:
    told = {"ok": run.ok_count, "bad": run.bad_count, "all": run.server_count, "reason": said(run.reason)}
    match run.state:
        case RunState.QUEUED:
            return _("Waits for a worker")
        case RunState.RUNNING:
            return _("%(ok)d of %(all)d done") % told
        case RunState.SUCCESS:
            return (_("All %(all)d. %(reason)s") if run.ok_count == run.server_count else "%(reason)s") % told
        case RunState.FAILED | RunState.TIMED_OUT:
            return (_("%(bad)d of %(all)d failed. %(reason)s") % told).strip()
        case RunState.MISSED | RunState.SKIPPED if run.fire_at:
            return _("Due %(at)s. %(reason)s") % {"at": clock(run.fire_at), "reason": said(run.reason)}
        case RunState.CANCELLED if run.finished_at:
            return _("At %(at)s. %(reason)s") % {"at": clock(run.finished_at), "reason": said(run.reason)}
    return said(run.reason)


def result_chip(result: RunResult) -> Chip:
    return state_chip(result.state, result.reason)


def state_chip(state: str, title: str = "") -> Chip:
    role, icon = _RESULT[ResultState(state)]
    return Chip(str(ResultState(state).label), role, icon, title or str(ResultState(state).label))


def result_role(state: str) -> str:
    return _RESULT[ResultState(state)][0]


def state_role(state: str) -> str:
    return _RUN[RunState(state)][0]


def task_chip(task: Any) -> Chip:
    status = TaskStatus(task.status)
    role, icon = _TASK[status]
    last = getattr(task, "last_at", None)
    return Chip(str(status.label), role, icon, _("Last run %(ago)s") % {"ago": ago_text(last)} if last else "")


def schedule_text(task: Task) -> str:
    """When it fires, in words, with its time zone."""
    at = f"{task.time_of_day:%H:%M}" if task.time_of_day else ""
    match task.schedule_type:
        case ScheduleType.ONCE:
            text = _("once, %(at)s") % {"at": moment_text(task, task.run_at)}
        case ScheduleType.INTERVAL:
            text = _("every %(span)s") % {"span": span_text(task.interval_seconds or 0)}
        case ScheduleType.DAILY:
            text = _("daily at %(at)s") % {"at": at}
        case ScheduleType.WEEKLY:
            text = _("%(day)s at %(at)s") % {"day": WEEKDAYS[task.weekday or 0], "at": at}
        case _other:
            text = task.cron
    return text if task.schedule_type == ScheduleType.INTERVAL else f"{text} ({task.timezone})"


def moment_text(task: Task, moment: Any) -> str:
    """A moment on the wall clock of the task's zone."""
    if moment is None:
        return ABSENT
    try:
        local = moment.astimezone(zone_named(task.timezone))
    except Invalid:  # its zone is unknown by now: the site's own clock then
        local = timezone.localtime(moment)
    return f"{local:%Y-%m-%d %H:%M}" if local.second == 0 else f"{local:%Y-%m-%d %H:%M:%S}"


def span_text(seconds: int) -> str:
    for size, one, many in (
        (86400, "%(n)d day", "%(n)d days"),
        (3600, "%(n)d hour", "%(n)d hours"),
        (60, "%(n)d minute", "%(n)d minutes"),
    ):
        if seconds % size == 0 and seconds:
            return ngettext(one, many, seconds // size) % {"n": seconds // size}
    return ngettext("%(n)d second", "%(n)d seconds", seconds) % {"n": seconds}


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return ABSENT
    if seconds < 10:
        return _("%(n).1f s") % {"n": seconds}
    return _("%(n)d s") % {"n": seconds} if seconds < 120 else span_clock(seconds)


def span_clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else _("%(m)d min %(s)02d s") % {"m": minutes, "s": rest}


def took_text(run: Run) -> str:
    """How long it took, or has taken so far."""
    if run.started_at is None:
        return ABSENT
    return seconds_text(((run.finished_at or timezone.now()) - run.started_at).total_seconds())


def strip(runs: Sequence[Run]) -> SafeString:
    """The newest runs as a row of marks, oldest first; each tells of its run, and the whole of all."""
    if not runs:
        return format_html('<span class="absent">{}</span>', ABSENT)
    well = sum(run.state == RunState.SUCCESS for run in runs)
    told = _("%(well)d of the last %(all)d runs went well") % {"well": well, "all": len(runs)}
    # A page has a thousand marks: what they share is found once, and nothing in them is anybody's own text.
    looks = {state: (state_role(state), escape(RunState(state).label)) for state in {run.state for run in runs}}
    zone = timezone.get_current_timezone()
    marks = "".join(_mark(run, *looks[run.state], zone) for run in runs)
    return format_html('<span class="run-strip" role="img" aria-label="{}">{}</span>', told, mark_safe(marks))  # noqa: S308


def _mark(run: Run, role: str, word: str, zone: tzinfo) -> str:
    at = (run.started_at or run.created_at).astimezone(zone)
    day = at.isoformat(" ", "minutes")[:16]
    return f'<i class="mark mark-{role}" title="#{run.pk} {word}, {day}, {took_text(run)}"></i>'
