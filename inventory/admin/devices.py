"""Devices: every accelerator of the fleet, how it does, and (added by the app that gives them away) who holds it."""

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseAdmin, DropdownFilter, RelatedDropdownFilter, display
from infini.csv_export import CsvColumn, attributes
from infini.display import Bar, link, url_of
from infini.visibility import visible
from inventory.models import Device
from inventory.servers import SECRETS
from inventory.shown_devices import DeviceRow, device_row, live_figures

_TOLD = ("memory_used_bytes", "utilization_percent", "temperature_celsius", "power_watts", "health", "verified")


class VendorFilter(DropdownFilter):
    title = _("vendor")
    parameter_name = "vendor"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        vendors = visible(Device.objects.order_by("vendor"), request.user).values_list("vendor", flat=True).distinct()
        return [(vendor, vendor) for vendor in vendors if vendor]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(vendor=self.value()) if self.value() else queryset


class PresentFilter(DropdownFilter):
    title = _("presence")
    parameter_name = "present"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Present")), ("no", _("Missing"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(present=self.value() == "yes") if self.value() else queryset


def _told(device: Any, name: str) -> Any:
    """What the last report says of it; its server's report is taken apart once for all columns."""
    if not hasattr(device, "told"):
        device.told = live_figures(device.server).get(device.uuid, {})
    return device.told.get(name)


@admin.register(Device)
class DeviceAdmin(BaseAdmin):
    list_display = ["named", "server_shown", "state", "memory", "utilisation", "temperature", "power"]
    list_display_links = None
    list_ordering = ("server__name", "vendor", "index", "uuid")
    list_filter = [
        ("server", RelatedDropdownFilter),
        ("server__brand", RelatedDropdownFilter),
        VendorFilter,
        PresentFilter,
    ]
    search_fields = ["name", "uuid", "server__name"]
    search_help_text = _("Search name, UUID or server")
    csv_columns = [
        *attributes("id", "server.name", "index", "uuid", "vendor", "name", "present", "slots"),
        CsvColumn("memory_total_bytes", lambda device: device.memory_bytes),
        *(CsvColumn(name, partial(_told, name=name)) for name in _TOLD),
        CsvColumn("observed_at", lambda device: device.server.figures.get("devices_observed_at")),
    ]
    empty_text = _("Accelerators show themselves here once the agent of their server reports them.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.select_related("server").defer(*(f"server__{name}" for name in SECRETS))

    @display(description=_("Device"), ordering="name", header=True)
    def named(self, device: Device) -> list[Any]:
        unverified = "" if _row(device).verified else f" · {gettext('unverified')}"
        return [f"{device.index}  {device.name or device.vendor}", f"{device.vendor} · {device.uuid}{unverified}"]

    @display(description=_("Server"), ordering="server__name")
    def server_shown(self, device: Device) -> SafeString:
        return link(url_of("admin:inventory_server_page", device.server_id), device.server)

    @display(description=_("State"), ordering="present")
    def state(self, device: Device) -> SafeString:
        return format_html("{} {}", _row(device).chip, _row(device).processes)

    @display(description=_("Device memory"), ordering="memory_bytes", header=True)
    def memory(self, device: Device) -> list[Any]:
        return [_row(device).memory, _row(device).memory_text]

    @display(description=_("Utilisation"))
    def utilisation(self, device: Device) -> Bar:
        return _row(device).utilisation

    @display(description=_("Temperature"))
    def temperature(self, device: Device) -> SafeString:
        return _row(device).temperature

    @display(description=_("Power"))
    def power(self, device: Device) -> SafeString:
        return _row(device).power


def _row(device: Any) -> DeviceRow:
    """Made once for all columns of a line."""
    if not hasattr(device, "shown_row"):
        device.shown_row = device_row(device)
    row: DeviceRow = device.shown_row
    return row
