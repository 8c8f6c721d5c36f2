"""Telling targets what is due, at least once.

A delivery is claimed by a conditional UPDATE that also counts the attempt, sent outside any transaction, and its
outcome written down by whoever still holds the claim. A worker that dies half-way leaves the claim to run out: then the
message is sent again, so a receiver may get it twice; ``X-Infini-Delivery`` tells doubles.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import aiohttp
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.db.models import Exists, F, Min, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django_q.tasks import async_task

from infini import events
from infini.alert_messages import Message, Undelivered, in_language_of, message_of, send, summary_of, test_message
from infini.errors import Unavailable
from infini.models import AlertDelivery, AlertPhase, AlertTarget, DeliveryState, Lease
from infini.said import said

logger = logging.getLogger(__name__)

ATTEMPTS = 5
BACKOFF = [timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(minutes=10)]
RATE, RATE_WINDOW = 20, timedelta(minutes=1)
# Longer than a task may run (Q_CLUSTER's timeout): when it is over, nobody sends any more.
LEASE = timedelta(seconds=150)
BUDGET_SECONDS = 45.0  # a target so slow is left for the next time
QUEUE_EVERY_SECONDS = 5.0

# A recovery whose opening is not through yet waits for it.
AFTER_OPENING = timedelta(seconds=5)

# A message and the deliveries it carries; the first of them counts for the rate limit.
Parcel = tuple[Message, list[int]]


@dataclass(frozen=True)
class Batch:
    """What one worker has claimed for one target."""

    target: AlertTarget
    claim: str
    parcels: list[Parcel]

    def held(self, ids: Sequence[int]) -> QuerySet[AlertDelivery]:
        """Those still ours to write: nobody else claimed them since."""
        return AlertDelivery.objects.filter(pk__in=ids, claim=self.claim, state=DeliveryState.DUE)

    def ids_from(self, place: int) -> list[int]:
        return [pk for _message, ids in self.parcels[place:] for pk in ids]


def queue_delivery() -> bool:
    """Queue ``deliver_due`` when something is due, at most every few seconds. By level: a lost task is queued again."""
    if not _due(timezone.now()).exists():
        return False
    if not Lease.take("alerts.queued", uuid.uuid4().hex, seconds=QUEUE_EVERY_SECONDS):
        return False
    async_task("infini.tasks.deliver_alerts")
    return True


def deliver_due() -> int:
    """Send what is due; returns how many messages were taken. May run twice at once, or die half-way: see above."""
    now = timezone.now()
    _clear_away(now)
    targets = AlertTarget.objects.filter(enabled=True, pk__in=_due(now).values("target"))
    batches = [batch for target in targets if (batch := _claim(target, now))]
    return _deliver(batches) if batches else 0


def send_test(target: AlertTarget, *, by: events.Actor) -> None:
    """Send one message now and note the outcome; raises Unavailable with why it was not taken."""

    with in_language_of(target):
        message = test_message()

    async def attempt() -> None:
        async with aiohttp.ClientSession() as session:
            await send(session, target, message)

    error = ""
    try:
        async_to_sync(attempt)()
    except Undelivered as undelivered:
        error = undelivered.message
    with transaction.atomic():
        _note(target.pk, error)
        events.record("alerttarget.tested", target, by=by, data={"sent": not error, "error": error})
    if error:
        raise Unavailable(_("The test message was not taken: %(why)s") % {"why": said(error)}, code="not_delivered")


def _due(now: datetime) -> QuerySet[AlertDelivery]:
    return AlertDelivery.objects.filter(state=DeliveryState.DUE, next_at__lte=now)


def _clear_away(now: datetime) -> None:
    """End what can never be sent. A recovery waits for its opening, and goes with it when that was given up."""
    due = _due(now)
    due.filter(target__enabled=False).update(
        state=DeliveryState.FAILED, error=gettext_noop("The target is switched off.")
    )
    died = due.filter(attempts__gte=ATTEMPTS)
    died.update(
        state=DeliveryState.FAILED, error=gettext_noop("Given up: the sending was cut off in its last attempt.")
    )
    recoveries = due.filter(phase=AlertPhase.RECOVERED)
    opening = AlertDelivery.objects.filter(alert=OuterRef("alert"), target=OuterRef("target"), phase=AlertPhase.OPENED)
    recoveries.filter(Exists(opening.filter(state=DeliveryState.DUE))).update(next_at=now + AFTER_OPENING)
    recoveries.filter(Exists(opening.filter(state=DeliveryState.FAILED))).delete()


@transaction.atomic
def _claim(target: AlertTarget, now: datetime) -> Batch | None:
    """Take what is due to ``target``, as far as its rate limit allows; what is beyond goes into one summary."""
    AlertTarget.objects.select_for_update().filter(pk=target.pk).first()  # two workers count one after the other
    lately = AlertDelivery.objects.filter(target=target, in_summary=False, tried_at__gt=now - RATE_WINDOW)
    due, room = _due(now).filter(target=target), RATE - lately.count()
    if room <= 0:
        free_at = lately.aggregate(first=Min("tried_at"))["first"] + RATE_WINDOW
        due.update(next_at=free_at)
        return None
    claim = uuid.uuid4().hex
    due.update(claim=claim, attempts=F("attempts") + 1, tried_at=now, next_at=now + LEASE, in_summary=False)
    taken = list(AlertDelivery.objects.filter(claim=claim).select_related("alert").order_by("pk"))
    single, rest = (taken, []) if len(taken) <= room else (taken[: room - 1], taken[room - 1 :])
    AlertDelivery.objects.filter(claim=claim, pk__in=[d.pk for d in rest[1:]]).update(in_summary=True)
    with in_language_of(target):
        parcels = [(message_of(delivery), [delivery.pk]) for delivery in single]
        parcels += [(summary_of(rest), [d.pk for d in rest])] if rest else []
    return Batch(target, claim, parcels) if parcels else None


def _deliver(batches: Sequence[Batch]) -> int:
    """All targets at once, each one's messages in order: a slow one holds up nobody else."""

    async def everything() -> list[int | BaseException]:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(_send_batch(session, b) for b in batches), return_exceptions=True)

    outcomes = async_to_sync(everything)()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome  # a fault of ours, after all others are through; the lease brings its batch back
    return sum(outcome for outcome in outcomes if isinstance(outcome, int))


