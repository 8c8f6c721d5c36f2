"""Questions about the fleet."""

from inventory.models import Device, Server
from inventory.querysets import ServerStatus


def counts() -> dict[str, int]:
    """This app's part of the site's counts."""
    online = Server.objects.with_status().filter(status=ServerStatus.ONLINE)  # type: ignore[misc]
    return {
        "server_count": Server.objects.count(),
        "online_server_count": online.count(),
        "device_count": Device.objects.count(),
    }
