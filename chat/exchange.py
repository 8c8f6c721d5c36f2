"""One question put to a service: the instance chosen, its answer passed on, both kept in the history."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote

from channels.db import database_sync_to_async
from django.conf import settings

from chat.admission import Admission, why_closed_now
from chat.asks import Ask
from chat.balance import InFlight
from chat.models import MessageState
from chat.refusals import Refusal, bad_gateway
from chat.replies import Reply
from chat.served_models import first_model_of
from chat.sse import EventReader
from chat.transcript import Transcript
from chat.upstream import Answer, asked
from deployments.upstreams import Upstream

in_flight = InFlight()

LEFT = "The reader left before the answer was complete."
BROKEN = "Something went wrong on our side; the site's log tells more."


async def hold_exchange(admission: Admission, ask: Ask, reply: Reply) -> None:
    """Answer ``ask`` through ``reply``, with the answer or with why there is none.

    Cancelling it closes the upstream's connection at once and ends the answer as stopped.
    """
    transcript = Transcript(
        user_id=admission.user_id,
        service_id=admission.service_id,
        question=ask.question,
        model=ask.model or admission.served_model,
    )
    try:
        async with AsyncExitStack() as stack:
            answer = await _open(stack, admission, ask, transcript)
            relay = _relay_stream if ask.stream else _relay_whole
            await relay(answer, reply, transcript)
    except Refusal as told:
        refusal = await _explained(told, admission)
        transcript.end(MessageState.FAILED, refusal.message)
        await transcript.settled()
        await reply.refuse(refusal)
    except Exception:
        transcript.end(MessageState.FAILED, BROKEN)
        raise
    finally:
        transcript.end(MessageState.STOPPED, LEFT)  # says nothing when an end was told above


async def _open(stack: AsyncExitStack, admission: Admission, ask: Ask, transcript: Transcript) -> Answer:
    """An instance's answer; when the first one has begun nothing, one other is asked."""
    first = in_flight.choose(admission.upstreams)
    others = [upstream for upstream in admission.upstreams if upstream is not first]
    try:
        return await stack.enter_async_context(_asked(first, admission, ask, transcript))
    except Refusal as refusal:
        if not (refusal.elsewhere and others):
            raise
    return await stack.enter_async_context(_asked(in_flight.choose(others), admission, ask, transcript))


async def _explained(refusal: Refusal, admission: Admission) -> Refusal:
    """An unreachable instance may have been stopped a moment ago: then that is the reason to give."""
    if not (refusal.elsewhere and refusal.body is None):
        return refusal
    closed = await database_sync_to_async(why_closed_now, thread_sensitive=False)(admission.service_id)
    return Refusal(503, closed, "service_not_ready") if closed else refusal


@asynccontextmanager
async def _asked(upstream: Upstream, admission: Admission, ask: Ask, transcript: Transcript) -> AsyncIterator[Answer]:
    with in_flight.held(upstream):
        transcript.model = await model_for(upstream, admission, ask)
        async with asked(upstream, ask.naming(transcript.model), stream=ask.stream) as answer:
            yield answer


async def model_for(upstream: Upstream, admission: Admission, ask: Ask) -> str:
    """What the upstream calls the model: the client may leave it out, or say the service's own name."""
    if ask.model and ask.model.casefold() != admission.service_name.casefold():
        return ask.model
    return admission.served_model or await first_model_of(upstream) or ask.model


async def _relay_stream(answer: Answer, reply: Reply, transcript: Transcript) -> None:
    """Pass events on as they come, up to ``[DONE]``; an answer cut short is told by Refusal."""
    reader = EventReader()
    headers = _origin(answer)
    room = settings.STREAM_MAX_BYTES
    while not (reader.done or reader.error):
        chunk = await answer.read()
        block = reader.feed(chunk) if chunk else reader.last_words()
        room -= len(block)
        if room < 0:
            raise bad_gateway(f"The answer is longer than {settings.STREAM_MAX_BYTES} bytes.", "answer_too_long")
        transcript.add(reader.take_text())
        if reader.done:
            await _finish(block, reply, headers, transcript)
        elif block:
            await reply.piece(block, headers)
        if not chunk:
            break
    if reader.error:
        transcript.end(MessageState.FAILED, reader.error)
        await transcript.settled()
        await reply.last()
    elif not reader.done:
        await _end_without_done(reader, reply, transcript)


async def _finish(block: bytes, reply: Reply, headers: dict[str, str], transcript: Transcript) -> None:
    """The last events: all text at once, then ``[DONE]``, as soon as the history has the whole answer."""
    mark = block.rfind(b"data:")
    if mark > 0:
        await reply.piece(block[:mark], headers)
    transcript.end(MessageState.COMPLETE)
    await transcript.settled()
    await reply.piece(block[max(mark, 0) :], headers)
    await reply.last()


async def _end_without_done(reader: EventReader, reply: Reply, transcript: Transcript) -> None:
    """Some servers stop after the last choice's end; that is an answer, anything less is not."""
    if not (reader.finished and reply.started):
        raise bad_gateway("The model server ended before its answer was complete.", "upstream_cut")
    transcript.end(MessageState.COMPLETE)
    await transcript.settled()
    await reply.last()


async def _relay_whole(answer: Answer, reply: Reply, transcript: Transcript) -> None:
    """Pass on one JSON answer, its bytes untouched, once it is known to be one."""
    parts: list[bytes] = []
    size = 0
    while chunk := await answer.read():
        parts.append(chunk)
        size += len(chunk)
        if size > settings.STREAM_MAX_BYTES:
            raise bad_gateway(f"The answer is longer than {settings.STREAM_MAX_BYTES} bytes.", "answer_too_long")
    body = b"".join(parts)
    transcript.add(_text_of(body))
    transcript.end(MessageState.COMPLETE)
    await transcript.settled()
    await reply.whole(200, body, {"cache-control": "no-cache", **_origin(answer)})


def _text_of(body: bytes) -> str:
    try:
        choices = json.loads(body)["choices"]
        message = choices[0]["message"]
        content = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise bad_gateway("The model server's answer is not a chat completion.") from None
    return content if isinstance(content, str) else ""


def _origin(answer: Answer) -> dict[str, str]:
    """Which server answered; percent-encoded, because names may be in any script."""
    return {"x-infini-server": quote(answer.upstream.server_name)}
