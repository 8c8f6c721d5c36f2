"""Connections are shared, kept, replaced and closed: seen from the server's side."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paramiko
import pytest

from inventory.ssh import connections
from inventory.ssh.access import SshAccess
from inventory.ssh.channels import StreamChannel
from inventory.ssh.commands import run
from inventory.ssh.connections import connected
from inventory.ssh.errors import SshError
from inventory.ssh.shells import ShellChannel, ShellEnd
from inventory.ssh.transports import Transport
from tests.real_agent import wait_until
from tests.real_sshd import RealSshd


def logins(server: RealSshd) -> int:
    return server.log.count("Accepted publickey")


def test_one_login_serves_all(access: SshAccess, sshd: RealSshd) -> None:
    before = logins(sshd)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: run(access, f"echo {number}").output, range(24)))
    assert results == [f"{number}\n" for number in range(24)]
    assert logins(sshd) == before + 1


def test_accounts_credentials_and_pins_share_nothing(access: SshAccess, sshd: RealSshd) -> None:
    with connected(access) as first, connected(access) as same, connected(access.with_account("root")) as root:
        assert first is same and (root is first) == (access.username == "root")
    from dataclasses import replace

    assert replace(access, password="other") != access != replace(access, host_key="")


@pytest.mark.parametrize("most", [1, 2])
def test_beyond_max_sessions_another_connection_is_made(access_to: Callable[..., SshAccess], most: int) -> None:
    with RealSshd(max_sessions=most) as server:
        access = access_to(server)
        ends: list[ShellEnd] = []
        with connected(access) as connection:
            shells = [connection.open_shell(80, 24, on_data=len, on_end=ends.append) for _ in range(5)]
        assert logins(server) == -(-5 // most)
        assert run(access, "echo beside").output == "beside\n"
        for shell in shells:
            shell.close()
        wait_until(lambda: len(ends) == 5)
        before = logins(server)
        assert run(access, "echo freed").output == "freed\n"
        assert logins(server) == before, "a slot that is free again is used again"


def test_what_was_refused_once_is_asked_for_again(
    access_to: Callable[..., SshAccess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server frees a session late: one refusal must not leave a connection for each channel from then on."""
    monkeypatch.setattr(connections, "ASK_AGAIN_SECONDS", 0.3)
    with RealSshd(max_sessions=3) as server:
        access = access_to(server)
        ends: list[ShellEnd] = []

        def open_shells(count: int) -> list[ShellChannel]:
            with connected(access) as connection:
                return [connection.open_shell(80, 24, on_data=len, on_end=ends.append) for _ in range(count)]

        with connected(access) as connection:
            open_shells(1)
            connection._links[0].was_refused()  # as if two more were still being freed
            open_shells(1)
            assert len(connection._links) == 2
            time.sleep(0.3)
            open_shells(4)
            assert len(connection._links) == 2


