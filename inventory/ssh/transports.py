"""paramiko's transport and channel, with what many terminals on one connection need.

One thread reads for all channels of a connection (paramiko's own, the transport itself) and hands each piece to
its channel at once: no thread for each channel and nothing is polled. That thread never writes: a full TCP
buffer, or a key exchange that only it can finish, would hold it (paramiko#822). What it has to send goes to a
second thread, the pump, unless it can be sent without waiting for anything. The pump exists once something was posted
to it and ends with the connection.

A server gives the number of a channel that both sides have closed to the next one. Several threads speak for a
channel, so what is said for it is known as its own, and dropped once its last word went out: the end of one command's
input would else be taken for the next one's.
"""

import contextlib
import functools
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST, cMSG_CHANNEL_WINDOW_ADJUST

from inventory.ssh.errors import SshConnectionLost
from inventory.ssh.handshakes import BROKEN, Handshake
from inventory.ssh.packets import Packetizer, wait_at_most

WINDOW_BYTES = 1024 * 1024
MAX_PACKET_BYTES = 32 * 1024
# How long an idle read waits until it looks around.
READ_WAIT_SECONDS = 10.0

C = TypeVar("C", bound="Channel")


class ChannelRefused(Exception):
    """The server opens no further channel on this connection; it lives on."""


