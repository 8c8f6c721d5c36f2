"""Places at a service: so many requests at once, so many waiting in order and for a bounded time."""

import asyncio
from collections import deque

from django.utils.translation import gettext_noop

from chat.refusals import Refusal
from chat.targets import Target


class Places:
    """The places of every target that has a limit, in this process."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def full(self, target: Target) -> bool:
        """Whether the next request would have to wait."""
        return bool(target.concurrency) and self._taken.get(target.key, 0) >= target.concurrency

    async def take(self, target: Target) -> bool:
        """Take a place, after waiting for it if need be; raises Refusal 429. False: no limit, nothing to give back."""
        if not target.concurrency:
            return False
        key = target.key
        queue = self._waiting.get(key)
        if not self.full(target) and not queue:
            self._taken[key] = self._taken.get(key, 0) + 1
            return True
        if queue is None:
            queue = self._waiting[key] = deque()
        if len(queue) >= target.queue:
            raise _busy(
                target,
                gettext_noop("%(concurrency)s requests are under way and %(queue)s wait")
                % {"concurrency": target.concurrency, "queue": len(queue)},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(target.queue_seconds):
                await turn
        except TimeoutError:
            self._forget(key, turn)
            raise _busy(
                target,
                gettext_noop("no place became free within %(queue_seconds)g s")
                % {"queue_seconds": target.queue_seconds},
            ) from None
        except BaseException:
            self._forget(key, turn)
            raise
        return True

    def leave(self, target: Target) -> None:
        """Give the place to whoever waits longest, or back."""
        self._pass_on(target.key)

    def _forget(self, key: str, turn: "asyncio.Future[None]") -> None:
        """One who waits no longer; a place given to him in the same moment goes on to the next."""
        queue = self._waiting.get(key)
        if queue and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[key]
        elif turn.done() and not turn.cancelled():
            self._pass_on(key)

    def _pass_on(self, key: str) -> None:
        queue = self._waiting.get(key)
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._waiting.pop(key, None)
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]


def _busy(target: Target, why: str) -> Refusal:
    wait = max(1, min(60, round(target.queue_seconds)))
    message = gettext_noop("%(name)s is busy: %(why)s. Try again in %(wait)s s.") % {
        "name": target.name,
        "why": why,
        "wait": wait,
    }
    return Refusal(429, message, "service_busy", headers={"retry-after": str(wait)})
