"""Runs of commands: 200 servers over SSH against the field's libraries, how late a due task begins, and 1,000 servers
of which some are slow, hang or never stop printing.

``BENCH_PEERS`` names a folder with a ``fanout_runner.py`` and ``BENCH_PEERS_PYTHON`` a Python that has the peers'
libraries: then asyncssh and parallel-ssh are measured beside.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.utils import timezone

from inventory.models import Server
from inventory.ssh import connections
from inventory.ssh.commands import CommandResult
from scheduler import hosting, planning, runs
from scheduler.models import Run, Task
from tests.benchmarks.conftest import Table, p95
from tests.live.site import RealSite
from tests.real_agent import wait_until
from tests.real_sshd import RealSshd

pytestmark = pytest.mark.benchmark
TARGETS = 200
MANY = 1000


@pytest.fixture(scope="module")
def sshd() -> Iterator[RealSshd]:
    with RealSshd() as server:
        yield server
        connections.close_all()


def make_servers(count: int, **columns: Any) -> list[Server]:
    access = {"host_ip": "127.0.0.1", "username": "root", "password": "none", **columns}
    return Server.objects.bulk_create(Server(name=f"s{n:04}", **access) for n in range(count))


def make_task(servers: list[Server], command: str, **columns: Any) -> Task:
    never = {"schedule_type": "once", "run_at": timezone.now() + timedelta(days=999)}
    return planning.create_task(Task(name="bench", command=command, **{**never, **columns}), servers=servers, by=None)


def carry_out(task: Task) -> tuple[Run, float]:
    """The run, seen through, and the seconds from asking for it to its end in the database."""
    began = time.perf_counter()
    run = runs.execute(task, by=None)
    hosting.carry_out_due(linger_seconds=0)
    run.refresh_from_db()
    assert run.finished_at
    return run, time.perf_counter() - began


def peers(server: RealSshd, count: int) -> Iterator[tuple[str, dict[str, float]]]:
    folder, python = os.environ.get("BENCH_PEERS"), os.environ.get("BENCH_PEERS_PYTHON")
    if not folder or not python:
        return
    hosts = server.folder / "hosts"
    hosts.write_text(f"{server.host}\n" * count)
    (server.folder / "login").chmod(0o600)
    for tool in ("asyncssh", "parallel-ssh"):
        runner = [python, str(Path(folder).resolve() / "fanout_runner.py"), tool, str(hosts), str(server.port)]
        command = [*runner, server.username, str(server.folder / "login"), "echo $SSH_CONNECTION"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            yield tool, json.loads(done.stdout)


@pytest.mark.django_db(transaction=True)
def test_a_run_on_many_servers(table: Table, sshd: RealSshd) -> None:
    """One command on 200 servers as a run: rows, grouping and all, 50 at a time"""
    access = {"port": sshd.port, "username": sshd.username, "host_key": sshd.host_key}
    servers = make_servers(TARGETS, private_key=sshd.private_key, **access)
    task = make_task(servers, "echo $SSH_CONNECTION")
    taken = []
    for _round in ("cold", "warm", "warm"):
        run, seconds = carry_out(task)
        assert run.state == "success" and run.results.filter(output__contains=sshd.host).count() == TARGETS
        taken.append(seconds)
    connections.close_all()
    cold, warm = taken[0], min(taken[1:])
    table.add("200 cold", f"{cold:.2f} s")
    table.add("200 warm", f"{warm:.2f} s")
    for name, figures in peers(sshd, TARGETS):
        right = f"{figures['ok']:.0f} of {TARGETS} right"
        told = f"cold {figures['cold']:.2f} s, warm {figures['warm']:.2f} s; {right}"
        table.add(f"  {name}", "", told, "half of it" if name == "parallel-ssh" else "as it")
        assert cold < 1.5 * figures["cold"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RealSite]:
    running = RealSite(tmp_path / "data", INFINI_SSH_ACCEPT_NEW_HOST_KEYS="1").start()
    yield running
    running.stop()


DEFINE = """
from datetime import timedelta
from django.utils import timezone
from inventory.models import Server
from scheduler.models import Task, Target
server, now = Server.objects.get(name="target"), timezone.now()
def task(n):
    kind = dict(schedule_type="cron", cron="0 3 1 1 *", next_run_at=now + timedelta(days=100 + n))
    if n < {due}:
        at = now + timedelta(seconds=5 + n * {every})
        kind = dict(schedule_type="once", run_at=at, next_run_at=at)
    return Task(name="t%04d" % n, command="true", **kind)
