"""How a server's accelerators are shown: what they are from their rows, how they do from the last report."""

from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import QuerySet
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from infini import extras
from infini.display import BAD, GOOD, QUIET, WARN, Bar, Chip, gib, number
from inventory.device_processes import DeviceProcess, in_words, processes_on
from inventory.models import Device, Server
from inventory.samples import finite
from inventory.shown import NEVER_RED, figures_are_fresh, figures_at, ssh_measured_at


@dataclass(frozen=True)
class DeviceRow:
    """One line of a server's device table."""

    device: Device
    chip: Chip
    memory: Bar
    memory_text: str
    utilisation: Bar
    temperature: SafeString
    power: SafeString
    verified: bool
    processes: Chip | str
    more: list[tuple[Any, Any]] = field(default_factory=list)


def device_table(server: Server, user: Any) -> dict[str, Any]:
    """A server's devices, each with the columns that other apps have in the list of all."""
    columns = extras.columns("inventory.device")
    known: QuerySet[Any] = server.devices.all()
    for column in columns:
        known = column.annotate(known, user)
    devices, live = list(known), live_figures(server)
    rows = [_row(server, device, live.get(device.uuid, {})) for device in devices or _measured_devices(server)]
    if not devices:
        return {"devices": rows}
    heads = [getattr(column.show, "short_description", "") for column in columns]
    shown = [list(zip(heads, (column.show(device) for column in columns), strict=True)) for device in devices]
    return {"devices": [replace(row, more=more) for row, more in zip(rows, shown, strict=True)], "more_heads": heads}


def _measured_devices(server: Server) -> list[Device]:
    """Those that were seen over SSH: shown, but no agent is there to give them to an instance, so no rows."""
    if ssh_measured_at(server) is None:
        return []
    return [
        Device(
            server=server,
            uuid=device["uuid"],
            index=device["index"],
            vendor=device["vendor"],
            name=device["name"][:100],
            memory_bytes=device["memory_total_bytes"],
        )
        for device in server.figures["devices"]
    ]


def device_row(device: Device) -> DeviceRow:
    """The same for one whose server is loaded."""
    return _row(device.server, device, live_figures(device.server).get(device.uuid, {}))


def live_figures(server: Server) -> dict[str, dict[str, Any]]:
    """What the last report says of each device, by uuid."""
    listed = server.figures.get("devices")
    return {d.get("uuid"): d for d in listed if isinstance(d, dict)} if isinstance(listed, list) else {}  # type: ignore[misc]


def device_errors(server: Server) -> list[str]:
    """Why devices of some vendor may be missing, one sentence each."""
    errors = server.figures.get("device_errors")
    return [f"{vendor}: {text}" for vendor, text in errors.items()] if isinstance(errors, dict) else []


def _row(server: Server, device: Device, live: dict[str, Any]) -> DeviceRow:
    stale, at = not figures_are_fresh(server) or not device.present, figures_at(server)
    used, total = finite(live.get("memory_used_bytes")), finite(device.memory_bytes)
    share = 100 * used / total if used is not None and total else None
    untold = _("Its tool does not tell.")
    return DeviceRow(
        device,
        device_chip(device, live),
        Bar(_("Device memory"), share, limits=NEVER_RED, stale=stale, reason=untold, as_of=at),
        f"{gib(used)} / {gib(total)} GiB" if used is not None and total else (f"{gib(total)} GiB" if total else ""),
        Bar(
            _("Utilisation"),
            finite(live.get("utilization_percent")),
            limits=NEVER_RED,
            stale=stale,
            reason=untold,
            as_of=at,
        ),
        number(_whole(live.get("temperature_celsius")), "°C", absent=untold),
        number(_whole(live.get("power_watts")), "W", absent=untold),
        live.get("verified") is True,
        _processes_chip(processes_on(live)),
    )


def _processes_chip(processes: list[DeviceProcess]) -> Chip | str:
    if not processes:
        return ""
    text = ngettext("%(n)d process", "%(n)d processes", len(processes)) % {"n": len(processes)}
    return Chip(text, QUIET, "memory", in_words(processes))


def device_chip(device: Device, live: dict[str, Any]) -> Chip:
    """Missing before unhealthy before what the tool says; no word of its tool is not a good word."""
    reason = str(live.get("health_reason") or "")
    if not device.present:
        return Chip(_("Missing"), WARN, "link_off", _("The last report no longer lists it"))
    if live.get("health") == "unhealthy":
        return Chip(_("Unhealthy"), BAD, "error", reason or _("Its tool says so"))
    if live.get("health") == "ok":
        return Chip(_("Healthy"), GOOD, "check_circle", reason or _("Its tool says so"))
    return Chip(_("Present"), QUIET, "check", _("Its tool tells no health"))


def _whole(value: Any) -> int | None:
    figure = finite(value)
    return None if figure is None else round(figure)
