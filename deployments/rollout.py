"""Rolling updates: a new revision goes out to a few instances at a time, and not on when one fails."""

from django.db import transaction

from deployments.lifecycle import want_running
from deployments.models import Instance, Operation, OperationResult
from deployments.phases import OperationKind, ResultState, Wanted


def take_turns(operation: Operation) -> None:
    """Begin as many deferred instances as may be unavailable now; none, for good, once one has failed.

    Each turn is one transaction under a condition on its result, so that a step done twice begins it once.
    """
    deferred = operation.results.filter(deferred=True, state=ResultState.WAITING)
    if not deferred.exists():
        return
    if operation.results.filter(state=ResultState.FAILED).exists():
        deferred.update(state=ResultState.CANCELLED, reason="Not begun, because the new revision failed before.")
        return
    begun = operation.results.filter(state__in=[ResultState.WAITING, ResultState.SENT], deferred=False).count()
    free = max(0, (operation.service.max_unavailable or begun + 1) - begun)
    for result in deferred.select_related("instance__placement__server")[:free]:
        _take_turn(operation, result)


def goes_back(operation: Operation) -> bool:
    """Whether this is a rolling update, which goes back by itself; what goes back already never does it again."""
    return operation.kind == OperationKind.DEPLOY and operation.service.max_unavailable is not None


def _take_turn(operation: Operation, result: OperationResult) -> None:
    instance = result.instance
    with transaction.atomic():
        mine = OperationResult.objects.filter(pk=result.pk, deferred=True, state=ResultState.WAITING)
        if instance is None or instance.wanted != Wanted.RUNNING or operation.revision is None:
            mine.update(state=ResultState.CANCELLED, reason="It is not wanted any more.")
            return
        if not mine.update(deferred=False):
            return
        want_running(instance, instance.placement.server, operation.revision)
        fresh = Instance.objects.values_list("generation", flat=True).get(pk=instance.pk)
        OperationResult.objects.filter(pk=result.pk).update(generation=fresh)
