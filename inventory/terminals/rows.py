"""What the database keeps of terminals: opened, still there, ended, recorded; and how long it keeps it.

A web process writes of its own sessions only. Rows of a process that is gone are ended by whoever finds them:
``end_forgotten`` and ``prune`` may run anywhere, at once and twice; each moves a row by condition.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from infini import events
from infini.models import User
from inventory.models import Server
from inventory.terminals import recording
from inventory.terminals.models import Ending, Recording, RecordingState, TerminalSession
from inventory.terminals.session import End

HOST = socket.gethostname()
PROCESS = f"{HOST}:{os.getpid()}:{secrets.token_hex(4)}"
SEEN_EVERY_SECONDS = 20.0
FORGOTTEN_SECONDS = 90.0
PRUNE_MOST = 200
TEND_EVERY_SECONDS = 60.0
# What an end tells of the session: neither the server's secrets nor all else it has.
_ENDS_WITH = ("user_name", "user__username", "server__name")


def new_key() -> str:
    """What opens a session again: nobody guesses it, and it still takes the owner's login."""
    return secrets.token_hex(16)


def recorded(server: Server) -> bool:
    """Whether terminals on ``server`` are recorded: by the site's setting, or by its own where that says so."""
    return settings.TERMINAL_RECORD == "always" or (
        settings.TERMINAL_RECORD == "per-server" and server.record_terminals
    )


def open_row(*, key: str, user: User, server: Server, account: str, service_name: str, file: str) -> int:
    """Write that a session was opened, with its event; returns the row's id. ``file`` empty: not recorded."""
    with transaction.atomic():
        row = TerminalSession.objects.create(
            key=key, user=user, user_name=user.get_username(), server=server, server_name=server.name,
            account=account, service_name=service_name, process=PROCESS,
        )  # fmt: skip
        if file:
            Recording.objects.create(session=row, file=file)
        data = {"account": account, "recorded": bool(file)} | ({"service": service_name} if service_name else {})
        events.record("terminal.opened", server, by=user, data=data)
    return row.pk


def refused(*, user: User, server: Server, message: str) -> None:
    """Write that a terminal could not be opened, and why."""
    events.record("terminal.refused", server, by=user, data={"reason": message})


def end_row(key: str, end: End, *, input_bytes: int = 0, output_bytes: int = 0) -> bool:
    """Write the end of a session, with its event; False when it had ended already."""
    with transaction.atomic():
        rows = TerminalSession.objects.filter(key=key, ended_at=None)
        row = rows.select_related("user", "server").only(*_ENDS_WITH).order_by().first()
        moved = row and TerminalSession.objects.filter(pk=row.pk, ended_at=None).update(
            ended_at=timezone.now(), ending=end.kind, ended_by_name=end.by_name, exit_status=end.exit_status,
            signal=end.signal[:20], input_bytes=input_bytes, output_bytes=output_bytes, attached=False,
        )  # fmt: skip
        if not row or not moved:
            return False
        by = _who(end.by_name, row.user)
        told = {"user": row.user_name, "ending": end.kind.value, "exit_status": end.exit_status, "signal": end.signal}
        subject = row.server or Server(pk=0, name=row.server_name)
        events.record("terminal.ended", subject, by=by, data={k: v for k, v in told.items() if v not in (None, "")})
    return True


def _who(name: str, owner: User | None) -> User | None:
    if owner and owner.username == name:
        return owner  # as nearly always
    return User.objects.filter(username=name).first() if name else None


def end_recording(file: str, *, seconds: float, size: int, capped: bool) -> None:
    state = RecordingState.CAPPED if capped else RecordingState.FINISHED
    Recording.objects.filter(file=file, state=RecordingState.RUNNING).update(state=state, seconds=seconds, bytes=size)


