"""The site as one ASGI application: the gateway before Django, whose stack costs more than all else on that path."""

import gc
import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django_app: Any = get_asgi_application()  # loads the apps; what follows may import models

from chat import gateway  # noqa: E402
from infini.bodies import Receive, Send, refuse_large_bodies  # noqa: E402

pages_and_api = refuse_large_bodies(django_app)

# What was loaded stays for good: a collection in the middle of a large list need not look at it again.
gc.collect()
gc.freeze()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Give each connection to the part that answers it."""
    if gateway.takes(scope):
        await gateway.gateway(scope, receive, send)
    elif scope["type"] == "websocket":
        await refuse_socket(receive, send)
    else:
        await pages_and_api(scope, receive, send)


async def refuse_socket(receive: Receive, send: Send) -> None:
    """No socket lives at this path: closed before it is accepted, which a client sees as HTTP 403."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})
