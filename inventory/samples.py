"""A sample a minute and server: the means of its reports, written for all servers in one statement, kept for some days.

The minute in hand lives in the monitor alone: a monitor that dies loses it, and the next one begins its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from infini import bulk
from inventory.devices import listed_devices
from inventory.models import Device, Sample, Server

HOST_FIGURES = {
    "cpu_percent": "cpu_percent",
    "memory_percent": "memory_percent",
    "disk_percent": "disk_percent",
    "network_in": "network_in_bytes_per_second",
    "network_out": "network_out_bytes_per_second",
}
DEVICE_FIGURES = ("utilization_percent", "device_memory_percent", "temperature_celsius", "power_watts")
PRUNED_AT_ONCE = 5000


@dataclass
class Mean:
    total: float = 0.0
    count: int = 0

    def take(self, value: float | None) -> None:
        if value is not None:
            self.total += value
            self.count += 1

    def value(self, digits: int = 1) -> float | None:
        return round(self.total / self.count, digits) if self.count else None


def _host_means() -> list[Mean]:
    return [Mean() for _ in HOST_FIGURES]


def _device_means() -> list[Mean]:
    return [Mean() for _ in DEVICE_FIGURES]


@dataclass
class _Minute:
    """What one server's reports of a minute add up to."""

    host: list[Mean] = field(default_factory=_host_means)
    devices: dict[str, list[Mean]] = field(default_factory=lambda: defaultdict(_device_means))

    def take(self, report: Mapping[str, Any]) -> None:
        host = report.get("host")
        told = host if isinstance(host, dict) else {}
        for mean, name in zip(self.host, HOST_FIGURES.values(), strict=True):
            mean.take(finite(told.get(name)))
        for device in listed_devices(report):
            for mean, value in zip(self.devices[device["uuid"]], _device_figures(device), strict=True):
                mean.take(value)

    def sample(self, server_id: int, at: datetime, ids: Mapping[tuple[int, str], int]) -> Sample:
        known = {uuid: ids.get((server_id, uuid)) for uuid in self.devices}
        devices = {str(pk): [m.value() for m in self.devices[uuid]] for uuid, pk in known.items() if pk is not None}
        host = {name: mean.value() for name, mean in zip(HOST_FIGURES, self.host, strict=True)}
        return Sample(server_id=server_id, at=at, devices=devices, **host)


class Samples:
    """Takes reports in, and writes each minute down when it is over."""

    def __init__(self) -> None:
        self.minute = _minute_of(timezone.now())
        self._taken: dict[int, _Minute] = defaultdict(_Minute)

    def take(self, reports: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Add what these servers report now; writes first what a minute that is over has brought."""
        minute = _minute_of(timezone.now())
        if minute != self.minute:
            self.write()
            self.minute = minute
        for server_id, report in reports:
            self._taken[server_id].take(report)

    def write(self) -> None:
        """The minute's samples: two statements whatever the number of servers, and one that prunes."""
        taken, self._taken = self._taken, defaultdict(_Minute)
        if not taken:
            return
        rows = Device.objects.filter(server__in=list(taken)).values_list("server_id", "uuid", "pk")
        ids = {(server_id, uuid): pk for server_id, uuid, pk in rows}
        there = set(Server.objects.filter(pk__in=list(taken)).values_list("pk", flat=True))
        bulk.insert([one.sample(pk, self.minute, ids) for pk, one in taken.items() if pk in there])
        prune()


def prune() -> int:
    """Remove some of what is older than the days that are kept; returns how many.

    So many at once that each minute removes more than it brings, and so few that nobody waits for it.
    """
    limit = timezone.now() - timedelta(days=settings.SAMPLES_KEEP_DAYS)
    old = Sample.objects.filter(at__lt=limit).order_by("at").values("pk")[:PRUNED_AT_ONCE]
    return Sample.objects.filter(pk__in=old).delete()[0]


def _minute_of(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _device_figures(device: Mapping[str, Any]) -> tuple[float | None, ...]:
    used, total = finite(device.get("memory_used_bytes")), finite(device.get("memory_total_bytes"))
    share = 100 * used / total if used is not None and total else None
    utilisation, heat, power = (finite(device.get(name)) for name in (DEVICE_FIGURES[0], *DEVICE_FIGURES[2:]))
    return utilisation, share, heat, power


def finite(value: Any) -> float | None:
    """A finite number; JSON as Python reads it may bring others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        return None
    return value
