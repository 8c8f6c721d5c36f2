"""How a server did over time: its samples as lines with the same step, ready to be drawn. A gap stays a gap."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from infini.errors import Invalid
from inventory.models import Device, Sample, Server
from inventory.samples import DEVICE_FIGURES, HOST_FIGURES, Mean

UNITS = {
    "cpu_percent": "percent",
    "memory_percent": "percent",
    "disk_percent": "percent",
    "network_in": "bytes_per_second",
    "network_out": "bytes_per_second",
    "utilization_percent": "percent",
    "device_memory_percent": "percent",
    "temperature_celsius": "celsius",
    "power_watts": "watts",
}
STEPS_SECONDS = (60, 300, 900, 1800, 3600, 10800, 21600, 86400)
MOST_POINTS = 400
DEFAULT_SPAN = timedelta(hours=1)


@dataclass(frozen=True)
class Series:
    """One line: the mean of each step, None where nothing was reported. ``device`` None means the host."""

    name: str
    unit: str
    values: list[float | None]
    device: dict[str, Any] | None = None


@dataclass(frozen=True)
class History:
    """Lines over ``begin`` to ``end``; value n stands for the step from ``begin`` + n steps on."""

    server_id: int
    begin: datetime
    end: datetime
    step_seconds: int
    series: list[Series] = field(default_factory=list)


def history_of(server: Server, begin: datetime | None = None, end: datetime | None = None) -> History:
    """Two queries and at most 400 steps, whatever the span; by default the last hour.

    Raises Invalid when the span ends before it begins, or is longer than samples are kept.
    """
    end = min(end or timezone.now(), timezone.now())
    begin = begin or end - DEFAULT_SPAN
    span = end - begin
    if span <= timedelta(0):
        raise Invalid(_("The span ends before it begins."), fields={"from": [_("Give a time before that of `to`.")]})
    if span > timedelta(days=settings.SAMPLES_KEEP_DAYS) + DEFAULT_SPAN:
        text = _("Samples are kept for %(n)s days; ask for less.") % {"n": settings.SAMPLES_KEEP_DAYS}
        raise Invalid(text, fields={"from": [text]})
    step = _step_for(span)
    first = int(begin.timestamp()) // step * step
    count = -(-int(end.timestamp() - first) // step)
    begin = datetime.fromtimestamp(first, UTC)
    lines = _lines(server, begin, end, step, count)
    devices = {
        str(d.pk): {"id": d.pk, "vendor": d.vendor, "index": d.index, "name": d.name}
        for d in Device.objects.filter(server=server)
    }
    order = {key: place for place, key in enumerate(["", *devices])}
    series = [
        Series(name, UNITS[name], values, devices.get(key))
        for (key, name), values in sorted(lines.items(), key=lambda line: order.get(line[0][0], -1))
        if key in order
    ]
    return History(server.pk, begin, end, step, series)


def _step_for(span: timedelta) -> int:
    seconds = span.total_seconds()
    return next((step for step in STEPS_SECONDS if seconds / step < MOST_POINTS), STEPS_SECONDS[-1])


Lines = dict[tuple[str, str], list[float | None]]


def _lines(server: Server, begin: datetime, end: datetime, step: int, count: int) -> Lines:
    """By device id, empty for the host, and figure; those of the host always, of devices those that were told."""
    sums: dict[tuple[str, str], dict[int, Mean]] = defaultdict(lambda: defaultdict(Mean))
    for name in HOST_FIGURES:
        sums["", name] = defaultdict(Mean)
    rows = Sample.objects.filter(server=server, at__gte=begin, at__lt=end).order_by("at")
    for at, devices, *host in rows.values_list("at", "devices", *HOST_FIGURES):
        slot = int(at.timestamp() - begin.timestamp()) // step
        for name, value in zip(HOST_FIGURES, host, strict=True):
            sums["", name][slot].take(value)
        for key, values in devices.items():
            for name, value in zip(DEVICE_FIGURES, values, strict=False):
                if value is not None:
                    sums[key, name][slot].take(value)
    return {
        line: [slots[slot].value() if slot in slots else None for slot in range(count)] for line, slots in sums.items()
    }
