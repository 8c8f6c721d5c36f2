"""What services add to the fleet's pages: a server's instances and what runs there unknown to us, how many are ready,
who serves a model, who holds a device.
"""

from typing import Any
from urllib.parse import quote

from django.db.models import Exists, OuterRef, Prefetch, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from deployments.device_documents import free_devices_of, with_free_slots
from deployments.documents import last_seen
from deployments.models import DeviceClaim, Instance, Service, UnknownInstance
from deployments.phases import Phase, Wanted
from deployments.shown import failing, has_failed, instance_chip, phase_chip
from deployments.unknown import described
from infini.admin_base import DropdownFilter, display
from infini.counting import count_of
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, GOOD, WARN, Chip, link
from infini.extras import Column, add_column, add_filter
from infini.tabs import Tab, add_tab
from infini.visibility import visible
from inventory.device_processes import in_words, strangers_on
from inventory.models import Device, Server
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


def _with_devices(servers: QuerySet, user: Any) -> QuerySet:
    present, free = Device.objects.filter(present=True), free_devices_of(Device.objects.all(), free=True)
    return servers.annotate(devices_present=count_of(present, "server"), devices_free=count_of(free, "server"))


@display(description=_("Devices free"), ordering="devices_free")
def devices_free_of_server(server: Any) -> SafeString | str:
    return _free_of(server, f"server__id__exact={server.pk}")


def _free_of(row: Any, query: str) -> SafeString | str:
    """``3/8``, leading to those that are free."""
    if not row.devices_present:
        return ABSENT
    url = f"{reverse('admin:inventory_device_changelist')}?{query}&free=yes"
    return link(url, f"{row.devices_free}/{row.devices_present}")


class FreeServerFilter(DropdownFilter):
    title = _("free devices")
    parameter_name = "free"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Some free")), ("no", _("None free"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        free = Exists(free_devices_of(Device.objects.filter(server=OuterRef("pk")), free=True))
        return queryset.filter(free if self.value() == "yes" else ~free)


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
    """The services that hold it, each with how its instance there does."""
    claims = device.claims.all()
    page = "admin:deployments_service_page"
    held = format_html_join(
        " ",
        '<span class="holder"><a class="link" href="{}">{}</a> {}</span>',
        (
            (reverse(page, args=[(of := c.instance.placement).service_id]), of.service, instance_chip(c.instance))
            for c in claims
        ),
    )
    free = free_chip(device) if device.present and device.free_slots > 0 else ""
    return format_html("{} {}", held, free) if claims else SafeString(free or ABSENT)


def free_chip(device: Any) -> Chip:
    strangers = strangers_on(live_figures(device.server).get(device.uuid, {}))
    if strangers and not device.claimed:
        return Chip(gettext("Used outside"), WARN, "person_alert", in_words(strangers))
    if device.claimed:
        return Chip(
            ngettext("%(n)d slot free", "%(n)d slots free", device.free_slots) % {"n": device.free_slots},
            GOOD,
            "check_circle",
            gettext("Shared"),
        )
    return Chip(gettext("Free"), GOOD, "check_circle", gettext("No instance has reserved it"))


def _with_free_devices(brands: QuerySet, user: Any) -> QuerySet:
    """Devices are of the brand whose vendor key their agent names."""
    known = visible(Device.objects.all(), user)
    present, free = known.filter(present=True), free_devices_of(known, free=True)
    return brands.annotate(
        devices_present=count_of(present, "vendor", of="vendor"), devices_free=count_of(free, "vendor", of="vendor")
    )


@display(description=_("Devices free"), ordering="devices_free")
def devices_of_brand(brand: Any) -> SafeString | str:
    return _free_of(brand, f"vendor={quote(brand.vendor)}") if brand.vendor else ABSENT


class FreeFilter(DropdownFilter):
    title = _("free")
    parameter_name = "free"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Free")), ("no", _("In use or missing"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return free_devices_of(queryset, free=self.value() == "yes") if self.value() else queryset


def server_instances(request: HttpRequest, server: Any) -> dict[str, Any]:
    """The instances on one server, and what runs there unknown to us."""
    instances = visible(Instance.objects.filter(placement__server=server), request.user).select_related(
        "placement__service__current_revision", "placement__server", "revision"
    )
    here = instances.order_by("placement__service__name", "ordinal").prefetch_related("device_claims__device")
    may = request.user.has_perm("deployments.deploy_service")
    rows = [
        {
            "instance": i,
            "chip": instance_chip(i),
            "seen_at": last_seen(i),
            "failed": has_failed(i),
            "may_free": may and i.phase == Phase.LOST and i.device_claims.all(),
        }
        for i in here
    ]
    unknown = [{"unknown": row, "chip": phase_chip(row)} for row in described().filter(server=server)]
    return {"rows": sorted(rows, key=lambda row: not row["failed"]), "unknown_rows": unknown}


def urgent_on(server: Any) -> int:
    """Instances that fail there, and those that nobody here has asked for."""
    counted = Server.objects.filter(pk=server.pk).values_list(
        count_of(failing(Instance.objects.all()), "placement__server"),
        count_of(UnknownInstance.objects.all(), "server"),
    )
    return sum(counted[0])


_HOLDER_CSV = [
    CsvColumn("free_slots", lambda device: max(0, device.free_slots) if device.present else 0),
    CsvColumn("services", lambda device: ", ".join(str(c.instance.placement.service) for c in device.claims.all())),
]
add_column(
    "inventory.server", Column(_with_instances, services_ready, attributes("instances_ready", "instances_wanted"))
)
add_column(
    "inventory.server",
    Column(
        _with_devices, devices_free_of_server, attributes("devices_free", "devices_present"), before="device_memory"
    ),
)
add_filter("inventory.server", FreeServerFilter)
add_column("inventory.device", Column(_with_holders, holders, _HOLDER_CSV))
add_column("inventory.brand", Column(_with_free_devices, devices_of_brand))
add_filter("inventory.device", FreeFilter)
add_column("inventory.aimodel", Column(_with_services, services_of_model))
add_tab(
    "inventory.server",
    Tab(
        "instances",
        _("Instances"),
        "tabs/server_instances.html",
        make=server_instances,
        permission="deployments.view_service",
        urgent=urgent_on,
    ),
    after="history",
)
