"""The site as one ASGI application: the gateway before Django, whose stack costs more than all else on that path."""

import gc
import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django_app: Any = get_asgi_application()  # loads the apps; what follows may import models

from channels.routing import URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

from chat import consumers as chat_sockets  # noqa: E402
from chat import gateway  # noqa: E402
from deployments import consumers as log_sockets  # noqa: E402
from infini import event_socket  # noqa: E402
from infini.bodies import Receive, Send, refuse_large_bodies  # noqa: E402
from infini.sockets import admitted, refuse  # noqa: E402
from inventory.consumers import socket_routes as terminal_routes  # noqa: E402

pages_and_api = refuse_large_bodies(django_app)
no_such_socket: Any = refuse
socket_routes = [
    *event_socket.socket_routes,
    *log_sockets.socket_routes,
    *chat_sockets.socket_routes,
    *terminal_routes,
]
sockets = admitted(URLRouter([*socket_routes, re_path(r"", no_such_socket)]))

# What was loaded stays for good: a collection in the middle of a large list need not look at it again.
gc.collect()
gc.freeze()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Give each connection to the part that answers it."""
    if gateway.takes(scope):
        await gateway.gateway(scope, receive, send)
    elif scope["type"] == "websocket":
        await sockets(scope, receive, send)
    else:
        await pages_and_api(scope, receive, send)
