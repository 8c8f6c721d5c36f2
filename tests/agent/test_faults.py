"""What a crash of any part, a reboot, a reused PID or a damaged file does: nothing lost, no stranger hurt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the agent's business, leader of a session and group as instances are."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def kill_shim(agent: RealAgent, key: str) -> None:
    """Kill the shim of an instance and wait until another one has taken over."""
    shim = agent.shim_pid(key)
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: agent.shim_pid(key) != shim)


def kill_all_spawners(agent: RealAgent) -> None:
    """Kill the processes the agent forks shims with, which are its children."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == agent.pid:
                os.kill(int(entry.name), signal.SIGKILL)


def edit(agent: RealAgent, key: str, name: str, **changes: object) -> None:
    """Change fields of a state file of an instance."""
    path = agent.state_dir / "instances" / key / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# The agent dies


def test_kill_9_of_the_agent_loses_nothing(agent: RealAgent, tmp_path: Path) -> None:
    command = f"echo before; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo after; exit 9"
    pid = agent.deploy("a", command, generation=4)["pid"]
    agent.wait_for_phase("a", "running")
    agent.kill9()
    agent.start()
    found = agent.status("a")
    assert (found["pid"], found["phase"], found["ready"], found["generation"]) == (pid, "running", True, 4)
    assert agent.deploy("a", command, generation=4)["pid"] == pid
    (tmp_path / "go").touch()
    answer = agent.wait_for_phase("a", "failed")
    assert (answer["exit_code"], answer["log_tail"]) == (9, ["before", "after"])


