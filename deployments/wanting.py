"""Stating what is wanted of instances; inside the transaction of a verb or of a turn, which has the operation."""

import re
import secrets
from collections.abc import Iterable

from django.db.models import F, Max

from deployments.device_claims import claim_devices
from deployments.models import Instance, Placement, Revision, Service
from deployments.phases import Phase, Wanted
from deployments.ports import claim_port
from inventory.models import Server


def want_running(instance: Instance, server: Server, revision: Revision) -> None:
    """State that ``instance`` is to run ``revision`` anew. Raises Conflict when a port or devices are missing."""
    port = claim_port(instance, server=server, revision=revision)
    claim_devices(instance, server=server, revision=revision)
    Instance.objects.filter(pk=instance.pk).update(
        revision=revision,
        wanted=Wanted.RUNNING,
        generation=F("generation") + 1,
        phase=Phase.PENDING,
        ready=False,
        restarts=0,
        exit_code=None,
        exit_unseen=False,
        reason="",
        port=port,
    )


def want_ended(instances: Iterable[Instance], wanted: Wanted) -> None:
    """State that they are to end: ``wanted`` is stopped or gone."""
    ids = [instance.pk for instance in instances]
    Instance.objects.filter(pk__in=ids).update(
        wanted=wanted, generation=F("generation") + 1, ready=False, replaces=None
    )


def drop_successors(service: Service) -> list[int]:
    """What was started beside others and has not taken their place is to go; returns their ids.

    The old ones run on untouched. Who ends them: the operation that is begun next, else the next reconciliation.
    """
    dropped = list(Instance.objects.filter(placement__service=service, replaces__isnull=False))
    want_ended(dropped, Wanted.GONE)
    return [instance.pk for instance in dropped]


def new_instance(service: Service, placement_id: int, revision: Revision, ordinal: int) -> Instance:
    return Instance.objects.create(
        placement_id=placement_id, revision=revision, ordinal=ordinal, key=new_key(service.name)
    )


def new_key(name: str) -> str:
    """A key people recognise and no two sites share: agents know instances by it alone."""
    return f"{key_prefix(name)}{secrets.token_hex(4)}"


def key_prefix(name: str) -> str:
    """What the keys of a service of this name begin with."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "service"
    return f"{readable}-"


def next_ordinal(placement: Placement | int) -> int:
    """One that no instance of the placement has or comes before."""
    highest = Instance.objects.filter(placement=placement).aggregate(n=Max("ordinal"))["n"]
    return 0 if highest is None else highest + 1
