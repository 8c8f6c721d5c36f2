"""Upgrade in place: same process, same socket, every instance; and the way back when the new file is bad."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_agent import AGENT_FILE, RealAgent, is_running, wait_until

# The real file, with less time for a new one to answer: some tests wait until it is over.
SOURCE = AGENT_FILE.read_text().replace("\nUPGRADE_WITHIN = 10.0", "\nUPGRADE_WITHIN = 4.0")
OLD = SOURCE.split('\nVERSION = "')[1].split('"')[0]
NEWER = SOURCE.replace(f'\nVERSION = "{OLD}"', '\nVERSION = "99.1"')


def body(source: str) -> dict:
    return {"source": source, "sha256": hashlib.sha256(source.encode()).hexdigest()}


@contextlib.contextmanager
def running_from(folder: Path) -> Iterator[RealAgent]:
    """An agent that runs from a copy of its file."""
    file = folder / "infini_agent.py"
    file.write_text(SOURCE)
    file.chmod(0o750)
    with RealAgent(file=file) as agent:
        yield agent
        # A guard that is still at work would take the end of this agent for a failed upgrade.
        wait_until(lambda: not guards(agent), 20)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RealAgent]:
    with running_from(tmp_path) as agent:
        yield agent


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAgent]:
    """One for what is refused."""
    with running_from(tmp_path_factory.mktemp("unchanged")) as agent:
        yield agent


def version(agent: RealAgent) -> str:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return str(agent.request("GET", "/report")[1]["agent"]["version"])
    return ""


def children(pid: int) -> list[str]:
    """Return the states of the children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[1] == str(pid):
                found.append(fields[0])
    return found


