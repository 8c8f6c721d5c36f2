"""Run one command on a server and see it through: its output, its end, and nothing left of it when it is stopped."""

import codecs
import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from django.utils import timezone
from django.utils.translation import gettext_noop

from inventory.ssh import scripts
from inventory.ssh.access import SshAccess
from inventory.ssh.channels import StreamChannel
from inventory.ssh.connections import CONNECT_TIMEOUT_SECONDS, Connection, connected
from inventory.ssh.errors import SshConnectionLost, SshError
from inventory.ssh.handshakes import BROKEN
from inventory.ssh.logins import Deadline

OUTPUT_MAX_BYTES = 1024 * 1024
# How often a caller's wish to stop is looked at.
_LOOK_SECONDS = 0.1
# After the command's own end: how long its output may be silent before what holds it open is taken for something left
# in the background. sshd tells the end before it has read all output, and a loaded machine takes its time for the rest.
_LINGER_SECONDS = 2.0
# After everything was ended: how long its last words are waited for.
_LAST_WORDS_SECONDS = 0.5
# How long a stopped command may take to end by itself before it is killed, and how long that is waited for.
STOP_GRACE_SECONDS = 3
_STOP_WAIT_SECONDS = 30.0
_OPENING_MAX_BYTES = 4096

OnOutput = Callable[[str, bytes], None]


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. ``output`` and ``error`` are head and tail where ``truncated_bytes`` were cut.

    ``exit_status`` is None when ``signal`` ended it, or when it was stopped (``timed_out``, ``cancelled``) and
    said nothing on its way out.
    """

    output: str
    error: str
    exit_status: int | None
    signal: str
    timed_out: bool
    cancelled: bool
    truncated_bytes: int
    started_at: datetime
    finished_at: datetime

    @property
    def success(self) -> bool:
        return self.exit_status == 0 and not self.timed_out and not self.cancelled


def run(
    access: SshAccess,
    command: str,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_seconds: float = 60.0,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    output_max_bytes: int = OUTPUT_MAX_BYTES,
    on_output: OnOutput | None = None,
    cancelled: threading.Event | None = None,
) -> CommandResult:
    """Run ``command`` in a login shell (``bash -lc``, else ``sh -lc``) in a session of its own, and wait for its end.

    ``environment`` reaches the command and nobody else. ``on_output("stdout" or "stderr", piece)`` is called in this
    thread for each piece as it comes; the command waits while it does. When it raises, when ``cancelled`` is set, or
    after ``timeout_seconds``, everything the command started is ended, asked first and killed after
    ``STOP_GRACE_SECONDS``. What a command left running in the background when it ended goes on, and is not waited
    for. At most ``output_max_bytes`` each of output and error are kept.

    Raises SshError when it could not be started, SshConnectionLost when contact broke while it ran, Invalid for an
    environment that cannot be one.
    """
    preamble = scripts.preamble(command, environment or {})
    with connected(access, connect_timeout_seconds) as connection:
        kept = {"stdout": _Kept(output_max_bytes), "stderr": _Kept(output_max_bytes)}
        running = _Running(connection, secrets.token_hex(16), kept, on_output)
        running.start(preamble, stdin, connect_timeout_seconds)
    return running.see_through(timeout_seconds, cancelled)


class _Took(Enum):
    NOTHING, SOMETHING, END = range(3)


class _Running:
    """One command while it runs. Who reads the connection puts what arrives, the caller takes it."""

    def __init__(
        self, connection: Connection, token: str, kept: "dict[str, _Kept]", on_output: OnOutput | None
    ) -> None:
        self.connection = connection
        self.token = token
        self.kept = kept
        self.on_output = on_output
        self.arrived: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.opening: bytearray | None = bytearray()  # of the output, until the line that tells our process
        self.leader = 0
        self.started_at = timezone.now()
        self.channel: StreamChannel

    def start(self, preamble: bytes, stdin: bytes, timeout_seconds: float) -> None:
        self._execute(scripts.start(self.token), timeout_seconds)
        try:
            self.channel.settimeout(timeout_seconds)
            self.channel.sendall(preamble)
            if len(stdin) <= self.channel.out_window_size:
                self._send_input(stdin)
            else:
                threading.Thread(target=self._send_input, args=(stdin,), daemon=True, name="ssh-input").start()
        except BROKEN:
            raise self._lost() from None

    def stop_other(self, other: "_Running") -> bool:
        """End what ``other`` started; whether nothing of it is left."""
        self.opening = None
        self._execute(scripts.end(other.leader, other.token, STOP_GRACE_SECONDS), CONNECT_TIMEOUT_SECONDS)
        self._send_input(scripts.ending())
        limit = Deadline(_STOP_WAIT_SECONDS)
        while limit.left() > 0 and self.take(0.02) is not _Took.END:
            other.take(0.0)  # what still writes must not wait for us
        self.channel.close()
        if self.channel.lost:
            raise self._lost()
        return self.channel.status == 0

    def _execute(self, line: str, timeout_seconds: float) -> None:
        self.channel = self.connection.open_stream(
            lambda stream, data: self.arrived.put((stream, data)),
            lambda: self.arrived.put(None),
            timeout_seconds=timeout_seconds,
        )
        self.channel.on_exit = lambda: self.arrived.put(("exit", b""))
        try:
            self.channel.request("exec", line)
        except BROKEN:
            raise self._lost() from None

    def _send_input(self, stdin: bytes) -> None:
        """A command need not read what it is given: then this waits until its channel ends."""
        with contextlib.suppress(*BROKEN):  # it ended first, which its reader sees
            self.channel.settimeout(None)
            if stdin:
                self.channel.sendall(stdin)
            self.channel.shutdown_write()

    def see_through(self, timeout_seconds: float, cancelled: threading.Event | None) -> CommandResult:
        deadline = Deadline(timeout_seconds)
        timed_out = was_cancelled = False
        try:
            had_ended = False
            while (took := self.take(self._patience(deadline, cancelled))) is not _Took.END:
                if had_ended and (took is _Took.NOTHING or deadline.left() <= 0):
                    break  # what it left in the background keeps the output open
                # Only what is not there although we knew of the end when we began to wait counts as silence.
                had_ended = self._has_ended()
                was_cancelled = not had_ended and cancelled is not None and cancelled.is_set()
                timed_out = not had_ended and not was_cancelled and deadline.left() <= 0
                if was_cancelled or timed_out:
                    self._stop()
                    break
        except SshError:
            raise
        except BaseException:  # of the caller's own: nothing may run on that nobody looks at any more
            self.on_output = None
            with contextlib.suppress(SshError):
                self._stop()
            raise
        finally:
            self._close()
        if self.channel.lost and not self._has_ended():
            raise self._lost()
        return self._result(timed_out, was_cancelled)

    def _patience(self, deadline: Deadline, cancelled: threading.Event | None) -> float:
        if self._has_ended():
            return min(_LINGER_SECONDS, deadline.left())
        return min(deadline.left(), _LOOK_SECONDS) if cancelled else deadline.left()

    def _has_ended(self) -> bool:
        return self.channel.status is not None or bool(self.channel.signal)

    def _stop(self) -> None:
        """End everything the command started and take its last words; raises SshError when that could not be done."""
        telling = Deadline(CONNECT_TIMEOUT_SECONDS)
        while not self.leader and self.opening is not None and telling.left() > 0:
            if self.take(telling.left()) is _Took.END:
                return
        stopper = _Running(self.connection, secrets.token_hex(16), {"stdout": _Kept(0), "stderr": _Kept(0)}, None)
        if not stopper.stop_other(self):
            self.kept["stderr"].add(b"\n[some of its processes could not be ended]\n")
        last_words = Deadline(_LAST_WORDS_SECONDS)
        while last_words.left() > 0 and self.take(last_words.left()) is not _Took.END:
            pass

    def take(self, patience_seconds: float) -> _Took:
        """Take the next thing that arrives, waiting at most ``patience_seconds`` for it."""
        try:
            item = self.arrived.get(timeout=patience_seconds) if patience_seconds > 0 else self.arrived.get_nowait()
        except queue.Empty:
            return _Took.NOTHING
        if item is None:
            self.arrived.put(None)  # whoever asks again is told again
            self._keep("stdout", self._whole_opening())
            return _Took.END
        stream, data = item
        if stream == "stdout" and self.opening is not None:
            self.opening += data
            self._keep(stream, self._after_opening())
        else:
            self._keep(stream, data)
        with contextlib.suppress(*BROKEN):  # then the end is on its way
            self.channel.acknowledge(len(data))
        return _Took.SOMETHING

    def _keep(self, stream: str, data: bytes) -> None:
        if data:
            self.kept[stream].add(data)
            if self.on_output:
                self.on_output(stream, data)

    def _after_opening(self) -> bytes:
        """What follows the line that tells our process; what the account's start files wrote before it is dropped."""
        assert self.opening is not None
        mark = self.token.encode() + b" "
        before, found, after = bytes(self.opening).partition(mark)
        number, ended, rest = after.partition(b"\n")
        if found and ended:
            self.leader = int(number) if number.isdigit() else 0
            self.opening = None
            return rest
        return self._whole_opening() if len(self.opening) > _OPENING_MAX_BYTES else b""

    def _whole_opening(self) -> bytes:
        """Something else answers than our script, a forced command say: all it wrote is output."""
        whole = bytes(self.opening or b"")
        self.opening = None
        return whole

    def _close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self.channel.close()

    def _lost(self) -> SshError:
        name = self.connection.access.server_name
        return SshConnectionLost(
            gettext_noop("The connection to %(name)s was lost while the command ran; its outcome is unknown.")
            % {"name": name}
        )

    def _result(self, timed_out: bool, was_cancelled: bool) -> CommandResult:
        return CommandResult(
            output=self.kept["stdout"].text(),
            error=self.kept["stderr"].text(),
            exit_status=None if self.channel.signal else self.channel.status,
            signal=self.channel.signal,
            timed_out=timed_out,
            cancelled=was_cancelled,
            truncated_bytes=sum(kept.cut_bytes for kept in self.kept.values()),
            started_at=self.started_at,
            finished_at=timezone.now(),
        )


class _Kept:
    """The first and the last half of ``most_bytes`` of a stream."""

    def __init__(self, most_bytes: int) -> None:
        self._head_bytes = most_bytes // 2
        self._tail_bytes = most_bytes - self._head_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:  # moved once in a while, not with each piece
            del self._tail[: len(self._tail) - self._tail_bytes]

    @property
    def cut_bytes(self) -> int:
        return max(0, self._total - len(self._head) - self._tail_bytes)

    def text(self) -> str:
        """As UTF-8, what is none replaced; a character that the cut went through is left out."""
        if not self.cut_bytes:
            return bytes(self._head + self._tail).decode(errors="replace")
        head = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._head))
        tail = bytes(self._tail[-self._tail_bytes :]) if self._tail_bytes else b""
        while tail and tail[0] & 0xC0 == 0x80:
            tail = tail[1:]
        return f"{head}\n[... {self.cut_bytes} bytes cut ...]\n{tail.decode(errors='replace')}"
