"""Deploy, restart, stop, how commands end, and when they are ready."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, is_running, wait_until

SERVE = "exec python3 -m http.server --bind 127.0.0.1"


def pid_from(path: Path) -> int:
    """Return the PID that a command wrote to `path`."""
    wait_until(lambda: path.exists() and path.read_text().strip(), what=f"{path} written")
    return int(path.read_text())


# Generations


def test_the_same_generation_starts_nothing_twice(shared: RealAgent, key: str) -> None:
    first = shared.deploy(key, "sleep 60", generation=7)
    status, again = shared.request("POST", f"/service/{key}/deploy", {"command": "sleep 61", "generation": 7})
    assert (status, again["pid"], again["generation"]) == (200, first["pid"], 7)


def test_a_lower_generation_is_refused(shared: RealAgent, key: str) -> None:
    first = shared.deploy(key, "sleep 60", generation=7)
    status, answer = shared.request("POST", f"/service/{key}/deploy", {"command": "true", "generation": 6})
    assert (status, answer["error"]["code"]) == (409, "stale_generation")
    assert shared.status(key)["pid"] == first["pid"]


def test_a_higher_or_no_generation_replaces(shared: RealAgent, key: str) -> None:
    pids = [shared.deploy(key, "sleep 60")["pid"]]
    for fields, expected in [({}, 2), ({"generation": 9}, 9), ({}, 10)]:
        answer = shared.deploy(key, "sleep 60", **fields)
        assert answer["generation"] == expected
        assert not is_running(pids[-1])
        pids.append(answer["pid"])
    assert is_running(pids[-1])


def test_racing_deploys_of_one_generation_start_one_process(shared: RealAgent, key: str, tmp_path: Path) -> None:
    command = f"echo $$ >> {tmp_path}/started; exec sleep 60"
    body = {"command": command, "generation": 3}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.request("POST", f"/service/{key}/deploy", body), range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({answer["pid"] for _, answer in answers}) == 1
    wait_until(lambda: (tmp_path / "started").exists())
    assert len((tmp_path / "started").read_text().split()) == 1


def test_a_key_that_stops_slowly_does_not_hold_up_others(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "trap '' TERM; echo set; while :; do sleep 1; done", stop_grace=2)
    wait_until(lambda: shared.status(key)["log_tail"])
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(shared.request, "POST", f"/service/{key}/stop")
        wait_until(lambda: shared.status(key)["phase"] == "stopping")
        began = time.monotonic()
        shared.deploy(f"{key}-other", "sleep 60")
        shared.request("POST", f"/service/{key}-other/stop")
        assert time.monotonic() - began < 2
        assert not stopping.done()
        assert stopping.result()[0] == 200


# What a command gets


def test_the_command_gets_the_whole_environment(agent: RealAgent) -> None:
    agent.kill9()
    agent.start(FROM_THE_AGENT="inherited value", OVERRIDDEN="old")
    agent.deploy(
        "env",
        'echo "$FROM_THE_AGENT|$OVERRIDDEN|$MINE|$INFINI_INSTANCE"; shopt -q login_shell && echo login',
        env={"MINE": "with 'quotes' and\nlines é", "OVERRIDDEN": "new"},
    )
    answer = agent.wait_for_phase("env", "succeeded")
    assert answer["log_tail"] == ["inherited value|new|with 'quotes' and", "lines é|env", "login"]
    assert (answer["exit_code"], answer["reason"]) == (0, "Exited with code 0.")


def test_cwd_stdin_and_group(shared: RealAgent, key: str, tmp_path: Path) -> None:
    shared.deploy(key, 'pwd; cat; [ "$(ps -o pgid= -p $$ | tr -d " ")" = $$ ] && echo own group', cwd=str(tmp_path))
    assert shared.wait_for_phase(key, "succeeded")["log_tail"] == [str(tmp_path), "own group"]


def test_the_command_gets_no_file_of_the_agents(shared: RealAgent, key: str) -> None:
    pid = shared.deploy(key, "exec sleep 60")["pid"]
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    ignored = int(re.search(r"SigIgn:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
    the_c_librarys_own = 0b11 << 31  # signals 32 and 33, which no program can set
    assert ignored & ~the_c_librarys_own == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start commands as others")
def test_the_command_runs_as_another_account(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "id -un; id -Gn; echo $USER $HOME; echo again > /dev/stdout", user="nobody", cwd="/")
    tail = shared.wait_for_phase(key, "succeeded")["log_tail"]
    assert (tail[0], tail[2].split()[0], tail[3]) == ("nobody", "nobody", "again")
    assert "root" not in tail[1]


def test_without_bash_the_command_runs_by_sh(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    with RealAgent() as agent:
        agent.deploy("sh", "echo by $0", env={"PATH": str(tmp_path / "bin")})
        assert agent.wait_for_phase("sh", "succeeded")["log_tail"] == ["by sh"]


# How commands end


@pytest.mark.parametrize(
    ("command", "phase", "code", "words"),
    [
        ("no-such-command-anywhere", "failed", 127, "not found"),
        ("/etc/passwd", "failed", 126, "could not be executed"),
        ("exit 3", "failed", 3, "code 3"),
        ("kill -SEGV $$", "failed", 139, "SIGSEGV"),
        ("true", "succeeded", 0, "code 0"),
    ],
)
def test_exits_are_told(shared: RealAgent, key: str, command: str, phase: str, code: int, words: str) -> None:
    shared.deploy(key, f"echo last words; {command}")
    answer = shared.wait_for_phase(key, "failed", "succeeded")
    assert (answer["phase"], answer["exit_code"]) == (phase, code)
    assert words in answer["reason"]
    assert answer["log_tail"][0] == "last words"
    assert (answer["ready"], answer["pid"], answer["status"]) == (False, None, "stopped")
    assert answer["started_at"] <= answer["finished_at"]


def test_what_exits_at_once_is_never_ready(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "exit 1")
    seen = []
    while not seen or seen[-1]["phase"] == "starting":
        seen.append(shared.status(key))
    assert not any(answer["ready"] for answer in seen)
    assert seen[-1]["phase"] == "failed"


def test_children_left_behind_are_ended_with_the_command(shared: RealAgent, key: str, tmp_path: Path) -> None:
    shared.deploy(key, f"setsid sleep 300 & echo $! > {tmp_path}/child; sleep 300 & exit 0")
    child = pid_from(tmp_path / "child")
    shared.wait_for_phase(key, "succeeded")
    assert not is_running(child)


def test_the_log_tail_is_of_the_present_run(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "echo first run")
    shared.wait_for_phase(key, "succeeded")
    shared.deploy(key, "echo second run")
    assert shared.wait_for_phase(key, "succeeded")["log_tail"] == ["second run"]
    assert shared.request("GET", f"/service/{key}/logs")[1]["data"] == "first run\nsecond run\n"


# Stop


def test_stop_asks_first(shared: RealAgent, key: str, tmp_path: Path) -> None:
    command = f"trap 'echo bye; echo done > {tmp_path}/bye; exit 0' TERM; echo set; while :; do sleep 0.1; done"
    shared.deploy(key, command)
    wait_until(lambda: shared.status(key)["log_tail"] == ["set"])
    status, answer = shared.request("POST", f"/service/{key}/stop")
    assert (status, answer["phase"], answer["exit_code"]) == (200, "stopped", 0)
    assert (tmp_path / "bye").exists()


@pytest.mark.parametrize("left_group", [False, True])
def test_a_stop_tells_each_process_once(shared: RealAgent, key: str, tmp_path: Path, left_group: bool) -> None:
    """A second SIGTERM makes many servers drop what they do; the shim's group and who left it are told apart."""
    counts = "trap 'echo x >> {0}' TERM; : > {0}.set; until [ -s {0} ]; do sleep 0.05; done; sleep 0.3"
    child = f'{"setsid " if left_group else ""}bash -c "{counts.format(tmp_path / "child")}"'
    shared.deploy(key, f"{child} & {counts.format(tmp_path / 'leader')}; wait", stop_grace=20)
    wait_until(lambda: all((tmp_path / f"{name}.set").exists() for name in ("leader", "child")))
    assert shared.request("POST", f"/service/{key}/stop")[1]["phase"] == "stopped"
    assert [(tmp_path / name).read_text() for name in ("leader", "child")] == ["x\n", "x\n"]


