"""Sockets for tests/infini/test_web.py: each message comes back; ``heard`` asks for those that the listener took. A
request leaves garbage that refers to itself, and is answered with how much of the earlier ones' is there still."""

import asyncio
import weakref
from typing import Any

LEFT = 2_500  # enough to be tidied, too few for a collection in the middle
left: "weakref.WeakSet[Litter]" = weakref.WeakSet()


class Litter:
    def __init__(self) -> None:
        self.itself = self
        left.add(self)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """``/listen`` takes what it can by the web server's short way, see ``_is_heard``."""
    if scope["type"] == "http":
        body = str(len(left)).encode()
        for _ in range(LEFT):
            Litter()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    heard: list[bytes] = []
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/listen":
        scope["extensions"]["infini.listen"](
            lambda data, is_binary: _is_heard(data, is_binary) and not heard.append(data)
        )
    while (message := await receive())["type"] == "websocket.receive":
        data = message.get("bytes")
        if message.get("text") == "loop":
            data = type(asyncio.get_running_loop()).__module__.encode()
        if message.get("text") == "heard":
            data, heard = b"|".join(heard), []
        await send({"type": "websocket.send", "bytes": data, "text": None if data else message.get("text")})


def _is_heard(data: bytes, is_binary: bool) -> bool:
    """What begins with ``~`` is left to ``receive``, and of texts all that do not begin with ``!``."""
    return not data.startswith(b"~") if is_binary else data.startswith(b"!")
