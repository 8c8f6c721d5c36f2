"""One streamed answer of a service, piece by piece: how the chat page reaches a model server.

The same admission, balance and upstream as the gateway's; what is passed on here is words instead of bytes.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings

from chat.admission import Admission, why_closed_now
from chat.asks import Ask
from chat.exchange import in_flight, model_for
from chat.readiness import why_not_ready
from chat.refusals import Refusal, bad_gateway
from chat.sse import EventReader
from chat.upstream import Answer, asked
from deployments.models import Service
from deployments.upstreams import Upstream, upstreams_of


@dataclass(frozen=True)
class Piece:
    """Some words of an answer, or of what the model thinks before it; who speaks stands in the first one."""

    text: str = ""
    reasoning: str = ""
    server_name: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class PieceReader(EventReader):
    """Reads out of the events what the gateway does not look at: reasoning and usage."""

    def __init__(self) -> None:
        super().__init__()
        self.usage: tuple[int | None, int | None] = (None, None)
        self._reasoning: list[str] = []

    def take_reasoning(self) -> str:
        text = "".join(self._reasoning)
        self._reasoning.clear()
        return text

    def _understand(self, parsed: dict[str, Any]) -> None:
        super()._understand(parsed)
        usage = parsed.get("usage")
        if isinstance(usage, dict):
            self.usage = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
        choices = parsed.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            delta = choice.get("delta") if isinstance(choice, dict) and choice.get("index", 0) == 0 else None
            text = (delta.get("reasoning_content") or delta.get("reasoning")) if isinstance(delta, dict) else None
            if isinstance(text, str):
                self._reasoning.append(text)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


async def door_to(*, user_id: int, service_id: int) -> Admission:
    """The service's ready instances; raises Refusal 404 or 503 with the reason. The database is free afterwards."""
    return await database_sync_to_async(_door_to, thread_sensitive=False)(user_id, service_id)


def _door_to(user_id: int, service_id: int) -> Admission:
    service = Service.objects.with_status().filter(pk=service_id).first()
    if service is None:
        raise Refusal(404, f"There is no service {service_id}.", "service_not_found")
    upstreams = upstreams_of(service_id)
    if not upstreams:
        why = why_not_ready(service) or "Its ready instances have no port to be reached at."
        raise Refusal(503, f"{service.name} cannot answer now. {why}", "service_not_ready")
    return Admission(user_id, service.pk, service.name, service.served_model, upstreams, "")


async def pieces_of(door: Admission, fields: dict[str, Any]) -> AsyncIterator[Piece]:
    """Ask for ``fields``, a chat completion, and give the answer as it comes; raises Refusal when it fails.

    Closing the iterator, or cancelling who waits for it, closes the upstream at once.
    """
    ask = Ask(b"", {**fields, "stream": True, "stream_options": {"include_usage": True}})
    try:
        async with AsyncExitStack() as stack:
            answer, model = await _opened(stack, door, ask)
            yield Piece(server_name=answer.upstream.server_name, model=model)
            async for piece in _read(answer):
                yield piece
    except Refusal as refusal:
        closed = ""
        if refusal.elsewhere and refusal.body is None:
            closed = await database_sync_to_async(why_closed_now, thread_sensitive=False)(door.service_id)
        raise (Refusal(503, closed, "service_not_ready") if closed else refusal) from None


async def _opened(stack: AsyncExitStack, door: Admission, ask: Ask) -> tuple[Answer, str]:
    """An instance's answer; when the first one has begun nothing, one other is asked."""
    first = in_flight.choose(door.upstreams)
    others = [upstream for upstream in door.upstreams if upstream is not first]
    try:
        return await stack.enter_async_context(_asked(first, door, ask))
    except Refusal as refusal:
        if not (refusal.elsewhere and others):
            raise
    return await stack.enter_async_context(_asked(in_flight.choose(others), door, ask))


@asynccontextmanager
async def _asked(upstream: Upstream, door: Admission, ask: Ask) -> AsyncIterator[tuple[Answer, str]]:
    with in_flight.held(upstream):
        model = await model_for(upstream, door, ask)
        async with asked(upstream, ask.with_model(model), stream=True) as answer:
            yield answer, model


async def _read(answer: Answer) -> AsyncIterator[Piece]:
    reader = PieceReader()
    room = settings.STREAM_MAX_BYTES
    while not (reader.done or reader.error):
        chunk = await answer.read()
        room -= len(chunk)
        if room < 0:
            raise bad_gateway(f"The answer is longer than {settings.STREAM_MAX_BYTES} bytes.", "answer_too_long")
        if not chunk:
            reader.last_words()
            break
        reader.feed(chunk)
        piece = Piece(text=reader.take_text(), reasoning=reader.take_reasoning())
        if piece.text or piece.reasoning:
            yield piece
    prompt_tokens, completion_tokens = reader.usage
    yield Piece(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    if reader.error:
        raise bad_gateway(reader.error, "upstream_error")
    if not (reader.done or reader.finished):
        raise bad_gateway("The model server ended before its answer was complete.", "upstream_cut")
