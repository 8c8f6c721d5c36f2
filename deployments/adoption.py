"""Adopting what an agent runs and nobody here has asked for: it becomes an instance of ours, and nothing restarts."""

import json
from collections.abc import Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.commands import fill, placeholders
from deployments.device_claims import devices_seen
from deployments.models import DeviceClaim, Instance, Placement, PortClaim, Revision, Service, UnknownInstance
from deployments.observations import Observation
from deployments.phases import ALIVE, OPEN_STATES, Wanted
from deployments.specs import check_spec, create_service
from deployments.unknown import ask_agent, parsed, spec_of
from infini import events
from infini.errors import Conflict, Invalid, NotFound

COLUMNS = ("command", "stop_command", "cwd", "run_as", "probes", "port", "restart", "devices")
REVISIONS_COMPARED = 20
NAME_MAX_CHARS = 100


def adopt(row: UnknownInstance, *, by: events.Actor, service: Service | None = None, name: str = "") -> Instance:
    """Make it an instance of ``service``, or of a new one called ``name``, with the key and generation it has.

    Nothing is asked of the process. Its environment is kept as secret: nobody knows what in it is one. Raises Invalid
    unless exactly one of the two is given, Conflict while an operation is open or what it uses is another's,
    AgentError when the agent does not tell what it runs.
    """
    if (service is None) == (not name.strip()) or len(name) > NAME_MAX_CHARS:
        raise Invalid(
            _("Choose a service, or give a new one a name of up to %(n)s characters.") % {"n": NAME_MAX_CHARS}
        )
    spec = spec_of(ask_agent(row, "GET", f"/service/{row.key}/spec"))
    seen = parsed(ask_agent(row, "GET", f"/service/{row.key}/status"))
    if spec is None or seen is None or not spec["command"]:
        raise Conflict(
            _("The agent does not know the command of %(key)s any more; it can only be stopped.") % {"key": row.key}
        )
    with transaction.atomic():
        if not UnknownInstance.objects.filter(pk=row.pk).delete()[0]:
            raise NotFound(_("%(key)s is not unknown any more.") % {"key": row.key})
        return _adopt(row, service, name.strip(), spec, seen, by=by)


def _adopt(
    row: UnknownInstance,
    service: Service | None,
    name: str,
    spec: dict[str, Any],
    seen: Observation,
    *,
    by: events.Actor,
) -> Instance:
    if service is None:
        service = create_service(Service(name=name), servers=[row.server], spec={}, by=by)
    service = Service.objects.select_for_update().get(pk=service.pk)
    if service.operations.filter(state__in=OPEN_STATES).exists():
        raise Conflict(
            _("%(service)s is busy with an operation. Wait for it.") % {"service": service}, code="operation_open"
        )
    placement = Placement.objects.get_or_create(service=service, server=row.server)[0]
    devices = devices_seen(row.server, spec["env"])
    spec |= {"devices": len(devices)}
    revision = _same_revision(service, row, spec) or _new_revision(service, row, spec, by=by)
    instance = _make_instance(row.key, placement, revision, seen)
    if instance.wanted == Wanted.RUNNING:
        DeviceClaim.objects.bulk_create(DeviceClaim(device=device, slot=0, instance=instance) for device in devices)
        Service.objects.filter(pk=service.pk).update(wanted=Wanted.RUNNING)
    data = {"server": row.server.name, "key": row.key, "service": service.name, "revision": revision.number}
    events.record("instance.adopted", instance, by=by, data=data)
    return instance


def _make_instance(key: str, placement: Placement, revision: Revision, seen: Observation) -> Instance:
    """As it is reported, in the lowest free place; the placement grows to hold it."""
    taken = set(placement.instances.values_list("ordinal", flat=True))
    ordinal = next(n for n in range(len(taken) + 1) if n not in taken)
    Placement.objects.filter(pk=placement.pk, replicas__lte=ordinal).update(replicas=ordinal + 1)
    try:
        with transaction.atomic():
            instance = Instance.objects.create(
                placement=placement,
                revision=revision,
                ordinal=ordinal,
                key=key,
                generation=seen.generation,
                acked_generation=seen.generation,
                seen_generation=seen.generation,
                wanted=Wanted.RUNNING if seen.phase in ALIVE else Wanted.STOPPED,
                observed_at=timezone.now(),
                **seen.columns(),
            )
            if seen.port and instance.wanted == Wanted.RUNNING:
                PortClaim.objects.create(server=placement.server, port=seen.port, instance=instance)
    except IntegrityError:
        raise Conflict(
            _("The key or the port of %(key)s belongs to another instance of ours.") % {"key": key}
        ) from None
    return instance


def _same_revision(service: Service, row: UnknownInstance, spec: Mapping[str, Any]) -> Revision | None:
    """The revision of the service that it runs already, as after a database was restored."""
    for revision in service.revisions.all()[:REVISIONS_COMPARED]:
        values = placeholders(service, row.server, spec["port"])
        own = {**revision.env, **(json.loads(revision.secret_env) if revision.secret_env else {})}
        same = (
            fill(revision.command, values) == spec["command"]
            and (revision.cwd, revision.run_as) == (spec["cwd"], spec["run_as"])
            and own.items() <= spec["env"].items()
        )
        if same:
            return revision
    return None


def _new_revision(service: Service, row: UnknownInstance, spec: dict[str, Any], *, by: events.Actor) -> Revision:
    columns = {name: spec[name] for name in COLUMNS}
    check_spec(columns)
    revision = Revision.objects.create(
        service=service,
        number=(service.revisions.aggregate(n=Max("number"))["n"] or 0) + 1,
        secret_env=json.dumps(spec["env"], sort_keys=True) if spec["env"] else "",
        author=by,
        note=f"Adopted on {row.server}.",
        **columns,
    )
    if service.current_revision_id is None:
        Service.objects.filter(pk=service.pk).update(current_revision=revision)
    events.record("service.revised", service, by=by, data={"revision": revision.number})
    return revision
