"""Who follows a conversation in this process, and how they learn that it changed.

What happens in this process is told at once; what another one did is seen by one query a second for all that is
followed, however many follow it. Nothing is carried here but "look again": the database has the rest.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from django.db import Error as AnyDatabaseError

from chat.models import Conversation
from infini.off_loop import off_loop

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Look = Callable[[], None]

_rooms: dict[int, list[Look]] = defaultdict(list)
_versions: dict[int, int | None] = {}
_polling: dict[int, asyncio.Task[None]] = {}  # per event loop


def enter(conversation_id: int, look: Look) -> None:
    """Have ``look`` called when the conversation may have changed. Call from the loop that polls."""
    _rooms[conversation_id].append(look)
    loop = asyncio.get_running_loop()
    if id(loop) not in _polling:
        _polling[id(loop)] = loop.create_task(_poll())


def leave(conversation_id: int, look: Look) -> None:
    looks = _rooms.get(conversation_id, [])
    if look in looks:
        looks.remove(look)
    if not looks:
        _rooms.pop(conversation_id, None)
        _versions.pop(conversation_id, None)


def changed(conversation_id: int) -> None:
    """Something happened in this process."""
    for look in list(_rooms.get(conversation_id, [])):
        look()


async def _poll() -> None:
    """Runs while anything is followed."""
    try:
        while _rooms:
            await asyncio.sleep(POLL_SECONDS)
            await _look_once()
    finally:
        del _polling[id(asyncio.get_running_loop())]


async def _look_once() -> None:
    try:
        found = await off_loop(_read_versions, list(_rooms))
    except AnyDatabaseError as error:
        logger.warning("chat.rooms_not_read", extra={"error": type(error).__name__})
        return
    for conversation_id in list(_rooms):
        version = found.get(conversation_id)
        known = _versions.get(conversation_id, 0)  # new here: whatever happened since it was entered counts too
        _versions[conversation_id] = version
        if known != version:
            changed(conversation_id)


def _read_versions(ids: list[int]) -> dict[int, int]:
    return dict(Conversation.objects.filter(pk__in=ids).values_list("pk", "version"))
