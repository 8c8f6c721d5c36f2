"""Reading what an instance wrote: pieces of its log, by byte offset, from the agent that keeps it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from deployments.models import Instance
from infini.errors import NotFound
from infini.models import User
from infini.said import said
from infini.visibility import visible
from inventory.agents import AgentAddress, AgentClient, AgentError, AgentRejects, AgentSpeaksNonsense, Ask

PIECE_BYTES = 64 * 1024
PIECE_MAX_BYTES = 1024 * 1024
OFFSET_MAX = 10**15  # beyond any log: the agent answers with where the log ends
READ_TIMEOUT_SECONDS = 10.0
DOWNLOAD_TRIES = 4


class NoLogYet(AgentError):
    """The agent answered and knows nothing of this instance: it was not started there yet."""

    code, http_status = "no_log", 404


@dataclass(frozen=True)
class LogSource:
    """Whose log, and which agent keeps it."""

    instance_id: int
    key: str
    address: AgentAddress


@dataclass(frozen=True)
class Piece:
    """Text between two offsets. ``offset`` is later than asked for when what was there has been rotated away."""

    offset: int
    next_offset: int
    size: int
    data: str


def log_source(instance_id: int, *, reader: User) -> LogSource:
    """Where this instance's log is kept; raises NotFound, also for one that ``reader`` may not see."""
    found = visible(Instance.objects.select_related("placement__server"), reader).filter(pk=instance_id).first()
    if found is None:
        raise NotFound(_("There is no such instance."))
    return LogSource(found.pk, found.key, AgentAddress.of(found.placement.server))


async def read_piece(client: AgentClient, source: LogSource, *, offset: int, limit: int = PIECE_BYTES) -> Piece:
    """Up to ``limit`` bytes from ``offset`` on, ending between two characters; raises AgentError."""
    return await _ask(client, source, f"offset={offset}&limit={limit}")


async def read_tail(client: AgentClient, source: LogSource, *, lines: int) -> Piece:
    """The last lines, at most 1 MiB of them; raises AgentError."""
    return await _ask(client, source, f"tail={lines}")


async def whole_log(source: LogSource) -> AsyncIterator[str]:
    """Everything the agent still has up to the moment it is asked: what is written later is left to the next time.

    Raises AgentError before the first piece. Later ones are tried again; when the agent stays away the text ends with a
    line that says so, because a file that is merely short looks whole.
    """
    async with AgentClient() as client:
        piece = await read_piece(client, source, offset=0, limit=PIECE_MAX_BYTES)
        end = piece.size
        yield piece.data
        while piece.data and piece.next_offset < end:
            limit = min(PIECE_MAX_BYTES, end - piece.next_offset)
            try:
                piece = await _read_again(client, source, piece.next_offset, limit)
            except AgentError as error:
                yield _("\n[The log breaks off here: %(message)s]\n") % {"message": said(error.message)}
                return
            yield piece.data


async def _read_again(client: AgentClient, source: LogSource, offset: int, limit: int) -> Piece:
    for wait_seconds in range(1, DOWNLOAD_TRIES):
        try:
            return await read_piece(client, source, offset=offset, limit=limit)
        except AgentError:
            await asyncio.sleep(wait_seconds)
    return await read_piece(client, source, offset=offset, limit=limit)


async def _ask(client: AgentClient, source: LogSource, query: str) -> Piece:
    path = f"/service/{source.key}/logs?{query}"
    name = source.address.server_name
    try:
        answer = await client.ask(Ask(source.address, "GET", path, timeout_seconds=READ_TIMEOUT_SECONDS))
    except AgentRejects as error:
        if error.status == 404:
            raise NoLogYet(
                _("The agent on %(name)s has no log of this instance: it was not started there yet.") % {"name": name}
            ) from None
        raise
    return _piece(answer, name)


def _piece(answer: dict[str, Any], name: str) -> Piece:
    numbers = [answer.get(part) for part in ("offset", "next_offset", "size")]
    text = answer.get("data")
    if not isinstance(text, str) or not all(type(number) is int for number in numbers):
        raise AgentSpeaksNonsense(
            _("The agent on %(name)s answered a request for a log with something else.") % {"name": name}
        )
    offset, next_offset, size = numbers
    return Piece(offset, next_offset, size, text)  # type: ignore[arg-type]
