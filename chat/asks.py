"""What a client asks for: read within a limit, checked, and passed on with nothing lost."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from django.utils.translation import gettext_noop

from chat.paths import Kind
from chat.refusals import Refusal

Receive = Callable[[], Awaitable[dict[str, Any]]]

_PARSED_ON_THE_LOOP_BYTES = 256 * 1024
# So much of how a conversation begins tells whether an instance has seen it before.
_PREFIX_CHARS = 4096
# Four letters are about a token; only for usage that no model server told.
CHARS_PER_TOKEN = 4


# What most streams lack, ready to be written into them.
_WISHES = {"stream_options": {"include_usage": True}}
_WISH = json.dumps(_WISHES)[1:-1].encode()


class ClientGone(Exception):
    """Nobody is left to answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """A valid request: ``raw`` as it came, beside it what we had to understand of it."""

    kind: Kind
    raw: bytes
    fields: dict[str, Any]

    @property
    def stream(self) -> bool:
        return bool(self.fields.get("stream"))

    @property
    def model(self) -> str:
        return self.fields.get("model") or ""

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for usage within the stream."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def question(self) -> str:
        """The text of the last user message; empty when there is none."""
        for message in reversed(self.fields.get("messages", ())):
            if message["role"] == "user":
                return _text_of(message.get("content"))
        return ""

    @property
    def prefix(self) -> bytes:
        """What a prefix cache would know this request by: who is meant to share it, else how it begins."""
        chosen = self.fields.get("prompt_cache_key")
        if isinstance(chosen, str) and chosen:
            return chosen.encode("utf-8", "replace")
        begin = self.fields.get("messages") or self.fields.get("prompt") or ""
        if isinstance(begin, list):
            begin = json.dumps(begin[:2])
        return str(begin)[:_PREFIX_CHARS].encode("utf-8", "replace")

    def estimated_prompt_tokens(self) -> int:
        """Reckoned from the text alone: pictures cost each model something else."""
        given = self.fields.get("prompt") or self.fields.get("input") or self.fields.get("documents") or ""
        texts = given if isinstance(given, list) else [given]
        texts = [*texts, *(_text_of(message.get("content")) for message in self.fields.get("messages", ()))]
        return sum(len(text) for text in texts if isinstance(text, str)) // CHARS_PER_TOKEN

    def body_for(self, model: str) -> bytes:
        """The body to send on: the client's own bytes, with what has to differ put into them.

        ``model`` where it named another, and for a stream the wish for usage.
        """
        changes: dict[str, Any] = {}
        if model != self.model:
            changes["model"] = model
        if self.stream and not self.wants_usage:
            options = self.fields.get("stream_options")
            changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        if not changes:
            return self.raw
        if changes.keys() & self.fields.keys():
            return json.dumps({**self.fields, **changes}).encode()
        return self._with_added(_WISH if changes == _WISHES else json.dumps(changes)[1:-1].encode())

    def _with_added(self, more: bytes) -> bytes:
        """The raw body with fields it lacks, before its last brace: megabytes of images are not written anew."""
        end = self.raw.rindex(b"}")
        return b"%b%b%b}" % (self.raw[:end], b", " if self.fields else b"", more)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part for part in content or [] if isinstance(part, dict)]
    return "\n".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts)


async def read_body(receive: Receive, *, most: int, announced: int) -> bytes:
    """The whole body; raises Refusal 413 as soon as it is known to pass ``most``, ClientGone when it never ends."""
    if announced > most:
        raise _too_large(most)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        gettext_noop("A request may carry at most %(most)s bytes.") % {"most": most},
        "request_too_large",
        headers={"connection": "close"},
    )


async def parse_ask(raw: bytes, kind: Kind) -> Ask:
    """Check a request; raises Refusal 400 naming what is wrong with it. Large ones are read beside the loop."""
    if len(raw) > _PARSED_ON_THE_LOOP_BYTES:
        return await asyncio.to_thread(_parse, raw, kind)
    return _parse(raw, kind)


def _parse(raw: bytes, kind: Kind) -> Ask:
    try:
        fields = _READER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refusal(400, gettext_noop("The body is not valid JSON."), "invalid_json") from None
    return check_ask(raw, fields, kind)


def check_ask(raw: bytes, fields: Any, kind: Kind) -> Ask:
    """The request made of ``fields``, which ``raw`` says in JSON; raises Refusal 400 naming what is wrong."""
    if not isinstance(fields, dict):
        raise Refusal(400, gettext_noop("The body must be a JSON object."), "invalid_json")
    _CHECKS[kind.name](fields)
    if not isinstance(fields.get("stream"), bool | None):
        raise _invalid("stream", gettext_noop("stream must be true or false."))
    if fields.get("stream") and not kind.streams:
        raise _invalid("stream", gettext_noop("%(path)s cannot be streamed.") % {"path": kind.path})
    if not isinstance(fields.get("model"), str | None):
        raise _invalid("model", gettext_noop("model must be a string."))
    if not isinstance(fields.get("stream_options"), dict | None):
        raise _invalid("stream_options", gettext_noop("stream_options must be an object."))
    return Ask(kind, raw, fields)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_READER = json.JSONDecoder(parse_constant=_refuse_constant)


def _check_chat(fields: dict[str, Any]) -> None:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", gettext_noop("messages must be a list with at least one message."))
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            name = f"messages[{position}]"
            raise _invalid(name, gettext_noop("%(name)s must be an object with role and content.") % {"name": name})
        if not isinstance(message.get("role"), str) or not message["role"]:
            name = f"messages[{position}]"
            raise _invalid(f"{name}.role", gettext_noop("%(name)s needs a role, such as user.") % {"name": name})
        if not isinstance(message.get("content"), str):
            _check_content(f"messages[{position}]", message)


def _check_content(name: str, message: dict[str, Any]) -> None:
    """Text or parts; only a message that calls tools may do without."""
    content = message.get("content")
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return
    if not isinstance(content, str | list):
        raise _invalid(
            f"{name}.content", gettext_noop("%(name)s needs a content: a string or a list of parts.") % {"name": name}
        )


def _check_completions(fields: dict[str, Any]) -> None:
    if not isinstance(fields.get("prompt"), str | list) or fields["prompt"] == []:
        raise _invalid("prompt", gettext_noop("prompt must be a string or a list."))


def _check_embeddings(fields: dict[str, Any]) -> None:
    if not isinstance(fields.get("input"), str | list) or fields["input"] == []:
        raise _invalid("input", gettext_noop("input must be a string or a list."))


def _check_rerank(fields: dict[str, Any]) -> None:
    if not fields.get("query"):
        raise _invalid("query", gettext_noop("query is missing."))
    if not isinstance(fields.get("documents"), list) or not fields["documents"]:
        raise _invalid("documents", gettext_noop("documents must be a list with at least one document."))


_CHECKS = {
    "chat": _check_chat,
    "completions": _check_completions,
    "embeddings": _check_embeddings,
    "rerank": _check_rerank,
}


def _invalid(param: str, message: str) -> Refusal:
    return Refusal(400, message, "invalid_value", param=param)