def test_what_happens_while_the_agent_is_away_is_told(agent: RealAgent, tmp_path: Path) -> None:
    pid = agent.deploy("a", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo unattended; exit 5")["pid"]
    agent.deploy("killed", "exec sleep 600")
    agent.kill9()
    (tmp_path / "go").touch()
    os.kill(agent.record("killed")["process"][0], signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    wait_until((agent.state_dir / "instances" / "killed" / "exit.json").exists)
    agent.start()
    answer = agent.wait_for_phase("a", "failed")
    assert (answer["exit_code"], answer["log_tail"]) == (5, ["unattended"])
    assert agent.wait_for_phase("killed", "failed")["exit_code"] == 137


def test_kill_9_of_agent_and_shim_and_spawner(agent: RealAgent, tmp_path: Path) -> None:
    command = f"echo before; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo after; exit 0"
    pid = agent.deploy("a", command)["pid"]
    wait_until(lambda: agent.status("a")["log_tail"])
    shim = agent.shim_pid("a")
    kill_all_spawners(agent)
    agent.kill9()
    os.kill(shim, signal.SIGKILL)
    agent.start()
    wait_until(lambda: agent.shim_pid("a") != shim)
    assert agent.status("a")["pid"] == pid
    (tmp_path / "go").touch()
    answer = agent.wait_for_phase("a", "failed")
    assert (answer["exit_code"], answer["log_tail"]) == ("unknown", ["before", "after"])
    assert "unseen" in answer["reason"]


def test_sigterm_ends_the_agent_at_once_and_leaves_instances(agent: RealAgent) -> None:
    pid = agent.deploy("a", "sleep 600")["pid"]
    assert agent.terminate() == 0
    assert is_running(pid)
    agent.start()
    assert agent.wait_for_phase("a", "running")["pid"] == pid


def test_an_intent_without_a_process_is_carried_out(agent: RealAgent, tmp_path: Path) -> None:
    """The agent died after it stored what is wanted, before anything ran."""
    agent.deploy("a", f"echo $$ >> {tmp_path}/runs; exit 0")
    agent.wait_for_phase("a", "succeeded")
    agent.kill9()
    edit(agent, "a", "instance.json", run="another-run", generation=2)
    agent.start()
    wait_until(lambda: len((tmp_path / "runs").read_text().split()) == 2)
    answer = agent.wait_for_phase("a", "succeeded")
    assert answer["generation"] == 2
    assert len((tmp_path / "runs").read_text().split()) == 2


def test_a_stop_that_was_under_way_is_finished_by_the_next_agent(agent: RealAgent) -> None:
    pid = agent.deploy("a", "sleep 600")["pid"]
    agent.kill9()
    edit(agent, "a", "instance.json", wanted="stopped")
    agent.start()
    agent.wait_for_phase("a", "stopped")
    assert not is_running(pid)


@pytest.mark.parametrize("announced", ["whole", "torn", "older", "beside one of agent 0.3"])
def test_a_stop_that_was_announced_counts_though_its_agent_died_before_it_was_kept(
    agent: RealAgent, announced: str
) -> None:
    """The shim was told while the disk was written to. What a power cut tore, or an earlier write left, is nothing."""
    pid = agent.deploy("a", "exec sleep 600", generation=3)["pid"]
    agent.wait_for_phase("a", "running")
    following = agent.state_dir / "instances" / "a" / "instance.json.next"
    wait_until(following.exists)
    agent.kill9()
    intent = agent.record("a", "instance.json")
    intent = {**intent, "wanted": "stopped", "generation": 4, "number": intent["number"] + (announced != "older")}
    text = json.dumps(intent)
    text = f'{text[:-1]}, "check": {zlib.crc32(text.encode())}}}'
    if announced == "beside one of agent 0.3":
        edit(agent, "a", "instance.json", number=None)
    # Torn: a part of what was there before is left in the middle.
    following.write_text((text.replace('"generation": 4', '"generation": 2') if announced == "torn" else text) + "   ")
    agent.start()
    if announced == "whole":
        assert agent.wait_for_phase("a", "stopped")["generation"] == 4
        assert not is_running(pid)
        agent.kill9()
        agent.start()
    answer = agent.status("a")
    told = (answer["phase"], answer["generation"])
    assert told == (("stopped", 4) if announced == "whole" else ("running", 3))


def test_intents_are_found_again_whatever_came_before(agent: RealAgent) -> None:
    """Each is written to the other one of two files."""
    for round_number in range(3):
        assert agent.deploy("a", f"exec sleep 60{round_number}")["generation"] == 2 * round_number + 1
        wait_until((agent.state_dir / "instances" / "a" / "instance.json.next").exists)
        agent.kill9()
        agent.start()
        answer = agent.wait_for_phase("a", "running")
        assert answer["generation"] == 2 * round_number + 1
        agent.request("POST", "/service/a/stop", {"generation": 2 * round_number + 2})
        agent.kill9()
        agent.start()
        answer = agent.status("a")
        assert (answer["phase"], answer["generation"]) == ("stopped", 2 * round_number + 2)


def test_being_ready_once_outlives_the_agent(agent: RealAgent, free_port: int) -> None:
    """Else the startup deadline would count again, and stop a model that is busy for a moment."""
    command = f"exec python3 -m http.server --bind 127.0.0.1 {free_port}"
    probes = {"startup_seconds": 5, "period_seconds": 0.1, "failure_threshold": 1}
    pid = agent.deploy("a", command, port=free_port, probes=probes)["pid"]
    agent.wait_for_phase("a", "running")
    agent.kill9()
    # As if it had been started long ago, and does not answer now.
    edit(agent, "a", "process.json", started_monotonic=-100.0)
    os.kill(pid, signal.SIGSTOP)
    agent.start()
    answer = agent.status("a")
    assert (answer["phase"], answer["pid"]) == ("running", pid)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: agent.status("a")["ready"])


# The spawner dies


def test_kill_9_of_the_spawner_is_mended(agent: RealAgent) -> None:
    pid = agent.deploy("a", "sleep 600")["pid"]
    for number in range(2):
        kill_all_spawners(agent)
        assert agent.deploy(f"b{number}", "sleep 600")["pid"]
    assert agent.status("a")["pid"] == pid


# The shim dies


def test_the_instance_survives_its_shim(agent: RealAgent, tmp_path: Path) -> None:
    """Even while it writes far more than the FIFO holds."""
    command = (
        f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; "
        f"head -c 1000000 /dev/zero | tr '\\0' x; echo; echo flooded; touch {tmp_path}/through; sleep 600"
    )
    pid = agent.deploy("a", command)["pid"]
    agent.wait_for_phase("a", "running")
    shim = agent.shim_pid("a")
    os.kill(shim, signal.SIGSTOP)
    (tmp_path / "go").touch()
    os.kill(shim, signal.SIGKILL)
    wait_until((tmp_path / "through").exists)
    answer = agent.status("a")
    assert (answer["pid"], answer["phase"], answer["ready"]) == (pid, "running", True)
    wait_until(lambda: agent.status("a")["log_tail"][-1:] == ["flooded"])
    size = agent.request("GET", "/service/a/logs")[1]["size"]
    assert size == len("first\n") + 1_000_000 + 1 + len("flooded\n")
    assert agent.shim_pid("a") != shim


def test_an_exit_after_the_shim_died_is_unknown(agent: RealAgent, tmp_path: Path) -> None:
    pid = agent.deploy("a", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 3")["pid"]
    kill_shim(agent, "a")
    kill_shim(agent, "a")
    (tmp_path / "go").touch()
    answer = agent.wait_for_phase("a", "failed")
    assert answer["exit_code"] == "unknown"
    assert "shim" in answer["reason"]
    assert not is_running(pid)


def test_process_and_shim_killed_together(agent: RealAgent, tmp_path: Path) -> None:
    command = f"setsid sleep 600 & echo $! > {tmp_path}/child; exec sleep 600"
    pid = agent.deploy("a", command)["pid"]
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    shim = agent.shim_pid("a")
    os.kill(shim, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    answer = agent.wait_for_phase("a", "failed")
    assert answer["exit_code"] in ("unknown", 137)
    wait_until(lambda: not is_running(child), what="what left the session is ended too")


def test_stop_works_with_the_shim_dead(agent: RealAgent, tmp_path: Path) -> None:
    command = f"setsid sleep 600 & echo $! > {tmp_path}/child; sleep 600"
    pid = agent.deploy("a", command)["pid"]
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    os.kill(agent.shim_pid("a"), signal.SIGKILL)
    status, answer = agent.request("POST", "/service/a/stop")
    assert (status, answer["phase"]) == (200, "stopped")
    assert not is_running(pid)
    assert not is_running(child)


def test_sigterm_is_sent_once_with_the_shim_dead_too(agent: RealAgent, tmp_path: Path) -> None:
    terms = tmp_path / "terms"
    command = f"trap 'echo x >> {terms}' TERM; echo set; while [ ! -s {terms} ]; do sleep 0.1; done"
    agent.deploy("a", f"{command}; sleep 0.3")
    wait_until(lambda: agent.status("a")["log_tail"])
    kill_shim(agent, "a")
    assert agent.request("POST", "/service/a/stop")[1]["phase"] == "stopped"
    assert terms.read_text() == "x\n"


def test_leftovers_of_a_shim_that_died_after_the_exit_are_ended(
    agent: RealAgent, stranger: subprocess.Popen[bytes]
) -> None:
    """It had recorded the exit and not yet ended the rest of the tree: its FIFO is still there."""
    agent.deploy("a", "exit 3")
    agent.wait_for_phase("a", "failed")
    folder = agent.state_dir / "instances" / "a"
    assert not (folder / "output").exists()
    agent.kill9()
    mark = (agent.state_dir / "id").read_text().strip() + "/a"
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, "INFINI_TREE": mark}, start_new_session=True)
    os.mkfifo(folder / "output")
    agent.start()
    answer = agent.wait_for_phase("a", "failed")
    assert left.wait(timeout=5) == -signal.SIGKILL
    assert (answer["exit_code"], (folder / "output").exists()) == (3, False)
    assert stranger.poll() is None


def test_stopping_what_failed_is_remembered(agent: RealAgent, free_port: int) -> None:
    agent.deploy("a", "sleep 600", port=free_port, probes={"startup_seconds": 0.2})
    agent.wait_for_phase("a", "failed")
    assert agent.request("POST", "/service/a/stop")[1]["phase"] == "stopped"
    agent.kill9()
    agent.start()
    assert agent.status("a")["phase"] == "stopped"


def test_a_shim_killed_in_mid_stop(agent: RealAgent) -> None:
    pid = agent.deploy("a", "trap '' TERM; echo set; while :; do sleep 0.2; done", stop_grace=1)["pid"]
    wait_until(lambda: agent.status("a")["log_tail"])
    agent.kill9()
    edit(agent, "a", "instance.json", wanted="stopped")
    shim = agent.shim_pid("a")
    agent.start()
    wait_until(lambda: agent.status("a")["phase"] == "stopping")
    os.kill(shim, signal.SIGKILL)
    agent.wait_for_phase("a", "stopped")
    assert not is_running(pid)


# Strangers


@pytest.mark.parametrize("verb", ["stop", "restart", "deploy", "start"])
def test_a_reused_pid_is_never_signalled(agent: RealAgent, stranger: subprocess.Popen[bytes], verb: str) -> None:
    """Process and shim are gone, and their PIDs belong to somebody else now."""
    agent.deploy("a", "exec sleep 600")
    agent.wait_for_phase("a", "running")
    agent.kill9()
    for pid in (agent.shim_pid("a"), agent.record("a")["process"][0]):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_running(pid))
    (agent.state_dir / "instances" / "a" / "exit.json").unlink(missing_ok=True)
    record = agent.record("a")
    planted = [stranger.pid, *record["process"][1:]]
    edit(agent, "a", "process.json", process=planted, shim=planted)
    agent.start()
    if verb != "start":
        body = {"command": "sleep 600"} if verb == "deploy" else None
        assert agent.request("POST", f"/service/a/{verb}", body)[0] in (200, 201)
    else:
        assert agent.wait_for_phase("a", "failed")["exit_code"] == "unknown"
    assert stranger.poll() is None
    assert is_running(stranger.pid)


