"""Giving the devices of a lost instance to others: a person's word against an agent's silence."""

from django.db import transaction
from django.utils.translation import gettext as _

from deployments.device_claims import release_devices
from deployments.models import Instance
from deployments.phases import Phase
from infini import events
from infini.errors import Conflict, NotFound


def free_devices(instance_id: int, *, by: events.Actor) -> list[str]:
    """Release what a lost instance has claimed; returns the devices as text.

    It may still run and use them: whoever does this knows that it does not. Raises NotFound, Conflict unless it is
    lost and has any.
    """
    with transaction.atomic():
        instance = Instance.objects.select_for_update().filter(pk=instance_id).first()
        if instance is None:
            raise NotFound(_("There is no such instance."))
        if instance.phase != Phase.LOST:
            raise Conflict(
                _("%(instance)s is not lost; its devices become free when it is stopped.") % {"instance": instance},
                code="instance_not_lost",
            )
        claims = instance.device_claims.select_related("device__server").order_by("device__index")
        devices = [str(claim.device) for claim in claims]
        if not devices:
            raise Conflict(_("%(instance)s has no devices.") % {"instance": instance}, code="no_devices")
        release_devices([instance.pk])
        events.record("instance.devices_freed", instance, by=by, data={"devices": devices})
    return devices
