"""What sockets that show something growing, to those who may see it, have in common."""

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.utils.translation import gettext as _

from infini.errors import Conflict, Forbidden, InfiniError, Invalid, NotFound
from infini.said import said

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 30.0  # whether who opened a socket still may
CLOSE_CODES: dict[type[InfiniError], int] = {Invalid: 4400, Conflict: 4400, Forbidden: 4403, NotFound: 4404}


def close_code(error: InfiniError, otherwise: int) -> int:
    """The code that closes a socket for ``error``."""
    return next((code for kind, code in CLOSE_CODES.items() if isinstance(error, kind)), otherwise)


class FollowingSocket(AsyncWebsocketConsumer):
    """Who asks is known already (``infini.sockets``); whether he may is told in a frame, and looked at again while the
    socket is open. A fault of ours closes it: the client comes again where it was instead of watching a dead one."""

    look_again_seconds = LOOK_AGAIN_SECONDS
    counted_by = ""  # the key of the number in acknowledgements, the only frames that are understood

    async def begin(self) -> None:
        """Read what was asked for, then ``look``; raises InfiniError."""
        raise NotImplementedError

    async def look(self) -> None:
        """Raises Forbidden or NotFound when there is nothing, or nothing any more, for who asks."""
        raise NotImplementedError

    async def follow(self) -> None:
        """Show what comes, until cancelled."""
        raise NotImplementedError

    def acknowledged(self, number: int) -> None:
        """The client has dealt with everything up to ``number``."""
        raise NotImplementedError

    async def say(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame, ensure_ascii=False))

    # What Channels calls

    async def connect(self) -> None:
        await self.accept()
        self._tasks: list[asyncio.Task[None]] = []
        try:
            await self.begin()
        except InfiniError as error:
            await self._refuse(error)
            return
        self._tasks = [asyncio.create_task(self._guarded(work)) for work in (self.follow(), self._look_again())]

    async def disconnect(self, code: int) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            frame = json.loads(text_data or "")
            number = frame[self.counted_by]
            if frame["type"] != "ack" or type(number) is not int:
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            only = _('Only {"type": "ack", "%(name)s": number} is understood here.')
            await self._refuse(Invalid(only % {"name": self.counted_by}))
            return
        self.acknowledged(number)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self.look_again_seconds)
            await self.look()

    async def _refuse(self, error: InfiniError) -> None:
        await self.say({"type": "error", "message": said(error.message)})
        await self.close(code=close_code(error, 1011))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (Forbidden, NotFound) as error:
            await self._refuse(error)
        except Exception:  # noqa: BLE001  (the edge of our code)
            logger.exception("socket.broken", extra={"socket": type(self).__name__})
            await self.close(code=1011)
