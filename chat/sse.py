"""Server-sent events of an OpenAI stream: cut where an event ends, read beside it, passed on as they came."""

import json
import re
from typing import Any

from chat.refusals import bad_gateway

EVENT_MAX_BYTES = 1024 * 1024

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4
DONE = b"[DONE]"


class EventReader:
    """Fed with an upstream's bytes; gives back those of whole events, unchanged, and keeps the rest until it is whole.

    Half an event says nothing to any client, and held back it cannot spoil the error event that follows a cut.
    What it understood stands in ``done``, ``finished`` and ``error``; text is taken with ``take_text``.
    """

    def __init__(self) -> None:
        self.done = False
        self.finished = False
        self.error = ""
        self._rest = bytearray()
        self._texts: list[str] = []

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may go on now; raises Refusal for an event that is no JSON object or never ends.

        Nothing after ``[DONE]`` or after an error event goes on: with either the answer is over.
        """
        searched = max(0, len(self._rest) - _LONGEST_END)
        self._rest += chunk
        begin = 0
        for end in _EVENT_END.finditer(self._rest, searched):
            self._read(bytes(self._rest[begin : end.start()]))
            begin = end.end()
            if self.done or self.error:
                break
        if not (self.done or self.error) and len(self._rest) - begin > EVENT_MAX_BYTES:
            raise bad_gateway(f"The model server sent an event of more than {EVENT_MAX_BYTES} bytes.")
        whole = bytes(self._rest[:begin])
        del self._rest[:begin]
        return whole

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

    def _read(self, event: bytes) -> None:
        data = _data_of(event)
        if not data:
            return
        if data == DONE:
            self.done = True
            return
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise bad_gateway("The model server sent an event that is not a JSON object.")
        self._understand(parsed)

    def _understand(self, parsed: dict[str, Any]) -> None:
        if parsed.get("error"):
            self.error = error_message(parsed["error"])
            return
        choices = parsed.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(text, str):
                self._texts.append(text)
            self.finished = self.finished or bool(choice.get("finish_reason"))


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
