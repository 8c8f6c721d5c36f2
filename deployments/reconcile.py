"""Bringing what is back to what is wanted, without anybody asking: after reboots, outages and lost requests.

Only on a fresh report of the agent itself, never on silence: silence is no reason to start or stop anything.
What is unknown to us is left alone, and so is all on a server in maintenance.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, F, Min, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.models import Instance, Operation
from deployments.operations import begin, open_operation
from deployments.phases import ALIVE, ENDED, OPEN_STATES, OperationKind, OperationState, Phase, Wanted
from infini.errors import Conflict
from inventory.models import Server
from inventory.querysets import agent_silence_limit

logger = logging.getLogger(__name__)

BRAKE_WINDOW = timedelta(minutes=10)
BRAKE_LEAST = 3
TIDY_AGAIN_AFTER = timedelta(minutes=1)


def reconcile(server_ids: Iterable[int]) -> int:
    """Open an operation for each service that differs from what is wanted on these servers, just heard from.

    Returns how many. Safe to repeat: a service with an open operation is passed over, and what the agent has
    refused is failed, not pending, so it is not tried again without a person.
    """
    found: dict[int, list[Instance]] = defaultdict(list)
    for instance in _differing(server_ids).select_related("placement__service", "placement__server"):
        found[instance.placement.service_id].append(instance)
    if not found or braked():
        return 0
    return sum(_open(instances) for instances in found.values())


def braked() -> str:
    """Why automatic action pauses; empty when it does not."""
    return braked_since()[0]


def braked_since() -> tuple[str, datetime | None]:
    """Why automatic action pauses, and when the first server was last heard from; "" when it does not.

    When a good part of the fleet falls silent together, the fault is likelier ours or the network's than theirs.
    """
    total = Server.objects.with_agent().count()
    now = timezone.now()
    silent = Server.objects.with_agent().filter(
        maintenance=False, agent_seen_at__lt=now - agent_silence_limit(), agent_seen_at__gt=now - BRAKE_WINDOW
    )
    vanished, since = silent.aggregate(n=Count("pk"), since=Min("agent_seen_at")).values()
    if vanished < max(BRAKE_LEAST, settings.BRAKE_SHARE * total):
        return "", None
    reason = _("%(vanished)d of %(total)d servers fell silent within minutes: nothing is started or stopped by itself.")
    return reason % {"vanished": vanished, "total": total}, since


def _differing(server_ids: Iterable[int]) -> QuerySet[Instance]:
    """Wanted and not taken by its agent; running an older generation although not wanted any more; or ended, or never
    begun, and to be forgotten.
    """
    busy = Operation.objects.filter(service=OuterRef("placement__service"), state__in=OPEN_STATES)
    lacking = Q(wanted=Wanted.RUNNING, phase=Phase.PENDING, acked_generation__lt=F("generation"))
    unwanted = ~Q(wanted=Wanted.RUNNING) & Q(phase__in=ALIVE, seen_generation__lt=F("generation"))
    # Tidying up can wait where it failed a moment ago, as with an agent whose disk is full.
    failed = Operation.objects.filter(
        service=OuterRef("placement__service"),
        kind=OperationKind.RECONCILE,
        state=OperationState.FAILED,
        finished_at__gt=timezone.now() - TIDY_AGAIN_AFTER,
    )
    over = Q(wanted=Wanted.GONE, phase__in=[*ENDED, Phase.PENDING]) & ~Q(Exists(failed))
    return Instance.objects.filter(
        ~Exists(busy),
        lacking | unwanted | over,
        placement__server__in=list(server_ids),
        placement__server__maintenance=False,
    )


def _open(instances: list[Instance]) -> int:
    """One operation for these instances of one service; 0 when somebody opened another meanwhile."""
    service, ids = instances[0].placement.service, [i.pk for i in instances]
    try:
        with transaction.atomic():
            operation = open_operation(service, OperationKind.RECONCILE, by=None)
            # The agent has to be asked once more, also where it took an earlier request for the same.
            Instance.objects.filter(pk__in=ids).update(acked_generation=0)
            begin(operation, Instance.objects.filter(pk__in=ids).select_related("placement__server"))
    except Conflict:
        return 0
    logger.info("reconcile.begun", extra={"service": service.name, "instances": len(ids)})
    return 1