def test_a_stop_right_after_the_start_is_not_lost(shared: RealAgent, key: str) -> None:
    for _ in range(20):
        shared.deploy(key, "exec sleep 60", stop_grace=20)
        status, answer = shared.request("POST", f"/service/{key}/stop")
        assert (status, answer["exit_code"]) == (200, 143)


def test_stop_ends_a_stubborn_tree(shared: RealAgent, key: str, tmp_path: Path) -> None:
    """Children, grandchildren, and one in a session of its own, all deaf to SIGTERM."""
    stubborn = "trap '' TERM; echo $$ > {}; while :; do sleep 1; done"
    command = (
        "trap '' TERM\n"
        f"setsid bash -c '{stubborn.format(tmp_path / 'session')}' &\n"
        f"bash -c '{stubborn.format(tmp_path / 'child')}' &\n"
        f"(bash -c 'echo $$ > {tmp_path}/grand; exec sleep 600' &) \n"
        f"echo $$ > {tmp_path}/leader; while :; do sleep 1; done"
    )
    shared.deploy(key, command, stop_grace=0.5)
    pids = [pid_from(tmp_path / name) for name in ("leader", "child", "session", "grand")]
    assert all(is_running(pid) for pid in pids)
    began = time.monotonic()
    status, answer = shared.request("POST", f"/service/{key}/stop")
    assert (status, answer["phase"], answer["exit_code"]) == (200, "stopped", 137)
    assert "killed" in answer["reason"]
    assert 0.5 <= time.monotonic() - began < 5
    assert not any(is_running(pid) for pid in pids)


