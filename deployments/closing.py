"""How the results of an operation end, and with them the operation."""

import logging
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from deployments import rollout, trials
from deployments.agent_words import lasting
from deployments.device_claims import release_devices
from deployments.lifecycle import remove_service
from deployments.models import Instance, Operation, OperationResult, Service
from deployments.observations import Observation
from deployments.phases import ENDED, OPEN_STATES, OperationKind, OperationState, Phase, ResultState, Wanted
from deployments.ports import release_ports
from deployments.returning import go_back
from deployments.specs import bury
from deployments.wanting import drop_successors
from infini import alerts, events
from infini.alerts import Subject
from infini.models import AlertKind

logger = logging.getLogger(__name__)

# An instance that its agent started so often again without its becoming ready has failed to deploy; the agent goes on.
KEEPS_FAILING = 3
UNFINISHED = (ResultState.WAITING, ResultState.SENT)


def mark_sent(result: OperationResult, seen: Observation) -> None:
    """The agent has taken it."""
    OperationResult.objects.filter(pk=result.pk, state__in=UNFINISHED).update(state=ResultState.SENT, pid=seen.pid)


def finish(result: OperationResult, state: ResultState, *, reason: str = "", **columns: Any) -> None:
    """End one result; the first end counts."""
    OperationResult.objects.filter(pk=result.pk, state__in=UNFINISHED).update(
        state=state, reason=reason[:500], **columns
    )


def leave_open(result: OperationResult, why: str) -> None:
    """Leave one result for the next step, saying what keeps it; `finish` puts its own reason there."""
    OperationResult.objects.filter(pk=result.pk, state__in=UNFINISHED).update(reason=why[:500])


def finish_by_instance(result: OperationResult) -> None:
    """End one result as its instance stands: ready is done, an end of its own is failed."""
    instance = Instance.objects.filter(results=result, generation=result.generation).first()
    if instance is None:
        return
    facts: dict[str, Any] = {"pid": instance.pid, "exit_code": instance.exit_code, "exit_unseen": instance.exit_unseen}
    if instance.wanted == Wanted.RUNNING and instance.ready:
        finish(result, ResultState.DONE, **facts)
    elif instance.wanted == Wanted.RUNNING and instance.phase in (*ENDED, Phase.LOST):
        finish(result, ResultState.FAILED, reason=instance.reason or _ended(instance), **facts)
    elif instance.wanted == Wanted.RUNNING and keeps_failing(instance):
        reason = gettext_noop("It keeps failing.") + f" {lasting(instance.reason)}"
        finish(result, ResultState.FAILED, reason=reason.strip(), **facts)
    elif instance.wanted == Wanted.STOPPED and instance.phase in ENDED:
        finish(result, ResultState.DONE, reason=instance.reason, **facts)


def keeps_failing(instance: Instance) -> bool:
    """Started again often, and ended once more: then its reason and last lines are there to tell; while it runs, the
    present run has none yet and may still do.
    """
    return instance.restarts >= KEEPS_FAILING and instance.pid is None


def leave_tombstone(result: OperationResult) -> None:
    """Give up an instance whose server is silent; it is ended when the server speaks again."""
    with transaction.atomic():
        finish(result, ResultState.DONE, reason=gettext_noop("Not reached; it is ended when the server answers again."))
        bury(Instance.objects.filter(results=result).select_related("placement"))


def settle(operation: Operation) -> None:
    """Close the operation when every result has ended, or its deadline has passed."""
    now = timezone.now()
    for result in operation.results.filter(state=ResultState.SENT).select_related("instance"):
        instance = result.instance
        # What is to run is finished only together with its last log lines, by the step that fetches them.
        if instance and (instance.wanted != Wanted.RUNNING or instance.phase == Phase.LOST):
            finish_by_instance(result)
    if now >= operation.deadline_at:
        _time_out(operation)
    if not operation.results.filter(state__in=UNFINISHED).exists():
        _close(operation, now)


def _time_out(operation: Operation) -> None:
    limit = (operation.deadline_at - operation.created_at).total_seconds()
    operation.results.filter(state__in=UNFINISHED).update(
        state=ResultState.FAILED,
        reason=gettext_noop("Not done within %(limit)g s; what was started was left as it is.") % {"limit": limit},
    )


def _close(operation: Operation, now: datetime) -> None:
    results = list(operation.results.all())
    failed = [r for r in results if r.state == ResultState.FAILED]
    state = OperationState.FAILED if failed else OperationState.DONE
    reason = (
        gettext_noop("%(failed)s of %(results)s failed. %(server_name)s: %(reason)s")
        % {
            "failed": len({r.server_name for r in failed}),
            "results": len({r.server_name for r in results}),  # of two on a server one was started beside the other
            "server_name": failed[0].server_name,
            "reason": failed[0].reason,
        }
        if failed
        else ""
    )
    with transaction.atomic():
        closed = Operation.objects.filter(pk=operation.pk, state__in=OPEN_STATES).update(
            state=state, finished_at=now, reason=reason[:500]
        )
        if not closed:
            return
        service = Service.objects.get(pk=operation.service_id)
        speaking_against = list(rollout.failures(operation).select_related("instance"))
        _judge_revision(operation, speaking_against, reason)
        if speaking_against and rollout.goes_back(operation):
            state = go_back(operation, service, reason)
        in_order = sorted(results, key=lambda r: r.state == ResultState.FAILED)  # of two on a server, the failed one
        data = {"operation": operation.pk, "results": {r.server_name: r.state for r in in_order}}
        events.record(f"service.{operation.kind}_{state}", service, by=operation.by, data=data)
        _tidy(operation, service, bool(failed))
    about = {"service": service.name, "kind": operation.kind, "state": str(state), "servers": len(results)}
    logger.info("operation.closed", extra=about)


def _judge_revision(operation: Operation, failed: list[OperationResult], reason: str) -> None:
    """One that is ready everywhere is on trial; one that failed is bad. That a server is silent is no verdict."""
    if operation.kind not in (OperationKind.DEPLOY, OperationKind.ROLL_BACK):
        return
    if any(result.instance is None or result.instance.phase != Phase.LOST for result in failed):
        trials.note_failure(operation.revision, reason)
    elif not failed:
        trials.begin_trial(operation)


def _tidy(operation: Operation, service: Service, failed: bool) -> None:
    """Free what ended on purpose; remove what is to be gone."""
    ended = Instance.objects.filter(placement__service=service, wanted=Wanted.STOPPED, phase__in=ENDED)
    ids = list(ended.values_list("pk", flat=True))
    release_ports(ids)
    release_devices(ids)
    drop_successors(service)
    service.placements.filter(replicas=0, instances=None).delete()
    if operation.kind == OperationKind.DEPLOY and not failed:
        alerts.recover(AlertKind.ROLLED_BACK, Subject.of(service), gettext_noop("A later deployment succeeded."))
    if operation.kind == OperationKind.DELETE:
        alerts.recover(AlertKind.ROLLED_BACK, Subject.of(service), gettext_noop("The service was deleted."))
        if not Instance.objects.filter(placement__service=service).exists():
            remove_service(service, by=operation.by)
        elif failed:
            Service.objects.filter(pk=service.pk).update(wanted=Wanted.STOPPED)


def _ended(instance: Instance) -> str:
    code = (
        gettext_noop("an exit code nobody saw")
        if instance.exit_unseen
        else gettext_noop("exit code %(exit_code)s") % {"exit_code": instance.exit_code}
    )
    return gettext_noop("The process ended with %(code)s.") % {"code": code}