tasks = Task.objects.bulk_create(task(n) for n in range({all}))
Target.objects.bulk_create(Target(task=one, server=server, server_name=server.name) for one in tasks)
"""


def test_a_due_task_begins_at_once(table: Table, site: RealSite, sshd: RealSshd) -> None:
    """From due to begun with 1,000 tasks defined, 80 of them due within 20 s"""
    due = 80
    access = {"host_ip": sshd.host, "port": sshd.port, "username": sshd.username, "private_key": sshd.private_key}
    site.json("POST", "/api/servers", json={"name": "target", **access})
    done = site.manage("shell", "-v", "0", "-c", DEFINE.format(due=due, every=0.25, all=MANY))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(site.json("GET", "/api/runs?state=success")) >= due, 120, "all due tasks have run")
    rows = site.json("GET", "/api/runs")
    late = [(_moment(row["started_at"]) - _moment(row["fire_at"])).total_seconds() for row in rows]
    ended = [(_moment(row["finished_at"]) - _moment(row["fire_at"])).total_seconds() for row in rows]
    assert len(rows) == due and min(late) >= 0
    table.add("due to begun, median", f"{statistics.median(late) * 1000:.0f} ms")
    table.add("due to begun, p95", f"{p95(late) * 1000:.0f} ms", "", "1000 ms")
    table.add("due to ended, p95 (one server)", f"{p95(ended) * 1000:.0f} ms")
    assert p95(late) < 1.0


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def scripted(access: Any, _command: str, **options: Any) -> CommandResult:
    """A server by its number: 1 in 50 hangs, 1 in 20 is slow, 2 print a gigabyte each, the rest answer at once."""
    number, begun = int(access.server_name[1:]), timezone.now()
    cancelled: threading.Event = options["cancelled"]
    write: Callable[[str, bytes], None] = options["on_output"]
    timed_out = False
    if number % 50 == 1:
        timed_out = not cancelled.wait(options["timeout_seconds"])
    elif number % 20 == 2:
        cancelled.wait(random.Random(number).uniform(0.5, 2.0))
    elif number % 500 == 3:
        piece = bytes(range(32, 127)) * 345
        for _piece in range(2**30 // len(piece)):
            write("stdout", piece)
    write("stdout", b"ok\n")
    status = None if timed_out else 0
    return CommandResult("", "", status, "", timed_out, cancelled.is_set(), 0, begun, timezone.now())


@pytest.mark.django_db(transaction=True)
def test_a_thousand_servers_some_of_them_bad(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 scripted servers: 20 hang, 50 are slow, 2 print 1 GB each; 50 at a time, 10 s each"""
    monkeypatch.setattr("scheduler.shots.run", scripted)
    task = make_task(make_servers(MANY), "true", timeout_seconds=10, run_timeout_seconds=120)
    process, seen, over = psutil.Process(), [], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.append(process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    run, seconds = carry_out(task)
    over.set()
    watcher.join()
    growth = (max(seen) - before) / 1e6
    states = {state: run.results.filter(state=state).count() for state in ("success", "timed_out")}
    table.add("until the run ended", f"{seconds:.1f} s", "hung servers end at 10 s", "120 s")
    table.add("memory at most, above before", f"{growth:.0f} MB", "2 GB were printed", "64 MB")
    assert states == {"success": MANY - 20, "timed_out": 20} and run.state == "failed"
    assert seconds < 120 and growth < 64
