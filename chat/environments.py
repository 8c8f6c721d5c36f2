"""Which conversations, rules and usage lie within some environments (infini/visibility.py)."""

from typing import Any

from django.db.models import Q, QuerySet

from chat.models import Endpoint
from deployments.limits import services_within
from infini import visibility
from infini.visibility import Environments
from inventory.models import AIModel


def _conversations(rows: QuerySet[Any], environments: Environments) -> QuerySet[Any]:
    endpoints = _endpoints(Endpoint.objects.order_by(), environments).values("pk")
    return rows.filter(Q(service__in=services_within(environments)) | Q(endpoint__in=endpoints))


def _of_services(rows: QuerySet[Any], environments: Environments) -> QuerySet[Any]:
    return rows.filter(service__in=services_within(environments))


def _endpoints(rows: QuerySet[Endpoint], environments: Environments) -> QuerySet[Endpoint]:
    """What runs elsewhere lies where its model does; one without a model is everybody's."""
    known = visibility.within(AIModel.objects.order_by(), environments).values("pk")
    return rows.filter(Q(model=None) | Q(model__in=known))


def _usage(rows: QuerySet[Any], environments: Environments) -> QuerySet[Any]:
    """Requests keep plain ids: of a service that is gone nobody knows where it was."""
    endpoints = _endpoints(Endpoint.objects.order_by(), environments).values("pk")
    of_endpoint = Q(service_id=0, endpoint_id__in=endpoints)
    return rows.filter(Q(service_id__in=services_within(environments)) | of_endpoint)


def register() -> None:
    visibility.register("chat.conversation", _conversations)
    visibility.register("chat.trafficrule", _of_services, told_of=True)
    visibility.register("chat.endpoint", _endpoints, told_of=True)
    for name in ("usage", "usageday"):
        visibility.register(f"chat.{name}", _usage)
