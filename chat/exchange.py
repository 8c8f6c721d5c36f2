"""One request put to a target: let through, an instance chosen, its answer passed on, its usage counted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.utils.translation import gettext_noop

from chat.admission import Admission, why_closed_now
from chat.balance import Balance, Standing
from chat.book import book
from chat.capacity import Places
from chat.directory import directory
from chat.limits import KeyLimits
from chat.metering import Meter
from chat.models import MessageState, Outcome
from chat.refusals import Refusal, bad_gateway
from chat.replies import Reply
from chat.served_models import first_model_of
from chat.sse import EventReader
from chat.transcript import Transcript
from chat.upstream import Answer, ask
from deployments.upstreams import Upstream

balance = Balance()
places = Places()
limits = KeyLimits()

LEFT = gettext_noop("The reader left before the answer was complete.")
BROKEN = gettext_noop("Something went wrong on our side; the site's log tells more.")
_PARSED_ON_THE_LOOP_BYTES = 256 * 1024


async def hold_exchange(admission: Admission, reply: Reply, *, keep: bool) -> None:
    """Answer through ``reply``, with the answer or with why there is none; with ``keep`` both turns go to the history.

    Cancelling it closes the upstream's connection at once and ends a kept answer as stopped.
    """
    transcript: Transcript | None = None
    try:
        async with let_through(admission) as meter:
            transcript = _transcript(admission) if keep else None
            async with open_answer(admission, meter) as answer:
                if transcript:
                    transcript.model = meter.model
                relay = _relay_stream if admission.ask.stream else _relay_whole
                await relay(admission, answer, reply, meter, transcript)
    except Refusal as told:
        refusal = await explained(told, admission)
        if transcript:
            transcript.end(MessageState.FAILED, refusal.message)
            await transcript.settled()
        await reply.refuse(refusal)
    except Exception:
        if transcript:
            transcript.end(MessageState.FAILED, BROKEN)
        raise
    finally:
        if transcript:
            transcript.end(MessageState.STOPPED, LEFT)  # says nothing when an end was told above


def _transcript(admission: Admission) -> Transcript:
    return Transcript(
        user_id=admission.caller.user_id,
        service_id=admission.target.service_id,
        question=admission.ask.question,
        model=admission.ask.model or admission.target.served_model,
    )


@asynccontextmanager
async def let_through(admission: Admission) -> AsyncIterator[Meter]:
    """A block within the key's limits and in a place of the target's; raises Refusal 429.

    The meter's ``outcome`` says how it ended: left by the client unless told otherwise. Usage is counted at the end.
    """
    caller, target = admission.caller, admission.target
    began = time.monotonic()
    spent = 0
    if caller.tokens_per_month:
        spent = (await directory().current()).spent.get(caller.key_id, 0) + book.unstored_tokens(caller.key_id)
    permit = await limits.admit(caller, spent)
    tokens = 0
    try:
        placed = await places.take(target)
        meter = Meter(caller, target, admission.ask, began)
        try:
            yield meter
        except Refusal as refusal:
            meter.outcome = Outcome.REFUSED if refusal.body is not None and refusal.status < 500 else Outcome.FAILED
            raise
        except Exception:
            meter.outcome = Outcome.FAILED
            raise
        finally:
            tokens = meter.end()
            if placed:
                places.leave(target)
    finally:
        permit.end(tokens)


@asynccontextmanager
async def open_answer(admission: Admission, meter: Meter) -> AsyncIterator[Answer]:
    """An instance's answer for as long as the block runs; when the first one has begun nothing, one other is asked.

    Leaving the block closes the connection at once, unless the answer was read to its end.
    """
    target = admission.target
    first = balance.choose(target.upstreams, admission.ask.prefix if target.sticky else b"")
    try:
        answer, standing = await _asked(first, admission, meter)
    except Refusal as refusal:
        others = [upstream for upstream in target.upstreams if upstream is not first]
        if not (refusal.elsewhere and others):
            raise
        answer, standing = await _asked(balance.choose(others), admission, meter)
    try:
        yield answer
    except BaseException as error:
        standing.end(error)
        raise
    else:
        standing.end()
    finally:
        answer.close()


async def explained(refusal: Refusal, admission: Admission) -> Refusal:
    """An unreachable instance may have been stopped a moment ago: then that is the reason to give."""
    if not (refusal.elsewhere and refusal.body is None):
        return refusal
    closed = await why_closed_now(admission.target)
    return Refusal(503, closed, "service_not_ready") if closed else refusal


async def _asked(upstream: Upstream, admission: Admission, meter: Meter) -> tuple[Answer, Standing]:
    """The upstream's answer, and its standing: whoever closes the one ends the request at the other."""
    wanted, target = admission.ask, admission.target
    standing = balance.begin(upstream)
    try:
        meter.instance = upstream.key
        meter.model = await _model_for(upstream, admission)
        body = wanted.body_for(meter.model)
        return await ask(upstream, wanted.kind.path, body, target.deadlines, stream=wanted.stream), standing
    except BaseException as error:
        standing.end(error)
        raise