def test_two_agents_with_the_same_key_leave_each_other_alone(agent: RealAgent) -> None:
    with RealAgent() as other:
        mine = agent.deploy("same", "sleep 600")["pid"]
        theirs = other.deploy("same", "sleep 600")["pid"]
        os.kill(other.shim_pid("same"), signal.SIGKILL)
        assert other.request("POST", "/service/same/stop")[0] == 200
        assert not is_running(theirs)
        assert is_running(mine)


# Reboot and damaged files


def test_after_a_reboot_nothing_of_before_counts(agent: RealAgent, stranger: subprocess.Popen[bytes]) -> None:
    agent.deploy("ran", "exec sleep 600", generation=3)
    agent.deploy("stopped", "sleep 600")
    agent.request("POST", "/service/stopped/stop")
    agent.deploy("ended", "exit 6")
    agent.wait_for_phase("ended", "failed")
    agent.kill9()
    record = agent.record("ran")
    for pid in (record["shim"][0], record["process"][0]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(record["process"][0]))
    (agent.state_dir / "instances" / "ran" / "exit.json").unlink(missing_ok=True)
    stat = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()
    # The same PID and, as bad luck may have it, the same start time; only the boot differs.
    planted = [stranger.pid, stat[19], "another-boot"]
    edit(agent, "ran", "process.json", process=planted, shim=planted)
    agent.start()
    answer = agent.status("ran")
    assert (answer["phase"], answer["exit_code"], answer["generation"]) == ("failed", "unknown", 3)
    assert "rebooted" in answer["reason"]
    assert agent.status("stopped")["phase"] == "stopped"
    assert agent.status("ended")["exit_code"] == 6
    agent.request("POST", "/service/ran/stop")
    assert is_running(stranger.pid)
    assert agent.deploy("ran", "sleep 600", generation=4)["pid"]


