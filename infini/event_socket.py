"""``/ws/events?after=SEQ``: the timeline as it grows, to everybody who may read it. docs/events.md is its contract."""

import asyncio
from collections import deque
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from django.urls import re_path
from django.utils.translation import gettext as _

from infini.errors import Forbidden, Invalid
from infini.event_tail import EventTail, Happening, last_sequence, seen_within, tailing
from infini.following_socket import FollowingSocket
from infini.off_loop import off_loop
from infini.sockets import identify
from infini.timeline import PERMISSION, hidden_kinds
from infini.visibility import Environments, limits_of

WINDOW_FRAMES = 8  # sent and not acknowledged: the web server takes whatever it is given
BEHIND_MOST = 10_000  # who missed more looks at the page anew instead


class EventSocket(FollowingSocket):
    """Shows each event once, in order, but what is hidden from who watches."""

    counted_by = "seq"

    async def begin(self) -> None:
        self._unacknowledged: deque[int] = deque()
        self._acknowledged = asyncio.Event()
        self._after = _after(self.scope["query_string"])
        await self.look()

    async def look(self) -> None:
        """Raises Forbidden; what else is hidden from who watches is noted."""
        found = await off_loop(_reader, self.scope)
        self._user_id, self._hidden, self._limits = found

    def acknowledged(self, number: int) -> None:
        while self._unacknowledged and self._unacknowledged[0] <= number:
            self._unacknowledged.popleft()
        self._acknowledged.set()

    async def follow(self) -> None:
        async with tailing() as tail:
            seq = await self._begin(tail, self._after)
            while True:
                happenings = await tail.after(seq)
                seq = happenings[-1].seq
                await self._pass_on(happenings)

    async def _begin(self, tail: EventTail, after: int | None) -> int:
        """Where to go on from: ``after``, unless that is of another history or too long ago."""
        head = max(tail.head, await last_sequence()) if after is not None and after > tail.head else tail.head
        if after is not None and head - BEHIND_MOST <= after <= head:
            await self.say({"type": "ready", "seq": after})
            return after
        await self.say({"type": "ready" if after is None else "reset", "seq": head})
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
