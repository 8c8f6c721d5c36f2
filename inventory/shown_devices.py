"""How a server's accelerators are shown: what they are from their rows, how they do from the last report."""

from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from infini.display import BAD, GOOD, QUIET, WARN, Bar, Chip, gib, number
from inventory.models import Device, Server
from inventory.shown import figures_are_fresh, ssh_measured_at

NEVER_RED = (101.0, 101.0)  # full device memory and full load are what such a machine is for


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
    users: str


def device_rows(server: Server) -> list[DeviceRow]:
    live = live_figures(server)
    devices = list(server.devices.all()) or _measured_devices(server)
    return [_row(server, device, live.get(device.uuid, {})) for device in devices]


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
    stale = not figures_are_fresh(server) or not device.present
    used, total = _figure(live.get("memory_used_bytes")), _figure(device.memory_bytes)
    share = 100 * used / total if used is not None and total else None
    untold = _("Its tool does not tell.")
    return DeviceRow(
        device,
        device_chip(device, live),
        Bar(_("Device memory"), share, limits=NEVER_RED, stale=stale, reason=untold),
        f"{gib(used)} / {gib(total)} GiB" if used is not None and total else (f"{gib(total)} GiB" if total else ""),
        Bar(_("Utilisation"), _figure(live.get("utilization_percent")), limits=NEVER_RED, stale=stale, reason=untold),
        number(_whole(live.get("temperature_celsius")), "°C", absent=untold),
        number(_whole(live.get("power_watts")), "W", absent=untold),
        live.get("verified") is True,
        "" if stale else users_text(live),
    )


def users_text(live: dict[str, Any]) -> str:
    """Whose processes are on a device, as far as its tool and the agent tell."""
    told = process_documents(live)
    names = sorted({process["instance"] for process in told if process["instance"]})
    strangers = sum(not process["instance"] for process in told)
    if strangers:
        names.append(
            ngettext("%(count)d process of no instance", "%(count)d processes of no instance", strangers)
            % {"count": strangers}
        )
    return _("Used by %(names)s") % {"names": ", ".join(names)} if names else ""


def process_documents(live: dict[str, Any]) -> list[dict[str, Any]]:
    """The processes that a report lists on a device; an agent before 0.4 knows of no instances."""
    listed = live.get("processes")
    rows = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
    return [
        {"pid": p.get("pid"), "memory_used_bytes": p.get("memory_used_bytes"), "instance": str(p.get("instance") or "")}
        for p in rows
    ]


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


def _figure(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    figure = _figure(value)
    return None if figure is None else round(figure)
