"""Bodies too large are refused by their Content-Length, before the server spools hundreds of MB for anybody."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from infini.errors import TooLarge

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def refuse_large_bodies(inner: Asgi) -> Asgi:
    """Wraps an ASGI application; answers 413 in the one shape of errors."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _announced_bytes(scope) > settings.REQUEST_MAX_BYTES:
            limit_mb = settings.REQUEST_MAX_BYTES // (1024 * 1024)
            await send_json(
                send,
                413,
                TooLarge(_("A request may carry at most %(n)s MB.") % {"n": limit_mb}).as_json(),
            )
            return
        await inner(scope, receive, send)

    return app


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


async def send_json(send: Send, status: int, body: dict, headers: dict[str, str] | None = None) -> None:
    """One whole JSON answer."""
    content = json.dumps(body).encode()
    sent = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
