"""What services add to the fleet's pages: a server's instances and what runs there unknown to us, how many are ready,
who serves a model, who holds a device.
"""

from typing import Any
from urllib.parse import quote

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments.device_documents import free_devices_of, with_free_slots
from deployments.documents import last_seen
from deployments.models import DeviceClaim, Instance, Service
from deployments.phases import Phase, Wanted
from deployments.shown import instance_chip, phase_chip
from deployments.unknown import described
from infini.admin_base import DropdownFilter, display
from infini.counting import count_of
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, GOOD, WARN, Chip, link, links
from infini.extras import Column, Part, add_column, add_filter, add_part
from infini.visibility import visible
from inventory.device_processes import in_words, strangers_on
from inventory.models import Device
from inventory.shown_devices import live_figures


def _with_instances(servers: QuerySet, user: Any) -> QuerySet:
    wanted = visible(Instance.objects.filter(wanted=Wanted.RUNNING), user)
    ready = wanted.filter(phase=Phase.RUNNING, ready=True)
    key = "placement__server"
    return servers.annotate(instances_wanted=count_of(wanted, key), instances_ready=count_of(ready, key))


@display(description=_("Services"), ordering="instances_wanted")
def services_ready(server: Any) -> SafeString:
    url = f"{reverse('admin:deployments_service_changelist')}?servers__id__exact={server.pk}"
    return link(url, f"{server.instances_ready}/{server.instances_wanted}")


def _with_services(models: QuerySet, user: Any) -> QuerySet:
    return models.annotate(service_count=count_of(visible(Service.objects.all(), user), "model"))


@display(description=_("Services"), ordering="service_count")
def services_of_model(model: Any) -> SafeString:
    url = f"{reverse('admin:deployments_service_changelist')}?model__id__exact={model.pk}"
    return link(url, model.service_count)


def _with_holders(devices: QuerySet, user: Any) -> QuerySet:
    claims = DeviceClaim.objects.select_related("instance__placement__service").order_by("slot")
    claims = visible(claims, user)
    return with_free_slots(devices).prefetch_related(Prefetch("claims", queryset=claims))


@display(description=_("Instance"))
def holders(device: Any) -> SafeString | Chip:
    claims = device.claims.all()
    held = links(
        (reverse("admin:deployments_service_page", args=[claim.instance.placement.service_id]), shown_holder(claim))
        for claim in claims
    )
    free = free_chip(device) if device.present and device.free_slots > 0 else ""
    return SafeString(f"{held} {free}") if claims else SafeString(free or ABSENT)


def shown_holder(claim: DeviceClaim) -> str:
    lost = f" ({gettext('lost')})" if claim.instance.phase == Phase.LOST else ""
    return f"{claim.instance.placement.service}{lost}"


def free_chip(device: Any) -> Chip:
    strangers = strangers_on(live_figures(device.server).get(device.uuid, {}))
    if strangers and not device.claimed:
        return Chip(gettext("Used outside"), WARN, "person_alert", in_words(strangers))
    if device.claimed:
        return Chip(gettext("%(n)d slots free") % {"n": device.free_slots}, GOOD, "check_circle", gettext("Shared"))
    return Chip(gettext("Free"), GOOD, "check_circle", gettext("No instance has reserved it"))


def _with_free_devices(brands: QuerySet, user: Any) -> QuerySet:
    """Devices are of the brand whose vendor key their agent names."""
    known = visible(Device.objects.all(), user)
    present, free = known.filter(present=True), free_devices_of(known, free=True)
    return brands.annotate(
        devices=count_of(present, "vendor", of="vendor"), devices_free=count_of(free, "vendor", of="vendor")
    )


@display(description=_("Devices free"), ordering="devices_free")
def devices_of_brand(brand: Any) -> SafeString | str:
    if not brand.vendor or not brand.devices:
        return ABSENT
    url = f"{reverse('admin:inventory_device_changelist')}?vendor={quote(brand.vendor)}&free=yes"
    return link(url, f"{brand.devices_free}/{brand.devices}")


class FreeFilter(DropdownFilter):
    title = _("free")
    parameter_name = "free"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Free")), ("no", _("In use or missing"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return free_devices_of(queryset, free=self.value() == "yes") if self.value() else queryset


def server_part(request: HttpRequest, server: Any) -> Part | None:
    """The instances on one server."""
    if not request.user.has_perm("deployments.view_service"):
        return None
    instances = visible(Instance.objects.filter(placement__server=server), request.user).select_related(
        "placement__service", "placement__server", "revision"
    )
    here = instances.order_by("placement__service__name", "ordinal").prefetch_related("device_claims__device")
    may = request.user.has_perm("deployments.deploy_service")
    rows = [
        {
            "instance": i,
            "chip": instance_chip(i),
            "seen_at": last_seen(i),
            "may_free": may and i.phase == Phase.LOST and i.device_claims.all(),
        }
        for i in here
    ]
    return "partials/server_instances.html", {"rows": rows}


def unknown_part(request: HttpRequest, server: Any) -> Part | None:
    """What runs there and nobody here has asked for; absent when there is none."""
    if not request.user.has_perm("deployments.view_service"):
        return None
    rows = [{"unknown": unknown, "chip": phase_chip(unknown)} for unknown in described().filter(server=server)]
    return ("partials/unknown_instances.html", {"rows": rows}) if rows else None


_HOLDER_CSV = [
    CsvColumn("free_slots", lambda device: max(0, device.free_slots) if device.present else 0),
    CsvColumn("services", lambda device: ", ".join(str(c.instance.placement.service) for c in device.claims.all())),
]
add_column(
    "inventory.server", Column(_with_instances, services_ready, attributes("instances_ready", "instances_wanted"))
)
add_column("inventory.device", Column(_with_holders, holders, _HOLDER_CSV))
add_column("inventory.brand", Column(_with_free_devices, devices_of_brand))
add_filter("inventory.device", FreeFilter)
add_column("inventory.aimodel", Column(_with_services, services_of_model))
add_part("inventory.server", server_part)
add_part("inventory.server", unknown_part)