def still_there(attached: dict[str, bool]) -> None:
    """Write that this process holds these sessions; a number of queries that does not grow."""
    rows = TerminalSession.objects.filter(process=PROCESS, ended_at=None)
    rows.update(seen_at=timezone.now())
    here = [key for key, is_attached in attached.items() if is_attached]
    for keys, value in ((here, True), ([key for key in attached if key not in set(here)], False)):
        for start in range(0, len(keys), 500):
            rows.filter(key__in=keys[start : start + 500]).exclude(attached=value).update(attached=value)


def asked_to_end() -> dict[str, str]:
    """``{key: name}`` of this process's sessions that somebody asked to end, wherever he asked."""
    asked = TerminalSession.objects.filter(process=PROCESS, ended_at=None).exclude(end_asked_by=None)
    return dict(asked.values_list("key", "end_asked_by__username"))


def end_forgotten() -> int:
    """End rows whose process is gone; returns how many."""
    rows = TerminalSession.objects.filter(ended_at=None).exclude(process=PROCESS)
    gone = [key for key, process, seen in rows.values_list("key", "process", "seen_at") if _is_gone(process, seen)]
    for key in gone:
        end_row(key, End(Ending.RESTARTED))
        _close_recording(key)
    return len(gone)


def _is_gone(process: str, seen: datetime) -> bool:
    """On this host the process itself tells; one that stood still for long, as the whole machine may, is not gone.
    Of another host only its silence is known, and here of one whose number somebody else may have by now."""
    host, pid, _token = process.rsplit(":", 2)
    silent = timezone.now() - seen
    if host != HOST:
        return silent > timedelta(seconds=FORGOTTEN_SECONDS)
    return int(pid) == os.getpid() or silent > timedelta(days=1) or not _runs(int(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _close_recording(key: str) -> None:
    """Measure what a process left behind: all of it but its last half second is there."""
    for made in Recording.objects.filter(session__key=key, state=RecordingState.RUNNING):
        path = recording.recordings_dir() / made.file
        values: dict[str, Any] = {"state": RecordingState.CUT}
        with suppress(OSError, ValueError):
            values |= {"seconds": recording.length_of(path), "bytes": path.stat().st_size}
        Recording.objects.filter(pk=made.pk, state=RecordingState.RUNNING).update(**values)


_tended_at = -TEND_EVERY_SECONDS


def tend() -> None:
    """End what a dead process left open, and delete what is too old; the monitor calls it each round, and once a
    minute it does something."""
    global _tended_at
    if time.monotonic() - _tended_at < TEND_EVERY_SECONDS:
        return
    _tended_at = time.monotonic()
    end_forgotten()
    prune()


def prune() -> int:
    """Delete ended sessions and recordings older than their age, at most some hundred at a time; returns how many.

    The file goes first: a row without a file says so, a file without a row would be nobody's.
    """
    now = timezone.now()
    old = now - timedelta(days=settings.RECORDING_KEEP_DAYS)
    rows = TerminalSession.objects.filter(ended_at__lt=old).values_list("pk", "recording__file")[:PRUNE_MOST]
    doomed = list(rows)
    _remove_files(file for _pk, file in doomed if file)
    TerminalSession.objects.filter(pk__in=[pk for pk, _file in doomed]).delete()
    return len(doomed)


def _remove_files(files: Iterable[str]) -> None:
    for file in files:
        recording.remove(recording.recordings_dir() / file)


def remove_recording(row: Recording, *, by: events.Actor) -> None:
    """Delete a finished recording with its file; the session's row stays."""
    with transaction.atomic():
        subject = row.session.server or Server(pk=0, name=row.session.server_name)
        data = {"user": row.session.user_name, "opened_at": row.session.opened_at.isoformat(timespec="seconds")}
        events.record("terminal.recording_removed", subject, by=by, data=data)
        file = row.file
        row.delete()
    _remove_files([file])


def ask_to_end(row: TerminalSession, *, by: User) -> bool:
    """Have the process that holds the session end it; False when it had ended."""
    return bool(TerminalSession.objects.filter(pk=row.pk, ended_at=None).update(end_asked_by=by, seen_at=F("seen_at")))
