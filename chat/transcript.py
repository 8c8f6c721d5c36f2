"""Saves an exchange while it happens: beside the stream, in pieces, and never in its way."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import Any

from django.db import Error as AnyDatabaseError

from chat import history
from chat.models import MessageState
from infini.off_loop import off_loop

logger = logging.getLogger(__name__)

PIECE_SECONDS = 0.5
# The rows are made after the first words or this long, whichever is first: a thread at work in the database
# while the first words come through would hold them up by several milliseconds.
OPENING_SECONDS = 0.05
LAST_TRIES = 4
# How long an answer's end waits for its last piece to be stored: who has seen the end finds it in the history.
SETTLE_SECONDS = 0.25

_running: set[asyncio.Task] = set()  # the loop itself holds its tasks only weakly


class Transcript:
    """One question and its answer. Starts saving once made, on the running loop; ``end`` must be called.

    With ``answer_id`` the rows are there already.

    Nothing here raises: what the database refuses is tried again with the next piece, logged, and given up at
    the end. An answer that could not be ended becomes an orphan, which reading turns into a failed one.
    """

    def __init__(
        self,
        *,
        user_id: int = 0,
        service_id: int = 0,
        question: str = "",
        model: str = "",
        answer_id: int | None = None,
    ) -> None:
        self.model = model
        self.figures: dict[str, Any] = {}  # columns of the answer, stored with its end
        self._open = partial(history.open_exchange, user_id=user_id, service_id=service_id, question=question)
        self._pending: list[str] = []
        self._reasoning: list[str] = []
        self._room = history.MESSAGE_MAX_CHARS
        self._outcome: tuple[str, str] | None = None
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._answer_id = answer_id
        self._touched = 0.0 if answer_id is None else time.monotonic()
        self._task = asyncio.get_running_loop().create_task(self._keep_saving())
        _running.add(self._task)
        self._task.add_done_callback(_running.discard)

    def add(self, text: str) -> None:
        """A piece of the answer; past the longest text we keep, pieces are dropped."""
        if text and self._room:
            kept = text[: self._room]
            self._room -= len(kept)
            self._pending.append(kept)
            self._begun.set()

    def add_reasoning(self, text: str) -> None:
        """A piece of what the model thought before its answer; it shares the answer's room."""
        if text and self._room:
            kept = text[: self._room]
            self._room -= len(kept)
            self._reasoning.append(kept)
            self._begun.set()

    def end(self, state: MessageState, reason: str = "") -> None:
        """How it ended; only the first call counts."""
        if self._outcome is None:
            self._outcome = (state.value, reason)
            self._begun.set()
            self._ended.set()

    async def settled(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait, for ``seconds`` at most, until the end is stored."""
        await asyncio.wait({self._task}, timeout=seconds)

    async def _keep_saving(self) -> None:
        failures = 0
        await _wait_for(self._begun, OPENING_SECONDS)
        while True:
            ending = self._outcome is not None
            try:
                await self._save()
            except AnyDatabaseError as error:
                failures += 1
                logger.warning("chat.not_saved", extra={"error": type(error).__name__, "tries": failures})
                if ending and failures >= LAST_TRIES:
                    return
                await asyncio.sleep(PIECE_SECONDS)
                continue
            failures = 0
            if ending:
                return
            await _wait_for(self._ended, PIECE_SECONDS)

    async def _save(self) -> None:
        """One visit to the database, if there is anything to tell it."""
        pieces, thoughts, outcome = len(self._pending), len(self._reasoning), self._outcome
        text, reasoning = "".join(self._pending), "".join(self._reasoning)
        due = time.monotonic() - self._touched > history.TOUCH_SECONDS
        if not (text or reasoning or outcome or due):
            return
        await off_loop(self._write, text, reasoning, outcome)
        del self._pending[:pieces]
        del self._reasoning[:thoughts]
        self._touched = time.monotonic()

    def _write(self, text: str, reasoning: str, outcome: tuple[str, str] | None) -> None:
        if self._answer_id is None:
            self._answer_id = self._open(model=self.model)
        pieces = {"text": text, "reasoning": reasoning}
        if outcome:
            state, reason = outcome
            history.end_answer(self._answer_id, **pieces, model=self.model, state=state, reason=reason, **self.figures)
        elif text or reasoning or self._touched:
            history.extend_answer(self._answer_id, **pieces)


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
