"""Sending over a socket without a task for it."""

import asyncio
import logging
from collections import deque
from typing import Any

from infini.bodies import Send

logger = logging.getLogger(__name__)


class Outlet:
    """Sends in order, at once where the web server takes a message without waiting, as daphne always does: a task to
    do it would come a turn of the loop later, with each key. Where the server does wait, messages wait here."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[dict[str, Any]] = deque()
        self._under_way: Any = None
        self._empty = asyncio.Event()
        self._empty.set()

    def send(self, message: dict[str, Any]) -> None:
        self._waiting.append(message)
        if self._under_way is None:
            self._go_on()

    async def emptied(self) -> None:
        await self._empty.wait()

    def _go_on(self) -> None:
        while self._waiting:
            self._under_way = self._send(self._waiting.popleft()).__await__()
            if not self._step():
                return
        self._empty.set()

    def _step(self) -> bool:
        """Whether the message is sent; else this goes on when what the server waits for is there."""
        try:
            awaited = next(self._under_way)
        except StopIteration:
            self._under_way = None
            return True
        except Exception:  # noqa: BLE001  (the client is gone, which the next receive tells)
            logger.debug("terminal.send_failed", exc_info=True)
            self._under_way = None
            return True
        self._empty.clear()
        if awaited is None:
            asyncio.get_running_loop().call_soon(self._resume)
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(lambda _done: self._resume())
        return False

    def _resume(self) -> None:
        if self._step():
            self._go_on()
