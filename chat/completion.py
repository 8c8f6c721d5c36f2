"""One streamed answer of a service as words, for the chat page; the way there is the gateway's own (chat/asking.py)."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from chat.asking import Door, ask_through, text_of


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of an answer, or of what the model thinks before it. Who speaks stands in the first piece, how many
    tokens it took in the last."""

    text: str = ""
    reasoning: str = ""
    server_name: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


async def pieces_of(door: Door, fields: dict[str, Any]) -> AsyncGenerator[Piece, None]:
    """Ask for ``fields``, a chat completion, and give the answer as it comes; raises Refusal when it fails.

    Closing the iterator, or cancelling who waits for it, closes the model server's connection at once.
    """
    async with ask_through(door, fields) as speech:
        yield Piece(server_name=speech.server_name, model=speech.model)
        async for event in speech.events:
            piece = _piece_of(event)
            if piece is not None:
                yield piece


def _piece_of(event: dict[str, Any]) -> Piece | None:
    usage = event.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    piece = Piece(
        text=text_of(event),
        reasoning=_reasoning_of(event),
        prompt_tokens=_count(counted.get("prompt_tokens")),
        completion_tokens=_count(counted.get("completion_tokens")),
    )
    return piece if piece != Piece() else None


def _reasoning_of(event: dict[str, Any]) -> str:
    """``reasoning_content`` as vLLM, SGLang and DeepSeek have it, ``reasoning`` as Ollama and newer ones."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("index", 0) == 0 and isinstance(choice.get("delta"), dict):
            text = choice["delta"].get("reasoning_content") or choice["delta"].get("reasoning")
            return text if isinstance(text, str) else ""
    return ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
