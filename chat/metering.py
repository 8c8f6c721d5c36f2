"""What one request took: noted while it runs, handed to the book of usage when it ends, however it ends."""

import time
from datetime import UTC, datetime
from typing import Any

from chat.asks import Ask
from chat.book import book
from chat.callers import Caller
from chat.models import Outcome
from chat.targets import Target
from chat.usage import Entry


class Meter:
    """One request's figures. ``end`` counts once; until then it is among the book's open ones."""

    __slots__ = (
        "_ask",
        "_began",
        "_caller",
        "_estimated",
        "_first_at",
        "_target",
        "completion",
        "instance",
        "model",
        "outcome",
        "pieces",
        "prompt",
    )

    def __init__(self, caller: Caller, target: Target, ask: Ask, began: float) -> None:
        self._caller, self._target = caller, target
        self._ask: Ask | None = ask
        self._began = began
        self._first_at = 0.0
        self._estimated = True
        self.instance = ""
        self.model = ""
        self.pieces = 0
        self.prompt = 0
        self.completion = 0
        self.outcome = Outcome.CANCELLED
        book.opened(self)

    def heard(self, pieces: int) -> None:
        """So many pieces of the answer have gone by in all."""
        if pieces and not self._first_at:
            self._first_at = time.monotonic()
        self.pieces = pieces

    def told(self, usage: Any) -> None:
        """What the model server itself says; nonsense is as if it had said nothing."""
        if not isinstance(usage, dict):
            return
        prompt, completion = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        if prompt is None and completion is None:
            prompt = _count(usage.get("total_tokens"))  # as some tell of embeddings and reranking
        if prompt is not None or completion is not None:
            self.prompt, self.completion, self._estimated = prompt or 0, completion or 0, False

    def end(self) -> int:
        """Enter the request into the book; returns its tokens. Only the first call counts."""
        (ask, self._ask), outcome = (self._ask, None), self.outcome
        if ask is None:
            return 0
        if self._estimated and outcome != Outcome.REFUSED and (outcome == Outcome.COMPLETE or self.pieces):
            self.prompt, self.completion = ask.estimated_prompt_tokens(), self.pieces
        elif self._estimated:
            self._estimated = False  # nothing came: nothing was used that we know of
        book.ended(self, self._row(ask, outcome))
        return self.prompt + self.completion

    def _row(self, ask: Ask, outcome: Outcome) -> Entry:
        caller, target = self._caller, self._target
        return Entry(
            at=datetime.now(UTC),
            user_id=caller.user_id,
            user_name=caller.user_name[:150],
            key_id=caller.key_id,
            key_name=caller.key_name[:100],
            service_id=target.service_id,
            endpoint_id=target.endpoint_id,
            service_name=target.name[:200],
            instance=self.instance[:64],
            model=(self.model or target.public_name)[:200],
            path=ask.kind.name,
            streamed=ask.stream,
            prompt_tokens=self.prompt,
            completion_tokens=self.completion,
            estimated=self._estimated,
            first_token_ms=round((self._first_at - self._began) * 1000) if self._first_at else None,
            duration_ms=round((time.monotonic() - self._began) * 1000),
            outcome=outcome.value,
        )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else None
