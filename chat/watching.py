"""Reading an answer while it is written, from any offset: in this process from memory, else from the database."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from django.db.models.functions import Length, Substr
from django.utils.translation import gettext as _

from chat import history
from chat.generation import Generation, running
from chat.models import Message, MessageState
from chat.threads import END_COLUMNS
from infini.errors import NotFound
from infini.off_loop import off_loop

CHUNK_CHARS = 16_384
STORED_POLL_SECONDS = 0.5
PACE_SECONDS = 0.02  # between two chunks: what came meanwhile goes together
TRACKS = ("reasoning", "content")


@dataclass(frozen=True)
class Chunk:
    """Text of one track from ``offset`` to ``next``, in characters (code points)."""

    track: str
    offset: int
    next: int
    text: str


@dataclass(frozen=True)
class Ended:
    """How the answer ended: ``threads.end_of``. Nothing follows."""

    end: dict[str, Any]


async def watch(answer_id: int, offsets: dict[str, int]) -> AsyncGenerator[Chunk | Ended, None]:
    """What follows ``offsets`` (by track) until the answer's end. Whoever asks has been found to own the answer.

    It is pulled: nothing is kept for a reader who is slow. Raises NotFound when the answer was deleted.
    """
    at = dict(offsets)
    generation = running(answer_id)
    source = _from_memory(generation, at) if generation else _from_database(answer_id, at)
    async for found in source:
        if isinstance(found, Chunk):
            at[found.track] = found.next
        yield found
        if isinstance(found, Chunk):
            await asyncio.sleep(PACE_SECONDS)


async def _from_memory(generation: Generation, at: dict[str, int]) -> AsyncGenerator[Chunk | Ended, None]:
    tracks = {"reasoning": generation.reasoning, "content": generation.content}
    while True:
        news = generation.news()
        chunks = [_chunk(name, at[name], track.since(at[name], most=CHUNK_CHARS)) for name, track in tracks.items()]
        chunks = [chunk for chunk in chunks if chunk.text]
        for chunk in chunks:
            yield chunk
        if not chunks and generation.end is not None:
            yield Ended(generation.end)
            return
        if not chunks:
            await news.wait()


async def _from_database(answer_id: int, at: dict[str, int]) -> AsyncGenerator[Chunk | Ended, None]:
    while True:
        row = await off_loop(_read, answer_id, dict(at))
        chunks = [_chunk(name, at[name], row[f"{name}_part"]) for name in TRACKS if row[f"{name}_part"]]
        for chunk in chunks:
            yield chunk
        if not chunks and row["state"] != MessageState.STREAMING:
            yield Ended({name: row[name] for name in (*END_COLUMNS, "length", "reasoning_length")})
            return
        if not chunks:
            await asyncio.sleep(STORED_POLL_SECONDS)


def _chunk(track: str, offset: int, text: str) -> Chunk:
    return Chunk(track, offset, offset + len(text), text)


def _read(answer_id: int, at: dict[str, int]) -> dict[str, Any]:
    mine = Message.objects.filter(pk=answer_id)
    history.end_orphans(mine)
    parts = {f"{name}_part": Substr(name, at[name] + 1, CHUNK_CHARS) for name in TRACKS}
    lengths = {"length": Length("content"), "reasoning_length": Length("reasoning")}
    row = mine.annotate(**parts, **lengths).values(*END_COLUMNS, *parts, *lengths).first()
    if row is None:
        raise NotFound(_("The conversation was deleted."))
    return row
