"""Opening operations and closing those that something newer supersedes. Call inside the transaction of a verb."""

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from deployments.models import Instance, Operation, OperationResult, Service
from deployments.phases import OPEN_STATES, OperationKind, OperationState, ResultState
from deployments.queueing import queue_step
from infini import events
from infini.errors import Conflict

_AFTER_STARTUP_SECONDS = 60  # for the agent to end what was not ready in time, and to say so


def open_operation(service: Service, kind: OperationKind, *, by: events.Actor, force: bool = False) -> Operation:
    """The service's one open operation; raises Conflict while there is another.

    What the site does by itself makes way for what a person asks.
    """
    if kind != OperationKind.RECONCILE:
        supersede(service.operations.filter(kind=OperationKind.RECONCILE), by_what=kind)
    deadline = timezone.now() + timedelta(seconds=seconds_allowed(service, kind))
    try:
        with transaction.atomic():
            return Operation.objects.create(service=service, kind=kind, by=by, force=force, deadline_at=deadline)
    except IntegrityError:
        running = service.operations.filter(state__in=OPEN_STATES).first()
        what = running.get_kind_display().lower() if running else _("another operation")
        raise Conflict(
            _("%(service)s is busy with: %(what)s. Wait for it, or stop the service.")
            % {"service": service, "what": what},
            code="operation_open",
        ) from None


def seconds_allowed(service: Service, kind: OperationKind) -> float:
    """An operation that starts something waits at least as long as its health check does."""
    least: float = settings.DEPLOY_DEADLINE_SECONDS
    if kind in (OperationKind.STOP, OperationKind.DELETE) or service.current_revision is None:
        return least
    return max(least, (service.current_revision.probes.get("startup_seconds") or 0) + _AFTER_STARTUP_SECONDS)


def begin(operation: Operation, instances: Iterable[Instance], *, deferred: frozenset[int] = frozenset()) -> None:
    """Write down one result per instance and the event; queue the first step on commit.

    ``instances`` as they are in the database, their placement and server loaded; ``deferred`` are the ids of
    those whose turn comes later.
    """
    OperationResult.objects.bulk_create(
        OperationResult(
            operation=operation,
            instance=instance,
            server=instance.placement.server,
            server_name=instance.placement.server.name,
            generation=instance.generation,
            deferred=instance.pk in deferred,
        )
        for instance in instances
    )
    data = {"operation": operation.pk}
    events.record(f"service.{operation.kind}_asked", operation.service, by=operation.by, data=data)
    queue_step(operation.pk)


def supersede(operations: Iterable[Operation], *, by_what: str) -> None:
    """Close those that are open; their late answers count no more, because generations go on."""
    now = timezone.now()
    for operation in operations:
        closed = Operation.objects.filter(pk=operation.pk, state__in=OPEN_STATES).update(
            state=OperationState.CANCELLED,
            finished_at=now,
            reason=gettext_noop("Superseded by %(by_what)s.") % {"by_what": by_what},
        )
        if closed:
            open_results = operation.results.filter(state__in=[ResultState.WAITING, ResultState.SENT])
            open_results.update(state=ResultState.CANCELLED)
