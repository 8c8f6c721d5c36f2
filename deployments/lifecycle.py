"""The verbs: deploy, restart, stop, delete. Each states what is wanted in one transaction and opens an operation.

Nothing here waits for the network: steps do (deployments/steps.py), queued on commit.
"""

from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from deployments.models import Instance, Operation, Revision, Service
from deployments.operations import begin, open_operation, supersede
from deployments.phases import ALIVE, OPEN_STATES, OperationKind, Outcome, Phase, Wanted
from deployments.revisions import revision_of, set_note
from deployments.wanting import drop_successors, new_instance, want_ended, want_running
from infini import events
from infini.errors import Conflict, Invalid, NotFound


def deploy(service: Service, *, by: events.Actor, note: str = "") -> Operation:
    """Run the current revision on every server of the service, at once; ``note`` says why, and stays with it.

    Raises Invalid without a command or servers, Conflict while another operation is open or a port is taken.
    """
    with transaction.atomic():
        service = _locked(service)
        if service.current_revision:
            set_note(service.current_revision, note, by=by)
        return _deploy(service, OperationKind.DEPLOY, by=by)


def roll_back(service: Service, *, by: events.Actor, number: int | None = None) -> Operation:
    """Deploy an earlier revision: the one with ``number``, else the last that was good.

    Raises NotFound for a number the service never had, Conflict when there is none to return to.
    """
    with transaction.atomic():
        service = _locked(service)
        revision = _earlier_revision(service, number)
        Service.objects.filter(pk=service.pk).update(current_revision=revision, version=F("version") + 1)
        data = {"revision": [service.current_revision.number if service.current_revision else None, revision.number]}
        service.current_revision = revision
        events.record("service.rolled_back", service, by=by, data=data)
        return _deploy(service, OperationKind.ROLL_BACK, by=by)


def return_to_good(service: Service, failed: Operation) -> Operation | None:
    """After a rolling update failed: run the last good revision again wherever the new one was tried.

    None when there is no other good one. What had not had its turn still runs it and is left alone, and so is what
    something was only started beside of. What runs the failed revision and is ready goes back in turns.
    """
    with transaction.atomic():
        service = _locked(service)
        good = service.good_revision
        if good is None or good.pk == failed.revision_id:
            return None
        operation = open_operation(service, OperationKind.ROLL_BACK, by=None)
        Operation.objects.filter(pk=operation.pk).update(revision=good)
        ids = drop_successors(service)
        tried = _instances(service).filter(revision=failed.revision_id, wanted=Wanted.RUNNING)
        deferred = frozenset(instance.pk for instance in tried if instance.ready)
        for instance in tried:
            ids.append(instance.pk)
            if instance.pk not in deferred:
                want_running(instance, instance.placement.server, good)
        Service.objects.filter(pk=service.pk).update(current_revision=good, version=F("version") + 1)
        data = {"revision": [failed.revision.number if failed.revision else None, good.number]}
        events.record("service.returned", service, by=None, data=data)
        begin(operation, _instances(service).filter(pk__in=ids), deferred=deferred)
        return operation


def _earlier_revision(service: Service, number: int | None) -> Revision:
    if number is not None:
        return revision_of(service, number)
    earlier = last_good_but_current(service)
    if earlier is None:
        raise Conflict(
            _("%(service)s has no other revision that was ever good.") % {"service": service},
            code="nothing_to_return_to",
        )
    return earlier


def last_good_but_current(service: Service) -> Revision | None:
    """The revision to return to: the last that was good and is not the one deployed now."""
    if service.good_revision and service.good_revision_id != service.current_revision_id:
        return service.good_revision
    others = service.revisions.filter(outcome=Outcome.GOOD).exclude(pk=service.current_revision_id or 0)
    return others.order_by("-outcome_at", "-number").first()


def _deploy(service: Service, kind: OperationKind, *, by: events.Actor) -> Operation:
    revision = service.current_revision
    if revision is None:
        raise Invalid(_("This service has no deploy command yet; enter one first."), code="no_command")
    placements = list(service.placements.select_related("server"))
    if not any(placement.replicas for placement in placements):
        raise Invalid(_("This service is on no server yet; choose at least one."), code="no_servers")
    operation = open_operation(service, kind, by=by)
    Operation.objects.filter(pk=operation.pk).update(revision=revision)
    deferred = []
    for placement in placements:
        have = {i.ordinal: i for i in placement.instances.all()}
        for ordinal in range(placement.replicas):
            instance = have.pop(ordinal, None) or new_instance(service, placement.pk, revision, ordinal)
            if service.max_unavailable and instance.ready:
                deferred.append(instance.pk)
            else:
                want_running(instance, placement.server, revision)
        want_ended(have.values(), Wanted.GONE)
    return _begin(operation, service, Wanted.RUNNING, deferred=frozenset(deferred))


