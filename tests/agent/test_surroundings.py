"""What the machine does to the agent: a full disk, a state directory that turns read-only, a clock that is set back."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until

Mount = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """`mount ARGUMENTS PLACE`, undone in the end."""
    places: list[str] = []

    def do(*arguments: object) -> None:
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
        if done.returncode and not places:
            pytest.skip(f"this account may not mount: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        places.append(str(arguments[-1]))

    yield do
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def until(file: Path, then: str) -> str:
    """A command that waits for a file."""
    return f"while [ ! -e {file} ]; do sleep 0.05; done; {then}"


def refused(agent: RealAgent, verb: str, key: str, **body: object) -> bool:
    status, answer = agent.request("POST", f"/service/{key}/{verb}", body)
    return (status, answer.get("error", {}).get("code")) == (500, "state_not_writable")


def test_a_full_disk_changes_nothing_and_loses_no_exit_code(tmp_path: Path, mount: Mount) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mount("-t", "tmpfs", "-o", "size=3m", "none", state)
    with RealAgent(state_dir=state) as agent:
        talker = agent.deploy("talker", "while :; do echo $(seq 500); sleep 0.05; done")["pid"]
        ends = agent.deploy("ends", until(tmp_path / "go", "exit 7"))["pid"]
        wait_until(lambda: agent.status("talker")["log_tail"])
        filler, log = state / "filler", state / "instances/talker/log.0"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 1024)

        wait_until(lambda: log.stat().st_size % 4096 == 0, what="output is lost from here on")

        assert refused(agent, "deploy", "new", command=f"touch {tmp_path}/ran")
        assert refused(agent, "deploy", "talker", command=f"touch {tmp_path}/ran")
        assert refused(agent, "stop", "talker")
        assert agent.status("talker")["pid"] == talker and is_running(talker)
        assert agent.request("GET", "/service/new/status")[0] == 404 and not (tmp_path / "ran").exists()

        (tmp_path / "go").touch()
        wait_until(lambda: not is_running(ends))
        filler.unlink()
        assert agent.wait_for_phase("ends", "failed")["exit_code"] == 7
        wait_until(lambda: b"bytes of output lost, the disk took no more" in log.read_bytes())
        assert agent.request("POST", "/service/talker/stop")[1]["phase"] == "stopped"
        assert agent.deploy("new", "exec sleep 600")["pid"]
        agent.kill9()
        agent.start()  # nothing half-written was left
        assert (agent.status("ends")["phase"], agent.status("talker")["phase"]) == ("failed", "stopped")
        assert agent.wait_for_phase("new", "running")


def test_a_state_directory_that_turns_read_only_changes_nothing(tmp_path: Path, mount: Mount) -> None:
    with RealAgent() as agent:
        pid = agent.deploy("a", "exec sleep 600")["pid"]
        ends = agent.deploy("ends", until(tmp_path / "go", "exit 7"))["pid"]
        agent.wait_for_phase("a", "running")
        folder = agent.state_dir / "instances"
        mount("--bind", folder, folder)
        mount("-o", "remount,ro,bind", folder)

        assert refused(agent, "deploy", "a", command=f"touch {tmp_path}/ran")
        assert refused(agent, "deploy", "new", command=f"touch {tmp_path}/ran")
        assert refused(agent, "restart", "a") and refused(agent, "stop", "a")
        answer = agent.status("a")
        assert (answer["phase"], answer["pid"], answer["ready"]) == ("running", pid, True)
        agent.kill9()
        agent.start()
        assert agent.wait_for_phase("a", "running")["pid"] == pid and not (tmp_path / "ran").exists()
        (tmp_path / "go").touch()
        wait_until(lambda: not is_running(ends))

        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        assert agent.wait_for_phase("ends", "failed")["exit_code"] == 7
        assert agent.request("POST", "/service/a/stop")[1]["phase"] == "stopped"


def test_a_clock_set_back_moves_no_deadline(tmp_path: Path, free_port: int) -> None:
    """The agent's own clock is set here, by a module that Python loads before the agent; that of the machine stays."""
    shift = tmp_path / "shift"
    shift.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + float(open({str(shift)!r}).read() or 0)\n"
    )
    with RealAgent(environment={"PYTHONPATH": str(tmp_path)}) as agent:
        pid = agent.deploy("runs", "exec sleep 600")["pid"]
        agent.deploy("late", "exec sleep 600", port=free_port, probes={"startup_seconds": 0.7})
        agent.deploy("again", "exit 3", restart={"policy": "on-failure", "backoff_first_seconds": 0.7})
        wait_until(lambda: agent.status("again")["reason"].startswith("Restarts in"))
        shift.write_text("-86400")
        began = time.monotonic()
        assert "not ready within" in agent.wait_for_phase("late", "failed")["reason"]
        restarted = wait_until(lambda: agent.status("again")["restart_history"])
        assert time.monotonic() - began < 3
        assert datetime.fromisoformat(restarted[0]["at"]).timestamp() < time.time() - 80000
        agent.kill9()
        agent.start()
        assert agent.wait_for_phase("runs", "running")["pid"] == pid
        assert agent.status("late")["phase"] == "failed"
        assert os.path.exists(agent.state_dir / "instances" / "late" / "exit.json")
