"""Answers being written in this process. An answer belongs to the server: whoever asked may close the page.

A generation is a task that reads the model server, keeps what came for those who watch, and has it saved beside.
When its process dies its row is an orphan, which whoever reads it next ends as failed.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections import Counter
from contextlib import aclosing
from typing import Any

from django.db import Error as AnyDatabaseError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from chat import history, rooms
from chat.asking import Door
from chat.completion import Piece, pieces_of
from chat.exchange import BROKEN
from chat.models import MessageState
from chat.refusals import Refusal
from chat.transcript import Transcript
from infini.errors import InfiniError
from infini.off_loop import off_loop

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how soon a stop by another process, or a deleted conversation, is noticed
SETTLE_SECONDS = 5.0  # who is told of an end may ask on at once, so it is stored first
PERSON_MOST = 8  # answers one person may have written at once by this process


class TooMany(InfiniError):
    code, http_status = "too_many", 429


class Track:
    """Text that only grows, read on from any offset in characters."""

    def __init__(self) -> None:
        self.length = 0
        self._starts: list[int] = []
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        if text:
            self._starts.append(self.length)
            self._pieces.append(text)
            self.length += len(text)

    def since(self, offset: int, *, most: int) -> str:
        """At most ``most`` characters from ``offset`` on."""
        if offset >= self.length:
            return ""
        at = bisect_right(self._starts, offset) - 1
        found = [self._pieces[at][offset - self._starts[at] :]]
        size = len(found[0])
        while size < most and (at := at + 1) < len(self._pieces):
            found.append(self._pieces[at])
            size += len(self._pieces[at])
        return "".join(found)[:most]


class Generation:
    """One answer while it is written; ``end`` is set once it is over and stored."""

    def __init__(self, *, answer_id: int, conversation_id: int, user_id: int) -> None:
        self.answer_id = answer_id
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.content, self.reasoning = Track(), Track()
        self.server_name = self.model = ""
        self.end: dict[str, Any] | None = None
        self._news = asyncio.Event()
        self._stop_reason = ""
        self._asked_at = time.monotonic()
        self._first_at = self._last_at = 0.0
        self._pieces = 0
        self._tokens: tuple[int | None, int | None] = (None, None)
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def start(self, door: Door, fields: dict[str, Any]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(door, fields))

    def stop(self, reason: str) -> None:
        """Close the upstream now and end the answer as stopped."""
        if self._task and not self._over:
            self._over = True  # cancelled once: what follows is the storing of its end
            self._stop_reason = reason
            self._task.cancel()

    def news(self) -> asyncio.Event:
        """Set when anything has changed since this was called."""
        return self._news

    async def _run(self, door: Door, fields: dict[str, Any]) -> None:
        transcript = Transcript(answer_id=self.answer_id, model=self.model)
        look = asyncio.create_task(self._look())
        state, reason = MessageState.FAILED, BROKEN
        try:
            async with aclosing(pieces_of(door, fields)) as pieces:
                async for piece in pieces:
                    self._take(piece, transcript)
            state, reason = MessageState.COMPLETE, ""
        except asyncio.CancelledError:
            state, reason = MessageState.STOPPED, self._stop_reason
        except Refusal as refusal:
            reason = refusal.message
        except Exception:  # noqa: BLE001  (the edge of our code: the answer says that it failed, the log the rest)
            logger.exception("chat.generation_broken", extra={"answer": self.answer_id})
        finally:
            self._over = True
            look.cancel()
            transcript.model = self.model
            transcript.figures = self._figures()
            transcript.end(state, reason)
        await transcript.settled(SETTLE_SECONDS)
        self.end = {"state": state.value, "reason": reason, **transcript.figures, **self._said()}
        del _running[self.answer_id]
        self._tell()
        rooms.changed(self.conversation_id)

    def _take(self, piece: Piece, transcript: Transcript) -> None:
        if piece.server_name:
            self.server_name, self.model = piece.server_name, piece.model
        if piece.prompt_tokens is not None or piece.completion_tokens is not None:
            self._tokens = (piece.prompt_tokens, piece.completion_tokens)
        if piece.text or piece.reasoning:
            self._last_at = time.monotonic()
            self._first_at = self._first_at or self._last_at
            self._pieces += 1
            room = history.MESSAGE_MAX_CHARS - self.content.length - self.reasoning.length
            self.reasoning.add(piece.reasoning[:room])
            self.content.add(piece.text[: max(0, room - len(piece.reasoning))])
            transcript.add_reasoning(piece.reasoning)
            transcript.add(piece.text)
        self._tell()

    def _figures(self) -> dict[str, Any]:
        """What it took, as the columns of its row."""
        prompt_tokens, completion_tokens = self._tokens
        seconds = self._last_at - self._first_at
        count = self._pieces if completion_tokens is None else completion_tokens
        return {
            "server_name": self.server_name[:200],
            "first_token_ms": round((self._first_at - self._asked_at) * 1000) if self._first_at else None,
            "duration_ms": round((time.monotonic() - self._asked_at) * 1000),
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "tokens_per_second": round((count - 1) / seconds, 2) if seconds > 0.05 and count > 1 else None,
        }

    def _said(self) -> dict[str, Any]:
        return {"model": self.model, "length": self.content.length, "reasoning_length": self.reasoning.length}

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _look(self) -> None:
        """Notice what other processes did: an answer whose row has ended or is gone is written for nobody."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                living = await off_loop(_is_living, self.answer_id)
            except AnyDatabaseError as error:
                logger.warning("chat.generation_not_seen", extra={"error": type(error).__name__})
                continue
            if not living:
                self.stop(gettext_noop("It was stopped or deleted elsewhere."))
                return


def _is_living(answer_id: int) -> bool:
    return history.living(answer_id).exists()


_running: dict[int, Generation] = {}


def running(answer_id: int) -> Generation | None:
    """The answer's generation, when it is this process's."""
    return _running.get(answer_id)


def generate(door: Door, *, answer_id: int, conversation_id: int, user_id: int, fields: dict[str, Any]) -> Generation:
    """Begin to write the answer; it goes on whoever watches."""
    made = _running[answer_id] = Generation(answer_id=answer_id, conversation_id=conversation_id, user_id=user_id)
    made.start(door, fields)
    return made


def check_room_for(user_id: int) -> None:
    """Raises TooMany when the person has enough answers being written."""
    if Counter(one.user_id for one in _running.values())[user_id] >= PERSON_MOST:
        raise TooMany(_("{n} answers are being written for you already. Wait for one to end.").format(n=PERSON_MOST))
