"""A terminal session: it owns the shell's channel, the output not yet acknowledged, and the recorder.

It outlives the sockets attached to it. Everything here runs on the event loop of the process, which mostly reads the
connection as well; ``from_shell`` and ``shell_ended`` may be called from a thread that does. Whoever watches gets bytes
by absolute offset and acknowledges them; the shell is not read while its owner is behind, so that nothing piles up.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from django.utils.translation import gettext_noop

from inventory.ssh.shells import ShellChannel, ShellEnd
from inventory.terminals.buffer import OutputBuffer
from inventory.terminals.models import Ending
from inventory.terminals.recording import Recorder

logger = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024  # sent and not acknowledged: the shell is not read beyond it
RESUME_BYTES = 64 * 1024
HISTORY_BYTES = 256 * 1024  # acknowledged and kept, for a page that was loaded anew
FRAME_BYTES = 64 * 1024
INPUT_WAITING_BYTES = 4 * 1024 * 1024
RECORDER_BACKLOG_BYTES = 1024 * 1024


@dataclass(frozen=True)
class End:
    """How a session ended, as its owner, the row and the recording are told."""

    kind: Ending
    message: str = ""
    by_name: str = ""
    exit_status: int | None = None
    signal: str = ""


class Attachment(Protocol):
    """A socket at a session: ``deliver`` and ``tell`` send at once and wait for nothing."""

    user_name: str
    manages: bool  # may watch whatever its owner says

    def deliver(self, data: bytes) -> None: ...

    def tell(self, frame: dict[str, Any]) -> None: ...

    def leave(self, frame: dict[str, Any], code: int) -> None: ...


class Place:
    """How far one socket is: what was sent to it, and what of that it has dealt with."""

    def __init__(self, attachment: Attachment, offset: int) -> None:
        self.attachment = attachment
        self.sent = offset
        self.acked = offset

    def acknowledge(self, count: int) -> None:
        self.acked = min(self.sent, self.acked + max(0, count))


class Session:
    """One shell of one user on one server, from its opening to its end."""

    def __init__(self, *, key: str, user_id: int, user_name: str, server_id: int, server_name: str) -> None:
        self.key = key
        self.user_id, self.user_name = user_id, user_name
        self.server_id, self.server_name = server_id, server_name
        self.cols, self.rows = 80, 24
        self.shell: ShellChannel | None = None
        self.recorder: Recorder | None = None
        self.buffer = OutputBuffer()
        self.owner: Place | None = None
        self.observers: dict[Attachment, Place] = {}
        self.shared = False
        self.ended: End | None = None
        self.on_ended: Callable[[Session], None] = lambda session: None
        self.input_bytes = 0
        self.last_input = self.left_at = time.monotonic()
        self.warned = False
        self._acked = 0  # by the owner, also while nobody is attached
        self._paused = False
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._incoming: deque[bytes] = deque()
        self._woken = False

    # From who reads the connection

    def from_shell(self, data: bytes) -> None:
        self._incoming.append(data)
        if threading.get_ident() == self._thread:
            self._take_in()
        elif not self._woken:
            self._woken = True
            self.on_loop(self._take_in)

    def shell_ended(self, how: ShellEnd) -> None:
        if how.lost:
            end = End(
                Ending.LOST,
                gettext_noop("The connection to %(server_name)s was lost, and the shell with it.")
                % {"server_name": self.server_name},
            )
        else:
            end = End(Ending.EXIT, exit_status=how.exit_status, signal=how.signal)
        self.on_loop(lambda: self._take_last(end))

    def on_loop(self, work: Callable[[], object]) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(work)

    # Output

    def _take_in(self) -> None:
        self._woken = False  # first: what comes while we take wakes us again
        data = b"".join(self._taken())
        if not data or self.ended:
            return
        self.buffer.append(data)
        if self.recorder:
            self.recorder.output(data)
        for place in self._places():
            self._send_on(place)
        self._regulate()

    def _take_last(self, end: End) -> None:
        self._take_in()
        self.end(end)

    def _taken(self) -> list[bytes]:
        taken = []
        while self._incoming:
            taken.append(self._incoming.popleft())
        return taken

    def _places(self) -> list[Place]:
        return [*([self.owner] if self.owner else []), *self.observers.values()]

    def _send_on(self, place: Place) -> None:
        """As much as fits this one's window; an observer who fell behind what is kept goes on from there."""
        if place.sent < self.buffer.start:
            place.attachment.tell({"type": "skipped", "bytes": self.buffer.start - place.sent})
            place.sent = place.acked = self.buffer.start
        while place.sent < self.buffer.end and place.sent - place.acked < WINDOW_BYTES:
            room = WINDOW_BYTES - (place.sent - place.acked)
            piece = self.buffer.read(place.sent, min(FRAME_BYTES, room))
            place.sent += len(piece)
            place.attachment.deliver(piece)

    def _regulate(self) -> None:
        """Read the shell or let it wait, by how far behind its owner and the recorder are."""
        behind = self.buffer.end - self._acked
        backlog = self.recorder.backlog_bytes if self.recorder else 0
        if not self.shell:
            return
        if not self._paused and (behind >= WINDOW_BYTES or backlog >= RECORDER_BACKLOG_BYTES):
            self._paused = True
            self.shell.pause()
        elif self._paused and behind < RESUME_BYTES and backlog < RECORDER_BACKLOG_BYTES:
            self._paused = False
            self.shell.resume()

    def look_again(self) -> None:
        """Called every half second: the recorder may have caught up."""
        if self.recorder:
            self.recorder.flush()
        self._regulate()

    def acknowledge(self, attachment: Attachment, count: int) -> None:
        place = self._place_of(attachment)
        if place is None:
            return
        place.acknowledge(count)
        self._send_on(place)
        if place is self.owner:
            self._acked = place.acked
            self.buffer.forget_before(self._acked - HISTORY_BYTES)
            self._regulate()

    def _place_of(self, attachment: Attachment) -> Place | None:
        if self.owner and self.owner.attachment is attachment:
            return self.owner
        return self.observers.get(attachment)

    # Who is attached

    def start_of(self, offset: int | None) -> int:
        """Where bytes begin for one who has those up to ``offset``; None has none."""
        return self.buffer.start if offset is None else max(self.buffer.start, min(offset, self.buffer.end))

    def attach(self, attachment: Attachment, offset: int) -> None:
        """Make this socket the owner's. One that is still there leaves: one person, one keyboard."""
        place = Place(attachment, offset)
        if self.ended:
            self._say_end(place, self.ended)
            return
        before, self.owner = self.owner, place
        if before:
            before.attachment.leave(
                {"type": "taken", "message": gettext_noop("This terminal was opened in another window.")}, 4409
            )
        self._acked = offset
        self._send_on(self.owner)
        self._regulate()
        if self.observers:
            self._tell_observers()

    def observe(self, attachment: Attachment) -> None:
        self.observers[attachment] = place = Place(attachment, self.buffer.start)
        self._tell_observers()
        self._send_on(place)

    def detach(self, attachment: Attachment) -> None:
        """A socket is gone; the shell goes on."""
        if self.observers.pop(attachment, None):
            self._tell_observers()
        elif self.owner and self.owner.attachment is attachment:
            self.owner = None
            self.left_at = time.monotonic()

    def share(self, shared: bool) -> None:
        """Whether others who may open terminals may watch; who watches by that right leaves when it ends."""
        self.shared = shared
        for observer in [one for one in self.observers if not shared and not one.manages]:
            del self.observers[observer]
            observer.leave(
                {"type": "error", "message": gettext_noop("Its owner does not share this terminal any more.")}, 4403
            )
        self._tell_observers()

    def _tell_observers(self) -> None:
        if self.owner:
            names = sorted(observer.user_name for observer in self.observers)
            self.owner.attachment.tell({"type": "observers", "names": names})

    # Input

    def input(self, data: bytes) -> bool:
        """Pass on what was typed; False when far more waits than the shell takes."""
        if not self.shell or self.ended:
            return True
        self.last_input = time.monotonic()
        self.warned = False
        self.input_bytes += len(data)
        return self.shell.write(data) <= INPUT_WAITING_BYTES

    def resize(self, cols: int, rows: int) -> None:
        if (cols, rows) == (self.cols, self.rows) or not self.shell or self.ended:
            return
        self.cols, self.rows = cols, rows
        self.shell.resize(cols, rows)
        if self.recorder:
            self.recorder.resized(cols, rows)
        for observer in self.observers:
            observer.tell({"type": "resized", "cols": cols, "rows": rows})

    # The end

    def end(self, end: End) -> None:
        """Over, for whatever reason; the first one counts. Everybody attached is told and leaves."""
        if self.ended:
            return
        self.ended = end
        for place in self._places():
            self._say_end(place, end)
        self.owner = None
        self.observers.clear()
        if self.shell:
            self.shell.close()
        self.on_ended(self)

    def _say_end(self, place: Place, end: End) -> None:
        """What is left goes out at once, whatever the window: a short command must not lose its last lines."""
        place.sent = max(place.sent, self.buffer.start)
        while place.sent < self.buffer.end:
            piece = self.buffer.read(place.sent, FRAME_BYTES)
            place.sent += len(piece)
            place.attachment.deliver(piece)
        place.attachment.leave(last_frame(end), 4403 if end.kind == Ending.REVOKED else 1000)


def last_frame(end: End) -> dict[str, Any]:
    """``exit`` with how the shell ended, null where that was not seen, and why the session is over."""
    if end.kind == Ending.REVOKED:
        return {"type": "error", "code": "revoked", "message": end.message}
    frame = {"type": "exit", "status": end.exit_status, "signal": end.signal or None, "reason": end.kind.value}
    return frame | ({"message": end.message} if end.message else {}) | ({"by": end.by_name} if end.by_name else {})