def test_the_stop_command_runs_first(shared: RealAgent, key: str, tmp_path: Path) -> None:
    shared.deploy(
        key,
        f"while [ ! -e {tmp_path}/stop ]; do sleep 0.05; done; echo asked kindly; exit 0",
        stop_command=f"echo stopping $MINE; touch {tmp_path}/stop; sleep 0.5",
        env={"MINE": "mine"},
    )
    status, answer = shared.request("POST", f"/service/{key}/stop")
    assert (status, answer["phase"], answer["exit_code"]) == (200, "stopped", 0)
    assert shared.status(key)["log_tail"] == ["stopping mine", "asked kindly"]


def test_restart_runs_the_stored_command_again(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "exit 4", generation=2)
    shared.wait_for_phase(key, "failed")
    status, answer = shared.request("POST", f"/service/{key}/restart", {"generation": 5})
    assert (status, answer["generation"], answer["restarts"]) == (200, 5, 1)
    shared.wait_for_phase(key, "failed")
    assert shared.deploy(key, "sleep 60")["restarts"] == 0


# Readiness


def test_ready_without_a_probe_once_it_has_lived_a_moment(shared: RealAgent, key: str) -> None:
    answer = shared.deploy(key, "sleep 60")
    assert (answer["phase"], answer["ready"]) == ("starting", False)
    answer = shared.wait_for_phase(key, "running", seconds=3)
    assert answer["ready"]


def test_tcp_probe(shared: RealAgent, key: str, free_port: int) -> None:
    shared.deploy(key, f"sleep 0.7; {SERVE} {free_port}", port=free_port)
    wait_until(lambda: is_running(shared.status(key)["pid"]))
    assert shared.status(key)["phase"] == "starting"
    answer = shared.wait_for_phase(key, "running")
    assert (answer["ready"], answer["port"]) == (True, free_port)


