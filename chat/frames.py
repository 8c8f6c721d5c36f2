"""What comes in over the chat socket, checked, and how much goes out before it is acknowledged."""

import asyncio
import json
from collections import deque
from typing import Any

from django.utils.translation import gettext as _

from chat.watching import CHUNK_CHARS
from infini.errors import Invalid

WINDOW_CHARS = 256 * 1024
REF_MOST_CHARS = 64
ID_MOST = 2**63 - 1


class Window:
    """Chunks sent and not acknowledged. The web server takes whatever it is given: a page that reads slowly would
    otherwise have its answers wait for it in this process."""

    def __init__(self) -> None:
        self.number = 0
        self._open: deque[tuple[int, int]] = deque()
        self._waiting_chars = 0
        self._changed = asyncio.Event()

    def sent(self, chars: int) -> int:
        """The number of the chunk that is sent now."""
        self.number += 1
        self._open.append((self.number, chars))
        self._waiting_chars += chars
        return self.number

    def acknowledge(self, number: int) -> None:
        while self._open and self._open[0][0] <= number:
            self._waiting_chars -= self._open.popleft()[1]
        self._changed.set()

    async def room(self) -> None:
        while self._waiting_chars + CHUNK_CHARS > WINDOW_CHARS:
            self._changed.clear()
            await self._changed.wait()


def frame_of(text: str | None) -> dict[str, Any]:
    """Raises Invalid for what is no JSON object."""
    try:
        frame = json.loads(text or "")
    except (ValueError, RecursionError):
        frame = None
    if not isinstance(frame, dict):
        raise Invalid(_("A frame is a JSON object."))
    return frame


def ref_of(frame: dict[str, Any]) -> str:
    """The client's own word for this request, sent back with what follows from it."""
    ref = frame.get("ref", "")
    if not isinstance(ref, str) or len(ref) > REF_MOST_CHARS:
        raise Invalid(_("ref must be a text of at most {n} characters.").format(n=REF_MOST_CHARS))
    return ref


def id_in(frame: dict[str, Any], name: str) -> int | None:
    """A whole number from 0 on, or None when it is absent; raises Invalid."""
    value = frame.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= ID_MOST):
        raise Invalid(_("{name} must be a whole number.").format(name=name))
    return value


def needed_id(frame: dict[str, Any], name: str) -> int:
    value = id_in(frame, name)
    if value is None:
        raise Invalid(_("{name} is missing.").format(name=name))
    return value
