"""Questions about what runs."""

from typing import Any

from deployments.models import DeviceClaim, Instance, Service
from deployments.phases import DeployStatus, Wanted
from infini.visibility import visible
from inventory.models import Device


def counts(user: Any) -> dict[str, int]:
    """This app's part of the site's counts; an instance counts while it is wanted."""
    services, instances = visible(Service.objects.all(), user), visible(Instance.objects.all(), user)
    deployed = services.with_status().filter(deploy_status=DeployStatus.DEPLOYED)  # type: ignore[misc]
    # Of a device it counts that it is taken, not by what.
    claims = DeviceClaim.objects.filter(device__in=visible(Device.objects.order_by(), user))
    return {
        "service_count": services.count(),
        "deployed_service_count": deployed.count(),
        "instance_count": instances.filter(wanted=Wanted.RUNNING).count(),
        "device_in_use_count": claims.values("device").distinct().count(),
    }