def guards(agent: RealAgent) -> list[str]:
    """Return the PIDs of this agent's guards."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"--guard" in words and f"{agent.file}.previous".encode() in words:
                found.append(entry.name)
    return found


def test_the_new_file_takes_the_place_of_the_old_one(agent: RealAgent, tmp_path: Path) -> None:
    command = f"echo before; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo after; exit 9"
    pid = agent.deploy("a", command, generation=4)["pid"]
    agent.deploy("waits", "exit 1", restart={"policy": "always", "backoff_first_seconds": 60})
    agent.wait_for_phase("a", "running")
    shim = agent.shim_pid("a")
    status, answer = agent.request("POST", "/agent/upgrade", body(NEWER))
    assert (status, answer) == (202, {"version": "99.1"})
    wait_until(lambda: version(agent) == "99.1")
    assert agent.request("GET", "/report")[1]["agent"]["pid"] == agent.pid
    found = agent.status("a")
    assert (found["pid"], found["phase"], found["ready"], agent.shim_pid("a")) == (pid, "running", True, shim)
    assert agent.status("waits")["reason"].startswith("Restarts in ")
    (tmp_path / "go").touch()
    answer = agent.wait_for_phase("a", "failed")
    assert (answer["exit_code"], answer["log_tail"]) == (9, ["before", "after"])
    assert agent.file.read_text() == NEWER
    assert Path(f"{agent.file}.previous").read_text() == SOURCE
    assert agent.file.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in agent.file.parent.glob("infini_agent*")) == [
        "infini_agent.py",
        "infini_agent.py.previous",
    ]
    # A command gets nothing of all this, the guard ends, and no zombie is left.
    agent.deploy("env", "env | grep -c INFINI_UPGRADE; ls /proc/$$/fd | wc -l")
    assert agent.wait_for_phase("env", "failed", "succeeded")["log_tail"][0] == "0"
    wait_until(lambda: not guards(agent))
    wait_until(lambda: "Z" not in children(agent.pid))
    # The same file again is no upgrade, and the next one goes as the first did.
    assert agent.request("POST", "/agent/upgrade", body(NEWER)) == (200, {"version": "99.1"})
    assert agent.request("POST", "/agent/upgrade", body(SOURCE))[0] == 202
    wait_until(lambda: version(agent) == OLD and not guards(agent))
    agent.kill9()
    agent.start()
    assert version(agent) == OLD


def test_clients_wait_a_moment_and_are_never_refused(agent: RealAgent) -> None:
    """The listening socket is handed on, so what connects in between is served by the new process."""
    refused, versions, until = [], set(), time.monotonic() + 15

    def ask() -> None:
        while "99.1" not in versions and time.monotonic() < until:
            try:
                versions.add(agent.request("GET", "/health", timeout=10)[1]["version"])
            except ConnectionRefusedError as error:
                refused.append(error)
            except (OSError, http.client.HTTPException):
                pass  # a connection that was open when the process changed
            time.sleep(0.005)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    assert agent.request("POST", "/agent/upgrade", body(NEWER))[0] == 202
    for thread in asking:
        thread.join()
    assert refused == []
    assert versions == {OLD, "99.1"}


BROKEN = {
    "ends at once": NEWER.replace("    handed.tell_started()\n", "    os._exit(5)\n"),
    "answers nonsense": NEWER.replace('return 200, {"status": "ok", "version": VERSION}', "return 500, {}"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_new_agent_that_does_not_do_is_taken_back(agent: RealAgent, how: str) -> None:
    assert BROKEN[how] != NEWER
    pid = agent.deploy("a", "sleep 600")["pid"]
    agent.wait_for_phase("a", "running")
    assert agent.request("POST", "/agent/upgrade", body(BROKEN[how]))[0] == 202
    wait_until(lambda: agent.process and agent.process.poll() is not None, 20, "the bad agent ends")
    wait_until(lambda: version(agent) == OLD, 15)
    assert agent.file.read_text() == SOURCE
    answer = agent.status("a")
    assert (answer["pid"], answer["phase"], is_running(pid)) == (pid, "running", True)
    assert "upgrade.failed" in agent.stderr
    wait_until(lambda: not guards(agent))
    # And it can be upgraded as before.
    assert agent.request("POST", "/agent/upgrade", body(NEWER))[0] == 202
    wait_until(lambda: version(agent) == "99.1")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": "short"}, "sha256"),
        ({"sha256": None}, "sha256"),
        ({"source": None}, "source"),
        ({"source": 5}, "source"),
        ({"other": 1}, "other"),
        (body("def broken(:\n"), "source"),
        (body("print('some other program')\n"), "source"),
        (body("raise SystemExit('cannot run here')\n"), "source"),
        (body("#" * (1024 * 1024 + 1)), "source"),
    ],
)
def test_what_is_no_agent_is_refused(unchanged: RealAgent, change: dict, field: str) -> None:
    agent = unchanged
    status, answer = agent.request("POST", "/agent/upgrade", {**body(NEWER), **change})
    assert (status, answer["error"]["code"]) == (400, "invalid")
    assert field in answer["error"]["fields"]
    assert agent.file.read_text() == SOURCE
    assert [path.name for path in agent.file.parent.glob("infini_agent*")] == ["infini_agent.py"]
    assert version(agent) == OLD


def test_a_file_that_cannot_be_replaced_is_told(agent: RealAgent) -> None:
    """Folders in the way: true for every account, root as well."""
    for name in (".new", ".previous"):
        blocked = Path(f"{agent.file}{name}")
        blocked.mkdir()
        status, answer = agent.request("POST", "/agent/upgrade", body(NEWER))
        assert (status, answer["error"]["code"]) == (409, "not_upgradable")
        assert str(agent.file) in answer["error"]["message"]
        blocked.rmdir()
    assert version(agent) == OLD
    assert agent.request("POST", "/agent/upgrade", body(NEWER))[0] == 202
    wait_until(lambda: version(agent) == "99.1")


def test_a_large_body_is_for_upgrades_only(agent: RealAgent) -> None:
    big = b'{"source": "' + b" " * 2_000_000 + b'"}'
    assert agent.request("POST", "/agent/upgrade", big)[0] == 400
    assert agent.request("POST", "/service/a/deploy", big)[0] == 413
    assert agent.request("POST", "/agent/upgrade", b" " * (4 * 1024 * 1024 + 1))[0] == 413
    assert agent.request("POST", "/agent/upgrade", body(NEWER), token="")[0] == 401
    assert agent.request("GET", "/agent/upgrade")[0] == 405


def test_upgrade_over_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=agent"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    shutil.copy(AGENT_FILE, tmp_path / "infini_agent.py")
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    with RealAgent(*options, file=tmp_path / "infini_agent.py") as agent:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", agent.port, timeout=30, context=context)
        headers = {"Authorization": f"Bearer {agent.token}"}
        with contextlib.closing(connection):
            connection.request("POST", "/agent/upgrade", json.dumps(body(NEWER)), headers)
            assert connection.getresponse().status == 202
        wait_until(lambda: not guards(agent), 15)
        assert "upgrade.failed" not in agent.stderr
        assert is_running(agent.pid)
        assert agent.file.read_text() == NEWER


def test_under_a_service_manager_the_start_is_left_to_it(agent: RealAgent) -> None:
    """The guard brings the file back and ends the bad process, here a stand-in, but starts nothing beside."""
    Path(f"{agent.file}.previous").write_text(SOURCE)
    agent.file.write_text(NEWER)
    told, tell = os.pipe()
    with subprocess.Popen(["sleep", "600"]) as bad, socket.socket() as listening:
        fields = Path(f"/proc/{bad.pid}/stat").read_text().rpartition(")")[2].split()
        plan = {
            "process": [bad.pid, fields[19], Path("/proc/sys/kernel/random/boot_id").read_text().strip()],
            "file": str(agent.file),
            "previous": f"{agent.file}.previous",
            "arguments": ["--state-dir", str(agent.state_dir)],
            "lock": str(agent.state_dir / "agent.lock"),  # held: the manager has started an agent already
            "supervised": True,
            "listen": listening.fileno(),
            "told": told,
            "address": ["127.0.0.1", 1, False],
            "version": "99.1",
        }
        os.close(tell)
        command = [sys.executable, f"{agent.file}.previous", "--guard", json.dumps(plan)]
        subprocess.run(command, pass_fds=[told, listening.fileno()], check=True, capture_output=True)
        assert bad.wait(timeout=5) == -signal.SIGKILL
    os.close(told)
    wait_until(lambda: not guards(agent))
    assert agent.file.read_text() == SOURCE
    assert [pid for pid in agent.processes() if b"--state-dir" in cmdline(pid)] == [agent.pid]


def cmdline(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
