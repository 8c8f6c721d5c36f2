"""Server-sent events of an OpenAI stream: cut where an event ends, read only where needed, passed on as they came."""

import json
import re
from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext_noop

from chat.refusals import bad_gateway

EVENT_MAX_BYTES = 1024 * 1024

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4
DONE = b"[DONE]"
_SAYING = [(name + mark, name + mark + b'"') for name in (b'"content":', b'"text":') for mark in (b'"', b' "')]
# An event with none of these says nothing to us: a piece of the answer like the one before. Inside a JSON string a
# quotation mark is escaped, so none of them can be the model's own words, except the first, which only costs time.
_TELLING = (DONE, b'"error"', b'"usage":{', b'"usage": {', b'"finish_reason":"', b'"finish_reason": "', b"\r")


class EventReader:
    """Fed with an upstream's bytes; gives back those of whole events, unchanged, and keeps the rest until it is whole.

    Half an event says nothing to any client, and held back it cannot spoil the error event that follows a cut.
    What it understood stands in ``done``, ``finished``, ``error``, ``usage`` and ``pieces`` (events with a part of an
    answer); with ``texts`` the first choice's text is collected for ``take_text``. With ``hide_usage`` the event that
    tells usage alone is kept back: the client did not ask for it, we did.
    """

    def __init__(self, *, texts: bool = True, hide_usage: bool = False) -> None:
        self.done = False
        self.finished = False
        self.error = ""
        self.usage: dict[str, Any] | None = None
        self.pieces = 0
        self._reads_texts = texts
        self._hides_usage = hide_usage
        self._rest = bytearray()
        self._texts: list[str] = []

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may go on now; raises Refusal for an event that is no JSON object or never ends.

        Nothing after ``[DONE]`` or after an error event goes on: with either the answer is over.
        """
        quick = not (self._rest or self._reads_texts) and (self.pieces or _is_one_piece(chunk))
        plain = self._plain_part(chunk) if quick else 0
        if plain == len(chunk):
            return chunk
        return chunk[:plain] + self._feed_by_event(chunk[plain:])

    def _feed_by_event(self, chunk: bytes) -> bytes:
        searched = max(0, len(self._rest) - _LONGEST_END)
        if self._rest:
            self._rest += chunk
            ended = _EVENT_END.search(self._rest, searched)
            chunk = bytes(self._rest) if ended or len(self._rest) > EVENT_MAX_BYTES else b""
            if not chunk:
                return b""
        begin = kept_from = 0
        kept: list[bytes] = []
        wait_for_piece = not (self.pieces or self._reads_texts)  # with the first one the quick way is open
        for last, end in _blank_lines(chunk, searched):
            if not self._read(chunk[begin:last]):
                kept.append(chunk[kept_from:begin])
                kept_from = end
            begin = end
            if self.done or self.error or (wait_for_piece and self.pieces):
                break
        if wait_for_piece and self.pieces and not (self.done or self.error):
            kept.append(chunk[kept_from:begin])
            self._rest = bytearray()
            return b"".join(kept) + self.feed(chunk[begin:])
        if not (self.done or self.error) and len(chunk) - begin > EVENT_MAX_BYTES:
            raise bad_gateway(
                gettext_noop("The model server sent an event of more than %(event_max_bytes)s bytes.")
                % {"event_max_bytes": EVENT_MAX_BYTES}
            )
        self._rest = bytearray(chunk[begin:])
        kept.append(chunk[kept_from:begin])
        return b"".join(kept)

    def last_words(self) -> bytes:
        """What may still go on at the upstream's end: a ``[DONE]`` that lacks its blank line, else nothing."""
        rest = bytes(self._rest)
        if not self.done and _data_of(rest.strip()) == DONE:
            self.done = True
            return rest
        return b""

    def take_text(self) -> str:
        """The answer's text since it was last taken."""
        text = "".join(self._texts)
        self._texts.clear()
        return text

    def _plain_part(self, chunk: bytes) -> int:
        """How many of its first bytes are whole events, objects all, with nothing that concerns us: the way of most."""
        told = min((at for at in map(chunk.find, _TELLING) if at >= 0), default=len(chunk))
        end = chunk.rfind(b"}\n\n", 0, told) + 3
        events = chunk.count(b"\n\n", 0, end)
        if end < 3 or not chunk.startswith(b"data: {") or chunk.count(b"\n", 0, end) != 2 * events:
            return 0
        if chunk.count(b"}\n\n", 0, end) != events or chunk.count(b"\n\ndata: {", 0, end) != events - 1:
            return 0
        self.pieces += events
        return end

    def _read(self, event: bytes) -> bool:
        """Understand one event; whether it is for the client."""
        data = _data_of(event)
        if not data:
            return True
        if data == DONE:
            self.done = True
            return True
        try:
            parsed = json.loads(data.decode())  # of bytes it would guess the encoding first
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise bad_gateway(gettext_noop("The model server sent an event that is not a JSON object."))
        return self._understand(parsed)

    def _understand(self, parsed: dict[str, Any]) -> bool:
        if parsed.get("error"):
            self.error = error_message(parsed["error"])
            return True
        choices = parsed.get("choices")
        if isinstance(parsed.get("usage"), dict):
            self.usage = parsed["usage"]
            if not choices and self._hides_usage:
                return False
        said = False
        for choice in choices if isinstance(choices, list) else []:
            said = self._hear(choice) or said
        self.pieces += said
        return True

    def _hear(self, choice: Any) -> bool:
        """Take in one choice; whether it carries a part of an answer."""
        if not isinstance(choice, dict):
            return False
        delta = choice.get("delta")
        parts = delta if isinstance(delta, dict) else {"text": choice.get("text")}
        if choice.get("index", 0) == 0:
            text = parts.get("content")
            if isinstance(text, str) and self._reads_texts:
                self._texts.append(text)
            self.finished = self.finished or bool(choice.get("finish_reason"))
        return any(value for name, value in parts.items() if name != "role")


def _is_one_piece(chunk: bytes) -> bool:
    """Whether this is surely one event with a part of an answer. Inside a JSON string quotation marks are escaped."""
    return chunk.count(b"\n\n") == 1 and any(says in chunk and empty not in chunk for says, empty in _SAYING)


def _blank_lines(chunk: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where each blank line from ``at`` on begins and ends."""
    if b"\r" in chunk:
        yield from (found.span() for found in _EVENT_END.finditer(chunk, at))
        return
    while (at := chunk.find(b"\n\n", at)) >= 0:
        yield at, at + 2
        at += 2


def split_events(block: bytes) -> list[dict[str, Any]]:
    """The objects in a block that a reader gave back."""
    datas = [_data_of(event.strip()) for event in _EVENT_END.split(block)]
    return [json.loads(data) for data in datas if data and data != DONE]


def _data_of(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def error_message(error: Any) -> str:
    """A sentence out of whatever an upstream put under ``error``."""
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"]:
        return error["message"][:500]
    return str(error)[:500]
