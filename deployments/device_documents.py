"""Devices of the whole fleet as the API shows them: what they are, how they do, who holds them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce

from deployments.models import DeviceClaim
from infini.counting import count_of
from inventory.models import Device, Server
from inventory.shown_devices import live_figures, process_documents

Row = dict[str, Any]
_COLUMNS = ("pk", "server_id", "server__name", "index", "uuid", "vendor", "name", "memory_bytes", "slots", "present")
# Names in the API -> names in an agent's report.
FIGURES = {
    "memory_used_bytes": "memory_used_bytes",
    "utilization_percent": "utilization_percent",
    "temperature_celsius": "temperature_celsius",
    "power_watts": "power_watts",
}


def with_free_slots(devices: QuerySet[Device]) -> QuerySet[Any]:
    """Adds ``claimed``, the number of slots that instances hold, and ``free_slots``; none where it is missing."""
    return devices.annotate(claimed=count_of(DeviceClaim.objects.all(), "device")).annotate(
        free_slots=F("slots") - Coalesce(F("claimed"), 0)
    )


def free_devices_of(devices: QuerySet[Device], *, free: bool) -> QuerySet[Device]:
    """Those that could be given to an instance now, or those that could not."""
    counted: Any = with_free_slots(devices)
    return counted.filter(present=True, free_slots__gt=0) if free else counted.exclude(present=True, free_slots__gt=0)


def device_documents(devices: QuerySet[Device]) -> list[Row]:
    """Three queries, whatever the number."""
    rows = list(with_free_slots(devices).values(*_COLUMNS, "claimed", "free_slots"))
    holders = _holders(row["pk"] for row in rows)
    servers = Server.objects.filter(pk__in={row["server_id"] for row in rows}).only("name", "figures", "agent_seen_at")
    live = {server.pk: (server, live_figures(server)) for server in servers}
    return [_document(row, holders[row["pk"]], *live[row["server_id"]]) for row in rows if row["server_id"] in live]


def _document(row: Row, holders: list[Row], server: Server, live: dict[str, Row]) -> Row:
    told = live.get(row["uuid"], {})
    return {
        "id": row["pk"],
        "server_id": row["server_id"],
        "server": row["server__name"],
        **{name: row[name] for name in ("index", "uuid", "vendor", "name", "slots", "present")},
        "memory_total_bytes": row["memory_bytes"],
        **{name: told.get(source) for name, source in FIGURES.items()},
        "health": told.get("health"),
        "health_reason": told.get("health_reason") or "",
        "verified": told.get("verified") is True,
        "free": row["present"] and row["free_slots"] > 0,
        "free_slots": max(0, row["free_slots"]) if row["present"] else 0,
        "instances": holders,
        "processes": process_documents(told),
        "observed_at": server.figures.get("devices_observed_at"),
    }


def _holders(device_ids: Iterable[int]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    claims = DeviceClaim.objects.filter(device__in=list(device_ids)).order_by("slot")
    names = ("instance_id", "instance__key", "instance__placement__service_id", "instance__placement__service__name")
    for device_id, slot, pk, key, service_id, service in claims.values_list("device_id", "slot", *names):
        found[device_id].append({"id": pk, "key": key, "service_id": service_id, "service": service, "slot": slot})
    return found
