"""Who reads a connection: its thread, or the event loop that sends on what comes; a thread again where it must."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import paramiko
import pytest

from inventory.ssh import packets, reading
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run
from inventory.ssh.connections import close_all, connected
from inventory.ssh.errors import SshError
from inventory.ssh.shells import ShellChannel, ShellEnd
from inventory.ssh.transports import Transport
from tests.real_agent import wait_until
from tests.real_sshd import RealSshd

FLOOD_BYTES = 8_000_000
FLOOD = f"head -c {FLOOD_BYTES} /dev/zero | tr '\\0' x; echo; echo E''ND\n".encode()


class Screen:
    """A shell read by the running loop: what it says, in which threads that was told, and its end."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.threads: set[int] = set()
        self.ended: asyncio.Future[ShellEnd] = asyncio.get_running_loop().create_future()
        self.shell: ShellChannel

    async def open(self, access: SshAccess) -> "Screen":
        loop = asyncio.get_running_loop()

        def work() -> ShellChannel:
            with connected(access) as connection:
                return connection.open_shell(80, 24, on_data=self._take, on_end=self._end, loop=loop)

        self.shell = await asyncio.to_thread(work)
        return self

    @property
    def transport(self) -> Transport:
        channel = self.shell._channel
        assert channel
        transport: Transport = channel.transport
        return transport

    def is_read_by_loop(self) -> bool:
        return self.transport.reading._is_loops

    async def until(self, what: bytes, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while what not in self.seen[-20_000:]:
                await asyncio.sleep(0.005)

    def _take(self, data: bytes) -> None:
        self.seen += data
        self.threads.add(threading.get_ident())

    def _end(self, end: ShellEnd) -> None:
        if not self.ended.get_loop().is_closed():
            self.ended.get_loop().call_soon_threadsafe(self.ended.set_result, end)


async def test_the_loop_reads_for_terminals_and_a_flood_comes_whole(access: SshAccess) -> None:
    screen = await Screen().open(access)
    screen.shell.write(b"echo rea''dy\n")
    await screen.until(b"ready\r\n")
    assert screen.is_read_by_loop()
    screen.threads.clear()
    screen.shell.write(FLOOD)
    await screen.until(b"\nEND\r\n")
    assert screen.seen.count(b"x") >= FLOOD_BYTES and screen.threads == {threading.get_ident()}
    result = await asyncio.to_thread(run, access, "echo beside it")  # on the same connection, waited for in a thread
    assert result.output == "beside it\n" and screen.is_read_by_loop()
    screen.shell.write(b"exit 3\n")
    assert await screen.ended == ShellEnd(3, "", lost=False)


async def test_a_thread_reads_while_keys_are_exchanged(
    access_to: Callable[..., SshAccess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wanted by us every megabyte, and by the server every three."""
    monkeypatch.setattr(paramiko.Packetizer, "REKEY_BYTES", 1024 * 1024)
    threads: list[int] = []
    exchange = Transport._negotiate_keys
    monkeypatch.setattr(
        Transport,
        "_negotiate_keys",
        lambda self, message: threads.append(threading.get_ident()) or exchange(self, message),
    )
    with RealSshd("RekeyLimit 3M") as server:
        screen = await Screen().open(access_to(server))
        threads.clear()  # of the login
        screen.shell.write(FLOOD)
        await screen.until(b"\nEND\r\n", 60)
        assert screen.seen.count(b"x") >= FLOOD_BYTES
        assert len(threads) > 3 and threading.get_ident() not in threads
        for number in range(5):  # with each message it may go back to the loop
            screen.shell.write(b"echo aft''er-%d\n" % number)
            await screen.until(b"after-%d\r\n" % number)
        assert screen.is_read_by_loop()
        await asyncio.to_thread(close_all)
        assert (await screen.ended).lost


async def test_a_server_that_asks_whether_we_are_there_is_answered(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd("ClientAliveInterval 1", "ClientAliveCountMax 1") as server:
        screen = await Screen().open(access_to(server))
        await asyncio.sleep(3.2)  # silence, in which it asks three times
        screen.shell.write(b"echo the''re\n")
        await screen.until(b"there\r\n")
        assert screen.is_read_by_loop()


async def test_a_silent_connection_is_kept_alive(
    access_to: Callable[..., SshAccess], settings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READ_WAIT_SECONDS", 0.05)
    settings.SSH_KEEPALIVE_SECONDS = 0.2
    said: list[float] = []
    monkeypatch.setattr(Transport, "global_request", lambda *_, **__: said.append(time.monotonic()))
    with RealSshd() as server:
        screen = await Screen().open(access_to(server))
        async with asyncio.timeout(5):
            while len(said) < 3 or not screen.is_read_by_loop():
                await asyncio.sleep(0.02)


async def test_a_connection_that_breaks_is_lost(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as server:
        screen = await Screen().open(access_to(server))
        screen.shell.write(b"echo rea''dy\n")
        await screen.until(b"ready\r\n")
        server.kill_connections()
        assert (await asyncio.wait_for(screen.ended, 10)).lost
        assert not screen.transport.is_active()


async def test_a_packet_that_is_not_the_server_s_breaks_the_connection(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as server:
        access = access_to(server)
        screen = await Screen().open(access)
        screen.shell.write(b"echo rea''dy\n")
        await screen.until(b"ready\r\n")
        ahead = screen.transport.packetizer._read_ahead
        ahead._ahead = memoryview(b"\0\0\0\x20" + bytes(48))
        screen.shell.write(b"x")  # whose echo comes behind it
        assert (await asyncio.wait_for(screen.ended, 10)).lost
        assert (await asyncio.to_thread(run, access, "echo again")).output == "again\n"


def test_a_length_that_nobody_sends_fills_no_memory() -> None:
    ahead = packets._ReadAhead(SimpleNamespace(send=None, close=None))
    ahead._ahead = memoryview(b"\x7f\xff\xff\xff")
    with pytest.raises(paramiko.SSHException):
        ahead.sealed(16)


def test_after_the_loop_is_closed_a_thread_reads_again(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as server:
        access = access_to(server)

        async def ask() -> Screen:
            screen = await Screen().open(access)
            screen.shell.write(b"echo rea''dy\n")
            await screen.until(b"ready\r\n")
            return screen

        screen = asyncio.run(ask())
        assert run(access, "echo the same").output == "the same\n"
        assert len(server.connections()) == 1
        close_all()
        wait_until(lambda: not screen.transport.is_active())
        with pytest.raises(SshError), connected(access) as connection:
            server.stop()
            connection.open_shell(80, 24, on_data=lambda _data: None, on_end=lambda _end: None)