@pytest.mark.parametrize("content", [b"", b'{"key": "a", "spe', b"[]\xff", b'{"spec": 5}'])
def test_a_damaged_state_file_is_told_and_mended_by_a_deploy(agent: RealAgent, content: bytes) -> None:
    agent.deploy("a", "exit 0")
    agent.deploy("good", "sleep 600")
    agent.wait_for_phase("a", "succeeded")
    agent.kill9()
    (agent.state_dir / "instances" / "a" / "instance.json").write_bytes(content)
    (agent.state_dir / "instances" / "a" / "process.json").unlink()
    agent.start()
    answer = agent.status("a")
    assert (answer["phase"], answer["exit_code"]) == ("failed", "unknown")
    assert "cannot be read" in answer["reason"]
    assert agent.status("good")["phase"] in ("starting", "running")
    assert agent.request("POST", "/service/a/restart")[0] == 404
    answer = agent.deploy("a", "sleep 600", generation=1)
    assert answer["pid"]
    assert answer["reason"] == ""


@pytest.mark.parametrize("shim_dead", [False, True])
def test_what_runs_under_a_damaged_state_file_is_not_forgotten(agent: RealAgent, shim_dead: bool) -> None:
    pid = agent.deploy("a", "sleep 600", generation=8)["pid"]
    agent.kill9()
    (agent.state_dir / "instances" / "a" / "instance.json").write_bytes(b"{")
    if shim_dead:
        os.kill(agent.shim_pid("a"), signal.SIGKILL)
    agent.start()
    answer = agent.wait_for_phase("a", "running")
    assert (answer["pid"], answer["generation"], answer["ready"]) == (pid, 8, False)
    assert "cannot be read" in answer["reason"]
    status, answer = agent.request("POST", "/service/a/stop")
    assert (status, answer["phase"]) == (200, "stopped")
    assert not is_running(pid)


