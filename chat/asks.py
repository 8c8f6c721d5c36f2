"""What a client asks for: read within a limit, checked, and passed on with nothing lost."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from chat.refusals import Refusal

Receive = Callable[[], Awaitable[dict[str, Any]]]

_PARSED_ON_THE_LOOP_BYTES = 256 * 1024


class ClientGone(Exception):
    """Nobody is left to answer."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """A valid request: ``raw`` as it came, beside it what we had to understand of it."""

    raw: bytes
    fields: dict[str, Any]

    @property
    def stream(self) -> bool:
        return bool(self.fields.get("stream"))

    @property
    def model(self) -> str:
        return self.fields.get("model") or ""

    @property
    def question(self) -> str:
        """The text of the last user message; empty when there is none."""
        for message in reversed(self.fields["messages"]):
            if message["role"] == "user":
                return _text_of(message.get("content"))
        return ""

    def naming(self, model: str) -> bytes:
        """The body to send on for ``model``; the client's own bytes when it named the same."""
        return self.raw if model == self.model else self.with_model(model)

    def with_model(self, model: str) -> bytes:
        """The fields for ``model``, written anew."""
        return json.dumps({**self.fields, "model": model}).encode()


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part for part in content or [] if isinstance(part, dict)]
    return "\n".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts)


async def read_body(receive: Receive, *, most: int, announced: int) -> bytes:
    """The whole body; raises Refusal 413 as soon as it is known to pass ``most``, ClientGone when it never ends."""
    if announced > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"A request may carry at most {most} bytes.", "request_too_large")


async def parse_ask(raw: bytes) -> Ask:
    """Check a request; raises Refusal 400 naming what is wrong with it. Large ones are read beside the loop."""
    if len(raw) > _PARSED_ON_THE_LOOP_BYTES:
        return await asyncio.to_thread(_parse, raw)
    return _parse(raw)


def _parse(raw: bytes) -> Ask:
    try:
        fields = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.", "invalid_json") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "The body must be a JSON object.", "invalid_json")
    _check_messages(fields.get("messages"))
    if not isinstance(fields.get("stream"), bool | None):
        raise _invalid("stream", "stream must be true or false.")
    if not isinstance(fields.get("model"), str | None):
        raise _invalid("model", "model must be a string.")
    return Ask(raw, fields)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", "messages must be a list with at least one message.")
    for position, message in enumerate(messages):
        name = f"messages[{position}]"
        if not isinstance(message, dict):
            raise _invalid(name, f"{name} must be an object with role and content.")
        if not isinstance(message.get("role"), str) or not message["role"]:
            raise _invalid(f"{name}.role", f"{name} needs a role, such as user.")
        _check_content(name, message)


def _check_content(name: str, message: dict[str, Any]) -> None:
    """Text or parts; only a message that calls tools may do without."""
    content = message.get("content")
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return
    if not isinstance(content, str | list):
        raise _invalid(f"{name}.content", f"{name} needs a content: a string or a list of parts.")


def _invalid(param: str, message: str) -> Refusal:
    return Refusal(400, message, "invalid_value", param=param)
