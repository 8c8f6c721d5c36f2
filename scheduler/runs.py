"""Runs: begun by schedule or by hand, cancelled, tried again. Nothing here waits for the network: a host in the `runs`
cluster carries them out (scheduler/hosting.py), woken on commit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from infini import alerts, clusters, events
from infini.alerts import Subject
from infini.errors import Conflict, Invalid
from infini.models import AlertKind
from scheduler import planning, targets
from scheduler.limits import refuse_wide_selector
from scheduler.models import Run, RunResult, Task
from scheduler.parameters import check_environment
from scheduler.states import BAD_RESULTS, BAD_RUNS, OPEN_RESULTS, OPEN_RUNS, Overlap, ResultState, RunState, Trigger

HOST_JOB = "scheduler.tasks.carry_out"
BATCH = 500


@dataclass(frozen=True)
class DryRun:
    """What a run would do: the command, and each server with the account and what stands in its way."""

    command: str
    environment: dict[str, str]
    aims: list[targets.Aim]


def wake_hosts() -> None:
    """Have some worker look for runs, once what was written is committed."""
    clusters.queue_run(HOST_JOB)


def snapshot(task: Task, *, trigger: Trigger, by: events.Actor = None, fire_at: datetime | None = None) -> Run:
    """An unsaved run of ``task`` as it is now."""
    return Run(
        task=task,
        name=task.name,
        trigger=trigger,
        by=by,
        by_name=by.get_username() if by else "",
        fire_at=fire_at,
        command=task.command,
        environment=task.environment,
        account=task.account,
        policy=task.policy(),
        created_at=timezone.now(),
    )


def store(run: Run, aims: Sequence[targets.Aim], *, scheduled: bool = False) -> None:
    """Write the run with a result per server; one that reaches nobody has failed. Caller holds a transaction."""
    if not aims:
        store_ended(run, RunState.FAILED, gettext_noop("No server is left to run on."))
        if run.task is not None:
            tell_failed(run, run.task)
        return
    run.save(force_insert=True)
    RunResult.objects.bulk_create((_result(run, aim, scheduled) for aim in aims), batch_size=BATCH)


def store_ended(run: Run, state: RunState, reason: str) -> None:
    """Write a run that never began."""
    run.state, run.reason, run.finished_at = state, reason[:500], timezone.now()
    run.save(force_insert=True)


def _result(run: Run, aim: targets.Aim, scheduled: bool) -> RunResult:
    result = RunResult(run=run, server_id=aim.server_id, server_name=aim.server_name, host=aim.host)
    if aim.obstacle:
        result.state, result.reason = ResultState.FAILED, aim.obstacle
    elif scheduled and aim.maintenance:
        result.state, result.reason = ResultState.SKIPPED, gettext_noop("In maintenance: schedules leave it alone.")
    if result.state != ResultState.WAITING:
        result.finished_at = timezone.now()
    return result


def close(run: Run, state: RunState, reason: str) -> None:
    """End a run that was carried out, and tell of it; caller holds its claim and the transaction."""
    now = timezone.now()
    run.state, run.reason, run.finished_at = state, reason[:500], now
    Run.objects.filter(pk=run.pk, state=RunState.RUNNING).update(
        state=state, reason=run.reason, finished_at=now, claim="", leased_until=None
    )
    task = Task.objects.filter(pk=run.task_id).first() if run.task_id else None
    if task is None or not task.notify:
        return
    alerts.recover(AlertKind.TASK_LONG, Subject.of(task), gettext_noop("%(run)s has ended.") % {"run": run})
    if state == RunState.SUCCESS:
        alerts.recover(AlertKind.TASK_FAILED, Subject.of(task), gettext_noop("%(run)s went well.") % {"run": run})
    elif state in BAD_RUNS:
        tell_failed(run, task)


def tell_failed(run: Run, task: Task) -> None:
    if task.notify:
        said = gettext_noop("%(run)s: %(why)s") % {"run": run, "why": run.reason or run.get_state_display()}
        alerts.open_alert(AlertKind.TASK_FAILED, Subject.of(task), said)


# By hand


def execute(task: Task, *, by: events.Actor) -> Run:
    """Run ``task`` now, whatever its schedule; raises Conflict while a run is open and its rule is not to overlap,
    Invalid when it reaches no server.
    """
    aims = targets.aims_of(task)
    if not any(aim.server_id for aim in aims):
        raise _nobody()
    run = snapshot(task, trigger=Trigger.PERSON, by=by)
    with transaction.atomic():
        open_before = task.runs.open()
        if task.overlap == Overlap.SKIP and open_before.exists():
            raise Conflict(_("%(task)s is running; cancel that run or wait for its end.") % {"task": task})
        if task.overlap == Overlap.REPLACE:
            ask_to_cancel(open_before, by=by)
        store(run, aims)
        events.record("task.executed", task, by=by, data={"run": run.pk, "servers": len(aims)})
        wake_hosts()
    return run


def dry_run(task: Task) -> DryRun:
    """What ``execute`` would do now; nothing is done, no server asked."""
    return DryRun(task.command, task.environment, targets.aims_of(task))


def run_once(task: Task, *, named: Collection[int], by: events.Actor) -> Run:
    """Carry out the command of an unsaved ``task`` on servers of these ids and of its selector, without a task.

    Raises Invalid naming the field at fault.
    """
    planning.check_command(task.command)
    check_environment(task.environment)
    refuse_wide_selector(task.selector, by=by)
    aims = targets.aims(named, task.selector, task.account)
    if not aims:
        raise _nobody()
    run = snapshot(task, trigger=Trigger.PERSON, by=by)
    run.task, run.name = None, task.name or _("Command")
    with transaction.atomic():
        store(run, aims)
        events.record("run.begun", run, by=by, data={"servers": len(aims)})
        wake_hosts()
    return run


def retry_failed(run: Run, *, by: events.Actor) -> Run:
    """A new run of the same command on those servers alone where ``run`` failed, timed out or lost contact.

    Raises Conflict while ``run`` is open or its task runs, Invalid when nothing failed.
    """
    if run.state in OPEN_RUNS:
        raise Conflict(_("%(run)s has not ended.") % {"run": run})
    again = list(run.results.filter(state__in=BAD_RESULTS).exclude(server=None).values_list("server_id", flat=True))
    aims = [aim for aim in targets.aims(again, "", run.account) if aim.server_id]
    if not aims:
        raise Invalid(_("There is no failed server to try again."))
    fresh = Run(task=run.task, name=run.name, trigger=Trigger.RETRY, by=by, by_name=by.get_username() if by else "")
    fresh.retry_of, fresh.command, fresh.environment = run, run.command, run.environment
    fresh.account, fresh.policy = run.account, run.policy
    with transaction.atomic():
        if run.task is not None and run.task.runs.open().exists():
            raise Conflict(_("%(task)s is running; cancel that run or wait for its end.") % {"task": run.task})
        store(fresh, aims)
        events.record("run.retried", run, by=by, data={"run": fresh.pk, "servers": len(aims)})
        wake_hosts()
    return fresh


def cancel(run: Run, *, by: events.Actor) -> None:
    """Have ``run`` end: nothing more begins, what runs is ended on the servers. Raises Conflict when it has ended."""
    with transaction.atomic():
        if not ask_to_cancel(Run.objects.filter(pk=run.pk), by=by):
            raise Conflict(_("%(run)s has ended already.") % {"run": run})
        events.record("run.cancelled", run, by=by)
        wake_hosts()


def ask_to_cancel(rows: QuerySet[Run], *, by: events.Actor) -> int:
    """Ask for the end of those of ``rows`` that are open; queued ones end here. Returns how many."""
    name = by.get_username() if by else ""
    now = timezone.now()
    queued = list(rows.filter(state=RunState.QUEUED).values_list("pk", flat=True))
    asked = rows.filter(state=RunState.RUNNING, cancel_asked_at=None).update(cancel_asked_at=now, cancel_asked_by=name)
    why = cancelled_reason(name)
    ended = Run.objects.filter(pk__in=queued, state=RunState.QUEUED).update(
        state=RunState.CANCELLED, reason=why, finished_at=now, cancel_asked_at=now, cancel_asked_by=name
    )
    waiting = RunResult.objects.filter(run__in=queued, state__in=OPEN_RESULTS, run__state=RunState.CANCELLED)
    waiting.update(state=ResultState.CANCELLED, finished_at=now)
    return asked + ended


def cancelled_reason(name: str) -> str:
    return (
        gettext_noop("Cancelled by %(name)s.") % {"name": name} if name else gettext_noop("Cancelled for a newer run.")
    )


def _nobody() -> Invalid:
    text = _("No server is left to run on.")
    return Invalid(text, fields={"server_ids": [text]})


def result_document(run: Run | None) -> dict[str, Any]:
    """The contract's shape of a run with what came of it on each server; ``run`` None is a task that never ran."""
    if run is None:
        return {"run_id": None, "state": "idle", "started_at": None, "finished_at": None, "reason": "", "results": []}
    rows = run.results.defer("raw")
    return {
        "run_id": run.pk,
        "state": run.state,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "reason": run.reason,
        "results": [
            {
                "server_id": row.server_id,
                "server": row.server_name,
                "state": row.state,
                "exit_status": row.exit_status,
                "output": row.output,
                "error": row.error or row.reason,
                "reason": row.reason,
                "truncated": bool(row.output_cut or row.error_cut),
                "started_at": row.started_at,
                "finished_at": row.finished_at,
            }
            for row in rows
        ],
    }
