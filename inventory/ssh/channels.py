"""paramiko's channel, with what many terminals on one connection need.

A server gives the number of a channel that both sides have closed to the next one. Several threads speak for a
channel, so what is said for it is known as its own, and dropped once its last word went out: the end of one command's
input would else be taken for the next one's.
"""

import itertools
import operator
import struct
import threading
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_REQUEST, cMSG_CHANNEL_WINDOW_ADJUST


class Channel(paramiko.Channel):
    """A channel with paramiko's own buffers, for what reads from it like from a socket: SFTP, jumps."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.answered = threading.Event()
        self.refusal = ""
        self.has_said_last = False  # the server may have given our number to another since

    def request(self, kind: str, *values: Any, wants_reply: bool = True) -> None:
        """Send a channel request without waiting for the answer. Integers travel as such, the rest as text."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string(kind)
        message.add_boolean(wants_reply)
        for value in values:
            if isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        self.transport._send_user_message(self._own(message))

    def connection_ended(self) -> None:
        """The transport's last word to a channel."""
        self.answered.set()

    def _own(self, message: Any, *, is_last: bool = False) -> Any:
        """``message`` marked as said for this channel, as all are that follow the asking for it."""
        if message is not None:
            message.of_channel, message.is_last = self, is_last
        return message

    # What paramiko calls

    def _send(self, data: bytes, message: paramiko.Message) -> int:
        sent: int = super()._send(data, self._own(message))
        return sent

    def _send_eof(self) -> paramiko.Message | None:
        return self._own(super()._send_eof())

    def _close_internal(self) -> tuple[paramiko.Message | None, paramiko.Message | None]:
        eof, close = super()._close_internal()
        return eof, self._own(close, is_last=True)

    def _check_add_window(self, count: int) -> int:
        """``count`` bytes were taken: tell the server once that is worth a message. 0: nothing is left to be told."""
        taken = super()._check_add_window(count)
        if taken:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.remote_chanid)
            message.add_int(taken)
            self.transport._send_user_message(self._own(message))
        return 0

    def _unlink(self) -> None:
        super()._unlink()
        self.connection_ended()


# What paramiko would keep for whoever reads a channel like a socket, several KiB each: for those that nobody reads so.
_UNREAD, _UNHEARD = BufferedPipe(), threading.Event()


class StreamChannel(Channel):
    """A channel that hands over what arrives as it arrives and keeps nothing.

    ``receive(stream, data)`` with "stdout" or "stderr", and once ``end()``, are called by who reads the connection:
    they must not wait. Packets that come together are handed over together. The server sends on as ``acknowledge``
    gives back what was taken.
    """

    def __init__(self, number: int, receive: Callable[[str, bytes], None], end: Callable[[], None]) -> None:
        super().__init__(number)
        self.in_buffer = self.in_stderr_buffer = _UNREAD
        self.event = self.status_event = _UNHEARD
        self._receive = receive
        self._end = end
        self._told = False
        self._news: list[tuple[str, bytes]] = []
        self.status: int | None = None
        self.signal = ""
        self.lost = False
        self.on_room: Callable[[], None] | None = None  # called when the server takes more input
        self.on_exit: Callable[[], None] | None = None  # called when the process ended; output may still follow
        self.replies = 0
        self.replied = threading.Condition()

    def acknowledge(self, count: int) -> None:
        """``count`` bytes were taken; tells the server once it is worth a message. Waits for the connection."""
        self._check_add_window(count)

    def send_at_once(self, data: bytes) -> bool:
        """Send all of ``data``, which is small, if that waits for nothing."""
        with self.lock:
            fits = len(data) <= min(self.out_window_size, self.out_max_packet_size)
            if self.closed or self.eof_sent or not fits:
                return False
            head = cMSG_CHANNEL_DATA + struct.pack(">II", self.remote_chanid, len(data))
            if not self.transport.send_at_once(self._own(paramiko.Message(head + data))):
                return False
            self.out_window_size -= len(data)
        return True

    def wait_for_replies(self, count: int, timeout_seconds: float) -> bool:
        """Whether the server granted ``count`` requests so far; False when it closed instead or was late."""
        with self.replied:
            self.replied.wait_for(lambda: self.replies >= count or self._told or self.closed, timeout_seconds)
            return self.replies >= count

    def take(self, stream: str, data: bytes) -> None:
        """Keep what came until ``hand_over``, which whoever reads the connection calls once it waits for more."""
        if not self._news:
            self.transport.hand_over_soon(self)
        self._news.append((stream, data))

    def hand_over(self) -> None:
        news, self._news = self._news, []
        for stream, pieces in itertools.groupby(news, operator.itemgetter(0)):
            self._receive(stream, b"".join(data for _stream, data in pieces))

    def connection_ended(self) -> None:
        super().connection_ended()
        self._tell(lost=True)

    # What paramiko calls

    def _feed(self, message: paramiko.Message) -> None:
        self.take("stdout", message.get_binary())

    def _feed_extended(self, message: paramiko.Message) -> None:
        if message.get_int() == 1:
            self.take("stderr", message.get_binary())

    def _window_adjust(self, message: paramiko.Message) -> None:
        super()._window_adjust(message)
        if self.on_room:
            self.on_room()

    def _request_success(self, message: paramiko.Message) -> None:
        with self.replied:
            self.replies += 1
            self.replied.notify_all()

    def _request_failed(self, message: paramiko.Message) -> None:
        super()._request_failed(message)
        with self.replied:
            self.replied.notify_all()

    def _handle_request(self, message: paramiko.Message) -> None:
        start = message.packet.tell()
        kind, _wants_reply = message.get_text(), message.get_boolean()
        if kind == "exit-status":
            self.status = message.get_int()
        elif kind == "exit-signal":
            self.signal = message.get_text()[:20]
        else:
            message.packet.seek(start)
            return super()._handle_request(message)
        if self.on_exit:
            self.hand_over()  # what was said before
            self.on_exit()

    def _handle_close(self, message: paramiko.Message) -> None:
        super()._handle_close(message)
        self._tell(lost=False)

    def _tell(self, *, lost: bool) -> None:
        if self._told:
            return
        self._told = True
        self.lost = lost
        self.hand_over()
        with self.replied:
            self.replied.notify_all()
        self._end()
