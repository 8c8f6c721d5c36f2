"""Derived status of a service, as one query whatever the number of services."""

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Case, Count, F, IntegerField, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce

from deployments.phases import OPEN_STATES, DeployStatus, Phase, Wanted

if TYPE_CHECKING:
    from deployments.models import Service


def _count_instances(**conditions: Any) -> Coalesce:
    from deployments.models import Instance  # noqa: PLC0415  (models import this module)

    # Only the service narrows what is read: SQLite would take the index of ``replaces`` instead, which is null in
    # nearly every row, and read all instances for each service.
    rows = (
        Instance.objects.filter(placement__service=OuterRef("pk"))
        .order_by()
        .values("placement__service")
        .annotate(n=Count("pk", filter=Q(**conditions)))
        .values("n")
    )
    return Coalesce(Subquery(rows, output_field=IntegerField()), 0)


class ServiceQuerySet(models.QuerySet["Service"]):
    def answering(self) -> "ServiceQuerySet":
        """With an instance that is ready and wanted; one with several comes several times."""
        return self.filter(placements__instances__ready=True, placements__instances__wanted=Wanted.RUNNING)

    def with_status(self) -> "ServiceQuerySet":
        """Adds ``open_operation_id``, ``wanted_count``, ``ready_count``, ``lost_count``, ``alive_count`` and
        ``deploy_status``: the first that holds of deploying, offline, deployed, online.
        """
        from deployments.models import Operation  # noqa: PLC0415

        open_operations = Operation.objects.filter(service=OuterRef("pk"), state__in=OPEN_STATES)
        # One that starts beside the one it replaces counts only once it has taken its place.
        running = {"wanted": Wanted.RUNNING, "replaces": None}
        annotated = self.annotate(
            open_operation_id=Subquery(open_operations.values("pk")[:1]),
            wanted_count=_count_instances(**running),
            ready_count=_count_instances(**running, phase=Phase.RUNNING, ready=True),
            lost_count=_count_instances(**running, phase=Phase.LOST),
            alive_count=_count_instances(phase__in=[Phase.STARTING, Phase.RUNNING]),
        )
        return annotated.annotate(
            deploy_status=Case(
                When(open_operation_id__isnull=False, then=Value(DeployStatus.DEPLOYING.value)),
                When(lost_count__gt=0, then=Value(DeployStatus.OFFLINE.value)),
                When(Q(wanted_count__gt=0) & Q(ready_count=F("wanted_count")), then=Value(DeployStatus.DEPLOYED.value)),
                default=Value(DeployStatus.ONLINE.value),
            )
        )