async def _send_batch(session: aiohttp.ClientSession, batch: Batch) -> int:
    """Each outcome is written as it comes. What follows a dead connection is not even tried."""
    loop = asyncio.get_running_loop()
    ends_at, sent = loop.time() + BUDGET_SECONDS, 0
    for place, (message, ids) in enumerate(batch.parcels):
        if loop.time() > ends_at:
            await _written(_release, batch, batch.ids_from(place))
            break
        try:
            await send(session, batch.target, message)
        except Undelivered as error:
            await _written(_record_failure, batch, batch.ids_from(place) if error.down else ids, error.message)
            if error.down:
                break
        else:
            await _written(_record_sent, batch, ids)
            sent += 1
    return sent


async def _written(write: Callable[..., None], *args: object) -> None:
    """Database work, in the thread that called ``deliver_due``."""
    await sync_to_async(partial(write, *args))()


@transaction.atomic
def _record_sent(batch: Batch, ids: Sequence[int]) -> None:
    batch.held(ids).update(state=DeliveryState.SENT, error="")
    _note(batch.target.pk, "")


@transaction.atomic
def _record_failure(batch: Batch, ids: Sequence[int], error: str) -> None:
    """Again later; after the last attempt it is given up, and the timeline and the target say so."""
    now = timezone.now()
    for attempts, wait in enumerate(BACKOFF, start=1):
        batch.held(ids).filter(attempts=attempts).update(next_at=now + wait, error=error[:300])
    lost = batch.held(ids).filter(attempts__gte=ATTEMPTS)
    given_up = lost.update(state=DeliveryState.FAILED, error=error[:300])
    if given_up:
        error = gettext_noop("Given up after %(n)d attempts: %(why)s") % {"n": ATTEMPTS, "why": error}
        events.record("alerttarget.given_up", batch.target, by=None, data={"alerts": given_up, "error": error})
        logger.warning("alerts.given_up", extra={"target": batch.target.pk, "alerts": given_up})
    _note(batch.target.pk, error)


def _release(batch: Batch, ids: Sequence[int]) -> None:
    """Not tried after all."""
    batch.held(ids).update(attempts=F("attempts") - 1, tried_at=None, next_at=timezone.now())


def _note(target_id: int, error: str) -> None:
    """What a target's page says of the last attempt; observed columns alone."""
    columns = {"last_error": error[:300]} if error else {"last_error": "", "last_sent_at": timezone.now()}
    AlertTarget.objects.filter(pk=target_id).update(**columns)
