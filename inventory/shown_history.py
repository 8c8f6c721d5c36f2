"""Which charts a server's page has, and what their lines are called."""

import json
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from inventory.history import UNITS


@dataclass(frozen=True)
class Chart:
    """Lines of one unit in one frame; ``series`` are their names in the API, separated by spaces."""

    title: str
    series: str

    @property
    def unit(self) -> str:
        return UNITS[self.series.split()[0]]


def history_context() -> dict[str, Any]:
    """What partials/history.html shows."""
    return {"charts": _charts(), "chart_names": json.dumps(_names(), ensure_ascii=False)}


def _charts() -> list[Chart]:
    return [
        Chart(_("CPU, memory, disk"), "cpu_percent memory_percent disk_percent"),
        Chart(_("Network"), "network_in network_out"),
        Chart(_("Device utilisation"), "utilization_percent"),
        Chart(_("Device memory"), "device_memory_percent"),
        Chart(_("Device temperature"), "temperature_celsius"),
        Chart(_("Device power"), "power_watts"),
    ]


def _names() -> dict[str, str]:
    return {
        "cpu_percent": _("CPU"),
        "memory_percent": _("Memory"),
        "disk_percent": _("Disk"),
        "network_in": _("In"),
        "network_out": _("Out"),
    }
