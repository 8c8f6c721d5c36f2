"""Putting steps into the queue. A step queued twice does no harm: it claims its operation first."""

from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django_q.tasks import async_task

from deployments.models import Operation
from deployments.phases import OPEN_STATES

REQUEUE_AFTER = timedelta(seconds=5)


def queue_step(operation_id: int) -> None:
    """Queue the operation's next step when the surrounding transaction commits."""
    Operation.objects.filter(pk=operation_id).update(queued_at=timezone.now())
    transaction.on_commit(lambda: async_task("deployments.tasks.advance", operation_id))


def queue_due_steps() -> int:
    """Queue a step for every open operation whose time has come and that nobody works on; returns how many.

    By level, not by edge: a step lost with its worker is queued again.
    """
    now = timezone.now()
    unqueued = Q(queued_at=None) | Q(queued_at__lt=now - REQUEUE_AFTER) | Q(queued_at__lte=F("stepped_at"))
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    due = Operation.objects.filter(unqueued, free, state__in=OPEN_STATES, step_due_at__lte=now)
    ids = list(due.values_list("pk", flat=True)[:200])
    if not ids:
        return 0
    with transaction.atomic():
        claimed = list(due.filter(pk__in=ids).values_list("pk", flat=True))
        Operation.objects.filter(pk__in=claimed).update(queued_at=now)
        for operation_id in claimed:
            transaction.on_commit(lambda pk=operation_id: async_task("deployments.tasks.advance", pk))  # type: ignore[misc]
    return len(claimed)
