"""The agent on real accelerators and on a real cgroup v2 hierarchy: skipped on a machine that has none.

Nothing here stands in for a tool or a kernel. ``docs/verified.md`` says on what it ran.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until
from tests.real_nvidia import MIB, TAKE_MEMORY, TAKEN_BYTES, nvidia


@pytest.fixture
def agent() -> Iterator[RealAgent]:
    """One that looks where tools lie on this machine."""
    with RealAgent(environment={"INFINI_DEVICE_PATH": os.environ["PATH"]}) as agent:
        yield agent


def devices(agent: RealAgent) -> list[dict]:
    """Return the devices once a reading has ended; fail on a tool that was not understood."""
    report = wait_until(lambda: read(agent), 30, "a reading of the devices")
    assert report["device_errors"] == {}
    return list(report["devices"])


def read(agent: RealAgent) -> dict | None:
    report = agent.request("GET", "/report")[1]
    return report if report["devices_observed_at"] else None


def smi(*fields: str) -> list[list[str]]:
    """Ask nvidia-smi ourselves, in other words than the agent's."""
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]


@nvidia
def test_each_nvidia_device_is_told_as_its_tool_tells_it(agent: RealAgent) -> None:
    found = devices(agent)
    said = smi("index", "uuid", "name", "pci.bus_id", "memory.total", "temperature.gpu")
    assert [[str(one["index"]), one["uuid"], one["name"]] for one in found] == [row[:3] for row in said]
    for one, row in zip(found, said, strict=True):
        assert one["vendor"] == "nvidia" and one["verified"]
        assert row[3].lower().endswith(one["bus_id"])
        assert one["memory_total_bytes"] == int(row[4]) * MIB
        assert 0 <= one["memory_used_bytes"] < one["memory_total_bytes"]
        assert abs(one["temperature_celsius"] - int(row[5])) < 15
        assert 0 <= one["utilization_percent"] <= 100
        assert 1 < one["power_watts"] < 2000
        assert one["health"] == "ok", one["health_reason"]
        assert one["processes"] is not None


@nvidia
def test_what_an_instance_takes_of_a_device_is_seen_and_given_back(agent: RealAgent) -> None:
    one = devices(agent)[0]
    before = one["memory_used_bytes"]
    variables = {one["visible_variable"]: one["visible_value"], **one["environment"]}
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(TAKE_MEMORY)}"
    pid = agent.deploy("engine", command, env=variables)["pid"]
    wait_until(lambda: agent.status("engine")["log_tail"], 60, "the engine has its memory")
    assert agent.status("engine")["log_tail"] == [f"devices 1 {one['visible_value']}"]

    taken = wait_until(lambda: of_process(agent, pid), 40, "the device names the process")
    assert TAKEN_BYTES <= taken["memory_used_bytes"] < 3 * TAKEN_BYTES
    assert taken["instance"] == "engine"
    assert devices(agent)[0]["memory_used_bytes"] >= before + TAKEN_BYTES

    assert agent.request("POST", "/service/engine/stop")[1]["phase"] == "stopped"
    wait_until(lambda: not of_process(agent, pid), 40, "the device no longer names the process")
    assert devices(agent)[0]["memory_used_bytes"] < before + TAKEN_BYTES


def of_process(agent: RealAgent, pid: int) -> dict | None:
    listed = devices(agent)[0]["processes"]
    return next((entry for entry in listed if entry["pid"] == pid), None)


@nvidia
def test_a_reading_is_cheap_enough_for_every_ten_seconds() -> None:
    begun = time.monotonic()
    smi("index", "memory.used")
    assert time.monotonic() - begun < 2


# --- cgroup v2 ---

MOUNT = Path("/sys/fs/cgroup")


def delegate() -> Path | None:
    """Make a cgroup that is marked as systemd marks what it delegates; None where this kernel lets us have none."""
    if "memory" not in read_text(MOUNT / "cgroup.controllers"):
        return None
    root = MOUNT / f"infini-test-{os.getpid()}"
    try:
        with contextlib.suppress(OSError):
            (MOUNT / "cgroup.subtree_control").write_text("+memory")
        (root / "agent").mkdir(parents=True)
        os.setxattr(root, "user.delegate", b"1")
    except OSError:
        discard(root)
        return None
    if "memory" in read_text(root / "cgroup.controllers"):
        return root
    discard(root)
    return None


def read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def discard(root: Path) -> None:
    for folder in [*root.glob("*/"), root]:
        with contextlib.suppress(OSError):
            folder.rmdir()


@pytest.fixture
def delegated() -> Iterator[tuple[RealAgent, Path]]:
    """An agent that sits where ``Delegate=yes`` and ``DelegateSubgroup=agent`` put it."""
    root = delegate()
    if root is None:
        pytest.skip("needs a writable cgroup v2 hierarchy with a memory controller")
    home = Path(f"/proc/{os.getpid()}/cgroup").read_text().strip().rpartition("::")[2]
    try:
        (root / "agent" / "cgroup.procs").write_text(str(os.getpid()))
        try:
            agent = RealAgent()
        finally:
            (MOUNT / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        with agent:
            yield agent, root
    finally:
        with contextlib.suppress(OSError):
            (root / "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in read_text(root / "cgroup.events"), what="the cgroup is empty")
        discard(root)


def own(root: Path, key: str) -> Path:
    return next(root.glob(f"infini-*-{key}"))


def test_the_kernel_holds_an_instance_to_its_memory(delegated: tuple[RealAgent, Path]) -> None:
    agent, root = delegated
    grow = "x = []\nwhile True: x.append(bytearray(8 << 20))"
    agent.deploy("a", f"{shlex.quote(sys.executable)} -c {shlex.quote(grow)}", limits={"memory_bytes": 128 * MIB})
    answer = agent.wait_for_phase("a", "failed", seconds=60)
    assert answer["exit_code"] == 137
    assert "out-of-memory killer" in answer["reason"]
    assert agent.request("GET", "/health")[0] == 200
    assert list(root.glob("infini-*-a")) == []


def test_the_kernel_ends_what_left_its_group_and_its_session(delegated: tuple[RealAgent, Path]) -> None:
    agent, root = delegated
    agent.deploy(
        "a", "setsid -f env -u INFINI_TREE sh -c 'trap \"\" TERM; while :; do sleep 0.3; done'; exec sleep 600"
    )
    wait_until(lambda: len(read_text(own(root, "a") / "cgroup.procs").split()) >= 3, what="the runaway is there")
    pids = [int(pid) for pid in read_text(own(root, "a") / "cgroup.procs").split()]
    assert agent.request("POST", "/service/a/stop")[1]["phase"] == "stopped"
    assert [pid for pid in pids if is_running(pid)] == []
    assert list(root.glob("infini-*-a")) == []


def test_instances_are_beside_the_agent_not_below_it(delegated: tuple[RealAgent, Path]) -> None:
    agent, root = delegated
    pid = agent.deploy("a", "exec sleep 600", limits={"memory_bytes": 512 * MIB})["pid"]
    assert re.search(rf"/{root.name}/infini-[^/]+-a$", Path(f"/proc/{pid}/cgroup").read_text().strip())
    assert (own(root, "a") / "memory.max").read_text().strip() == str(512 * MIB)
    agent.kill9()
    assert is_running(pid)
