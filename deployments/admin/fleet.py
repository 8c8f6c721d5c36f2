"""What services add to the fleet's pages: a server's instances, how many of them are ready, who serves a model."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from deployments.documents import last_seen
from deployments.models import Instance, Service
from deployments.phases import Phase, Wanted
from deployments.shown import instance_chip
from infini.admin_base import display
from infini.counting import count_of
from infini.display import link
from infini.extras import Column, Part, add_column, add_part


def _with_instances(servers: QuerySet) -> QuerySet:
    wanted = Instance.objects.filter(wanted=Wanted.RUNNING)
    ready = wanted.filter(phase=Phase.RUNNING, ready=True)
    key = "placement__server"
    return servers.annotate(instances_wanted=count_of(wanted, key), instances_ready=count_of(ready, key))


@display(description=_("Services"), ordering="instances_wanted")
def services_ready(server: Any) -> SafeString:
    url = f"{reverse('admin:deployments_service_changelist')}?servers__id__exact={server.pk}"
    return link(url, f"{server.instances_ready}/{server.instances_wanted}")


def _with_services(models: QuerySet) -> QuerySet:
    return models.annotate(service_count=count_of(Service.objects.all(), "model"))


@display(description=_("Services"), ordering="service_count")
def services_of_model(model: Any) -> SafeString:
    url = f"{reverse('admin:deployments_service_changelist')}?model__id__exact={model.pk}"
    return link(url, model.service_count)


def server_part(request: HttpRequest, server: Any) -> Part | None:
    """The instances on one server."""
    if not request.user.has_perm("deployments.view_service"):
        return None
    instances = Instance.objects.filter(placement__server=server).select_related(
        "placement__service", "placement__server", "revision"
    )
    here = instances.order_by("placement__service__name", "ordinal").prefetch_related("device_claims__device")
    rows = [{"instance": i, "chip": instance_chip(i), "seen_at": last_seen(i)} for i in here]
    return "partials/server_instances.html", {"rows": rows}


add_column("inventory.server", Column(_with_instances, services_ready))
add_column("inventory.aimodel", Column(_with_services, services_of_model))
add_part("inventory.server", server_part)
