"""Terminals through the running site against OpenSSH's own client in the same run; `make bench` prints the tables.

Targets take turns in each round, and only what stands in one table may be compared: the machine is shared.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.benchmarks.conftest import Table
from tests.benchmarks.terminals import PROFILE, PROMPT, Ours, Ssh, Target, hang_up_peers, memory, opened, peers, until
from tests.live.site import RealSite
from tests.real_sshd import RealSshd

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
OPENED, KEYS, BULK_BYTES, MANY = 10, 200, 20_000_000, 200
MIB = 1024 * 1024
now = time.perf_counter


@pytest.fixture(scope="module")
def sshd() -> Iterator[Any]:
    """The peers' when they take part, else one of our own: (host, port, user, private key, ssh's configuration)."""
    shared, _ = peers()
    if shared:
        yield shared["host"], shared["port"], shared["user"], Path(shared["key"]).read_text(), shared["config"]
        return
    with RealSshd("MaxStartups 2000", max_sessions=2000) as own:
        (own.folder / "home" / ".bash_profile").write_text(PROFILE)
        config = own.folder / "client_config"
        config.write_text(
            f"Host *\n  Port {own.port}\n  User {own.username}\n  IdentityFile {own.folder / 'login'}\n"
            "  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
            "  EscapeChar none\n  KexAlgorithms curve25519-sha256\n"
        )
        yield own.host, own.port, own.username, own.private_key, config


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    running = RealSite(tmp_path_factory.mktemp("site") / "data", INFINI_SSH_ACCEPT_NEW_HOST_KEYS="1").start()
    yield running
    running.stop()


@pytest_asyncio.fixture
async def targets(site: RealSite, sshd: Any) -> AsyncIterator[list[Target]]:
    """OpenSSH first; each opened once before, so that nobody pays for a first time."""
    host, port, user, key, config = sshd
    body = {"name": "bench", "host_ip": host, "port": port, "username": user, "private_key": key}
    known = [server for server in site.json("GET", "/api/servers") if server["name"] == "bench"]
    server = known[0] if known else site.json("POST", "/api/servers", json=body)
    url = f"{site.url.replace('http', 'ws')}/ws/servers/{server['id']}/terminal"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        made = [
            Target("ssh", lambda index=0: Ssh(config, host)),
            Target("infini", lambda index=0: Ours(client, url, site.key()), site.process_ids("web")[0]),
            *peers()[1],
        ]
        for target in made:
            await (await opened(target)).close()
        await asyncio.sleep(1)
        for target in made:
            target.base = memory(target.pid)
        yield made
        await hang_up_peers()


async def rounds(
    targets: list[Target], measure: Callable[[Target], Awaitable[dict[str, float]]], count: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """The median of each figure over the rounds; who begins changes."""
    seen: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for number in range(count):
        turn = number % len(targets)
        for target in targets[turn:] + targets[:turn]:
            seen[target.name].append(await measure(target))
    return {
        name: {figure: statistics.median(one[figure] for one in all_) for figure in all_[0]}
        for name, all_ in seen.items()
    }


async def test_open(targets: list[Target], table: Table) -> None:
    """Opening a terminal, until its prompt"""

    async def measure(target: Target) -> dict[str, float]:
        taken = []
        for index in range(OPENED):
            began = now()
            terminal = await opened(target, index)
            taken.append((now() - began) * 1000)
            await terminal.close()
            await asyncio.sleep(0.05)
        return {"ms": statistics.median(taken)}

    found = await rounds(targets, measure)
    for name, figures in found.items():
        table.add(f"{name}, median", f"{figures['ms']:.1f} ms", f"ssh {found['ssh']['ms']:.1f} ms", "112 ms")
    assert found["infini"]["ms"] < 112


async def test_echo(targets: list[Target], table: Table) -> None:
    """A key and its echo"""

    async def measure(target: Target) -> dict[str, float]:
        terminal = await opened(target)
        await terminal.send("cat >/dev/null\r")
        await until(terminal, b"\n")
        await asyncio.sleep(0.2)
        taken = []
        for number in range(KEYS):
            key = "abcdefghij"[number % 10]
            began = now()
            await terminal.send(key)
            await until(terminal, key.encode(), 10)
            taken.append((now() - began) * 1000)
            if number % 40 == 39:
                await terminal.send("\r")
                await until(terminal, b"\n", 10)
            await asyncio.sleep(0.005)
        await terminal.send("\x03")
        await terminal.close()
        return {"ms": statistics.median(taken), "p95": statistics.quantiles(taken, n=20)[-1]}

    found = await rounds(targets, measure)
    for name, figures in found.items():
        times = figures["ms"] / found["ssh"]["ms"]
        table.add(
            f"{name}, median (p95)", f"{figures['ms']:.2f} ({figures['p95']:.2f}) ms", f"{times:.2f} x ssh", "2.1 x"
        )
    assert found["infini"]["ms"] < 2.1 * found["ssh"]["ms"]


async def test_bulk(targets: list[Target], table: Table) -> None:
    """20 MB through a terminal, every byte counted"""

    async def measure(target: Target) -> dict[str, float]:
        terminal = await opened(target)
        began, count, tail = now(), 0, b""
        await terminal.send(f"head -c {BULK_BYTES} /dev/zero | tr '\\0' '\\170'; echo; echo E''ND_$((40+2))\r")
        async with asyncio.timeout(60):
            while b"END_42" not in tail:
                piece = await terminal.recv()
                count += piece.count(b"x")
                tail = tail[-16:] + piece
        taken = now() - began
        await terminal.close()
        return {"rate": count / taken / 1e6, "lost": BULK_BYTES - count}

    found = await rounds(targets, measure, 5 * ROUNDS)  # a third of a second each, by 30 % more or less
    for name, figures in found.items():
        share = figures["rate"] / found["ssh"]["rate"]
        lost = f", {figures['lost']:.0f} lost" if figures["lost"] else ""
        table.add(name, f"{figures['rate']:.1f} MB/s{lost}", f"{share:.2f} of ssh", "0.80")
    assert found["infini"]["lost"] == 0
    assert found["infini"]["rate"] > 0.8 * found["ssh"]["rate"]


async def test_unread_flood(targets: list[Target], table: Table) -> None:
    """A flood nobody reads for 3 s, then Ctrl-C"""

    async def measure(target: Target) -> dict[str, float]:
        terminal = await opened(target)
        await terminal.send(f"yes {'x' * 60}\r")
        await until(terminal, b"\n")
        top = before = target.base["rss"]
        for _ in range(12):
            await asyncio.sleep(0.25)
            top = max(top, memory(target.pid)["rss"])
        began = now()
        await terminal.send("\x03")
        await until(terminal, PROMPT, 30)
        taken = (now() - began) * 1000
        await terminal.close()
        return {"grew": (top - before) / MIB, "ms": taken}

    found = await rounds(targets, measure)
    for name, figures in found.items():
        grew = f"{figures['grew']:.1f} MiB, " if name != "ssh" else ""
        table.add(name, f"{grew}Ctrl-C {figures['ms']:.1f} ms", f"ssh {found['ssh']['ms']:.1f} ms", "5 MB, 15 ms")
    assert found["infini"]["grew"] < 5
    assert found["infini"]["ms"] < 15


async def test_many(targets: list[Target], table: Table) -> None:
    """200 terminals at once"""

    async def measure(target: Target) -> dict[str, float]:
        began = now()
        got: list[Any] = await asyncio.gather(
            *(asyncio.wait_for(opened(target, index), 90) for index in range(MANY)), return_exceptions=True
        )
        taken = now() - began
        good = [one for one in got if not isinstance(one, BaseException)]
        await asyncio.sleep(0.5)
        held = memory(target.pid)
        await asyncio.gather(*(one.close() for one in good), return_exceptions=True)
        await asyncio.sleep(2)
        each = {name: (held[name] - target.base[name]) / max(1, len(good)) for name in held}
        failed = MANY - len(good)
        return {"s": taken, "failed": failed, "kib": each["pss"] / 1024, "threads": each["threads"]}

    found = await rounds(targets, measure)
    for name, figures in found.items():
        each = f", {figures['kib']:.0f} KiB and {figures['threads']:.2f} threads each" if name != "ssh" else ""
        told = f"{figures['s']:.2f} s, {figures['failed']:.0f} failed{each}"
        table.add(name, told, f"{figures['s'] / found['ssh']['s']:.2f} x ssh", "2.9 s, 0, 95 KiB, 1")
    ours = found["infini"]
    assert (ours["failed"], ours["s"] < 2.9, ours["kib"] < 95, ours["threads"] <= 1) == (0, True, True, True)