def restart(service: Service, *, by: events.Actor) -> Operation:
    """Run each instance's own revision anew. Raises Conflict when there is nothing to restart."""
    with transaction.atomic():
        service = _locked(service)
        instances = list(_instances(service).exclude(wanted=Wanted.GONE))
        if not instances:
            raise Conflict(_("Nothing of this service was ever deployed; deploy it first."), code="never_deployed")
        operation = open_operation(service, OperationKind.RESTART, by=by)
        for instance in instances:
            want_running(instance, instance.placement.server, instance.revision)
        return _begin(operation, service, Wanted.RUNNING)


def stop(service: Service, *, by: events.Actor) -> Operation:
    """End every instance. Supersedes an open operation, since stopping must always be possible."""
    with transaction.atomic():
        service = _locked(service)
        supersede(service.operations.all(), by_what="stop")
        operation = open_operation(service, OperationKind.STOP, by=by)
        drop_successors(service)
        want_ended(_instances(service).exclude(wanted=Wanted.GONE), Wanted.STOPPED)
        return _begin(operation, service, Wanted.STOPPED)


def delete(service: Service, *, by: events.Actor, force: bool = False) -> Operation | None:
    """End every instance, then the service itself; None when it is gone already, having none.

    Raises Conflict when an instance may still run on a server that does not answer, unless ``force``:
    then a tombstone is left that ends it when the server speaks again.
    """
    with transaction.atomic():
        service = _locked(service, though_deleting=force)
        instances = list(_instances(service))
        if not force:
            _refuse_unreachable(instances)
        supersede(service.operations.all(), by_what="delete")
        if not instances:
            remove_service(service, by=by)
            return None
        operation = open_operation(service, OperationKind.DELETE, by=by, force=force)
        want_ended(instances, Wanted.GONE)
        return _begin(operation, service, Wanted.GONE)


def remove_service(service: Service, *, by: events.Actor) -> None:
    """Delete the rows of a service that has no instances left."""
    events.record("service.deleted", service, by=by)
    Service.objects.filter(pk=service.pk).update(current_revision=None, good_revision=None)
    service.delete()


def stop_local_instances() -> None:
    """Mark what is on this machine's own server as wanted stopped; `manage.py down` then stops the processes."""
    with transaction.atomic():
        instances = list(
            Instance.objects.select_for_update()
            .filter(placement__server__name="local", wanted=Wanted.RUNNING)
            .select_related("placement__service")
        )
        want_ended(instances, Wanted.STOPPED)
        services = {i.placement.service_id: i.placement.service for i in instances}
        for service in services.values():
            supersede(service.operations.all(), by_what="make down")
            if not Instance.objects.filter(placement__service=service, wanted=Wanted.RUNNING).exists():
                Service.objects.filter(pk=service.pk).update(wanted=Wanted.STOPPED)
            events.record("service.stopped_with_site", service, by=None)


def _locked(service: Service, *, though_deleting: bool = False) -> Service:
    found = Service.objects.select_for_update().filter(pk=service.pk).first()
    if found is None:
        raise NotFound(_("This service no longer exists."))
    if not though_deleting and found.wanted == Wanted.GONE and found.operations.filter(state__in=OPEN_STATES).exists():
        raise Conflict(_("%(found)s is being deleted.") % {"found": found}, code="being_deleted")
    return found


def _instances(service: Service):  # type: ignore[no-untyped-def]
    return Instance.objects.filter(placement__service=service).select_related("placement__server", "revision")


def _begin(
    operation: Operation, service: Service, wanted: Wanted, *, deferred: frozenset[int] = frozenset()
) -> Operation:
    """Write down what is wanted and begin."""
    Service.objects.filter(pk=service.pk).update(wanted=wanted)
    service.wanted = wanted
    begin(operation, _instances(service), deferred=deferred)
    return operation


def _refuse_unreachable(instances: list[Instance]) -> None:
    silent = sorted(
        {
            i.placement.server.name
            for i in instances
            if i.phase in (*ALIVE, Phase.LOST) and not i.placement.server.agent_is_heard
        }
    )
    if silent:
        raise Conflict(
            _(
                "%(silent)s cannot be reached, and instances may still run there. Wait, or delete with force: "
                "they are then ended when their server answers again."
            )
            % {"silent": ", ".join(silent)},
            code="server_unreachable",
        )
