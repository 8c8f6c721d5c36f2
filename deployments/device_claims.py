"""Accelerators given to instances, claimed in the database before any agent is asked; never one slot twice."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from deployments.models import DeviceClaim, Instance, Revision
from infini.errors import Conflict
from inventory.device_processes import strangers_on
from inventory.models import Device, Server
from inventory.shown_devices import live_figures


def claim_devices(instance: Instance, *, server: Server, revision: Revision) -> None:
    """Give ``instance`` as many devices of one vendor as its revision needs; it keeps those it has when they do.

    Call inside the transaction that deploys. Raises Conflict that says what is missing on which server.
    """
    held = list(DeviceClaim.objects.filter(instance=instance).select_related("device"))
    if len(held) == revision.devices and all(claim.device.present for claim in held):
        return
    release_devices([instance.pk])
    if not revision.devices:
        return
    chosen = _choose(server, revision.devices)
    try:
        with transaction.atomic():
            DeviceClaim.objects.bulk_create(
                DeviceClaim(device=device, slot=slot, instance=instance) for device, slot in chosen
            )
    except IntegrityError:
        raise Conflict(
            _("Devices on %(server)s were given to another service meanwhile; try again.") % {"server": server},
            code="devices_taken",
        ) from None


def release_devices(instance_ids: Iterable[int]) -> None:
    """Give the devices back; only once the processes are known to be gone."""
    DeviceClaim.objects.filter(instance__in=list(instance_ids)).delete()


def device_environment(instance: Instance) -> dict[str, str]:
    """The variables by which the process sees its devices and no others, in the vendor's own words."""
    values: dict[str, list[str]] = defaultdict(list)
    environment: dict[str, str] = {}
    for claim in instance.device_claims.select_related("device").order_by("device__index", "slot"):
        environment |= claim.device.visible_with
        for variable, value in claim.device.visible_by.items():
            values[variable].append(value)
    return environment | {variable: ",".join(texts) for variable, texts in values.items()}


def devices_seen(server: Server, environment: Mapping[str, str]) -> list[Device]:
    """The devices that a process with this environment sees, to be claimed for it; none where that is not clear, or
    where one of them is another's.
    """
    seen: dict[int, Device] = {}
    named: set[str] = set()
    for device in Device.objects.filter(server=server, present=True):
        for variable, value in device.visible_by.items():
            texts = [text for text in environment.get(variable, "").split(",") if text]
            named.update(texts)
            if value in texts:
                seen[device.pk] = device
    unclear = len(named) != len(seen) or len({device.vendor for device in seen.values()}) > 1
    if unclear or DeviceClaim.objects.filter(device__in=seen).exists():
        return []
    return list(seen.values())


def _choose(server: Server, count: int) -> list[tuple[Device, int]]:
    """Free slots of the vendor that has the most of them, lowest index first; raises Conflict.

    Devices on which somebody else has processes come last: free as far as we know, but not idle.
    """
    taken = set(DeviceClaim.objects.filter(device__server=server).values_list("device_id", "slot"))
    free: dict[str, list[tuple[Device, int]]] = defaultdict(list)
    devices = list(Device.objects.filter(server=server))
    for device in devices:
        if not device.present:
            continue
        slot = next((s for s in range(device.slots) if (device.pk, s) not in taken), None)
        if slot is not None:
            free[device.vendor].append((device, slot))
    best = max(free.values(), key=len, default=[])
    if len(best) < count:
        known = (
            _("%(free)s of %(all)s are free") % {"free": len(best), "all": len(devices)}
            if devices
            else _("none is known there")
        )
        needed = (
            _("%(server)s: 1 device is needed and %(known)s.")
            if count == 1
            else _("%(server)s: %(count)s devices are needed and %(known)s.")
        )
        raise Conflict(needed % {"server": server, "count": count, "known": known}, code="devices_missing")
    live = live_figures(server)
    best.sort(key=lambda chosen: bool(strangers_on(live.get(chosen[0].uuid, {}))))
    return best[:count]