class _Pump:
    """Does what was posted, one after the other, in a thread of its own that starts with the first."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._open_jobs = 0

    def post(self, job: Callable[[], object]) -> None:
        with self._lock:
            self._open_jobs += 1
            self._jobs.put(job)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._run, daemon=True, name="ssh-pump")
                self._thread.start()

    def is_idle(self) -> bool:
        """Whether all that was posted is done: what is sent now overtakes nothing."""
        return not self._open_jobs

    def end(self) -> None:
        with self._lock:
            self._ended = True
        self._jobs.put(None)

    def _run(self) -> None:
        while job := self._jobs.get():
            with contextlib.suppress(*BROKEN):  # the connection is over: its reader tells every channel
                job()
            with self._lock:
                self._open_jobs -= 1


class Transport(Handshake):
    """One connection. Its channels are held until both sides have closed them."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock, WINDOW_BYTES, MAX_PACKET_BYTES, packetizer_class=Packetizer)
        if isinstance(sock, socket.socket) and hasattr(socket, "TCP_QUICKACK"):
            self.packetizer.acknowledge_at_once = functools.partial(
                sock.setsockopt, socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1
            )
        self.pump = _Pump()
        self._room = _room_watch(sock)
        self.held: dict[int, Channel] = {}
        self.opened = 0  # channels so far
        self.used_at = time.monotonic()  # when the last one was opened or ended

    def prepare(self, channel_class: type[C], *arguments: Any, window_bytes: int = WINDOW_BYTES) -> C:
        """Make a channel and count it, without asking the server yet: ``open`` does."""
        with self.lock:
            number = self._next_channel()
            channel = channel_class(number, *arguments)
            channel._set_transport(self)
            channel._set_window(window_bytes, MAX_PACKET_BYTES)
            self._channels.put(number, channel)
            self.channel_events[number] = channel.answered
            self.channels_seen[number] = True
            self.held[number] = channel
            self.opened += 1
            self.used_at = time.monotonic()
        return channel

    def open(self, channel: C, timeout_seconds: float, kind: str = "session", to: tuple[str, int] | None = None) -> C:
        """Ask the server for ``channel``; raises ChannelRefused, TimeoutError, or what broke the connection."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_OPEN)
        message.add_string(kind)
        message.add_int(channel.chanid)
        message.add_int(channel.in_window_size)
        message.add_int(channel.in_max_packet_size)
        for host, port in [to, ("127.0.0.1", 0)] if to else []:
            message.add_string(host)
            message.add_int(port)
        try:
            self._send_user_message(message)
            answered = channel.answered.wait(timeout_seconds)
            if channel.active:
                return channel
            if not self.is_active():
                raise SshConnectionLost("The connection ended.")
            if answered:
                raise ChannelRefused(channel.refusal)
            raise TimeoutError
        except BaseException:
            self._unlink_channel(channel.chanid)
            raise

    def begin_reading(self) -> None:
        """After the login: have the thread read that serves all channels."""
        self.packetizer.end_login()
        wait_at_most(self.sock, READ_WAIT_SECONDS)
        self.start()

    def send_at_once(self, message: paramiko.Message) -> bool:
        """Send a small message now, from whichever thread, if that waits for nothing; False when it might.

        A key's way to its echo is so one change of threads shorter. Nothing is sent while keys are exchanged, while
        somebody else sends, or into a buffer that is filling up, since any of that may hold the caller.
        """
        if self._room is None or not self.clear_to_send_lock.acquire(blocking=False):
            return False
        try:
            if not self.active or not self.clear_to_send.is_set() or not self._room.poll(0):
                return False
            with contextlib.suppress(*BROKEN):  # the connection is over: its reader tells every channel
                self._send_message(message)
            return True
        finally:
            self.clear_to_send_lock.release()

    def shut_down(self) -> None:
        """End the connection: its reader notices, and tells every channel."""
        if not self.is_alive():
            self.broke()
            return
        with contextlib.suppress(*BROKEN):
            if isinstance(self.sock, paramiko.Channel):
                self.sock.close()
            else:
                self.sock.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the reader

    # What paramiko calls

    def run(self) -> None:
        try:
            with contextlib.suppress(*BROKEN), self._broken_when_it_fails():
                while self.active:
                    self.take_message()
        finally:
            for channel in list(self._channels.values()):
                channel._unlink()
            for channel in list(self.held.values()):
                channel.connection_ended()
            self.pump.end()

    def _send_user_message(self, message: paramiko.Message) -> None:
        send = functools.partial(super()._send_user_message, message)
        if threading.current_thread() is not self:
            send()
        elif not (self.pump.is_idle() and self.send_at_once(message)):
            self.pump.post(send)

    def _send_message(self, message: paramiko.Message) -> None:
        """Caller holds ``clear_to_send_lock`` for what a channel says."""
        channel = getattr(message, "of_channel", None)
        if channel is not None:
            if channel.has_said_last:
                return
            channel.has_said_last = message.is_last
        super()._send_message(message)

    def _unlink_channel(self, number: int) -> None:
        super()._unlink_channel(number)
        self.held.pop(number, None)
        self.channel_events.pop(number, None)
        self.used_at = time.monotonic()

    def _parse_channel_open_failure(self, message: paramiko.Message) -> None:
        number, _reason, text = message.get_int(), message.get_int(), message.get_text()
        channel = self.held.get(number)
        self._unlink_channel(number)
        if channel:
            channel.refusal = text[:200]
            channel.answered.set()


def _room_watch(sock: Any) -> "select.poll | None":
    """Tells whether a small packet fits what the system keeps for ``sock``: it says so from a third free on. None for
    a connection over another."""
    if isinstance(sock, paramiko.Channel):
        return None
    watch = select.poll()
    watch.register(sock, select.POLLOUT)
    return watch


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

    ``receive(stream, data)`` with "stdout" or "stderr", and once ``end()``, are called in the connection's
    reading thread: they must not wait. The server sends on as ``acknowledge`` gives back what was taken.
    """

    def __init__(self, number: int, receive: Callable[[str, bytes], None], end: Callable[[], None]) -> None:
        super().__init__(number)
        self.in_buffer = self.in_stderr_buffer = _UNREAD
        self.event = self.status_event = _UNHEARD
        self._receive = receive
        self._end = end
        self._told = False
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

    def connection_ended(self) -> None:
        super().connection_ended()
        self._tell(lost=True)

    # What paramiko calls

    def _feed(self, message: paramiko.Message) -> None:
        self._receive("stdout", message.get_binary())

    def _feed_extended(self, message: paramiko.Message) -> None:
        if message.get_int() == 1:
            self._receive("stderr", message.get_binary())

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
            self.on_exit()

    def _handle_close(self, message: paramiko.Message) -> None:
        super()._handle_close(message)
        self._tell(lost=False)

    def _tell(self, *, lost: bool) -> None:
        if self._told:
            return
        self._told = True
        self.lost = lost
        with self.replied:
            self.replied.notify_all()
        self._end()
