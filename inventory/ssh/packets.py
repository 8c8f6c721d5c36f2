"""How packets are read from a connection: with few questions to the system, and no thread to look at the clock."""

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
        self.send, self.close = sock.send, sock.close

    def recv(self, most: int) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(self._sock.recv(READ_BYTES))
        piece, self._ahead = bytes(self._ahead[:most]), self._ahead[most:]
        return piece


class Packetizer(paramiko.Packetizer):
    """Reads ahead, keeps the time of the handshake itself, and has the server's packets acknowledged at once."""

    acknowledge_at_once: Callable[[], object] | None = None
    greeting_bytes = 0
    _handshake_until: float | None = None

    def __init__(self, sock: Any) -> None:
        super().__init__(_ReadAhead(sock))

    def start_handshake(self, timeout: float) -> None:
        """paramiko starts a thread for each connection to look at the clock."""
        self._handshake_until = time.monotonic() + timeout

    def handshake_timed_out(self) -> bool:
        return self._handshake_until is not None and time.monotonic() > self._handshake_until

    def complete_handshake(self) -> None:
        self._handshake_until = None

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The system forgets that it shall acknowledge at once; a server that waits for it answers 40 ms later."""
        if self.acknowledge_at_once:
            self.acknowledge_at_once()
        read: tuple[int, paramiko.Message] = super().read_message()
        return read

    def _read_timeout(self, timeout: float) -> bytes:
        """Called for the lines before the key exchange alone; a greeting that never ends is none."""
        piece = super()._read_timeout(timeout)
        self.greeting_bytes += len(piece)
        if self.greeting_bytes > GREETING_MAX_BYTES:
            raise paramiko.SSHException("the greeting does not end")
        return piece
