"""A login shell on a server, for a terminal. Made by ``Connection.open_shell``.

    shell = connection.open_shell(80, 24, on_data=take, on_end=ended, environment={"LANG": "C.UTF-8"})
    shell.write(b"ls\\n")      # at once; returns how many bytes wait for the server
    shell.resize(132, 50)
    shell.pause()              # the server stops after at most SHELL_WINDOW_BYTES more; resume() lets it go on
    shell.close()

All methods of a ShellChannel return at once and may be called from any thread and from an event loop. The callbacks
come from who reads the connection, and serves the other terminals too: they must not wait, nor raise.
``on_data(data)`` gets the bytes as they came, a character may be split between two calls; it may call ``pause``.
``on_end(end)`` comes once, after the last data. A terminal costs no thread and keeps no output here.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inventory.ssh.channels import StreamChannel
from inventory.ssh.logins import Deadline

SHELL_WINDOW_BYTES = 256 * 1024
_SEND_BYTES = 16 * 1024
_AT_ONCE_BYTES = 1024
_ACKNOWLEDGE_BYTES = SHELL_WINDOW_BYTES // 4


@dataclass(frozen=True)
class ShellEnd:
    """How a shell ended: by ``exit_status``, by ``signal`` ("TERM"), or ``lost`` with its connection."""

    exit_status: int | None
    signal: str
    lost: bool


class ShellChannel:
    """See the module. ``ended`` is set just before ``on_end`` is called."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[ShellEnd], None]) -> None:
        self._on_data = on_data
        self._on_end = on_end
        self._channel: StreamChannel | None = None
        self._lock = threading.Lock()
        self._to_send = bytearray()
        self._is_posted = False
        self._is_paused = False
        self._resizes = 0  # asked for, and not sent yet
        self._owed = 0
        self.ended: ShellEnd | None = None

    def write(self, data: bytes) -> int:
        """Send ``data`` in order; returns how many bytes wait until the server takes them. None once it ended."""
        with self._lock:
            if self.ended:
                return 0
            channel = self._channel
            first = not self._to_send and not self._resizes  # nothing typed may overtake what was done before
            if channel and first and len(data) <= _AT_ONCE_BYTES and channel.send_at_once(data):
                return 0
            self._to_send += data
            waiting = len(self._to_send)
        self._post_sending()
        return waiting

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self._resizes += 1
        self._post(lambda channel: self._resize(channel, columns, rows))

    def _resize(self, channel: StreamChannel, columns: int, rows: int) -> None:
        channel.request("window-change", columns, rows, 0, 0, wants_reply=False)
        with self._lock:
            self._resizes -= 1

    def pause(self) -> None:
        """Let no more come than what is under way: at most SHELL_WINDOW_BYTES."""
        with self._lock:
            self._is_paused = True

    def resume(self) -> None:
        with self._lock:
            self._is_paused = False
            owed, self._owed = self._owed, 0
        if owed:
            self._post(lambda channel: channel.acknowledge(owed))

    def close(self) -> None:
        """Hang up: the server ends the shell. ``on_end`` follows when it says so."""
        self._post(lambda channel: channel.close())

    # What the connection calls

    def attach(self, channel: StreamChannel) -> None:
        self._channel = channel
        channel.settimeout(0.0)
        channel.on_room = self._post_sending

    def receive(self, _stream: str, data: bytes) -> None:
        self._on_data(data)
        with self._lock:
            self._owed += len(data)
            if self._is_paused or self._owed < _ACKNOWLEDGE_BYTES:
                return  # a key's echo is worth no message, nor waking the pump
            owed, self._owed = self._owed, 0
        if self._channel:
            self._channel.acknowledge(owed)

    def end(self) -> None:
        channel = self._channel
        with self._lock:
            self._to_send.clear()
            status, signal = (channel.status, channel.signal) if channel else (None, "")
            known = status is not None or bool(signal)
            self.ended = ShellEnd(status, signal, lost=bool(channel and channel.lost and not known))
        self._on_end(self.ended)

    def _post(self, job: Callable[[StreamChannel], object]) -> None:
        channel = self._channel
        if channel and not self.ended:
            channel.transport.pump.post(functools.partial(job, channel))

    def _post_sending(self) -> None:
        with self._lock:
            if self._is_posted or not self._to_send:
                return
            self._is_posted = True
        self._post(self._send)

    def _send(self, channel: StreamChannel) -> None:
        """In the pump: send what the server has room for; the rest when it says that it has more."""
        with self._lock:
            self._is_posted = False
        while True:
            with self._lock:
                piece = bytes(self._to_send[:_SEND_BYTES])
            if not piece:
                return
            try:
                sent = channel.send(piece)
            except TimeoutError:
                return
            if not sent:
                return
            with self._lock:
                del self._to_send[:sent]


def start_shell(
    channel: StreamChannel,
    columns: int,
    rows: int,
    term: str,
    environment: Mapping[str, str],
    deadline: Deadline,
    command: str = "",
) -> None:
    """Ask for terminal and shell, or ``command`` in its place, in one go; raises TimeoutError when the server grants
    them not, or too late."""
    for name, value in environment.items():
        channel.request("env", name, value, wants_reply=False)
    channel.request("pty-req", term, columns, rows, 0, 0, b"")
    if command:
        channel.request("exec", command)
    else:
        channel.request("shell")
    if not channel.wait_for_replies(2, deadline.left()):
        raise TimeoutError