@pytest.mark.parametrize("name", ["process.json", "exit.json"])
def test_a_damaged_record_does_not_end_the_agent(agent: RealAgent, name: str) -> None:
    agent.deploy("a", "exit 0")
    agent.wait_for_phase("a", "succeeded")
    agent.kill9()
    (agent.state_dir / "instances" / "a" / name).write_bytes(b'{"run": ')
    agent.start()
    answer = agent.status("a")
    assert answer["phase"] == "failed"
    assert "cannot be read" in answer["reason"]
    assert agent.deploy("a", "sleep 600")["pid"]
    agent.wait_for_phase("a", "running")


@pytest.mark.parametrize("name", ["process.json", "exit.json"])
@pytest.mark.parametrize(("restart", "phase"), [("never", "failed"), ("always", "running")])
def test_a_record_that_a_power_cut_tore_counts_as_the_reboot(
    agent: RealAgent, name: str, restart: str, phase: str
) -> None:
    agent.deploy("a", "exec sleep 600", restart=restart)
    agent.deploy("stopped", "exec sleep 600", restart=restart)
    agent.request("POST", "/service/stopped/stop")
    agent.kill9()
    record = agent.record("a")
    for pid in (record["shim"][0], record["process"][0]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(record["process"][0]))
    for key in ("a", "stopped"):
        edit(agent, key, "instance.json", boot_id="old")
        (agent.state_dir / "instances" / key / name).write_bytes(b"")
    agent.start()
    assert (agent.status("stopped")["phase"], agent.status("stopped")["exit_code"]) == ("stopped", "unknown")
    answer = agent.wait_for_phase("a", phase)
    assert "rebooted" in (answer["reason"] or answer["restart_history"][0]["reason"])


def test_the_exit_of_an_earlier_run_is_gone_with_the_next(agent: RealAgent) -> None:
    agent.deploy("a", "exit 3")
    agent.wait_for_phase("a", "failed")
    agent.deploy("a", "exec sleep 600")
    wait_until(lambda: not (agent.state_dir / "instances" / "a" / "exit.json").exists())
    agent.kill9()
    agent.start()
    answer = agent.wait_for_phase("a", "running")
    assert answer["exit_code"] is None


def test_a_lost_process_record_never_leads_to_two_processes(agent: RealAgent) -> None:
    pid = agent.deploy("a", "sleep 600")["pid"]
    agent.kill9()
    shim = agent.shim_pid("a")
    (agent.state_dir / "instances" / "a" / "process.json").write_bytes(b"{")
    os.kill(shim, signal.SIGKILL)
    agent.start()
    assert agent.status("a")["phase"] == "failed"
    new = agent.deploy("a", "sleep 600")["pid"]
    assert is_running(new)
    assert not is_running(pid)


def test_an_unwritable_state_is_told_and_nothing_starts(agent: RealAgent, tmp_path: Path) -> None:
    """A file where the instance's directory should be: true for every account, root as well."""
    (agent.state_dir / "instances" / "a").write_text("in the way")
    status, answer = agent.request("POST", "/service/a/deploy", {"command": f"touch {tmp_path}/ran"})
    assert (status, answer["error"]["code"]) == (500, "state_not_writable")
    assert agent.request("GET", "/service/a/status")[0] == 404
    assert not (tmp_path / "ran").exists()


def test_state_files_are_for_the_owner_only(agent: RealAgent) -> None:
    agent.deploy("a", "echo x; sleep 600", env={"SECRET": "x"})
    for path in [agent.state_dir, *agent.state_dir.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
