"""The web server: daphne as its own command starts it, on a faster event loop and with a shorter way for small frames.

    python -m infini.web -b 127.0.0.1 -p 8000 infini.asgi:application

The keys somebody types in a terminal, their echoes, and the page's word that it has shown so much are frames of a few
bytes with a pause before each, so that what runs for them has left the processor's caches meanwhile: only what is not
run costs nothing, and Autobahn and Twisted run much.
"""

import asyncio
import gc
import struct
from collections.abc import Awaitable, Callable
from typing import Any

try:
    import uvloop
except ImportError:  # Windows has none
    pass
else:
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for the loop that daphne makes when it is imported

from daphne.cli import CommandLineInterface  # noqa: E402
from daphne.server import Server  # noqa: E402
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol  # noqa: E402
from django.apps import apps  # noqa: E402
from django.urls import get_resolver  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from twisted.internet.tcp import Connection  # noqa: E402

asyncio.set_event_loop_policy(None)  # threads that run a loop of their own have the usual one

Application = Callable[[Any, Any, Any], Awaitable[None]]
Listener = Callable[[bytes, bool], bool]

# New objects, less those that went: a page may leave some thousands, which refer to each other in circles.
WORTH_TIDYING = 2_000
YOUNG_BEFORE_MIDDLE, MIDDLE_BEFORE_OLD = 10, 20
# What is never tidied in time, by many sockets that open at once say: the young alone, a millisecond each.
GARBAGE_AT, RARELY = 10_000, 100
TIDY_SECONDS = 1.0
_WHOLE_TEXT, _WHOLE_BINARY, _MASKED = 0x81, 0x82, 0x80
_SHORT, _LONG = 126, 65536  # lengths from which on a frame's head tells them in two and in eight bytes


class SmallFrames(WebSocketProtocol):
    """A socket whose small frames take a short way; the rest goes as it would."""

    def __init__(self) -> None:
        super().__init__()
        self._listener: Listener | None = None

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` called with each message that overtakes no other, and with whether it is binary; False
        leaves it to ``receive``."""
        self._listener = listener

    def dataReceived(self, data: bytes) -> None:
        """Without the log line that Autobahn formats first, for a log nobody keeps."""
        if not self._is_one_small_frame(data):
            self._dataReceived(data)
            return
        size = len(data) - 6
        mask = int.from_bytes((data[2:6] * (size // 4 + 1))[:size], "big")
        message = (int.from_bytes(data[6:], "big") ^ mask).to_bytes(size, "big")
        is_binary = data[0] == _WHOLE_BINARY
        if is_binary or _is_text(message):
            self.onMessage(message, is_binary)
        else:
            self._dataReceived(data)  # which says what is wrong with it

    def _is_one_small_frame(self, data: bytes) -> bool:
        """Whether ``data`` is exactly one whole message of 1 to 125 bytes, and nothing else is under way."""
        return (
            6 < len(data) < 6 + _SHORT
            and data[0] in (_WHOLE_BINARY, _WHOLE_TEXT)
            and data[1] == _MASKED | len(data) - 6
            and self.state == self.STATE_OPEN
            and not self.data
            and self.current_frame is None
            and not self.inside_message
            and self.autoPingTimeoutCall is None
        )

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self._listener and self.application_queue.empty() and self._listener(payload, isBinary):
            return
        super().onMessage(payload, isBinary)

    def serverSend(self, content: Any, binary: bool = False) -> None:
        if binary and self.state == self.STATE_OPEN and self._perMessageCompress is None:
            self.sendData(_head(len(content)) + content)
        else:
            super().serverSend(content, binary)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """At once, if nothing waits to be sent: Twisted would write at the loop's next turn."""
        transport = self.transport
        if isinstance(transport, Connection) and transport.connected and not _is_sending(transport):
            sent = transport.writeSomeData(data)
            if isinstance(sent, int):  # else the connection is lost, which Twisted finds out by itself
                data = data[sent:]
        if data:
            transport.write(data)


def _is_text(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_sending(transport: Connection) -> bool:
    return bool(transport.dataBuffer or transport._tempDataLen or transport.disconnecting)


def _head(size: int) -> bytes:
    if size < _SHORT:
        return bytes((_WHOLE_BINARY, size))
    if size < _LONG:
        return struct.pack("!BBH", _WHOLE_BINARY, 126, size)
    return struct.pack("!BBQ", _WHOLE_BINARY, 127, size)


def settle() -> None:
    """Load every page, and have what is loaded by then stay out of Python's collections of garbage.

    A list of thousands of rows makes objects enough for a collection of everything now and then, which took 200 ms of
    whoever waited; of each page a third went into the small ones.
    """
    if apps.ready:  # else what is served is no application of Django's
        get_resolver().url_patterns  # noqa: B018  (imports them)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT, RARELY, RARELY)


def tidy() -> None:
    """Collect the garbage of what was answered: a few milliseconds in which nobody waits for it.

    Left to Python, that of ten pages is collected together, in the middle of making another: up to 200 ms of it.
    """
    young, middle, old = gc.get_count()
    if young > WORTH_TIDYING:
        gc.collect(2 if old >= MIDDLE_BEFORE_OLD else 1 if middle >= YOUNG_BEFORE_MIDDLE else 0)


def tidied(application: Application) -> Application:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        try:
            await application(scope, receive, send)
        finally:
            asyncio.get_running_loop().call_soon(tidy)  # when nothing refers to what was asked any more

    return answer


class WebServer(Server):
    application: Application

    def run(self) -> None:
        settle()
        self.application = tidied(self.application)
        self._keep_tidy()
        super().run()

    def _keep_tidy(self) -> None:
        """Also while sockets alone are at work, which stay open."""
        tidy()
        clock: Any = reactor
        clock.callLater(TIDY_SECONDS, self._keep_tidy)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Tell sockets' applications of ``listen``, an extension as ASGI names them."""
        if isinstance(protocol, SmallFrames):
            scope.setdefault("extensions", {})["infini.listen"] = protocol.listen
        return super().create_application(protocol, scope)


class Command(CommandLineInterface):
    server_class = WebServer


if __name__ == "__main__":
    WebSocketFactory.protocol = SmallFrames
    Command.entrypoint()
