"""``/ws/events?after=SEQ``: the timeline as it grows, to everybody who may read it. docs/events.md is its contract."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.urls import re_path
from django.utils.translation import gettext as _

from infini.errors import Forbidden, InfiniError, Invalid
from infini.event_tail import EventTail, Happening, last_sequence, seen_within, tailing
from infini.said import said
from infini.sockets import identify
from infini.timeline import PERMISSION, hidden_kinds
from infini.visibility import Environments, limits_of

logger = logging.getLogger(__name__)

WINDOW_FRAMES = 8  # sent and not acknowledged: the web server takes whatever it is given
LOOK_AGAIN_SECONDS = 30.0  # whether who watches still may
BEHIND_MOST = 10_000  # who missed more looks at the page anew instead
CLOSE_CODES: dict[type[InfiniError], int] = {Invalid: 4400, Forbidden: 4403}


class EventSocket(AsyncWebsocketConsumer):
    """Who asks is known already; whether he may is told in a frame."""

    async def connect(self) -> None:
        await self.accept()
        self._tasks: list[asyncio.Task[None]] = []
        self._unacknowledged: deque[int] = deque()
        self._acknowledged = asyncio.Event()
        try:
            after = _after(self.scope["query_string"])
            await self._look()
        except InfiniError as error:
            await self._refuse(error)
            return
        self._start(self._follow(after))
        self._start(self._look_again())

    async def disconnect(self, code: int) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            frame = json.loads(text_data or "")
            if frame["type"] != "ack" or type(frame["seq"]) is not int:
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            await self._refuse(Invalid(_('Only {"type": "ack", "seq": number} is understood here.')))
            return
        while self._unacknowledged and self._unacknowledged[0] <= frame["seq"]:
            self._unacknowledged.popleft()
        self._acknowledged.set()

    async def _look(self) -> None:
        """Raises Forbidden; what else is hidden from who watches is noted."""
        self._user_id, self._hidden, self._limits = await database_sync_to_async(_reader, thread_sensitive=False)(
            self.scope
        )

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await self._look()

    async def _follow(self, after: int | None) -> None:
        async with tailing() as tail:
            seq = await self._begin(tail, after)
            while True:
                happenings = await tail.after(seq)
                seq = happenings[-1].seq
                await self._pass_on(happenings)

    async def _begin(self, tail: EventTail, after: int | None) -> int:
        """Where to go on from: ``after``, unless that is of another history or too long ago."""
        head = max(tail.head, await last_sequence()) if after is not None and after > tail.head else tail.head
        if after is not None and head - BEHIND_MOST <= after <= head:
            await self._say({"type": "ready", "seq": after})
            return after
        await self._say({"type": "ready" if after is None else "reset", "seq": head})
        return head

    async def _pass_on(self, happenings: list[Happening]) -> None:
        visible = tuple(h for h in happenings if h.subject_kind not in self._hidden or h.actor_id == self._user_id)
        if visible and self._limits is not None:
            seen = await seen_within(visible, self._limits)
            visible = tuple(h for h in visible if h.seq in seen or h.actor_id == self._user_id)
        if not visible:
            return
        while len(self._unacknowledged) >= WINDOW_FRAMES:
            self._acknowledged.clear()
            await self._acknowledged.wait()
        self._unacknowledged.append(visible[-1].seq)
        await self.send(text_data=_frame(visible))

    async def _say(self, frame: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(frame))

    async def _refuse(self, error: InfiniError) -> None:
        await self._say({"type": "error", "message": said(error.message)})
        await self.close(code=next(code for kind, code in CLOSE_CODES.items() if isinstance(error, kind)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(self._guarded(work)))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A fault of ours closes the socket: the client comes again by sequence instead of watching a dead one."""
        try:
            await work
        except Forbidden as error:
            await self._refuse(error)
        except Exception:  # noqa: BLE001  (the edge of our code)
            logger.exception("events.socket_broken")
            await self.close(code=1011)


@lru_cache(maxsize=64)
def _frame(happenings: tuple[Happening, ...]) -> str:
    """Written once for all who see the same."""
    events = ", ".join(happening.text for happening in happenings)
    return f'{{"type": "events", "seq": {happenings[-1].seq}, "events": [{events}]}}'


def _reader(scope: dict[str, Any]) -> tuple[int, frozenset[str], Environments | None]:
    user = identify(scope)
    if user is None or not user.has_perm(PERMISSION):
        raise Forbidden(_("Your role does not allow reading the timeline."))
    return user.pk, frozenset(hidden_kinds(user)), limits_of(user)


def _after(query_string: bytes) -> int | None:
    """Raises Invalid."""
    text = parse_qs(query_string.decode("latin-1")).get("after", [""])[-1]
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid(_("after must be the sequence of an event, a whole number from 0 on."))
    return int(text)


socket_routes = [re_path(r"^ws/events/?$", EventSocket.as_asgi())]
