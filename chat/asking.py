"""Asking a service on a person's behalf from inside the site, by the gateway's own way: its limits, balancing,
failover, timeouts and usage, without HTTP.

    async with ask_service(user_id=7, service_id=3, fields={"messages": [...], "temperature": 0.2}) as events:
        async for event in events:          # each a dict: one chat.completion.chunk as the model server sent it
            text = text_of(event)

Leaving the block, also by cancelling its task, closes the model server's connection at once; usage is counted either
way, under the person's name. The last event may carry ``usage`` with empty ``choices`` (it is always asked for).
Nothing is stored in any history. Raises ``chat.refusals.Refusal`` before or between events; its ``message`` is a
sentence for people. Who has to know beforehand whether there is somebody to ask takes ``door_to`` and ``ask_through``.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop

from chat.admission import Admission, find_target, refuse_closed
from chat.asks import check_ask
from chat.callers import Caller, caller_of_user
from chat.exchange import explained, let_through, next_block, open_answer
from chat.metering import Meter
from chat.models import Outcome
from chat.paths import CHAT
from chat.refusals import Refusal, bad_gateway
from chat.sse import EventReader, split_events
from chat.targets import Target
from chat.upstream import Answer
from infini.models import User
from infini.off_loop import off_loop


@dataclass(frozen=True, slots=True)
class Door:
    """A person let in to a service that has a ready instance, or to an endpoint."""

    caller: Caller
    target: Target


@dataclass(frozen=True, slots=True)
class Speech:
    """An answer that has begun: who gives it, and its events."""

    server_name: str
    model: str
    events: AsyncIterator[dict[str, Any]]


async def door_to(*, user_id: int, service_id: int | None = None, endpoint_id: int | None = None) -> Door:
    """To a service, or to an endpoint.

    Raises Refusal: 403 the person may not chat, 404 there is no such one, 503 none ready with the reason.
    """
    caller = await off_loop(_caller, user_id)
    return Door(caller, await refuse_closed(await find_target(caller, service_id=service_id, endpoint_id=endpoint_id)))


@asynccontextmanager
async def ask_through(door: Door, fields: dict[str, Any]) -> AsyncIterator[Speech]:
    """One streamed chat completion; ``fields`` as in OpenAI's request, ``model`` may be left out.

    Raises Refusal: 400 wrong fields, 429 busy, 503 none ready any more, and whatever becomes of the answer.
    """
    asked = {**fields, "stream": True, "stream_options": {"include_usage": True}}
    ask = check_ask(json.dumps(asked).encode(), asked, CHAT)
    admission = Admission(door.caller, door.target, ask)
    try:
        async with let_through(admission) as meter, open_answer(admission, meter) as answer:
            yield Speech(answer.upstream.server_name, meter.model, _events(answer, meter))
    except Refusal as refusal:
        raise await explained(refusal, admission) from None


@asynccontextmanager
async def ask_service(*, user_id: int, service_id: int, fields: dict[str, Any]) -> AsyncIterator[AsyncIterator[dict]]:
    """The events of one streamed chat completion; raises Refusal as ``door_to`` and ``ask_through`` do."""
    door = await door_to(user_id=user_id, service_id=service_id)
    async with ask_through(door, fields) as speech:
        yield speech.events


def text_of(event: dict[str, Any]) -> str:
    """What an event adds to the first choice's text."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("index", 0) == 0 and isinstance(choice.get("delta"), dict):
            text = choice["delta"].get("content")
            return text if isinstance(text, str) else ""
    return ""


async def _events(answer: Answer, meter: Meter) -> AsyncIterator[dict[str, Any]]:
    reader = EventReader(texts=True)
    room = settings.STREAM_MAX_BYTES
    while not (reader.done or reader.error):
        block, ended = await next_block(answer, reader, meter)
        room -= len(block)
        if room < 0:
            raise bad_gateway(
                gettext_noop("The answer is longer than %(most)s bytes.") % {"most": settings.STREAM_MAX_BYTES},
                "answer_too_long",
            )
        reader.take_text()
        for event in split_events(block):
            if not event.get("error"):
                yield event
        if ended:
            break
    if reader.error:
        raise Refusal(502, reader.error, "upstream_error")
    if not (reader.done or reader.finished):
        raise bad_gateway(gettext_noop("The model server ended before its answer was complete."), "upstream_cut")
    meter.outcome = Outcome.COMPLETE


def _caller(user_id: int) -> Caller:
    user = User.objects.filter(pk=user_id, is_active=True).first()
    caller = caller_of_user(user) if user else None
    if caller is None or not caller.may_chat:
        raise Refusal(
            403, gettext_noop("Your role does not allow talking to services (chat.use_chat)."), "permission_denied"
        )
    return caller