def test_http_probe_looks_at_the_status(shared: RealAgent, key: str, free_port: int, tmp_path: Path) -> None:
    probes = {"type": "http", "path": "/health", "period_seconds": 0.1, "failure_threshold": 2}
    shared.deploy(key, f"{SERVE} {free_port}", cwd=str(tmp_path), port=free_port, probes=probes)
    wait_until(lambda: "404" in "".join(shared.status(key)["log_tail"]))
    assert shared.status(key)["phase"] == "starting"
    (tmp_path / "health").write_text("ok")
    assert shared.wait_for_phase(key, "running")["ready"]
    (tmp_path / "health").unlink()
    wait_until(lambda: not shared.status(key)["ready"])
    answer = shared.status(key)
    assert answer["phase"] == "running"
    assert "probe" in answer["reason"]
    (tmp_path / "health").write_text("ok")
    wait_until(lambda: shared.status(key)["ready"])
    assert shared.status(key)["reason"] == ""


def test_http_probe_with_a_status_of_its_own(shared: RealAgent, key: str, free_port: int) -> None:
    probes = {"type": "http", "path": "/missing", "expected_status": 404}
    shared.deploy(key, f"{SERVE} {free_port}", port=free_port, probes=probes)
    assert shared.wait_for_phase(key, "running")["ready"]


def test_what_is_not_ready_in_time_is_stopped(shared: RealAgent, key: str, free_port: int) -> None:
    answer = shared.deploy(key, "sleep 600", port=free_port, probes={"startup_seconds": 0.5})
    pid = answer["pid"]
    answer = shared.wait_for_phase(key, "failed")
    assert "not ready within 0.5 seconds" in answer["reason"]
    assert not is_running(pid)


@contextlib.contextmanager
def listener(*, answering: bool = True, port: int = 0) -> Iterator[int]:
    """A listener that answers HTTP with 200, or accepts and says nothing; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    if answering:
        with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_address[1]
            server.shutdown()
    else:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            server.listen(64)
            yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_port_already_taken_never_makes_it_ready(shared: RealAgent, key: str, kind: str) -> None:
    with listener() as port:
        shared.deploy(key, "sleep 60", port=port, probes={"type": kind, "period_seconds": 0.1})
        wait_until(lambda: "already taken" in shared.status(key)["reason"])
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert not shared.status(key)["ready"]
        shared.request("POST", f"/service/{key}/stop")


def test_a_command_that_fails_on_a_taken_port_says_so(shared: RealAgent, key: str) -> None:
    with listener() as port:
        shared.deploy(key, f"{SERVE} {port}", port=port)
        answer = shared.wait_for_phase(key, "failed")
    assert answer["exit_code"] == 1
    assert f"Port {port} was already taken when it started." in answer["reason"]
    assert "Address already in use" in "".join(answer["log_tail"])


def test_it_becomes_ready_when_the_port_becomes_its_own(shared: RealAgent, key: str) -> None:
    with listener() as port:
        command = f"while ! timeout 60 python3 -m http.server --bind 127.0.0.1 {port}; do sleep 0.1; done"
        shared.deploy(key, command, port=port)
        wait_until(lambda: "already taken" in shared.status(key)["reason"])
    assert shared.wait_for_phase(key, "running")["ready"]


def test_hanging_probes_do_not_delay_the_others(shared: RealAgent, key: str, free_port: int) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(10):
            # A listener of our own that never answers, on a port that was free when the command started.
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            shared.deploy(f"{key}-{number}", "sleep 60", port=port, probes={"type": "http"})
            stack.enter_context(listener(answering=False, port=port))
        began = time.monotonic()
        shared.deploy(key, f"{SERVE} {free_port}", port=free_port)
        shared.wait_for_phase(key, "running")
        assert time.monotonic() - began < 3


def test_a_process_killed_from_outside_is_told(shared: RealAgent, key: str) -> None:
    pid = shared.deploy(key, "exec sleep 600")["pid"]
    shared.wait_for_phase(key, "running")
    os.kill(pid, signal.SIGKILL)
    answer = shared.wait_for_phase(key, "failed", seconds=2)
    assert answer["exit_code"] == 137
    assert "SIGKILL" in answer["reason"]
