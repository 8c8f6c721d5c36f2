"""Who reads a connection: a thread, which waits for what comes next, or an event loop, which is told when it has come.

A thread reads from the login on. Where an event loop sends on what comes, as for terminals, the loop itself reads:
between a thread and a loop, each piece would be two changes of threads for the interpreter's lock, a third of what a
flood costs. The loop takes only what needs no waiting: whole packets, of messages that ask for nothing but a word.
Where keys are exchanged a thread reads again until that is done.
"""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from typing import TYPE_CHECKING

import paramiko
from paramiko.common import (
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_OPEN_SUCCESS,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)

from inventory.ssh.handshakes import BROKEN, FOR_CHANNELS
from inventory.ssh.packets import READ_WAIT_SECONDS

if TYPE_CHECKING:
    from inventory.ssh.transports import Transport

FLOOD_BYTES = 2 * 1024  # a screen may come at once; more is a flood
MOST_AT_ONCE_BYTES = 64 * 1024  # others wait for the loop

logger = logging.getLogger(__name__)

Message = tuple[int, paramiko.Message]

_WAITS_FOR_NOTHING = {
    *FOR_CHANNELS,
    MSG_CHANNEL_OPEN_SUCCESS,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_SUCCESS,
    MSG_REQUEST_FAILURE,
    MSG_IGNORE,
    MSG_DEBUG,
    MSG_DISCONNECT,
}


class Reading:
    """Reads one connection until it ends."""

    def __init__(self, transport: "Transport") -> None:
        self._transport = transport
        self._packets = transport.packetizer
        self._reader = 0  # its thread's number
        self._loop: asyncio.AbstractEventLoop | None = None  # which shall read as soon as it may
        self._is_loops = False
        self._file = -1
        self._clock: asyncio.TimerHandle | None = None
        self.has_begun = False

    def begin(self) -> None:
        self.has_begun = True
        self._file = self._transport.sock.fileno()
        self._by_thread()

    def move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have ``loop`` read from the next message on. A connection over another has nothing that a loop can watch."""
        if isinstance(self._transport.sock, socket.socket) and sys.platform != "win32":
            self._loop = loop

    def leave_closed_loop(self) -> None:
        """Have a thread read for a loop that is closed and reads no more. Caller holds the transport's lock."""
        if self._is_loops and self._loop and self._loop.is_closed():
            self._is_loops, self._loop = False, None
            self._by_thread()

    def is_by_caller(self) -> bool:
        return threading.get_ident() == self._reader

    # In a thread

    def _by_thread(self, first: Message | None = None) -> None:
        threading.Thread(target=self._run, args=(first,), daemon=True, name="ssh-reader").start()

    def _run(self, first: Message | None) -> None:
        self._reader = threading.get_ident()
        if not self._read(first):
            self._transport.ended()

    def _read(self, first: Message | None) -> bool:
        """Until a loop goes on, or else the connection ended."""
        transport = self._transport
        with contextlib.suppress(*BROKEN), transport.broken_when_it_fails():
            if first:
                transport.deal_with(*first)
            while transport.active:
                if self._moves():
                    return True
                transport.take_message()
        return False

    def _moves(self) -> bool:
        loop = self._loop
        if loop is None or self._transport.is_exchanging_keys() or not self._packets.goes_short_way():
            return False
        self._is_loops = True
        try:
            loop.call_soon_threadsafe(self._begin_in_loop, loop)
        except RuntimeError:  # it was closed
            self._is_loops, self._loop = False, None
        return self._is_loops

    # In an event loop

    def _begin_in_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader = threading.get_ident()
        loop.add_reader(self._file, self._take_what_came, loop)
        self._keep_alive(loop)
        self._take_what_came(loop)  # what was read ahead

    def _keep_alive(self, loop: asyncio.AbstractEventLoop) -> None:
        self._packets.keep_alive()
        self._clock = loop.call_later(READ_WAIT_SECONDS, self._keep_alive, loop)

    def _take_what_came(self, loop: asyncio.AbstractEventLoop) -> None:
        transport = self._transport
        try:
            stays, first = self._take_all()
        except Exception as error:  # noqa: BLE001  (whatever fails with what a server sent ends its connection)
            if not isinstance(error, BROKEN):
                logger.exception("ssh.not_understood")
            self._leave(loop)
            transport.broke()
            transport.ended()
            return
        if not stays:
            self._leave(loop)
            self._by_thread(first)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._file)
        if self._clock:
            self._clock.cancel()
        self._is_loops = False

    def _take_all(self) -> tuple[bool, Message | None]:
        """Whether the loop can go on, or else with which message a thread does; raises when the connection ended.

        Of a flood more comes while its packets are taken, and is handed over together with them.
        """
        taken = 0
        while taken < MOST_AT_ONCE_BYTES:
            came = self._packets.read_more()
            while self._packets.goes_short_way() and (message := self._packets.message_at_hand()):
                if message[0] not in _WAITS_FOR_NOTHING:
                    return False, message
                self._transport.deal_with(*message)
            taken += came
            if came < FLOOD_BYTES:
                break
        self._transport.hand_over()
        return self._packets.goes_short_way(), None
