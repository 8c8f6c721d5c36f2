"""paramiko's transport, with what many terminals on one connection need.

One thread or event loop reads for all channels of a connection (see ``reading``) and hands each piece to its channel at
once: no thread for each channel and nothing is polled. Who reads never writes: a full TCP buffer, or a key exchange
that only it can finish, would hold it (paramiko#822). What it has to send goes to a second thread, the pump, unless it
can be sent without waiting for anything. The pump exists once something was posted to it and ends with the connection.
"""

import contextlib
import functools
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN, cMSG_REQUEST_FAILURE

from inventory.ssh.channels import Channel, StreamChannel
from inventory.ssh.errors import SshConnectionLost
from inventory.ssh.handshakes import BROKEN, Handshake
from inventory.ssh.packets import READ_WAIT_SECONDS, Packetizer, wait_at_most
from inventory.ssh.reading import Reading

WINDOW_BYTES = 1024 * 1024
MAX_PACKET_BYTES = 32 * 1024

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
            self.packetizer.acknowledge_at_once(
                functools.partial(sock.setsockopt, socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            )
        self.packetizer.takes_data = self._take_data
        self.pump = _Pump()
        self.reading = Reading(self)
        self._room = _room_watch(sock)
        self._with_news: list[StreamChannel] = []
        self.held: dict[int, Channel] = {}
        self.opened = 0  # channels so far
        self.used_at = time.monotonic()  # when the last one was opened or ended

    def prepare(self, channel_class: type[C], *arguments: Any, window_bytes: int = WINDOW_BYTES) -> C:
        """Make a channel and count it, without asking the server yet: ``open`` does."""
        with self.lock:
            self.reading.leave_closed_loop()
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
        """After the login: have a thread read for all channels."""
        self.packetizer.end_login()
        self.packetizer.before_waiting(self.hand_over)
        wait_at_most(self.sock, READ_WAIT_SECONDS)
        self.reading.begin()

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
        """End the connection: who reads notices, and tells every channel."""
        if not self.reading.has_begun:
            self.broke()
            return
        with self.lock:
            self.reading.leave_closed_loop()
        with contextlib.suppress(*BROKEN):
            if isinstance(self.sock, paramiko.Channel):
                self.sock.close()
            else:
                self.sock.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the reader

    # What who reads calls

    def hand_over_soon(self, channel: StreamChannel) -> None:
        """``channel`` has news, to be handed over together with what else is there already: a flood comes in packets of
        4 KiB, and whoever is woken for each of them wants the interpreter's lock."""
        self._with_news.append(channel)

    def hand_over(self) -> None:
        """What has come so far, to whom it is for."""
        channels, self._with_news = self._with_news, []
        for channel in channels:
            channel.hand_over()

    def is_exchanging_keys(self) -> bool:
        return self.in_kex or bool(self._expected_packet) or not self.clear_to_send.is_set()

    def ended(self) -> None:
        """Nothing comes any more: tell every channel."""
        for channel in list(self._channels.values()):
            channel._unlink()
        for channel in list(self.held.values()):
            channel.connection_ended()
        self.pump.end()

    def _take_data(self, number: int, data: bytes) -> bool:
        """A flood's short way to its channel; False leaves it to ``deal_with``."""
        channel = self.held.get(number)
        if self._expected_packet or not isinstance(channel, StreamChannel):
            return False
        channel.take("stdout", data)
        return True

    # What paramiko calls

    def _send_user_message(self, message: paramiko.Message) -> None:
        send = functools.partial(super()._send_user_message, message)
        if not self.reading.is_by_caller():
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

    def _parse_global_request(self, message: paramiko.Message) -> None:
        """What a server asks of us, mostly whether we are there: any answer says so (RFC 4254, 4)."""
        message.get_text()
        if message.get_boolean():
            answer = paramiko.Message()
            answer.add_byte(cMSG_REQUEST_FAILURE)
            self._send_user_message(answer)

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
