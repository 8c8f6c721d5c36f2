"""Limits of an instance, and its cgroup. No kernel here hands one out: a folder stands in for the hierarchy."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until

GIB = 1024**3


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """A folder that looks like a delegated cgroup with a memory controller."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    return folder


@pytest.fixture
def agent(cgroup: Path) -> Iterator[RealAgent]:
    with RealAgent(environment={"INFINI_CGROUP_ROOT": str(cgroup)}) as agent:
        yield agent


def own(agent: RealAgent, cgroup: Path, key: str) -> Path:
    """Return the cgroup of an instance."""
    return cgroup / f"infini-{(agent.state_dir / 'id').read_text().strip()}-{key}"


def refusal(agent: RealAgent, limits: object) -> dict:
    status, answer = agent.request("POST", "/service/refused/deploy", {"command": "true", "limits": limits})
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert agent.request("GET", "/service/refused/status")[0] == 404
    return dict(answer["error"]["fields"])


def test_the_limit_of_open_files(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "ulimit -Sn; ulimit -Hn", limits={"open_files": 200})
    assert shared.wait_for_phase(key, "succeeded")["log_tail"] == ["200", "200"]
    shared.deploy(key, "ulimit -Sn", limits={"open_files": None})
    default = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert shared.wait_for_phase(key, "succeeded")["log_tail"] == [default]


@pytest.mark.parametrize(
    "limits",
    [
        [],
        {"open_files": "5"},
        {"open_files": 0},
        {"open_files": True},
        {"memory_bytes": 1},
        {"memory_bytes": 1e9},
        {"surprise": 1},
    ],
)
def test_limits_are_checked(shared: RealAgent, limits: object) -> None:
    assert refusal(shared, limits)


def test_more_open_files_than_the_agent_may_give(shared: RealAgent) -> None:
    assert "at most" in refusal(shared, {"open_files": 2**30})["limits.open_files"][0]


def test_a_memory_limit_without_a_cgroup_is_refused_and_says_why(shared: RealAgent) -> None:
    assert "DelegateSubgroup" in refusal(shared, {"memory_bytes": GIB})["limits.memory_bytes"][0]


def test_a_memory_limit_without_the_controller_is_refused(agent: RealAgent, cgroup: Path) -> None:
    (cgroup / "cgroup.controllers").write_text("cpu pids\n")
    assert "no memory controller" in refusal(agent, {"memory_bytes": GIB})["limits.memory_bytes"][0]
    assert not (cgroup / "cgroup.subtree_control").exists()


def test_each_instance_has_a_cgroup_and_its_limit(agent: RealAgent, cgroup: Path) -> None:
    pid = agent.deploy("a", "sleep 600", limits={"memory_bytes": 2 * GIB})["pid"]
    other = agent.deploy("b", "sleep 600")["pid"]
    assert (cgroup / "cgroup.subtree_control").read_text() == "+memory"
    assert (own(agent, cgroup, "a") / "memory.max").read_text() == str(2 * GIB)
    assert (own(agent, cgroup, "a") / "memory.oom.group").read_text() == "1"
    assert (own(agent, cgroup, "a") / "cgroup.procs").read_text() == str(pid)
    assert (own(agent, cgroup, "b") / "cgroup.procs").read_text() == str(other)
    assert not (own(agent, cgroup, "b") / "memory.max").exists()


@pytest.mark.parametrize("shim_dead", [False, True])
def test_the_cgroup_is_killed_at_the_end_of_a_stop(agent: RealAgent, cgroup: Path, shim_dead: bool) -> None:
    agent.deploy("a", "trap '' TERM; echo set; while :; do sleep 0.2; done", stop_grace=0.5)
    wait_until(lambda: agent.status("a")["log_tail"])
    kill = own(agent, cgroup, "a") / "cgroup.kill"
    assert not kill.exists()
    if shim_dead:
        shim = agent.shim_pid("a")
        os.kill(shim, signal.SIGKILL)
        wait_until(lambda: agent.shim_pid("a") != shim)
    assert agent.request("POST", "/service/a/stop")[1]["phase"] == "stopped"
    assert kill.read_text() == "1"


def test_without_its_cgroup_an_instance_runs_but_not_without_its_limit(agent: RealAgent, cgroup: Path) -> None:
    for key in ("a", "b"):
        own(agent, cgroup, key).write_text("in the way")
    pid = agent.deploy("a", "sleep 600")["pid"]
    agent.wait_for_phase("a", "running")
    assert is_running(pid)
    answer = agent.deploy("b", "sleep 600", limits={"memory_bytes": GIB})
    assert (answer["phase"], answer["pid"]) == ("failed", None)
    assert "memory limit could not be set" in answer["reason"]


def test_an_end_by_the_out_of_memory_killer_is_told(agent: RealAgent, cgroup: Path) -> None:
    pid = agent.deploy("a", "exec sleep 600", limits={"memory_bytes": GIB})["pid"]
    (own(agent, cgroup, "a") / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    os.kill(pid, signal.SIGKILL)
    answer = agent.wait_for_phase("a", "failed")
    assert answer["exit_code"] == 137
    assert "SIGKILL" in answer["reason"] and "out-of-memory killer" in answer["reason"]


def test_limits_outlive_the_agent(agent: RealAgent, cgroup: Path) -> None:
    agent.deploy("a", "ulimit -n; sleep 600", limits={"open_files": 321, "memory_bytes": GIB})
    wait_until(lambda: agent.status("a")["log_tail"] == ["321"])
    agent.kill9()
    agent.start()
    assert agent.status("a")["phase"] in ("starting", "running")
    assert agent.request("POST", "/service/a/restart")[0] == 200
    wait_until(lambda: agent.status("a")["log_tail"] == ["321"])
    assert (own(agent, cgroup, "a") / "memory.max").read_text() == str(GIB)