async def _model_for(upstream: Upstream, admission: Admission) -> str:
    """What the upstream calls the model: the client may leave it out, or say the target's own name."""
    target, model = admission.target, admission.ask.model
    if model and model.casefold() not in (target.name.casefold(), target.served_model.casefold()):
        return model
    return target.served_model or await first_model_of(upstream) or model


def new_reader(admission: Admission, *, texts: bool) -> EventReader:
    return EventReader(texts=texts, hide_usage=not admission.ask.wants_usage)


async def next_block(answer: Answer, reader: EventReader, meter: Meter) -> tuple[bytes, bool]:
    """Whole events as they come, and whether the upstream has ended; what they tell is metered also when one is bad."""
    chunk = await answer.read()
    try:
        block = reader.feed(chunk) if chunk else reader.last_words()
    finally:
        meter.heard(reader.pieces)
        if reader.usage:
            meter.told(reader.usage)
    return block, not chunk


async def _relay_stream(
    admission: Admission, answer: Answer, reply: Reply, meter: Meter, transcript: Transcript | None
) -> None:
    """Pass events on as they come, up to ``[DONE]``; an answer cut short is told by Refusal."""
    reader = new_reader(admission, texts=transcript is not None)
    headers = _origin(answer)
    room = settings.STREAM_MAX_BYTES
    while not (reader.done or reader.error):
        block, ended = await next_block(answer, reader, meter)
        room -= len(block)
        if room < 0:
            raise bad_gateway(
                gettext_noop("The answer is longer than %(most)s bytes.") % {"most": settings.STREAM_MAX_BYTES},
                "answer_too_long",
            )
        if transcript:
            transcript.add(reader.take_text())
            if reader.error:  # stored before it is told: many clients look no further than at the error
                transcript.end(MessageState.FAILED, reader.error)
                await transcript.settled()
        if reader.done:
            meter.outcome = Outcome.COMPLETE
            await _finish(block, reply, headers, transcript)
            await answer.drained()
        elif block:
            await reply.piece(block, headers)
        if ended:
            break
    if reader.error:
        meter.outcome = Outcome.FAILED
        await reply.last()
    elif not reader.done:
        await _end_without_done(reader, reply, meter, transcript)


async def _finish(block: bytes, reply: Reply, headers: dict[str, str], transcript: Transcript | None) -> None:
    """The last events: all text at once, then ``[DONE]``, as soon as the history, if any, has the whole answer."""
    if transcript:
        mark = block.rfind(b"data:")
        if mark > 0:
            await reply.piece(block[:mark], headers)
        transcript.end(MessageState.COMPLETE)
        await transcript.settled()
        block = block[max(mark, 0) :]
    await reply.last_piece(block, headers)


async def _end_without_done(reader: EventReader, reply: Reply, meter: Meter, transcript: Transcript | None) -> None:
    """Some servers stop after the last choice's end; that is an answer, anything less is not."""
    if not (reader.finished and reply.started):
        raise bad_gateway(gettext_noop("The model server ended before its answer was complete."), "upstream_cut")
    meter.outcome = Outcome.COMPLETE
    if transcript:
        transcript.end(MessageState.COMPLETE)
        await transcript.settled()
    await reply.last()


async def _relay_whole(
    admission: Admission, answer: Answer, reply: Reply, meter: Meter, transcript: Transcript | None
) -> None:
    """Pass on one JSON answer, its bytes untouched, once it is known to be one."""
    body = await answer.whole(settings.STREAM_MAX_BYTES)
    parsed = await _parsed(body)
    chat = admission.ask.kind.name == "chat"
    text = _text_of(parsed) if chat else ""
    if not isinstance(parsed, dict):
        raise bad_gateway(gettext_noop("The model server's answer is not a JSON object."))
    meter.told(parsed.get("usage"))
    meter.outcome = Outcome.COMPLETE
    if transcript:
        transcript.add(text)
        transcript.end(MessageState.COMPLETE)
        await transcript.settled()
    await reply.whole(200, body, {"cache-control": "no-cache", **_origin(answer)})


async def _parsed(body: bytes) -> Any:
    """The answer, or None when it is no JSON; a large one is read beside the loop."""
    try:
        if len(body) > _PARSED_ON_THE_LOOP_BYTES:
            return await asyncio.to_thread(json.loads, body)
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _text_of(parsed: Any) -> str:
    try:
        message = parsed["choices"][0]["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise bad_gateway(gettext_noop("The model server's answer is not a chat completion.")) from None
    return content if isinstance(content, str) else ""


def _origin(answer: Answer) -> dict[str, str]:
    """Which server answered; percent-encoded, because names may be in any script."""
    return {"x-infini-server": _quoted(answer.upstream.server_name)}


@lru_cache(maxsize=1024)
def _quoted(name: str) -> str:
    return quote(name)
