"""Rolling updates: a new revision goes out to a few instances at a time, and not on when one fails.

Each turn goes one of two ways, chosen by what is free on its server. Beside: a successor is started, the old instance
goes on serving, and ends once the successor has taken its place. Else in place: the old one ends first.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop

from deployments.agent_words import lasting
from deployments.models import Instance, Operation, OperationResult, Revision
from deployments.operations import seconds_allowed
from deployments.phases import ENDED, OperationKind, Phase, ResultState, Wanted
from deployments.wanting import new_instance, next_ordinal, want_running
from infini import events
from infini.errors import Conflict, InfiniError
from inventory.models import Device

UNFINISHED = (ResultState.WAITING, ResultState.SENT)


def take_turns(operation: Operation) -> None:
    """Let ready successors take their places, then begin as many turns as may be unavailable now.

    Neither, for good, once an instance has failed. Each is one transaction under a condition on its result, so that a
    step done twice does it once.
    """
    deferred = operation.results.filter(deferred=True, state=ResultState.WAITING)
    if not deferred.exists():
        return
    if failures(operation).exists():
        beside = deferred.filter(instance__in=Instance.objects.filter(successor__isnull=False))
        beside.update(
            state=ResultState.CANCELLED,
            note="",
            reason=gettext_noop("It goes on untouched, because the new one failed."),
        )
        deferred.update(
            state=ResultState.CANCELLED, reason=gettext_noop("Not begun, because the new revision failed before.")
        )
        return
    started = operation.results.filter(state=ResultState.DONE, instance__replaces__isnull=False)
    for result in started.select_related("instance__placement__server", "instance__replaces__placement__server"):
        _hand_over(operation, result)
    begun = operation.results.filter(state__in=UNFINISHED, deferred=False).count()
    free = max(0, (operation.service.max_unavailable or begun + 1) - begun)
    waiting = deferred.filter(instance__successor=None).select_related("instance__placement__server")
    for result in waiting[:free]:
        _take_turn(operation, result)


def failures(operation: Operation) -> QuerySet[OperationResult]:
    """What speaks against the revision: that something old could not be ended does not."""
    leaving = Q(instance__isnull=False) & Q(instance__wanted=Wanted.GONE)
    return operation.results.filter(state=ResultState.FAILED).exclude(leaving)


def goes_back(operation: Operation) -> bool:
    """Whether this is a rolling update, which goes back by itself; what goes back already never does it again."""
    return operation.kind == OperationKind.DEPLOY and operation.service.max_unavailable is not None


def _take_turn(operation: Operation, result: OperationResult) -> None:
    mine = OperationResult.objects.filter(pk=result.pk, deferred=True, state=ResultState.WAITING)
    instance, revision = result.instance, operation.revision
    if instance is None or instance.wanted != Wanted.RUNNING or revision is None:
        mine.update(state=ResultState.CANCELLED, reason=gettext_noop("It is not wanted any more."))
        return
    try:
        with transaction.atomic():
            why_not = why_not_beside(operation, instance, revision)
            if not why_not:
                why_not = _start_beside(operation, result, revision)
            if why_not:
                _start_in_place(result, revision, note=gettext_noop("Ended first: %(why_not)s") % {"why_not": why_not})
            _allow_time(operation)
    except InfiniError as error:  # it does not fit in place either; what runs is left as it is
        mine.update(deferred=False, state=ResultState.FAILED, reason=error.message[:500])


def why_not_beside(operation: Operation, instance: Instance, revision: Revision) -> str:
    """Why no second instance is to be tried on the server; empty when one is."""
    if not operation.service.surge:
        return gettext_noop("the service is set so.")
    if revision.port is not None and revision.port == instance.port:
        return gettext_noop("both need port %(port)s.") % {"port": revision.port}
    if not revision.devices and Device.objects.filter(server=instance.placement.server, present=True).exists():
        return gettext_noop("it reserves no devices, so nobody knows whether two of it have room there.")
    return ""


def _start_beside(operation: Operation, result: OperationResult, revision: Revision) -> str:
    """Create the successor with claims of its own, to be asked for by the next step; else say what is not free."""
    old = result.instance
    assert old is not None  # noqa: S101  (for the type checker: the caller looked)
    try:
        with transaction.atomic():
            new = new_instance(operation.service, old.placement_id, revision, next_ordinal(old.placement_id))
            want_running(new, old.placement.server, revision)
    except Conflict as taken:
        return taken.message
    Instance.objects.filter(pk=new.pk).update(replaces=old)
    new.refresh_from_db()
    claimed = OperationResult.objects.filter(pk=result.pk, deferred=True, state=ResultState.WAITING).update(
        note=gettext_noop("Goes on until the new one is ready, then ends.")
    )
    if not claimed:
        raise Conflict(gettext_noop("Its turn was called off."))
    OperationResult.objects.create(
        operation=operation,
        instance=new,
        server=old.placement.server,
        server_name=result.server_name,
        generation=new.generation,
        note=_told(new),
    )
    return ""


def _told(new: Instance) -> str:
    devices = [str(claim.device.index) for claim in new.device_claims.select_related("device")]
    names = {"port": new.port, "devices": ", ".join(devices)}
    if new.port and devices:
        return gettext_noop("Started beside the old one, with port %(port)s and devices %(devices)s.") % names
    if new.port:
        return gettext_noop("Started beside the old one, with port %(port)s.") % names
    if devices:
        return gettext_noop("Started beside the old one, with devices %(devices)s.") % names
    return gettext_noop("Started beside the old one.")


def _start_in_place(result: OperationResult, revision: Revision, *, note: str) -> None:
    """The old one gets no more requests from here on, and the agent is asked once those in flight had some time."""
    instance = result.instance
    assert instance is not None  # noqa: S101
    mine = OperationResult.objects.filter(pk=result.pk, deferred=True, state=ResultState.WAITING)
    if mine.update(deferred=False, note=note[:500], not_before=_drained_at()):
        want_running(instance, instance.placement.server, revision)
        fresh = Instance.objects.values_list("generation", flat=True).get(pk=instance.pk)
        OperationResult.objects.filter(pk=result.pk).update(generation=fresh)


def _hand_over(operation: Operation, started: OperationResult) -> None:
    """The successor takes the old one's place and number; the old one gets no more requests and is then ended."""
    new = started.instance
    old = new.replaces if new else None
    if new is None or old is None:
        return
    if not new.ready:
        _fell_over(started, new)
        return
    with transaction.atomic():
        theirs = operation.results.filter(instance=old, deferred=True, state=ResultState.WAITING)
        note = gettext_noop("Ends, since the new one has taken its place.")
        if not theirs.update(deferred=False, not_before=_drained_at(), note=note):
            return
        Instance.objects.filter(pk=new.pk).update(replaces=None)
        Instance.objects.filter(pk=old.pk).update(
            wanted=Wanted.GONE, generation=F("generation") + 1, ready=False, ordinal=next_ordinal(old.placement_id)
        )
        Instance.objects.filter(pk=new.pk).update(ordinal=old.ordinal)
        fresh = Instance.objects.values_list("generation", flat=True).get(pk=old.pk)
        operation.results.filter(instance=old).update(generation=fresh)
        data = {"in_place_of": old.key, "server": new.placement.server.name}
        events.record("instance.took_over", new, by=None, data=data)


def _fell_over(result: OperationResult, new: Instance) -> None:
    """It was ready and ended before it could take over. One that is merely not ready now is waited for."""
    if new.phase in (*ENDED, Phase.LOST):
        reason = gettext_noop("It was ready, and then not any more. %(reason)s") % {"reason": lasting(new.reason)}
        OperationResult.objects.filter(pk=result.pk, state=ResultState.DONE).update(
            state=ResultState.FAILED, reason=reason[:500]
        )


def _drained_at() -> datetime:
    return timezone.now() + timedelta(seconds=settings.DRAIN_SECONDS)


def _allow_time(operation: Operation) -> None:
    """Each turn has as long as a deployment has."""
    until = timezone.now() + timedelta(seconds=seconds_allowed(operation.service, OperationKind(operation.kind)))
    Operation.objects.filter(pk=operation.pk, deadline_at__lt=until).update(deadline_at=until)
