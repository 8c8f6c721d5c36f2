"""The socket that follows an instance's log; docs/logs.md is its protocol."""

import asyncio
from collections import deque
from typing import Any
from urllib.parse import parse_qs

from django.urls import re_path
from django.utils.translation import gettext

from deployments.feeds import BUSY_SECONDS, Feed, watching
from deployments.logs import OFFSET_MAX, PIECE_BYTES, LogSource, NoLogYet, Piece, log_source
from infini.errors import Forbidden, Invalid
from infini.following_socket import FollowingSocket
from infini.off_loop import off_loop
from infini.said import said
from infini.sockets import identify
from inventory.agents import AgentError

PERMISSION = "deployments.view_service"
WINDOW_BYTES = 256 * 1024
TAIL_MOST_LINES = 5000


class Window:
    """What was sent and not acknowledged. The web server takes whatever it is given: a client that reads slowly would
    otherwise have the whole log wait for it in this process."""

    def __init__(self) -> None:
        self._open: deque[tuple[int, int]] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()

    def sent(self, piece: Piece) -> None:
        if self._open and piece.offset < self._open[-1][0]:
            self._forget(len(self._open))  # the log began anew: old offsets mean nothing now
        self._open.append((piece.next_offset, piece.next_offset - piece.offset))
        self._waiting_bytes += piece.next_offset - piece.offset

    def acknowledge(self, offset: int) -> None:
        """The client has dealt with every frame up to ``offset``."""
        self._forget(sum(1 for end, _ in self._open if end <= offset))
        self._changed.set()

    async def room(self) -> None:
        """Wait until one more piece fits."""
        while self._waiting_bytes + PIECE_BYTES > WINDOW_BYTES:
            self._changed.clear()
            await self._changed.wait()

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._waiting_bytes -= self._open.popleft()[1]


class LogSocket(FollowingSocket):
    """``/ws/instances/<id>/logs?offset=``: pieces of the log, each with where it stands."""

    counted_by = "offset"

    async def begin(self) -> None:
        self._window = Window()
        self._last_type = ""
        self._feed: Feed | None = None
        self._position, self._tail = _begin(self.scope["query_string"])
        await self.look()

    async def look(self) -> None:
        """Also where the agent is now; the database is held no longer than this takes."""
        instance_id = int(self.scope["url_route"]["kwargs"]["pk"])
        self._source = await off_loop(_permitted_source, self.scope, instance_id)
        if self._feed:
            self._feed.source = self._source

    def acknowledged(self, number: int) -> None:
        self._window.acknowledge(number)

    async def follow(self) -> None:
        position = self._position
        async with watching(self._source) as feed:
            self._feed = feed
            while True:
                await self._window.room()
                try:
                    if position is None:
                        position = await feed.start(tail=self._tail)
                    piece = await feed.after(position)
                except NoLogYet:
                    await self._say_waiting()
                except AgentError as error:
                    await self.say({"type": "error", "message": said(error.message)})
                else:
                    position = piece.next_offset
                    await self._pass_on(piece)

    async def _pass_on(self, piece: Piece) -> None:
        if not piece.data:
            await self._say_waiting()
            return
        self._window.sent(piece)
        found = {"offset": piece.offset, "next_offset": piece.next_offset, "data": piece.data}
        await self.say({"type": "log", **found})
        if piece.next_offset < piece.size:
            await asyncio.sleep(BUSY_SECONDS)

    async def _say_waiting(self) -> None:
        """Once: nothing came yet, or the agent is back with nothing new."""
        if self._last_type in ("", "error"):
            await self.say({"type": "waiting"})

    async def say(self, frame: dict[str, Any]) -> None:
        self._last_type = frame["type"]
        await super().say(frame)


def _permitted_source(scope: dict[str, Any], instance_id: int) -> LogSource:
    user = identify(scope)
    if user is None or not user.has_perm(PERMISSION):
        raise Forbidden(gettext("Your role does not allow reading logs."))
    return log_source(instance_id, reader=user)


def _begin(query_string: bytes) -> tuple[int | None, int | None]:
    """``offset`` and ``tail``, of which at most one may be given; raises Invalid."""
    asked = parse_qs(query_string.decode("latin-1"))
    numbers = [_number(asked, "offset", OFFSET_MAX), _number(asked, "tail", TAIL_MOST_LINES)]
    if None not in numbers:
        raise Invalid(gettext("Give offset or tail, not both."))
    return numbers[0], numbers[1]


def _number(asked: dict[str, list[str]], name: str, most: int) -> int | None:
    text = asked.get(name, [""])[-1]
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > most:
        raise Invalid(gettext("%(name)s must be a whole number from 0 to %(most)s.") % {"name": name, "most": most})
    return int(text)


socket_routes = [re_path(r"^ws/instances/(?P<pk>[0-9]{1,18})/logs/?$", LogSocket.as_asgi())]
