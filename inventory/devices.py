"""Accelerators as agents report them: a row each for what they are, the server's figures for how they do."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from infini import bulk, events
from infini.bulk import Change
from infini.models import Event
from inventory.models import Device, Server

Report = Mapping[str, Any]

MOST_DEVICES = 256
_COLUMNS = ("index", "vendor", "name", "memory_bytes", "slots", "present", "visible_by", "visible_with")


def figures_of(report: Report) -> dict[str, Any]:
    """The part of ``Server.figures`` that tells of devices, from one report."""
    errors = report.get("device_errors")
    return {
        "devices": listed_devices(report),
        "device_errors": errors if isinstance(errors, dict) else {},
        "devices_observed_at": report.get("devices_observed_at"),
    }


def listed_devices(report: Report) -> list[dict[str, Any]]:
    """The devices a report lists; what has no identity is left out."""
    listed = report.get("devices")
    rows = [d for d in listed if isinstance(d, dict)] if isinstance(listed, list) else []
    return [d for d in rows if isinstance(d.get("uuid"), str) and 0 < len(d["uuid"]) <= 100][:MOST_DEVICES]


def record_devices(reports: Mapping[int, Report]) -> None:
    """Bring the rows to what each server's report lists. Call inside the transaction that records the reports.

    A vendor whose tool failed says nothing: its missing devices are unknown, not gone.
    """
    known: dict[int, dict[str, Device]] = defaultdict(dict)
    for device in Device.objects.filter(server__in=list(reports)):
        known[device.server_id][device.uuid] = device
    new: list[Device] = []
    changed: list[Device] = []
    for server_id, report in reports.items():
        listed = {d["uuid"]: d for d in listed_devices(report)}
        have = known[server_id]
        for uuid, document in listed.items():
            device = have.get(uuid) or Device(server_id=server_id, uuid=uuid)
            if _take(device, document):
                (changed if device.pk else new).append(device)
        for device in _missing(have, listed, report):
            device.present = False
            changed.append(device)
    _write(new, changed)


def _take(device: Device, document: Mapping[str, Any]) -> bool:
    """Set what the report says; True when that is something new."""
    values = {
        "index": _number(document.get("index")) or 0,
        "vendor": str(document.get("vendor") or "")[:40],
        "name": str(document.get("name") or "")[:100],
        "memory_bytes": _number(document.get("memory_total_bytes")),
        "slots": _number(document.get("slots")) or 0,
        "present": True,
        "visible_by": _variables(document),
        "visible_with": _texts(document.get("environment")),
    }
    before = {name: getattr(device, name) for name in values} if device.pk else None
    for name, value in values.items():
        setattr(device, name, value)
    return before != values


def _variables(document: Mapping[str, Any]) -> dict[str, str]:
    """The variables that choose this device, with its value; docs/agent-protocol.md, Devices."""
    value, also = document.get("visible_value"), document.get("visible_also")
    names = [document.get("visible_variable"), *(also if isinstance(also, list) else [])]
    return {name: str(value) for name in names if isinstance(name, str) and name} if value is not None else {}


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def _missing(have: Mapping[str, Device], listed: Mapping[str, Any], report: Report) -> list[Device]:
    """Those that a reading which took place did not find again."""
    if not report.get("devices_observed_at"):
        return []
    silent = figures_of(report)["device_errors"]
    if "agent" in silent:  # the reading itself broke, whatever the vendors
        return []
    return [d for uuid, d in have.items() if uuid not in listed and d.present and d.vendor not in silent]


def _write(new: list[Device], changed: list[Device]) -> None:
    bulk.insert(new)
    bulk.update(Device, [Change(d.pk, {name: getattr(d, name) for name in _COLUMNS}) for d in changed])
    if not new and not changed:
        return
    servers = Server.objects.only("name").in_bulk({device.server_id for device in [*new, *changed]})
    told = [("device.found", d) for d in new] + [("device.missing", d) for d in changed if not d.present]
    bulk.insert(
        [
            Event(**events.describe(kind, servers[d.server_id], by=None, data={"device": d.name, "uuid": d.uuid}))
            for kind, d in told
        ]
    )


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**62:
        return None
    return int(value)
