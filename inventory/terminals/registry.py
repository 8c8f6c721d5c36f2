"""The sessions this web process holds, and the one loop that looks after them."""

import asyncio
import logging
import time
from collections.abc import Iterable

from django.conf import settings
from django.utils.translation import gettext_noop

from infini.models import User
from infini.off_loop import off_loop
from inventory.models import Server
from inventory.terminals import recording, rows
from inventory.terminals.models import Ending
from inventory.terminals.session import End, Session

logger = logging.getLogger(__name__)

PERMISSION = "inventory.open_terminal"
TICK_SECONDS = recording.FLUSH_SECONDS
LOOK_EVERY_SECONDS = 3.0  # permissions, users, servers, and who was asked to end
WARN_SECONDS = 60.0

_sessions: dict[str, Session] = {}
_ending: set[asyncio.Task[None]] = set()
_watch: asyncio.Task[None] | None = None


def find(key: str) -> Session | None:
    return _sessions.get(key)


def all_here() -> list[Session]:
    return list(_sessions.values())


def add(session: Session) -> None:
    """Hold the session until it ends."""
    global _watch
    session.on_ended = _ended
    _sessions[session.key] = session
    if session.ended:  # before anybody held it
        _ended(session)
    if _watch is None or _watch.done():
        _watch = asyncio.get_running_loop().create_task(_look_after())


def _ended(session: Session) -> None:
    _sessions.pop(session.key, None)
    task = asyncio.get_running_loop().create_task(_write_end(session))
    _ending.add(task)
    task.add_done_callback(_ending.discard)


async def _write_end(session: Session) -> None:
    end = session.ended
    assert end is not None
    recorder = session.recorder
    if recorder:
        closed = asyncio.get_running_loop().create_future()
        recorder.finish(end.exit_status, lambda: session.on_loop(lambda: closed.set_result(None)))
        await closed
    await off_loop(_write_end_row, session, end)


def _write_end_row(session: Session, end: End) -> None:
    if session.recorder:
        made = session.recorder
        rows.end_recording(made.path.name, seconds=made.seconds, size=made.written_bytes, capped=made.capped)
    rows.end_row(session.key, end, input_bytes=session.input_bytes, output_bytes=session.buffer.end)


async def _look_after() -> None:
    """Until no session is left. A fault of one look does not end the looking."""
    looked = seen = time.monotonic()
    while _sessions:
        await asyncio.sleep(TICK_SECONDS)
        try:
            for session in all_here():
                _look_at(session)
            now = time.monotonic()
            if now - looked >= LOOK_EVERY_SECONDS:
                looked = now
                await _end_refused()
            if now - seen >= rows.SEEN_EVERY_SECONDS:
                seen = now
                await off_loop(rows.still_there, {s.key: s.owner is not None for s in all_here()})
        except Exception:  # noqa: BLE001  (a database that is busy for once must not leave sessions unwatched)
            logger.exception("terminal.watch_failed")


def _look_at(session: Session) -> None:
    session.look_again()
    now = time.monotonic()
    if session.owner is None and now - session.left_at >= settings.TERMINAL_GRACE_SECONDS:
        session.end(End(Ending.GRACE, gettext_noop("Nobody came back to this terminal in time.")))
        return
    left = session.last_input + settings.TERMINAL_IDLE_SECONDS - now
    if left <= 0:
        session.end(End(Ending.IDLE, gettext_noop("Nobody typed here for too long.")))
    elif left <= min(WARN_SECONDS, settings.TERMINAL_IDLE_SECONDS / 2) and not session.warned and session.owner:
        session.warned = True
        session.owner.attachment.tell({"type": "idle", "seconds": max(1, round(left))})


async def _end_refused() -> None:
    """End those whose user may no longer, whose server is gone, or whom somebody asked to end."""
    here = all_here()
    allowed, servers, asked = await off_loop(_standing, {s.user_id for s in here}, {s.server_id for s in here})
    for session in here:
        if session.user_id not in allowed:
            session.end(End(Ending.REVOKED, gettext_noop("You may no longer open terminals here; this one was ended.")))
        elif session.server_id not in servers:
            session.end(End(Ending.REVOKED, gettext_noop("This server was deleted; the terminal was ended.")))
        elif session.key in asked:
            name = asked[session.key]
            session.end(ended_by(session, name))


def ended_by(session: Session, name: str) -> End:
    if name == session.user_name:
        return End(Ending.CLOSED, by_name=name)
    return End(Ending.ENDED, gettext_noop("%(name)s ended this terminal.") % {"name": name}, by_name=name)


def _standing(users: set[int], servers: set[int]) -> tuple[set[int], set[int], dict[str, str]]:
    """Three queries, however many sessions there are."""
    may = User.objects.with_perm(PERMISSION, backend="django.contrib.auth.backends.ModelBackend")
    allowed = set(may.filter(pk__in=_some(users)).values_list("pk", flat=True))
    present = set(Server.objects.filter(pk__in=_some(servers)).values_list("pk", flat=True))
    return allowed, present, rows.asked_to_end()


def _some(ids: Iterable[int]) -> list[int]:
    return sorted(ids)


async def settled() -> None:
    """Wait until what has ended is written."""
    while _ending:
        await asyncio.wait(set(_ending))
