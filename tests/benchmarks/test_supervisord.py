"""Start, stop and status of one process: the agent over HTTP against supervisord over XML-RPC, turn by turn.

Both run the same login shell over an empty home. supervisord is the one on the path, else it is installed into a
virtual environment of its own under the test's folder.
"""

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import Table
from tests.live.site import free_port
from tests.real_agent import RealAgent, is_running, wait_until

pytestmark = pytest.mark.benchmark
VERSION = "4.3.0"
CYCLES = 150
COMMAND = "exec sleep 1000000"
CONFIGURATION = """
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid

[inet_http_server]
port=127.0.0.1:{port}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:bench]
command=bash -lc "{command}"
environment=HOME="{folder}"
autostart=false
startsecs=0
stopwaitsecs=1
"""  # a stop that comes early is now and then lost on supervisord, which then waits, busily, for so long


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator["Supervisord"]:
    folder, port = tmp_path / "supervisord", free_port()
    folder.mkdir()
    program = shutil.which("supervisord") or installed(tmp_path / "venv")
    (folder / "conf").write_text(CONFIGURATION.format(folder=folder, port=port, command=COMMAND))
    process = subprocess.Popen([program, "-c", str(folder / "conf")], stdout=subprocess.DEVNULL)
    yield wait_until(lambda: Supervisord.at(port), 20)
    process.terminate()
    process.wait(timeout=20)


def installed(venv: Path) -> str:
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, check=False)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", f"supervisor=={VERSION}", "setuptools<80"]
    if made.returncode or subprocess.run(pip, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("supervisord is neither on the path nor can it be installed: nothing to compare with")
    return str(venv / "bin" / "supervisord")


class NoDelay(xmlrpc.client.Transport):
    """Kept alive and without Nagle: what the client's own side costs is not supervisord's."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        if connection.sock is None:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class Supervisord:
    def __init__(self, port: int) -> None:
        self.rpc = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2", transport=NoDelay()).supervisor

    @classmethod
    def at(cls, port: int) -> "Supervisord | None":
        try:
            found = cls(port)
            found.rpc.getState()
        except OSError:
            return None
        return found

    def start(self) -> None:
        self.rpc.startProcess("bench", True)

    def stop(self) -> None:
        self.rpc.stopProcess("bench", True)

    def status(self) -> int:
        return int(self.rpc.getProcessInfo("bench")["pid"])


class Agent:
    """One kept connection, as the control plane has it."""

    def __init__(self, agent: RealAgent) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers = {"Authorization": f"Bearer {agent.token}", "Content-Type": "application/json"}
        self.generation = 0

    def call(self, method: str, path: str, body: dict | None = None) -> dict:
        self.connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        answer = self.connection.getresponse()
        document = json.loads(answer.read())
        assert answer.status < 300, document
        return document

    def start(self) -> None:
        self.generation += 1
        self.call("POST", "/service/bench/deploy", {"command": COMMAND, "generation": self.generation})

    def stop(self) -> None:
        self.call("POST", "/service/bench/stop", {})

    def status(self) -> int:
        return self.call("GET", "/service/bench/status")["pid"]


def cycle(subject: Agent | Supervisord, taken: dict[str, list[float]]) -> None:
    """One start, some looks and one stop; a call counts until what it says is true."""
    timed(taken["start"], subject.start)
    pid = subject.status()
    assert is_running(pid)
    for _ in range(4):
        assert timed(taken["status"], subject.status) == pid
    timed(taken["stop"], subject.stop)
    assert not is_running(pid)


def timed(taken: list[float], call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = call()
    taken.append((time.perf_counter() - began) * 1000)
    return answer


def fsync_ms(folder: Path) -> float:
    """One small file written anew, synced and put in its place: the least that makes a start or a stop outlive a
    power cut. supervisord keeps nothing."""
    taken: list[float] = []

    def once() -> None:
        with open(folder / "new", "wb") as file:
            file.write(b"x" * 1000)
            file.flush()
            os.fsync(file.fileno())
        os.replace(folder / "new", folder / "kept")

    for _ in range(100):
        timed(taken, once)
    return statistics.median(taken)


def test_against_supervisord(supervisord: Supervisord, table: Table) -> None:
    """One process: agent against supervisord, medians of turns taken one after the other"""
    verbs = ("start", "stop", "status")
    with RealAgent() as agent:
        ours, theirs = {verb: [] for verb in verbs}, {verb: [] for verb in verbs}
        peer = Agent(agent)
        for _ in range(5):
            cycle(peer, {verb: [] for verb in verbs})
            cycle(supervisord, {verb: [] for verb in verbs})
        for _ in range(CYCLES):
            cycle(peer, ours)
            cycle(supervisord, theirs)
        fsync = fsync_ms(agent.state_dir)
    slower = []
    for verb in verbs:
        mine, other = statistics.median(ours[verb]), statistics.median(theirs[verb])
        bar = other + (0 if verb == "status" else fsync)
        table.add(f"{verb}, median", f"{mine:.2f} ms", f"supervisord {other:.2f} ms", f"{bar:.2f} ms")
        slower += [verb] if mine > bar else []
    table.add("one fsync", f"{fsync:.2f} ms")
    assert not slower, f"slower than supervisord beyond one fsync: {', '.join(slower)}"
