"""Which services, and what belongs to them, lie within some environments (infini/visibility.py).

A service lies where its servers do, all of them, and its own environment if it has one.
"""

from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from deployments.models import OperationResult, Placement, Service
from infini import visibility
from infini.visibility import Environments, Rule


def _services(rows: QuerySet[Service], environments: Environments) -> QuerySet[Service]:
    """One with neither servers nor an environment lies nowhere."""
    places = Placement.objects.filter(service=OuterRef("pk"))
    outside = places.exclude(server__environment__in=environments)
    somewhere = Q(environment__in=environments) | (Q(environment=None) & Exists(places))
    return rows.filter(somewhere, ~Exists(outside))


def services_within(environments: Environments) -> Any:
    """The ids of services, for a query of what belongs to them."""
    return _services(Service.objects.order_by(), environments).values("pk")


def _by(path: str) -> Rule:
    return lambda rows, environments: rows.filter(**{f"{path}__in": services_within(environments)})


def _by_server(rows: QuerySet[Any], environments: Environments) -> QuerySet[Any]:
    return rows.filter(server__environment__in=environments)


def _operations(rows: QuerySet[Any], environments: Environments) -> QuerySet[Any]:
    """Not those of a time when the service was elsewhere."""
    results = OperationResult.objects.filter(operation=OuterRef("pk"), server__isnull=False)
    outside = results.exclude(server__environment__in=environments)
    return rows.filter(~Exists(outside), service__in=services_within(environments))


def register() -> None:
    visibility.register("deployments.service", _services, told_of=True)
    visibility.register("deployments.operation", _operations)
    visibility.register("deployments.revision", _by("service"))
    visibility.register("deployments.instance", _by("placement__service"), told_of=True)
    visibility.register("deployments.deviceclaim", _by("instance__placement__service"))
    for name, told_of in (("unknowninstance", False), ("tombstone", True)):
        visibility.register(f"deployments.{name}", _by_server, told_of=told_of)
