"""What a command, a fan-out and a terminal over SSH cost, against OpenSSH's own client in the same run.

Where ``BENCH_PEERS`` and ``BENCH_PEERS_PYTHON`` are set (tests/benchmarks/peers.py), asyncssh, parallel-ssh, plain
paramiko and ansible are measured beside.
"""

import gc
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from inventory.ssh import connections
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run
from inventory.ssh.connections import connected
from inventory.ssh.shells import ShellChannel, ShellEnd
from tests.benchmarks.conftest import Table, milliseconds
from tests.benchmarks.peers import measure
from tests.real_agent import wait_until
from tests.real_sshd import RealSshd

pytestmark = pytest.mark.benchmark
SHELLS = 200


@pytest.fixture(scope="module")
def sshd() -> Iterator[RealSshd]:
    with RealSshd() as server:
        yield server
        connections.close_all()


def access_to(server: RealSshd, number: int = 1) -> SshAccess:
    """Every number counts as a server of its own: nothing is shared between them."""
    key = {"private_key": server.private_key, "host_key": server.host_key}
    return SshAccess(number, f"server-{number}", server.host, server.port, server.username, **key)


def ssh_command(server: RealSshd) -> list[str]:
    """The plain client with the same key exchange; its default costs 60 ms of computing more."""
    known = server.folder / "known_hosts"
    known.write_text(f"[{server.host}]:{server.port} {server.host_key}\n")
    options = ["BatchMode=yes", f"UserKnownHostsFile={known}", "KexAlgorithms=curve25519-sha256", "LogLevel=ERROR"]
    words = [word for option in options for word in ("-o", option)]
    address = f"{server.username}@{server.host}"
    ssh = shutil.which("ssh") or "ssh"
    return [ssh, "-F", "none", *words, "-i", str(server.folder / "login"), "-p", str(server.port), address]


def test_one_command(table: Table, sshd: RealSshd) -> None:
    """One command over SSH"""
    plain = milliseconds(lambda: subprocess.run([*ssh_command(sshd), "echo hi"], check=True, capture_output=True), 10)
    access = access_to(sshd)

    def cold() -> None:
        connections.close_all()
        assert run(access, "echo hi").output == "hi\n"

    def warm() -> None:
        assert run(access, "echo hi").output == "hi\n"

    cold_ms, warm_ms = statistics.median(milliseconds(cold, 15)), statistics.median(milliseconds(warm, 50))
    local_ms = statistics.median(milliseconds(lambda: subprocess.run(["bash", "-lc", "true"], check=True), 10))
    table.add("cold, login included", f"{cold_ms:.1f} ms", f"ssh {statistics.median(plain):.1f} ms", "86 ms")
    table.add("warm, a login shell", f"{warm_ms:.1f} ms", f"bash -lc here {local_ms:.1f} ms", "5 ms + bash")
    for name, figures in peers(sshd):
        table.add(f"  {name}", f"cold {figures['cold'] * 1000:.0f}, warm {figures['warm'] * 1000:.1f} ms")
    assert cold_ms < 86 + local_ms and warm_ms < 5 + local_ms


def peers(server: RealSshd) -> Iterator[tuple[str, dict[str, float]]]:
    key = server.folder / "login"
    key.chmod(0o600)
    for tool in ("asyncssh", "parallel-ssh", "paramiko-pool", "ansible raw"):
        figures = measure(tool, [server.host], server.port, server.username, key)
        if figures:
            yield tool, figures


@pytest.mark.parametrize("count", [50, 200])
def test_fan_out(table: Table, sshd: RealSshd, count: int) -> None:
    """One command on many servers, 50 at a time"""
    line = " ".join(f"'{word}'" for word in ssh_command(sshd))
    began = time.perf_counter()
    xargs = f"seq {count} | xargs -P 50 -I{{}} {line} echo {{}}"
    plain = subprocess.run(["sh", "-c", xargs], check=True, capture_output=True, text=True)
    plain_s = time.perf_counter() - began
    assert sorted(map(int, plain.stdout.split())) == list(range(1, count + 1))

    def round_s() -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(50) as pool:
            told = pool.map(lambda number: run(access_to(sshd, number), f"echo {number}").output, range(count))
            assert list(told) == [f"{number}\n" for number in range(count)]
        return time.perf_counter() - began

    connections.close_all()
    cold_s, warm_s = round_s(), round_s()
    connections.close_all()
    table.add(f"{count} cold", f"{cold_s:.2f} s", f"xargs ssh {plain_s:.2f} s", "as xargs ssh")
    table.add(f"{count} warm", f"{warm_s:.2f} s")
    assert cold_s < 1.5 * plain_s


def test_shells(table: Table, sshd: RealSshd) -> None:
    """200 terminals on one server at once"""
    access = access_to(sshd)
    with connected(access):
        pass
    gc.collect()
    process = psutil.Process()
    memory, threads = process.memory_full_info().uss, threading.active_count()
    seen: list[bytearray] = [bytearray() for _ in range(SHELLS)]
    ends: list[ShellEnd] = []
    shells: dict[int, ShellChannel] = {}

    def open_one(number: int) -> None:
        with connected(access) as connection:
            shell = connection.open_shell(80, 24, on_data=seen[number].extend, on_end=ends.append)
        shell.write(b"echo me=%d.\n" % number)
        shells[number] = shell

    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(open_one, range(SHELLS)))
    wait_until(lambda: all(b"me=%d.\r" % n in text for n, text in enumerate(seen)), 60)
    took = time.perf_counter() - began
    gc.collect()
    each_kb = (process.memory_full_info().uss - memory) / 1000 / SHELLS
    each_threads = (threading.active_count() - threads) / SHELLS
    table.add("until all answer", f"{took:.2f} s", "", "2.9 s")
    table.add("memory each", f"{each_kb:.0f} kB", "", "95 kB")
    table.add("threads each", f"{each_threads:.2f}", "", "1")
    echo = milliseconds(lambda: echo_of(shells[0], seen[0]), 200)
    table.add("echo of a key, median", f"{statistics.median(echo):.2f} ms")
    connections.close_all()
    assert each_kb < 95 and each_threads <= 1


def echo_of(shell: ShellChannel, seen: bytearray) -> None:
    before, limit = len(seen), time.monotonic() + 5
    shell.write(b"x")
    while len(seen) == before and time.monotonic() < limit:
        time.sleep(0)


def test_flood(table: Table, sshd: RealSshd) -> None:
    """A gigabyte of output, with other commands beside it"""
    size = 2**30
    began = time.perf_counter()
    plain = subprocess.Popen([*ssh_command(sshd), f"head -c {size} /dev/zero"], stdout=subprocess.PIPE)
    assert plain.stdout
    with plain.stdout as out:
        while out.read(1 << 20):
            pass
    plain.wait()
    plain_mb = size / 1e6 / (time.perf_counter() - began)
    access, beside = access_to(sshd), []
    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(run, access, f"head -c {size} /dev/zero", output_max_bytes=1000, timeout_seconds=300)
        while not flood.done():
            beside += milliseconds(lambda: run(access, "echo hi"), 1)
        assert flood.result().truncated_bytes == size - 1000
    mb = size / 1e6 / (time.perf_counter() - began)
    table.add("output", f"{mb:.0f} MB/s", f"ssh {plain_mb:.0f} MB/s")
    table.add("a command beside it, median", f"{statistics.median(beside):.1f} ms")
    connections.close_all()
