"""The shim kept ready for the next start: used once, mended whatever befalls it, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_faults import kill_all_spawners
from tests.real_agent import AGENT_FILE, PYTHON, RealAgent, is_running, wait_until


def children_of(pid: int) -> list[int]:
    """Return the live children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_running(int(entry.name)):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the sockets a process holds, each by its number."""
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def spare_shim(agent: RealAgent) -> int:
    """Return the PID of the shim that waits for a request, once the agent has a line to it; no instance may run."""
    [spawner] = wait_until(lambda: children_of(agent.pid))
    [spare] = wait_until(lambda: children_of(spawner))
    # It lets go of the spawner's own link when it has offered the agent another one.
    wait_until(lambda: not sockets_of(spare) & sockets_of(spawner))
    return spare


def waiting_child(agent: RealAgent) -> int:
    """Return the PID of what the spare shim has forked, to become the command."""
    spare = spare_shim(agent)
    return wait_until(lambda: children_of(spare))[0]


def test_kill_9_of_the_spare_shim_is_mended(agent: RealAgent) -> None:
    os.kill(spare_shim(agent), signal.SIGKILL)
    for key in ("a", "b"):
        assert is_running(agent.deploy(key, "sleep 600")["pid"])


def test_the_spare_shim_ends_with_the_agent(agent: RealAgent) -> None:
    spare = spare_shim(agent)
    agent.kill9()
    wait_until(lambda: not is_running(spare))


def test_the_spare_shim_becomes_the_next_one(agent: RealAgent) -> None:
    spare = spare_shim(agent)
    agent.deploy("a", "sleep 600")
    assert agent.shim_pid("a") == spare


def test_the_child_of_the_spare_shim_becomes_the_command(agent: RealAgent) -> None:
    """However much it has to be told."""
    child = waiting_child(agent)
    env = {name: name * 100_000 for name in "ABC"}
    assert agent.deploy("a", "echo $A$B$C | wc -c; exec sleep 600", env=env)["pid"] == child
    wait_until(lambda: agent.status("a")["log_tail"] == ["300001"])


def test_the_child_of_the_spare_shim_ends_with_the_agent(agent: RealAgent) -> None:
    child = waiting_child(agent)
    agent.kill9()
    wait_until(lambda: not is_running(child))


def test_kill_9_of_the_child_of_the_spare_shim_is_mended(agent: RealAgent) -> None:
    spare, child = spare_shim(agent), waiting_child(agent)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not is_running(child))
    assert is_running(agent.deploy("a", "exec sleep 600")["pid"])
    assert agent.shim_pid("a") == spare
    agent.wait_for_phase("a", "running")


def test_a_spare_shim_that_outlives_its_spawner_answers_one_request(agent: RealAgent) -> None:
    spare = spare_shim(agent)
    kill_all_spawners(agent)
    began = time.monotonic()
    for key in ("a", "b", "c"):
        assert is_running(agent.deploy(key, "exec sleep 600")["pid"])
    assert time.monotonic() - began < 3
    assert agent.shim_pid("a") == spare


def test_a_sigterm_for_the_spare_shim_stops_nothing_later(agent: RealAgent) -> None:
    spare = spare_shim(agent)
    os.kill(spare, signal.SIGTERM)
    wait_until(lambda: not is_running(spare))
    agent.deploy("a", "exec sleep 600")
    agent.wait_for_phase("a", "running")


def test_a_frozen_spare_shim_holds_up_a_start_for_a_moment_alone(agent: RealAgent) -> None:
    frozen, child = spare_shim(agent), waiting_child(agent)
    os.kill(frozen, signal.SIGSTOP)
    began = time.monotonic()
    pid = agent.deploy("a", "exec sleep 600")["pid"]
    assert time.monotonic() - began < 3
    assert is_running(pid) and agent.shim_pid("a") != frozen
    assert agent.wait_for_phase("a", "running")["pid"] == pid
    # It can run nothing any more, and is not left behind; the next start has another one.
    wait_until(lambda: not is_running(frozen) and not is_running(child))
    began = time.monotonic()
    assert is_running(agent.deploy("b", "exec sleep 600")["pid"])
    assert time.monotonic() - began < 0.5


def test_a_frozen_spawner_is_replaced(agent: RealAgent) -> None:
    spare_shim(agent)
    [spawner] = children_of(agent.pid)
    os.kill(spawner, signal.SIGSTOP)
    began = time.monotonic()
    for key in ("a", "b"):  # the first takes the spare shim
        assert is_running(agent.deploy(key, "exec sleep 600")["pid"])
    assert time.monotonic() - began < 5
    assert agent.wait_for_phase("a", "running") and agent.wait_for_phase("b", "running")
    assert not is_running(spawner)


def test_an_intent_that_cannot_be_stored_leaves_nothing_of_the_spare_shim(agent: RealAgent) -> None:
    """It had got everything ready by then."""
    agent.deploy("a", "exit 0")
    agent.wait_for_phase("a", "succeeded")
    folder = agent.state_dir / "instances" / "a"
    spare = spare_shim(agent)
    before = agent.record("a")
    following = folder / "instance.json.next"
    wait_until(following.exists)
    following.unlink()
    following.mkdir()  # nothing can be written there
    status, answer = agent.request("POST", "/service/a/deploy", {"command": "exec sleep 600"})
    assert (status, answer["error"]["code"]) == (500, "state_not_writable")
    assert agent.record("a") == before
    assert sorted(path.name for path in folder.iterdir() if path.name != "ready") == [
        "exit.json", "instance.json", "instance.json.next", "log.0", "process.json", "shim.lock",
    ]  # fmt: skip
    wait_until(lambda: not is_running(spare))
    following.rmdir()
    assert is_running(agent.deploy("a", "exec sleep 600")["pid"])


class Spawner:
    """A spawner without an agent: the test speaks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link, theirs = socket.socketpair()
        self.link.settimeout(10)
        with theirs:
            arguments = [PYTHON, "-I", "-S", str(AGENT_FILE), "--spawner", str(theirs.fileno())]
            self.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()])
        self.link.sendall(b'{"event": "spare"}\n')

    def take_spare(self) -> tuple[socket.socket, int]:
        """Return a spare shim's own line, and its PID."""
        data, fds, _, _ = socket.recv_fds(self.link, 65536, 1)
        line = socket.socket(fileno=fds[0])
        line.settimeout(10)
        return line, json.loads(data)["shim"][0]

    def prepare(self, line: socket.socket, command: str) -> dict[str, Any]:
        """Have a start of the instance prepared; return what the shim says to it."""
        request = {"folder": str(self.folder), "run": "r", "mark": "m/a", "cgroup": None, "adopt": False}
        document = {"run": "r", "generation": 1, "spec": {"command": command, "stop_grace": 5}}
        line.sendall(json.dumps({**request, "document": document}).encode() + b"\n")
        return dict(json.loads(line.recv(65536)))

    def close(self) -> None:
        self.link.close()
        self.process.wait(timeout=10)


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[Spawner]:
    spawner = Spawner(tmp_path)
    with contextlib.closing(spawner):
        yield spawner


