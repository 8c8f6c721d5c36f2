"""Questions about what runs."""

from deployments.models import DeviceClaim, Instance, Service
from deployments.phases import DeployStatus, Wanted


def counts() -> dict[str, int]:
    """This app's part of the site's counts; an instance counts while it is wanted."""
    deployed = Service.objects.with_status().filter(deploy_status=DeployStatus.DEPLOYED)  # type: ignore[misc]
    return {
        "service_count": Service.objects.count(),
        "deployed_service_count": deployed.count(),
        "instance_count": Instance.objects.filter(wanted=Wanted.RUNNING).count(),
        "device_in_use_count": DeviceClaim.objects.values("device").distinct().count(),
    }
