"""How packets are read from a connection and written to it: with few questions to the system, and no thread to look at
the clock.
"""

import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import paramiko

# What a server may say before its version line.
GREETING_MAX_BYTES = 64 * 1024
READ_BYTES = 64 * 1024  # at once, from the connection


class _ReadAhead:
    """A socket as paramiko's packetizer reads it: a packet's length, then its rest. Both come from one reading of what
    is there, since each reading goes through the system and gives up the interpreter's lock."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._ahead = memoryview(b"")
        self.before_waiting: Callable[[], object] | None = None
        self.send, self.close = sock.send, sock.close

    def recv(self, most: int) -> bytes:
        if not self._ahead:
            if self.before_waiting:
                self.before_waiting()
            self._ahead = memoryview(self._sock.recv(READ_BYTES))
        piece, self._ahead = bytes(self._ahead[:most]), self._ahead[most:]
        return piece


class Packetizer(paramiko.Packetizer):
    """Reads ahead, keeps the time of the login itself, and has the server's packets acknowledged at once.

    During the login what is sent is gathered until an answer is waited for: the server is woken once for all of it.
    """

    acknowledge_at_once: Callable[[], object] | None = None
    greeting_bytes = 0
    _until: float | None = None
    _gathered: bytearray | None = None

    def __init__(self, sock: Any) -> None:
        self._read_ahead = _ReadAhead(sock)
        super().__init__(self._read_ahead)

    def begin_login(self, until: float) -> None:
        """``until`` is of the monotonic clock: what is not there by then breaks the connection."""
        self._until, self._gathered = until, bytearray()
        self._read_ahead.before_waiting = self._send_gathered

    def end_login(self) -> None:
        """From now on everything is sent as it comes, and reading waits for as long as it takes."""
        self._send_gathered()
        self._read_ahead.before_waiting = self._gathered = self._until = None

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, None
            self.write_all(bytes(gathered))
            self._gathered = bytearray()

    # What paramiko calls

    def write_all(self, out: bytes) -> None:
        if self._gathered is None:
            super().write_all(out)
        else:
            self._gathered += out

    def handshake_timed_out(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The system forgets that it shall acknowledge at once; a server that waits for it answers 40 ms later."""
        if self.acknowledge_at_once:
            self.acknowledge_at_once()
        read: tuple[int, paramiko.Message] = super().read_message()
        return read

    def _read_timeout(self, _timeout: float) -> bytes:
        """Called for the lines before the key exchange alone; a greeting that never ends is none."""
        piece: bytes = self.read_some()
        self.greeting_bytes += len(piece)
        if self.greeting_bytes > GREETING_MAX_BYTES:
            raise paramiko.SSHException("the greeting does not end")
        return piece

    def read_some(self) -> bytes:
        """What comes next, at least a byte; raises TimeoutError past the login's time, EOFError at the end."""
        while not self.handshake_timed_out():
            try:
                piece = self._read_ahead.recv(128)
            except (TimeoutError, BlockingIOError):
                continue
            if not piece:
                raise EOFError
            return piece
        raise TimeoutError


def wait_at_most(sock: Any, seconds: float) -> None:
    """How long one reading from ``sock`` may wait, or one writing.

    The system keeps the time, where it can: a socket that Python keeps it for is asked twice for each packet.
    """
    if isinstance(sock, paramiko.Channel) or sys.platform == "win32":
        sock.settimeout(seconds)
        return
    whole = int(seconds)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, int((seconds - whole) * 1e6) or 1))
    sock.settimeout(None)
