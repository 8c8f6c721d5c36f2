"""What a key may take: requests and tokens a minute, requests at once, tokens a month.

Kept in this process; with ``REDIS_URL`` the first three hold across all processes (``chat.shared_limits``). The month's
tokens come from the stored usage, so they hold everywhere, a few seconds late. A minute is the last sixty seconds, of
which the earlier calendar minute's part is taken as evenly spread. Tokens count when a request ends: one may pass the
limit by itself, the next is refused.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils.translation import gettext_noop

from chat.callers import Caller
from chat.refusals import Refusal
from chat.shared_limits import SharedLimits

logger = logging.getLogger(__name__)

_STATES_MOST = 20_000
_MINUTE = 60.0


class Window:
    """How much came in the last sixty seconds."""

    __slots__ = ("_before", "_minute", "_now")

    def __init__(self) -> None:
        self._minute, self._now, self._before = 0, 0.0, 0.0

    def amount(self, at: float) -> float:
        minute = int(at // _MINUTE)
        if minute != self._minute:
            self._before = self._now if minute == self._minute + 1 else 0.0
            self._minute, self._now = minute, 0.0
        return self._now + self._before * (1 - (at % _MINUTE) / _MINUTE)

    def add(self, amount: float, at: float) -> None:
        self.amount(at)
        self._now += amount

    def wait(self, limit: float, at: float) -> float:
        """Seconds until the amount is below ``limit`` if nothing more comes."""
        rest = _MINUTE - at % _MINUTE
        amount = self.amount(at)
        if amount < limit:
            return 0.0
        over = amount - limit
        if self._before and over < self._before * rest / _MINUTE:
            return over / self._before * _MINUTE + 1
        return rest + max(0.0, 1 - limit / self._now) * _MINUTE + 1 if self._now else rest


class _State:
    __slots__ = ("open", "requests", "tokens")

    def __init__(self) -> None:
        self.requests, self.tokens, self.open = Window(), Window(), 0


class Permit:
    """Leave for one request; ``end`` must be called, with the tokens it took."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[int], None] | None = None) -> None:
        self._end = end

    def end(self, tokens: int) -> None:
        end, self._end = self._end, None
        if end:
            end(tokens)


class KeyLimits:
    """The limits of all keys in this process."""

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}
        self._shared = SharedLimits(settings.REDIS_URL) if settings.REDIS_URL else None
        self._ending: set[asyncio.Task[None]] = set()

    async def admit(self, caller: Caller, spent: int) -> Permit:
        """Count a request in; raises Refusal 429 that says which limit, and when to come again.

        ``spent`` are the tokens the key has taken this month.
        """
        if not caller.limited:
            return Permit()
        now = time.time()
        if caller.tokens_per_month and spent >= caller.tokens_per_month:
            raise _refused(
                gettext_noop("its budget of %(tokens_per_month)s tokens a month is spent")
                % {"tokens_per_month": caller.tokens_per_month},
                _until_next_month(now),
                "budget_spent",
            )
        if self._shared:
            admitted = await self._shared.admit(caller)
            if admitted is not None:
                limit, wait = admitted.refused, admitted.wait
                if limit:
                    raise _refused_for(limit, caller, wait)
                return Permit(lambda tokens: self._end_shared(caller, admitted.request_id, tokens))
        return self._admit_here(caller, now)

    def _admit_here(self, caller: Caller, now: float) -> Permit:
        state = self._states.get(caller.key_id)
        if state is None:
            state = self._new_state(caller.key_id, now)
        if caller.concurrency and state.open >= caller.concurrency:
            raise _refused_for("concurrency", caller, 1)
        if caller.requests_per_minute and state.requests.amount(now) + 1 > caller.requests_per_minute:
            raise _refused_for("requests", caller, state.requests.wait(caller.requests_per_minute, now))
        if caller.tokens_per_minute and state.tokens.amount(now) >= caller.tokens_per_minute:
            raise _refused_for("tokens", caller, state.tokens.wait(caller.tokens_per_minute, now))
        state.requests.add(1, now)
        state.open += 1

        def end(tokens: int) -> None:
            state.open -= 1
            state.tokens.add(tokens, time.time())

        return Permit(end)

    def _new_state(self, key_id: int, now: float) -> _State:
        if len(self._states) >= _STATES_MOST:
            self._states = {
                k: s for k, s in self._states.items() if s.open or s.requests.amount(now) or s.tokens.amount(now)
            }
        self._states[key_id] = state = _State()
        return state

    def _end_shared(self, caller: Caller, request_id: str, tokens: int) -> None:
        """Told beside the request's end, which waits for nothing; a lost word expires by itself."""
        assert self._shared
        task = asyncio.get_running_loop().create_task(self._shared.end(caller, request_id, tokens))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _refused_for(limit: str, caller: Caller, wait: float) -> Refusal:
    if limit == "concurrency":
        return _refused(
            gettext_noop("its %(concurrency)s requests at once are under way") % {"concurrency": caller.concurrency},
            wait,
            "concurrency_limit",
        )
    if limit == "requests":
        return _refused(
            gettext_noop("its %(requests_per_minute)s requests a minute are spent")
            % {"requests_per_minute": caller.requests_per_minute},
            wait,
            "rate_limit_exceeded",
        )
    return _refused(
        gettext_noop("its %(tokens_per_minute)s tokens a minute are spent")
        % {"tokens_per_minute": caller.tokens_per_minute},
        wait,
        "rate_limit_exceeded",
    )


def _refused(why: str, wait: float, code: str) -> Refusal:
    seconds = max(1, int(wait + 0.999))
    message = gettext_noop("This API key has to wait: %(why)s. Try again in %(seconds)s s.") % {
        "why": why,
        "seconds": seconds,
    }
    return Refusal(429, message, code, headers={"retry-after": str(seconds)})


def _until_next_month(now: float) -> float:
    today = datetime.fromtimestamp(now, UTC)
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first - today).total_seconds()
