"""The restart policy: backoff, what resets it, what ends it, and that it outlives the agent and the boot."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until

FAST = {"policy": "on-failure", "backoff_first_seconds": 0.1, "backoff_most_seconds": 0.2}


def policy(**fields: object) -> dict:
    return {**FAST, **fields}


def edit(agent: RealAgent, key: str, name: str, **changes: object) -> None:
    path = agent.state_dir / "instances" / key / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def waiting(agent: RealAgent, key: str) -> dict:
    """Return the instance as soon as it waits for its restart."""

    def found() -> dict | None:
        answer = agent.status(key)
        return answer if answer["reason"].startswith("Restarts in") else None

    answer = wait_until(found)
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("restart", "code", "again"),
    [
        ("never", 1, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("always", 0, True),
        ("always", 1, True),
    ],
)
def test_each_policy(shared: RealAgent, key: str, restart: str, code: int, again: bool) -> None:
    shared.deploy(key, f"exit {code}", restart=restart)
    if not again:
        phase = "failed" if code else "succeeded"
        assert shared.wait_for_phase(key, phase)["restarts"] == 0
        time.sleep(1.5)
        answer = shared.status(key)
        assert (answer["phase"], answer["restarts"], answer["restart_history"]) == (phase, 0, [])
        return
    answer = waiting(shared, key)
    assert (answer["status"], answer["phase"], answer["ready"], answer["pid"]) == ("running", "starting", False, None)
    assert answer["exit_code"] == code
    assert re.fullmatch(rf"Restarts in [12] s after: Exited with code {code}\.", answer["reason"])
    wait_until(lambda: shared.status(key)["restarts"] == 1)
    (entry,) = shared.status(key)["restart_history"]
    assert (entry["exit_code"], entry["reason"]) == (code, f"Exited with code {code}.")
    assert entry["at"] > answer["finished_at"]
    shared.request("POST", f"/service/{key}/stop")


def test_the_wait_doubles_with_jitter_up_to_its_most(shared: RealAgent, key: str, tmp_path: Path) -> None:
    restart = policy(backoff_first_seconds=0.4, backoff_most_seconds=0.8)
    shared.deploy(key, f"date +%s.%N >> {tmp_path}/runs; exit 1", restart=restart)
    wait_until(lambda: len(shared.status(key)["restart_history"]) == 4)
    wait_until(lambda: len((tmp_path / "runs").read_text().split()) == 5)
    shared.request("POST", f"/service/{key}/stop")
    moments = [float(text) for text in (tmp_path / "runs").read_text().split()]
    gaps = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    for gap, wait in zip(gaps, (0.4, 0.8, 0.8, 0.8), strict=True):
        assert 0.75 * wait < gap < 1.2 * wait + 0.3, gaps


def test_the_last_ten_restarts_are_kept(shared: RealAgent, key: str) -> None:
    restart = policy(policy="always", backoff_first_seconds=0.1, backoff_most_seconds=0.1)
    shared.deploy(key, "exit 0", restart=restart)
    wait_until(lambda: shared.status(key)["restarts"] >= 12)
    assert len(shared.status(key)["restart_history"]) == 10
    shared.request("POST", f"/service/{key}/stop")


def test_no_more_restarts_in_a_row_than_allowed(agent: RealAgent) -> None:
    agent.deploy("a", "exit 7", restart=policy(max_restarts=2))
    answer = agent.wait_for_phase("a", "failed")
    assert (answer["restarts"], answer["exit_code"], len(answer["restart_history"])) == (2, 7, 2)
    assert answer["reason"] == "Exited with code 7. Its policy allows 2 restarts in a row, so it stays ended."
    agent.kill9()
    agent.start()
    assert agent.status("a")["reason"] == answer["reason"]
    assert agent.status("a")["phase"] == "failed"


def test_a_stable_run_resets_the_count(shared: RealAgent, key: str) -> None:
    restart = policy(max_restarts=1, stable_seconds=0.6)
    shared.deploy(key, "sleep 0.9; exit 1", restart=restart)
    wait_until(lambda: shared.status(key)["restarts"] >= 3)
    shared.request("POST", f"/service/{key}/stop")


def test_what_was_never_ready_was_not_stable(shared: RealAgent, key: str, free_port: int) -> None:
    restart = policy(max_restarts=1, stable_seconds=0.1)
    shared.deploy(key, "sleep 0.5; exit 1", restart=restart, port=free_port)
    assert shared.wait_for_phase(key, "failed")["restarts"] == 1


def test_a_missed_startup_deadline_is_a_failure(shared: RealAgent, key: str, free_port: int) -> None:
    probes = {"startup_seconds": 0.3}
    first = shared.deploy(key, "sleep 600", port=free_port, probes=probes, restart=policy(max_restarts=1))["pid"]
    answer = shared.wait_for_phase(key, "failed")
    assert (answer["restarts"], is_running(first)) == (1, False)
    assert "not ready within 0.3 seconds" in answer["restart_history"][0]["reason"]


def test_an_unseen_exit_is_a_failure(agent: RealAgent) -> None:
    pid = agent.deploy("a", "exec sleep 600", restart=policy())["pid"]
    shim = agent.shim_pid("a")
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: agent.shim_pid("a") != shim)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: agent.status("a")["restarts"] == 1)
    assert agent.status("a")["restart_history"][0]["exit_code"] == "unknown"


# What ends a wait


def test_stop_ends_the_wait(shared: RealAgent, key: str, tmp_path: Path) -> None:
    shared.deploy(key, f"echo x >> {tmp_path}/runs; exit 1", restart=policy(backoff_first_seconds=1))
    waiting(shared, key)
    status, _ = shared.request("DELETE", f"/service/{key}")
    assert status == 409
    status, answer = shared.request("POST", f"/service/{key}/stop")
    assert (status, answer["phase"], answer["status"], answer["exit_code"]) == (200, "stopped", "stopped", 1)
    time.sleep(1.5)
    assert shared.status(key)["phase"] == "stopped"
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_stop_of_what_runs_is_no_failure(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "sleep 600", restart=policy(policy="always"))
    assert shared.request("POST", f"/service/{key}/stop")[1]["phase"] == "stopped"
    time.sleep(0.5)
    assert shared.status(key)["phase"] == "stopped"


def test_a_new_generation_starts_at_once_and_from_zero(shared: RealAgent, key: str) -> None:
    slow = policy(backoff_first_seconds=60, backoff_most_seconds=60)
    shared.deploy(key, "exit 1", restart=slow)
    waiting(shared, key)
    assert shared.deploy(key, "exit 1", restart=slow, generation=1)["pid"] is None, "the same one changes nothing"
    answer = shared.deploy(key, "sleep 600", restart=slow)
    assert (answer["restarts"], answer["restart_history"], answer["reason"]) == (0, [], "")
    assert is_running(answer["pid"])


def test_a_restart_on_request_does_not_wait(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "exit 1", restart=policy(backoff_first_seconds=60, backoff_most_seconds=60))
    waiting(shared, key)
    status, answer = shared.request("POST", f"/service/{key}/restart")
    assert (status, answer["restarts"]) == (200, 1)
    (entry,) = answer["restart_history"]
    assert (entry["exit_code"], entry["reason"]) == (1, "Restarted on request.")
    shared.request("POST", f"/service/{key}/stop")


# The agent dies, the server reboots


def test_the_wait_outlives_the_agent(agent: RealAgent, tmp_path: Path) -> None:
    """It goes on: neither anew nor skipped."""
    command = f"date +%s.%N >> {tmp_path}/runs; exit 1"
    agent.deploy("a", command, restart=policy(backoff_first_seconds=3, backoff_most_seconds=3))
    before = waiting(agent, "a")
    moment = agent.record("a", "instance.json")["pending"]
    time.sleep(1.2)
    agent.kill9()
    agent.start()
    answer = agent.status("a")
    assert re.fullmatch(r"Restarts in [1-3] s after: Exited with code 1\.", answer["reason"])
    assert agent.record("a", "instance.json")["pending"] == moment
    for name in ("exit_code", "finished_at", "started_at", "restarts", "pid", "phase"):
        assert answer[name] == before[name]
    wait_until(lambda: len((tmp_path / "runs").read_text().split()) == 2)
    first, second = map(float, (tmp_path / "runs").read_text().split())
    assert 2.4 <= second - first < 4.2
    assert agent.status("a")["restarts"] == 1


def test_the_wait_is_over_when_the_agent_was_away_longer(agent: RealAgent, tmp_path: Path) -> None:
    """Also when the process ended while nobody could plan its restart."""
    command = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 1"
    agent.deploy("a", command, restart=policy(backoff_first_seconds=2, backoff_most_seconds=2))
    agent.kill9()
    (tmp_path / "go").touch()
    wait_until((agent.state_dir / "instances" / "a" / "exit.json").exists)
    time.sleep(2.5)
    agent.start()
    wait_until(lambda: agent.status("a")["restarts"] == 1, 1)


@pytest.mark.parametrize("restart", ["never", "on-failure", "always"])
def test_after_a_reboot_the_policy_says_what_starts(agent: RealAgent, restart: str) -> None:
    agent.deploy("ran", "exec sleep 600", generation=3, restart=restart)
    slow = policy(policy=restart, backoff_first_seconds=60, backoff_most_seconds=60)
    agent.deploy("waited", "exit 1", restart=slow)
    agent.deploy("stopped", "sleep 600", restart=restart)
    agent.request("POST", "/service/stopped/stop")
    wait_until(lambda: agent.status("waited")["finished_at"])
    agent.kill9()
    record = agent.record("ran")
    for pid in (record["shim"][0], record["process"][0]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(record["process"][0]))
    (agent.state_dir / "instances" / "ran" / "exit.json").unlink(missing_ok=True)
    for key in ("ran", "waited"):
        record = agent.record(key)
        edit(agent, key, "process.json", process=[*record["process"][:2], "old"], shim=[*record["shim"][:2], "old"])
        edit(agent, key, "instance.json", boot_id="old")
    agent.start()
    assert agent.status("stopped")["phase"] == "stopped"
    if restart == "never":
        assert (agent.status("ran")["phase"], agent.status("ran")["restarts"]) == ("failed", 0)
        return
    wait_until(lambda: agent.status("ran")["pid"], 3)
    answer = agent.wait_for_phase("ran", "running")
    assert (answer["generation"], answer["restarts"]) == (3, 1)
    assert "rebooted" in answer["restart_history"][0]["reason"]
    wait_until(lambda: agent.status("waited")["restarts"] == 1, 3)


# Late deploys


def test_a_stop_that_overtakes_its_deploy_wins(agent: RealAgent, tmp_path: Path) -> None:
    assert agent.request("POST", "/service/a/stop")[0] == 404
    status, answer = agent.request("POST", "/service/a/stop", {"generation": 5})
    assert (status, answer["phase"], answer["generation"], answer["pid"]) == (200, "stopped", 5, None)
    body = {"command": f"touch {tmp_path}/ran", "generation": 4}
    for _ in range(2):
        status, answer = agent.request("POST", "/service/a/deploy", body)
        assert (status, answer["error"]["code"]) == (409, "stale_generation")
        agent.kill9()
        agent.start()
        assert agent.status("a")["phase"] == "stopped"
    assert agent.request("POST", "/service/a/deploy", {**body, "generation": 5})[1]["phase"] == "stopped"
    assert agent.request("POST", "/service/a/restart")[0] == 404
    assert not (tmp_path / "ran").exists()
    assert agent.request("POST", "/service/a/stop")[0] == 200
    assert agent.deploy("a", "sleep 600", generation=6)["pid"]


def test_delete_forgets_such_a_record(shared: RealAgent, key: str) -> None:
    assert shared.request("POST", f"/service/{key}/stop", {"generation": 5})[0] == 200
    assert shared.request("DELETE", f"/service/{key}")[0] == 200
    assert shared.request("GET", f"/service/{key}/status")[0] == 404
    assert shared.deploy(key, "sleep 600", generation=1)["pid"]


def test_a_stop_raises_the_generation_of_what_is_known(agent: RealAgent) -> None:
    agent.deploy("a", "sleep 600", generation=1)
    assert agent.request("POST", "/service/a/stop", {"generation": 3})[1]["generation"] == 3
    agent.kill9()
    agent.start()
    status, answer = agent.request("POST", "/service/a/deploy", {"command": "true", "generation": 2})
    assert (status, answer["error"]["code"]) == (409, "stale_generation")
    assert agent.deploy("a", "sleep 600", generation=4)["pid"]
