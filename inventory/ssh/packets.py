"""How packets are read from a connection and written to it: with few questions to the system, and no thread to look at
the clock.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.common import MSG_CHANNEL_DATA

# What a server may say before its version line.
GREETING_MAX_BYTES = 64 * 1024
READ_BYTES = 64 * 1024  # at once, from the connection
# How long an idle read waits until it looks around.
READ_WAIT_SECONDS = 10.0
MOST_PACKET_BYTES = 256 * 1024  # OpenSSH's own limit


class _ReadAhead:
    """A socket as paramiko's packetizer reads it: a packet's length, then its rest. Both come from one reading of what
    is there, since each reading goes through the system and gives up the interpreter's lock."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._ahead = memoryview(b"")
        self.before_waiting: Callable[[], object] | None = None
        self.acknowledge_at_once: Callable[[], object] | None = None
        self.send, self.close = sock.send, sock.close

    def __bool__(self) -> bool:
        """Whether anything was read that nobody took."""
        return bool(self._ahead)

    def recv(self, most: int) -> bytes:
        if not self._ahead:
            self.wait()
        piece, self._ahead = bytes(self._ahead[:most]), self._ahead[most:]
        return piece

    def wait(self) -> None:
        """Read what comes next, when nothing is left of what was read."""
        if self.before_waiting:
            self.before_waiting()
        if self.acknowledge_at_once:
            self.acknowledge_at_once()
        self._ahead = memoryview(self._sock.recv(READ_BYTES))

    def read_more(self) -> int:
        """Read what is there, without waiting: so many bytes; raises EOFError at the end."""
        if self.acknowledge_at_once:
            self.acknowledge_at_once()
        try:
            more = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        if not more:
            raise EOFError
        self._ahead = memoryview(bytes(self._ahead) + more if self._ahead else more)
        return len(more)

    def sealed(self, tag_bytes: int) -> memoryview | None:
        """The next packet of an authenticating cipher, if all of it was read: its length, itself and its tag. Raises
        SSHException for a length that nobody sends."""
        size = 4 + int.from_bytes(self._ahead[:4], "big") + tag_bytes
        if size > MOST_PACKET_BYTES:
            raise _forged()
        if len(self._ahead) < size:
            return None
        packet, self._ahead = self._ahead[:size], self._ahead[size:]
        return packet


class Packetizer(paramiko.Packetizer):
    """Reads ahead, keeps the time of the login itself, and has the server's packets acknowledged at once.

    During the login what is sent is gathered until an answer is waited for: the server is woken once for all of it.

    What paramiko does with each packet that comes, in a dozen steps for any cipher, with as many copies, is half of
    what a flood costs. So packets of the ciphers we ask for first go a short way once there are keys and until new ones
    are wanted; it works on paramiko's own fields, as this class has the name of the one that it extends.
    """

    greeting_bytes = 0
    _until: float | None = None
    _gathered: bytearray | None = None
    __iv_in: bytes
    __sequence_number_in: int
    __received_bytes: int
    __received_packets: int

    def __init__(self, sock: Any) -> None:
        self._read_ahead = _ReadAhead(sock)
        super().__init__(self._read_ahead)
        self.takes_data: Callable[[int, bytes], bool] = lambda _channel, _data: False

    def acknowledge_at_once(self, acknowledge: Callable[[], object]) -> None:
        """Have ``acknowledge`` tell the system to, each time: it forgets, and a server that waits for it answers 40 ms
        later."""
        self._read_ahead.acknowledge_at_once = acknowledge

    def before_waiting(self, work: Callable[[], object] | None) -> None:
        """Do ``work`` whenever all that has come is read, just before waiting for more."""
        self._read_ahead.before_waiting = work

    def begin_login(self, until: float) -> None:
        """``until`` is of the monotonic clock: what is not there by then breaks the connection."""
        self._until, self._gathered = until, bytearray()
        self.before_waiting(self._send_gathered)

    def end_login(self) -> None:
        """From now on everything is sent as it comes, and reading waits for as long as it takes."""
        self._send_gathered()
        self.before_waiting(None)
        self._gathered = self._until = None

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, None
            self.write_all(bytes(gathered))
            self._gathered = bytearray()

    def _comes(self) -> bool:
        """Whether anything is there, or comes within the time that a reading waits; at the end nothing does."""
        if not self._read_ahead:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self._read_ahead.wait()
        return bool(self._read_ahead)

    def goes_short_way(self) -> bool:
        """Whether packets can be taken without waiting for their rest."""
        return bool(
            self.__aead_in and self._initial_kex_done and not self.__compress_engine_in and not self._is_near_rekeying()
        )

    def read_more(self) -> int:
        """Read what is there, without waiting: so many bytes; raises EOFError at the end."""
        return self._read_ahead.read_more()

    def keep_alive(self) -> None:
        """What paramiko does where a reading waited in vain: say something, if nothing was said for a while."""
        self._check_keepalive()

    def message_at_hand(self) -> tuple[int, paramiko.Message] | None:
        """As ``read_message``, on the short way and without waiting: None once all is taken that was read."""
        while not self._is_near_rekeying() and (packet := self._read_ahead.sealed(self.__mac_size_in)):
            number = self.__sequence_number_in
            plain = self._opened(packet)
            if plain[1] != MSG_CHANNEL_DATA or not self.takes_data(*_data_in(plain)):
                message = paramiko.Message(plain[2 : len(plain) - plain[0]])
                message.seqno = number
                return plain[1], message
        return None

    def _opened(self, packet: memoryview) -> bytes:
        """The length of its padding in a byte, its kind in another, what it says, and the padding (RFC 4253, 6)."""
        try:
            plain: bytes = self.__block_engine_in.decrypt(self.__iv_in, packet[4:], packet[:4])
        except InvalidTag:
            raise _forged() from None
        self.__iv_in = self._inc_iv_counter(self.__iv_in)
        self.__sequence_number_in = (self.__sequence_number_in + 1) & 0xFFFFFFFF
        self.__received_bytes += len(packet)
        self.__received_packets += 1
        return plain

    def _is_near_rekeying(self) -> bool:
        return bool(
            self.__need_rekey
            or self.__received_packets + 1 >= self.REKEY_PACKETS
            or self.__received_bytes + MOST_PACKET_BYTES >= self.REKEY_BYTES
        )

    # What paramiko calls

    def write_all(self, out: bytes) -> None:
        if self._gathered is None:
            super().write_all(out)
        else:
            self._gathered += out

    def handshake_timed_out(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def read_message(self) -> tuple[int, paramiko.Message]:
        """Wait for the next packet that ``takes_data`` does not take: its kind and the rest of it. Raises what breaks a
        connection."""
        while self.goes_short_way() and self._comes():
            if found := self.message_at_hand():
                return found
            if self._read_ahead:
                break  # a part of one, for whose rest paramiko waits
        try:
            read: tuple[int, paramiko.Message] = super().read_message()
        except InvalidTag:
            raise _forged() from None
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


def _forged() -> paramiko.SSHException:
    return paramiko.SSHException("a packet is not what the server sent")


def _data_in(plain: bytes) -> tuple[int, bytes]:
    """A channel's number and what came for it (RFC 4254, 5.2)."""
    return int.from_bytes(plain[2:6], "big"), plain[10 : 10 + int.from_bytes(plain[6:10], "big")]


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
