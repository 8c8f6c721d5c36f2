"""Whether a deployed revision is good: only when all its instances were ready for a time without a break.

An operation is done when all is ready, so that nobody waits for longer; its revision is then on trial. The monitor
judges each round. What fails within the time has failed to deploy, and a rolling update goes back by itself. All is
derived from rows, so a monitor that dies loses nothing; a verdict is one transaction that takes the trial away.
"""

import logging
from collections import defaultdict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from deployments import rollout
from deployments.agent_words import lasting
from deployments.models import Instance, Operation, Revision, Service, Trial
from deployments.phases import ENDED, OPEN_STATES, OperationState, Outcome, Phase, Wanted
from deployments.returning import go_back
from infini import events

logger = logging.getLogger(__name__)

# A probe that goes on and off is waited for so many times the stable time; then it counts as failed.
PATIENCE = 10


def begin_trial(operation: Operation) -> None:
    """Its revision was deployed: good from now on, or after the stable time. Inside the closing transaction."""
    if operation.revision is None:
        return
    if settings.STABLE_SECONDS <= 0:
        _take_as_good(operation.service, operation.revision)
        return
    started_again = sum(i.restarts for i in _instances([operation.service_id])[operation.service_id])
    now = timezone.now()
    Trial.objects.update_or_create(
        service=operation.service,
        defaults={
            "revision": operation.revision,
            "operation": operation,
            "began_at": now,
            "ready_since": now,
            "restarts": started_again,
        },
    )


def note_failure(revision: Revision | None, reason: str) -> None:
    """The verdict on a revision whose deployment failed."""
    if revision is not None:
        Revision.objects.filter(pk=revision.pk).update(
            outcome=Outcome.BAD, outcome_at=timezone.now(), outcome_reason=reason[:500]
        )


def judge() -> int:
    """Judge every revision on trial; returns how many verdicts. The number of queries does not grow with them."""
    trials = list(Trial.objects.select_related("service", "revision", "operation__by", "operation__revision"))
    if not trials:
        return 0
    ids = [trial.service_id for trial in trials]
    instances = _instances(ids)
    busy = set(Operation.objects.filter(service__in=ids, state__in=OPEN_STATES).values_list("service_id", flat=True))
    waiting = [trial for trial in trials if trial.service_id not in busy]
    return sum(_judge(trial, instances[trial.service_id]) for trial in waiting)


def _judge(trial: Trial, instances: list[Instance]) -> int:
    now = timezone.now()
    if not instances or any(instance.revision_id != trial.revision_id for instance in instances):
        return int(bool(_taken(trial)))  # stopped, or something else was deployed: no verdict
    if any(instance.phase == Phase.LOST for instance in instances):
        return _go_on(trial, ready_since=None)  # silence speaks neither for it nor against it
    if reason := _why_failed(trial, instances, now):
        return _condemn(trial, reason)
    if not all(instance.ready for instance in instances):
        return _go_on(trial, ready_since=None)
    if trial.ready_since is None:
        return _go_on(trial, ready_since=now)
    if now - trial.ready_since < timedelta(seconds=settings.STABLE_SECONDS):
        return 0
    with transaction.atomic():
        if not _taken(trial):
            return 0
        _take_as_good(trial.service, trial.revision)
    return 1


def _why_failed(trial: Trial, instances: list[Instance], now: datetime) -> str:
    ended = [i for i in instances if i.phase in ENDED]
    # Asked for anew by a person, the agents count from nought again.
    restarts = sum(i.restarts for i in instances)
    again = [i for i in instances if i.restarts] if restarts > trial.restarts else []
    late = now - trial.began_at > timedelta(seconds=PATIENCE * settings.STABLE_SECONDS)
    unready = [i for i in instances if i.phase == Phase.RUNNING and not i.ready] if late else []
    for failed, what in (
        (ended, gettext_noop("It ended.")),
        (again, gettext_noop("It ended and was started again.")),
        (unready, gettext_noop("Not ready.")),
    ):
        if failed:
            return f"{failed[0].placement.server.name}: {lasting(failed[0].reason) or what}"
    if restarts < trial.restarts:
        Trial.objects.filter(pk=trial.pk).update(restarts=restarts)
    return ""


def _condemn(trial: Trial, reason: str) -> int:
    """It failed within its time: the operation failed after all, and goes back where it is one that does."""
    operation, service = trial.operation, trial.service
    seconds = (timezone.now() - trial.began_at).total_seconds()
    reason = gettext_noop("It failed %(seconds).0f s after all was ready. %(reason)s") % {
        "seconds": seconds,
        "reason": reason,
    }
    with transaction.atomic():
        if not _taken(trial):
            return 0
        note_failure(trial.revision, reason)
        data = {"revision": trial.revision.number, "reason": reason}
        events.record("service.revision_failed", service, by=None, data=data)
        ended = Operation.objects.filter(pk=operation.pk, state=OperationState.DONE)
        ended.update(state=OperationState.FAILED, reason=reason[:500])
        if rollout.goes_back(operation):
            go_back(operation, service, reason)
    logger.info("trial.failed", extra={"service": service.name, "revision": trial.revision.number})
    return 1


def _go_on(trial: Trial, *, ready_since: datetime | None) -> int:
    if trial.ready_since != ready_since:
        Trial.objects.filter(pk=trial.pk).update(ready_since=ready_since)
    return 0


def _taken(trial: Trial) -> int:
    """Take the trial away, unless a later deployment or another monitor has; how many were."""
    return Trial.objects.filter(pk=trial.pk, operation=trial.operation_id).delete()[0]


def _take_as_good(service: Service, revision: Revision) -> None:
    Revision.objects.filter(pk=revision.pk).update(outcome=Outcome.GOOD, outcome_at=timezone.now(), outcome_reason="")
    Service.objects.filter(pk=service.pk).update(good_revision=revision)
    events.record("service.revision_good", service, by=None, data={"revision": revision.number})


def _instances(service_ids: list[int]) -> dict[int, list[Instance]]:
    found: dict[int, list[Instance]] = defaultdict(list)
    rows = Instance.objects.filter(placement__service__in=service_ids, wanted=Wanted.RUNNING)
    for instance in rows.select_related("placement__server").only(
        *("phase", "ready", "restarts", "reason", "revision"), "placement__service", "placement__server__name"
    ):
        found[instance.placement.service_id].append(instance)
    return found
