"""Questions about the fleet."""

from typing import Any

from infini.visibility import visible
from inventory.models import Device, Server
from inventory.querysets import ServerStatus


def counts(user: Any) -> dict[str, int]:
    """This app's part of the site's counts."""
    servers, devices = visible(Server.objects.all(), user), visible(Device.objects.all(), user)
    online = servers.with_status().filter(status=ServerStatus.ONLINE)  # type: ignore[misc]
    return {
        "server_count": servers.count(),
        "online_server_count": online.count(),
        "device_count": devices.count(),
    }
