"""Devices in use and free by brand, for the overview: the same words and numbers as the list they lead to."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Count, Max, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.device_documents import free_devices_of
from infini.dashboard import Tile
from infini.display import GOOD, QUIET
from infini.visibility import visible
from inventory.models import Brand, Device
from inventory.querysets import agent_silence_limit


@dataclass(frozen=True)
class BrandDevices:
    """The devices of one maker. ``silent`` are on servers not heard from: what is said of them is old."""

    name: str
    logo: str
    vendor: str
    present: int
    free: int
    missing: int
    silent: int

    @property
    def used(self) -> int:
        return self.present - self.free

    @property
    def used_percent(self) -> int:
        return round(100 * self.used / self.present) if self.present else 0

    @property
    def url(self) -> str:
        return self._list()

    @property
    def used_url(self) -> str:
        return self._list(free="no", present="yes")

    @property
    def free_url(self) -> str:
        return self._list(free="yes")

    @property
    def missing_url(self) -> str:
        return self._list(present="no")

    def _list(self, **filters: str) -> str:
        return f"{reverse('admin:inventory_device_changelist')}?{urlencode({'vendor': self.vendor, **filters})}"


@dataclass(frozen=True)
class FleetDevices:
    brands: list[BrandDevices]
    heard_at: datetime | None

    @property
    def tile(self) -> Tile:
        present, free = sum(b.present for b in self.brands), sum(b.free for b in self.brands)
        url = f"{reverse('admin:inventory_device_changelist')}?free=yes"
        source = _("agents") if self.heard_at else _("no agent has told of one")
        role = GOOD if free else QUIET
        return Tile(
            _("Devices free"), f"{free}/{present}", url, "developer_board", role=role, source=source, at=self.heard_at
        )


def fleet_devices(user: Any) -> FleetDevices:
    """Three queries, however many devices. Of the brand whose vendor key the agent names; in the order of brands."""
    old = timezone.now() - agent_silence_limit()
    here = Q(present=True)
    silent = Q(server__agent_seen_at__lt=old) | Q(server__agent_seen_at=None)
    devices = visible(Device.objects.order_by(), user)
    rows: Any = devices.values("vendor").annotate(
        there=Count("pk", filter=here),
        missing=Count("pk", filter=~here),
        silent=Count("pk", filter=here & silent),
        heard_at=Max("server__agent_seen_at"),
    )
    free_rows = free_devices_of(devices, free=True)
    free = dict(free_rows.values("vendor").annotate(n=Count("pk")).values_list("vendor", "n"))
    brands = {brand.vendor: (place, brand) for place, brand in enumerate(Brand.objects.exclude(vendor=""))}

    def place_of(row: dict[str, Any]) -> tuple[int, str]:
        return brands[row["vendor"]][0] if row["vendor"] in brands else len(brands), row["vendor"]

    listed = sorted(rows, key=place_of)
    return FleetDevices(
        [
            BrandDevices(
                name=str(brands[row["vendor"]][1]) if row["vendor"] in brands else row["vendor"] or _("unknown"),
                logo=brands[row["vendor"]][1].logo if row["vendor"] in brands else "",
                vendor=row["vendor"],
                present=row["there"],
                free=free.get(row["vendor"], 0),
                missing=row["missing"],
                silent=row["silent"],
            )
            for row in listed
        ],
        max((row["heard_at"] for row in listed if row["heard_at"]), default=None),
    )
