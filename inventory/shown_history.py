"""Which charts a server's page and the overview have, and what their lines are called."""

from django.urls import reverse
from django.utils.translation import gettext as _

from infini.charts import Chart, HistoryCard
from inventory.history import UNITS
from inventory.models import Server


def _chart(title: str, series: str) -> Chart:
    return Chart(title, series, UNITS[series.split()[0]])


def _nothing() -> str:
    return _("Nothing to draw in this span: a sample is written for each minute in which the agent reported.")


def server_history(server: Server) -> HistoryCard:
    charts = [
        _chart(_("CPU, memory, disk"), "cpu_percent memory_percent disk_percent"),
        _chart(_("Network"), "network_in network_out"),
        _chart(_("Device utilisation"), "utilization_percent"),
        _chart(_("Device memory"), "device_memory_percent"),
        _chart(_("Device temperature"), "temperature_celsius"),
        _chart(_("Device power"), "power_watts"),
    ]
    names = {
        "cpu_percent": _("CPU"),
        "memory_percent": _("Memory"),
        "disk_percent": _("Disk"),
        "network_in": _("In"),
        "network_out": _("Out"),
    }
    return HistoryCard(
        "history",
        _("History"),
        reverse("server-history", args=[server.pk]),
        charts,
        names,
        _nothing(),
        source=_("agent, a sample a minute"),
    )


def fleet_history() -> HistoryCard:
    """The means of all servers that reported, over six hours."""
    names = {
        "utilization_percent": _("Devices busy"),
        "device_memory_percent": _("Device memory"),
        "cpu_percent": _("CPU"),
        "memory_percent": _("Memory"),
    }
    return HistoryCard(
        "fleet-history",
        _("Utilisation"),
        reverse("fleet-history"),
        [_chart(_("Mean of what reported"), " ".join(names))],
        names,
        _nothing(),
        span="6h",
        source=_("agents, a sample a minute"),
        more_url=reverse("admin:inventory_server_changelist"),
    )
