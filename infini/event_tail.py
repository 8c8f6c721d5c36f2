"""Following the timeline: one loop per process reads what was committed, by whichever process, and tells all who wait.

Whoever is behind, because he came with an old sequence or takes in slowly, reads for himself until he has caught up.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Max

from infini.event_order import in_order
from infini.models import Event
from infini.off_loop import off_loop
from infini.visibility import Environments, within

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RETRY_SECONDS = 2.0  # after the database did not answer
PIECE_EVENTS = 200  # read, and sent, at once
KEPT_EVENTS = 1000
KEPT_ANSWERS = 64  # of what lies within whose environments


@dataclass(frozen=True, slots=True)
class Happening:
    """One event ready to be sent: ``text`` is its JSON, the rest says who may read it."""

    seq: int
    subject_kind: str
    actor_id: int | None
    text: str


class EventTail:
    """The end of the timeline as it grows; lives on one event loop."""

    def __init__(self, head: int) -> None:
        self.head = head  # every event up to here is in ``_recent`` or older than what it keeps
        self._recent: deque[Happening] = deque(maxlen=KEPT_EVENTS)
        self._oldest = head  # events after this one are in ``_recent``
        self._news = asyncio.Event()

    async def after(self, seq: int) -> list[Happening]:
        """The next events after ``seq``, at most PIECE_EVENTS; waits until there is one."""
        while seq >= self.head:
            await self._news.wait()
        if seq < self._oldest:
            return await _read(seq)
        return list(islice((h for h in self._recent if h.seq > seq), PIECE_EVENTS))

    async def run(self) -> None:
        """Read on until cancelled; a database that does not answer is asked again."""
        while True:
            try:
                news = await _read(self.head)
            except Exception:  # noqa: BLE001  (whatever it was, those who wait are told when it is over)
                logger.exception("events.not_read")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if news:
                self._add(news)
            else:
                await asyncio.sleep(POLL_SECONDS)

    def _add(self, news: list[Happening]) -> None:
        dropped = max(0, len(self._recent) + len(news) - KEPT_EVENTS)
        if dropped:
            self._oldest = [*self._recent, *news][dropped - 1].seq
        self._recent.extend(news)
        self.head = news[-1].seq
        self._news.set()
        self._news = asyncio.Event()


async def seen_within(happenings: tuple[Happening, ...], limits: Environments) -> frozenset[int]:
    """The sequences of those that lie within these environments; asked once for all who are limited alike."""
    key = id(asyncio.get_running_loop()), limits, happenings[0].seq, happenings[-1].seq, len(happenings)
    if key not in _asked:
        while len(_asked) >= KEPT_ANSWERS:
            del _asked[next(iter(_asked))]
        ids = [happening.seq for happening in happenings]
        _asked[key] = asyncio.ensure_future(off_loop(_within, ids, limits))
    try:
        return await asyncio.shield(_asked[key])
    except Exception:
        _asked.pop(key, None)
        raise


def _within(ids: list[int], limits: Environments) -> frozenset[int]:
    return frozenset(within(Event.objects.order_by().filter(pk__in=ids), limits).values_list("pk", flat=True))


_asked: dict[Any, asyncio.Future[frozenset[int]]] = {}


async def last_sequence() -> int:
    """That of the newest event; 0 when nothing has happened yet."""
    return await off_loop(_last_sequence)


def _last_sequence() -> int:
    with in_order():
        return Event.objects.aggregate(last=Max("pk"))["last"] or 0


async def _read(seq: int) -> list[Happening]:
    return await off_loop(_next_events, seq)


def _next_events(seq: int) -> list[Happening]:
    news = Event.objects.filter(pk__gt=seq).order_by("pk")[:PIECE_EVENTS]
    if not news.exists():
        return []
    with in_order():
        return [_happening(event) for event in news.all()]


def _happening(event: Event) -> Happening:
    document: dict[str, Any] = {
        "seq": event.pk,
        "at": event.at.isoformat().replace("+00:00", "Z"),
        "kind": event.kind,
        "actor": event.actor_name,
        "subject": {"kind": event.subject_kind, "id": event.subject_id, "name": event.subject_name},
        "data": event.data,
    }
    return Happening(event.pk, event.subject_kind, event.actor_id, json.dumps(document, ensure_ascii=False))


_tails: dict[int, tuple[EventTail, asyncio.Task[None], list[object]]] = {}


@asynccontextmanager
async def tailing() -> AsyncIterator[EventTail]:
    """The tail shared by all who watch on this loop; it ends with the last of them."""
    place = id(asyncio.get_running_loop())
    if place not in _tails:
        tail = EventTail(await last_sequence())
        if place not in _tails:  # somebody else may have come while the database was asked
            _tails[place] = tail, asyncio.create_task(tail.run()), []
    tail, task, watchers = _tails[place]
    me = object()
    watchers.append(me)
    try:
        yield tail
    finally:
        watchers.remove(me)
        if not watchers:
            del _tails[place]
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
