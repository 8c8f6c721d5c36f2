"""A login shell for a terminal, on a real sshd: in order, never in the way of others, and stopped when unread."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from inventory.ssh.access import SshAccess
from inventory.ssh.connections import connected
from inventory.ssh.shells import SHELL_WINDOW_BYTES, ShellChannel, ShellEnd
from tests.real_agent import wait_until
from tests.real_sshd import RealSshd


class Screen:
    """Keeps what a shell says."""

    def __init__(self, access: SshAccess, columns: int = 80, rows: int = 24) -> None:
        self.seen = bytearray()
        self.end: ShellEnd | None = None
        self.ends = 0
        with connected(access) as connection:
            self.shell: ShellChannel = connection.open_shell(
                columns, rows, on_data=self._take, on_end=self._ended, environment={"LANG": "C.UTF-8"}
            )

    def _take(self, data: bytes) -> None:
        self.seen += data

    def _ended(self, end: ShellEnd) -> None:
        self.end = end
        self.ends += 1

    def wait_for(self, pattern: bytes, seconds: float = 10) -> bytes:
        wait_until(lambda: re.search(pattern, bytes(self.seen)), seconds, f"{pattern!r} in {bytes(self.seen[-300:])!r}")
        return bytes(self.seen)

    def wait_for_end(self) -> ShellEnd:
        end = wait_until(lambda: self.end)
        assert end
        return end


def test_a_shell_has_a_size_a_language_and_an_end(access: SshAccess) -> None:
    screen = Screen(access, 93, 31)
    screen.shell.write(b"stty size; echo $TERM $LANG; shopt -q login_shell && echo lo''gin\n")
    screen.wait_for(rb"31 93\r\nxterm-256color C.UTF-8\r\nlogin")
    screen.shell.resize(120, 40)
    screen.shell.write("stty size; echo 你''好\n".encode())
    screen.wait_for("40 120\r\n你好".encode())
    screen.shell.write(b"exit 7\n")
    assert screen.wait_for_end() == ShellEnd(7, "", lost=False)
    assert screen.shell.write(b"too late") == 0 and screen.ends == 1


def test_a_killed_shell_tells_the_signal(access: SshAccess) -> None:
    screen = Screen(access)
    screen.shell.write(b"kill -KILL $$\n")
    assert screen.wait_for_end() == ShellEnd(None, "KILL", lost=False)


def test_closing_ends_what_runs_in_it(access: SshAccess) -> None:
    screen = Screen(access)
    screen.shell.write(b"echo pid=$$; sleep 1000\n")
    pid = int(re.search(rb"pid=(\d+)", screen.wait_for(rb"pid=\d+")).group(1))  # type: ignore[union-attr]
    screen.shell.close()
    screen.wait_for_end()
    from tests.real_agent import is_running

    wait_until(lambda: not is_running(pid))


def test_a_lost_connection_ends_every_shell_on_it(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as own:
        screens = [Screen(access_to(own)) for _ in range(3)]
        own.kill_connections()
        assert [screen.wait_for_end().lost for screen in screens] == [True] * 3


def test_a_paused_shell_stops_the_server_and_the_rest_comes_after(access: SshAccess) -> None:
    screen = Screen(access)
    screen.shell.pause()
    screen.shell.write(b"seq 1 300000; echo al''l\n")
    settled = _settle(screen)
    assert settled <= SHELL_WINDOW_BYTES
    screen.shell.resume()
    seen = screen.wait_for(rb"\r\nall\r\n", 30)
    numbers = [int(number) for number in re.findall(rb"[\r\n](\d+)\r", seen)]
    assert numbers == list(range(1, 300001))


def _settle(screen: Screen) -> int:
    """How much has come when nothing came for a while."""
    while True:
        before = len(screen.seen)
        time.sleep(0.3)
        if before == len(screen.seen) > 0:
            return before


def test_control_c_is_answered_at_once_in_a_paused_flood(access: SshAccess) -> None:
    screen = Screen(access)
    screen.shell.write(b"yes\n")
    screen.wait_for(rb"y\r\ny\r\n")
    screen.shell.pause()
    screen.shell.write(b"\x03")
    screen.shell.write(b"echo st''opped\n")
    screen.shell.resume()
    screen.wait_for(rb"stopped")


def test_a_large_paste_arrives_in_order(access: SshAccess) -> None:
    screen = Screen(access)
    screen.shell.write(b"stty -echo raw; head -c 3000000 | md5sum; stty sane; echo do''ne\n")
    screen.wait_for(rb"raw")
    time.sleep(0.3)
    piece = bytes(range(65, 91)) * 1000
    paste = (piece * 200)[:3_000_000]
    for start in range(0, len(paste), 100_000):
        screen.shell.write(paste[start : start + 100_000])
    import hashlib

    screen.wait_for(hashlib.md5(paste, usedforsecurity=False).hexdigest().encode(), 30)


def test_a_stopped_server_holds_up_nobody_who_writes(access_to: Callable[..., SshAccess]) -> None:
    """Its sshd takes nothing: writing to its shell must still return at once, from an event loop too."""
    import os
    import signal

    with RealSshd() as own:
        screen = Screen(access_to(own))
        stopped = own.connections()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

        async def write_much() -> float:
            longest = 0.0
            for _ in range(200):
                began = time.monotonic()
                screen.shell.write(b"x" * 65536)
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)
            return longest

        try:
            assert asyncio.run(write_much()) < 0.5
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_many_shells_cost_two_threads_for_each_connection_alone(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as own:
        access = access_to(own)
        before = threading.active_count()
        screens = [Screen(access) for _ in range(60)]
        for number, screen in enumerate(screens):
            screen.shell.write(b"echo me=%d.\n" % number)
        for number, screen in enumerate(screens):
            screen.wait_for(rb"[\r\n]me=%d\." % number)
        # Ten each (sshd's own MaxSessions): a reader and a writer for each connection, one that closes idle ones.
        assert threading.active_count() - before <= 2 * 6 + 1
        for screen in screens:
            screen.shell.close()
        for screen in screens:
            screen.wait_for_end()


def test_callbacks_are_not_called_after_the_end(access: SshAccess) -> None:
    calls: list[Any] = []
    with connected(access) as connection:
        shell = connection.open_shell(80, 24, on_data=calls.append, on_end=calls.append)
    shell.write(b"exit\n")
    wait_until(lambda: calls and isinstance(calls[-1], ShellEnd))
    count = len(calls)
    shell.resize(10, 10)
    shell.resume()
    shell.close()
    assert len(calls) == count
