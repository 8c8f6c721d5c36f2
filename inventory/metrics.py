"""Servers and their devices, for Prometheus."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infini.metrics import Metric, by_word
from infini.visibility import visible
from inventory.models import Server
from inventory.querysets import ServerStatus
from inventory.samples import finite
from inventory.shown import figures_are_fresh

_SERVER = ["server", "environment"]
_OF_SERVER = {
    "cpu_percent": "Processor time in use.",
    "memory_percent": "Memory in use.",
    "disk_percent": "Disk in use.",
}
_DEVICE = ["server", "index", "uuid", "vendor", "name"]
_OF_DEVICE = {
    "utilization_percent": "How busy it is.",
    "memory_used_bytes": "Its memory in use.",
    "memory_total_bytes": "Its memory.",
    "temperature_celsius": "Its temperature.",
    "power_watts": "The power it takes.",
}
_COLUMNS = ("name", "maintenance", "figures", "agent_seen_at", "environment__name")


def figures(user: Any) -> Iterator[Metric]:
    """One query. Figures of a server that is not heard from are left out."""
    if not user.has_perm("inventory.view_server"):
        return
    servers: Any = visible(Server.objects.with_status(), user)
    rows = list(servers.select_related("environment").only(*_COLUMNS))
    states = Counter(row.status for row in rows)
    yield by_word("infini_servers", "Servers by state.", "status", states, ServerStatus.values)
    named = [([row.name, row.environment.name if row.environment else ""], row) for row in rows]
    online = [(labels, row.status == ServerStatus.ONLINE) for labels, row in named]
    yield Metric("infini_server_online", "1 while it answers, else 0.", _SERVER, online)
    kept = [(labels, row.maintenance) for labels, row in named]
    yield Metric("infini_server_maintenance", "1 while it is in maintenance, else 0.", _SERVER, kept)
    fresh = [(labels, row.figures) for labels, row in named if figures_are_fresh(row)]
    yield from _told("infini_server", _OF_SERVER, _SERVER, fresh)
    devices = [
        ([labels[0], *(str(device.get(name, "")) for name in _DEVICE[1:])], device)
        for labels, told in fresh
        for device in told.get("devices") or []
    ]
    yield from _told("infini_device", _OF_DEVICE, _DEVICE, devices)


def _told(
    prefix: str,
    names: Mapping[str, str],
    labels: list[str],
    told: Iterable[tuple[list[str], Mapping[str, Any]]],
) -> Iterator[Metric]:
    """What is not told has no sample: a device that tells no temperature is not at 0 degrees."""
    for name, about in names.items():
        samples = ((values, finite(figures.get(name))) for values, figures in told)
        yield Metric(f"{prefix}_{name}", about, labels, [(v, figure) for v, figure in samples if figure is not None])