def test_nothing_runs_before_the_word_and_nothing_is_left_without_it(spawner: Spawner, tmp_path: Path) -> None:
    """The agent dies after the shim got all ready: perhaps before its intent was on disk."""
    line, pid = spawner.take_spare()
    [child] = wait_until(lambda: children_of(pid))
    assert spawner.prepare(line, f"touch {tmp_path}/ran")["event"] == "ready"
    assert (tmp_path / "output").exists() and not (tmp_path / "process.json").exists()
    line.close()
    wait_until(lambda: not is_running(pid) and not is_running(child))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.0", "shim.lock"]


def test_a_word_sent_by_an_agent_that_then_dies_is_acted_on(spawner: Spawner, tmp_path: Path) -> None:
    line, pid = spawner.take_spare()
    assert spawner.prepare(line, "exec sleep 600")["event"] == "ready"
    line.sendall(b'{"event": "begin"}\n')
    line.close()
    wait_until((tmp_path / "process.json").exists)
    running = json.loads((tmp_path / "process.json").read_text())["process"][0]
    assert is_running(running)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(running) and not is_running(pid))
    assert json.loads((tmp_path / "exit.json").read_text())["exit_code"] == 143


def test_the_end_is_told_over_the_line(spawner: Spawner) -> None:
    line, pid = spawner.take_spare()
    spawner.prepare(line, "exec sleep 600")
    line.sendall(b'{"event": "begin"}\n')
    with line, line.makefile("r") as told:
        assert json.loads(told.readline())["event"] == "started"
        os.kill(pid, signal.SIGTERM)
        assert json.loads(told.readline())["event"] == "gone"
        assert told.readline() == ""