def test_many_at_once_on_few_sessions_all_come_through(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd(max_sessions=2) as server, ThreadPoolExecutor(16) as pool:
        access = access_to(server)
        results = list(pool.map(lambda number: run(access, f"sleep 0.1; echo {number}").output, range(32)))
    assert results == [f"{number}\n" for number in range(32)]


def test_a_server_that_opens_no_session_at_all(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd(max_sessions=0) as server, pytest.raises(SshError, match="opens no session"):
        run(access_to(server), "true")


def test_an_idle_connection_is_closed_and_made_again(
    access_to: Callable[..., SshAccess], settings: Any, sshd: RealSshd
) -> None:
    settings.SSH_IDLE_SECONDS = 0.3
    with RealSshd() as server:
        access = access_to(server)
        assert run(access, "echo one").success
        assert server.connections()
        wait_until(lambda: not server.connections())
        assert run(access, "echo two").success


def test_a_connection_in_use_is_not_idle(access_to: Callable[..., SshAccess], settings: Any) -> None:
    settings.SSH_IDLE_SECONDS = 0.2
    with RealSshd() as server:
        assert run(access_to(server), "sleep 1; echo still").output == "still\n"


def test_the_last_connection_leaves_no_thread(access_to: Callable[..., SshAccess], settings: Any) -> None:
    settings.SSH_IDLE_SECONDS = 0.2
    with RealSshd() as server:
        before = threading.active_count()
        assert run(access_to(server), "true").success
        wait_until(lambda: threading.active_count() <= before)


def test_a_server_that_was_restarted_is_logged_in_to_again(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as server:
        access = access_to(server)
        assert run(access, "echo one").success
        server.stop()
        server.start()
        assert run(access, "echo two").success


def test_a_connection_that_went_silent_is_replaced(
    access_to: Callable[..., SshAccess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sshd stands still: after a while another login is tried, in the same call."""
    import os
    import signal

    monkeypatch.setattr(connections, "STALE_AFTER_SECONDS", 0.5)
    with RealSshd() as server:
        access = access_to(server)
        assert run(access, "echo one").success
        stopped = server.connections()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert run(access, "echo two").output == "two\n"
        assert time.monotonic() - began < 5
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


def test_small_packets_are_sent_at_once(access: SshAccess) -> None:
    with connected(access) as connection:
        sock = connection._links[0].transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_what_arrives_is_acknowledged_at_once_however_much_was_sent(access: SshAccess) -> None:
    """The system forgets it with the first answers; a server then waited 40 ms before it opened a channel."""
    assert run(access, "echo one").output == "one\n"
    with connected(access) as connection:
        sock = connection._links[0].transport.sock
    wait_until(lambda: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK), 2)


def test_a_connection_costs_one_thread_and_the_cheapest_exchange(access_to: Callable[..., SshAccess]) -> None:
    connections.close_all()
    wait_until(lambda: not any(one.name == "ssh-reader" for one in threading.enumerate()))
    with RealSshd() as server:
        access, before = access_to(server), set(threading.enumerate())
        assert run(access, "echo one").output == "one\n"
        with connected(access) as connection:
            transport = connection._links[0].transport
        started = {one for one in threading.enumerate() if one.name != "ssh-idle"} - before
        assert [one.name for one in started] == ["ssh-reader"]
        exchanges = [name for name in transport.get_security_options().kex if not name.startswith("mlkem")]
        assert exchanges[0] == "ecdh-sha2-nistp256" and "curve25519-sha256@libssh.org" in exchanges


def test_new_keys_in_the_middle_of_a_flood_hold_nothing_up(access: SshAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko#822: channels that close while keys are exchanged used to stop the connection for good.

    Keys are exchanged every 4 MB here, and channels open and close all the time beside a flood.
    """
    monkeypatch.setattr(paramiko.Packetizer, "REKEY_BYTES", 4 * 1024 * 1024)
    flood: dict[str, int] = {"bytes": 0}

    def count(_stream: str, piece: bytes) -> None:
        flood["bytes"] += len(piece)

    with ThreadPoolExecutor(5) as pool:
        flooding = pool.submit(
            run, access, "head -c 268435456 /dev/zero", on_output=count, output_max_bytes=100, timeout_seconds=100
        )
        done = 0
        while not flooding.done():
            jobs = [pool.submit(run, access, f"echo {done + one}") for one in range(4)]
            assert [job.result(60).output for job in jobs] == [f"{done + one}\n" for one in range(4)]
            done += 4
        result = flooding.result()
    assert result.success and flood["bytes"] == 268435456 and done > 20


def test_what_is_said_late_for_a_channel_does_not_reach_the_next_of_its_number(
    access: SshAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread was about to send input and its end when the command ended and the server closed the channel."""
    say, late = Transport._send_user_message, []  # type: ignore[var-annotated]
    with connected(access) as connection:
        ended = threading.Event()
        first = connection.open_stream(lambda _stream, _data: None, ended.set)
        first.settimeout(10)
        first.request("exec", "read _; sleep 0.3")
        first.sendall(b"\n")  # waits until the server takes input
        with monkeypatch.context() as held_up:
            me = threading.current_thread()
            held_up.setattr(
                Transport,
                "_send_user_message",
                lambda self, m: late.append(m) if threading.current_thread() is me else say(self, m),
            )
            first.sendall(b"stray")
            first.shutdown_write()
        assert ended.wait(10) and first.status == 0 and len(late) == 2
        got: list[bytes] = []
        all_told = threading.Event()

        def next_of_its_number() -> StreamChannel | None:
            """sshd gives a number again a moment after both sides have closed."""
            channel = connection.open_stream(lambda _stream, data: got.append(data), lambda: None)
            if (channel.transport, channel.remote_chanid) == (first.transport, first.remote_chanid):
                return channel
            return channel.close()  # type: ignore[no-any-return]

        second = wait_until(next_of_its_number)
        second._end = all_told.set
        for message in late:
            say(first.transport, message)
        second.settimeout(10)
        second.request("exec", "cat")
        second.sendall(b"its own")
        second.shutdown_write()
    assert all_told.wait(10), "its input never ended"
    assert b"".join(got) == b"its own"


def test_a_child_process_does_not_disturb_its_parents_connections(access: SshAccess) -> None:
    import os

    assert run(access, "echo one").success
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(Exception):
            status = 0 if run(access, "echo child").success else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert run(access, "echo two").output == "two\n"
