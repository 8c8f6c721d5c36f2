"""The real agent, started as a process of its own, for tests that want no mocks."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

# The agent may run on an older Python than its tests: INFINI_AGENT_PYTHON names another interpreter for it.
PYTHON = os.environ.get("INFINI_AGENT_PYTHON", sys.executable)
AGENT_FILE = Path(__file__).resolve().parent.parent / "agent" / "infini_agent.py"

T = TypeVar("T")


def wait_until(condition: Callable[[], T], seconds: float = 10.0, what: str = "", every: float = 0.02) -> T:
    """Return the first true value of `condition`, asked `every` so many seconds; fail the test after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= until:
            raise AssertionError(f"not within {seconds} s: {what or condition}; last value: {value!r}")
        time.sleep(every)


def is_running(pid: int) -> bool:
    """Tell whether a process has this PID and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class RealAgent:
    """One agent with a state directory of its own, on a free port that it keeps over restarts.

    `start` returns when it answers. `close` stops every instance and removes all processes it started.
    """

    def __init__(
        self,
        *options: str,
        state_dir: str | Path | None = None,
        file: Path = AGENT_FILE,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.options = options
        self.file = file
        self.environment = environment or {}
        self._own_dir = state_dir is None
        self.state_dir = Path(state_dir or tempfile.mkdtemp(prefix="infini-agent-")).resolve()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._log = self.state_dir.parent / f"{self.state_dir.name}.stderr"
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RealAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.state_dir / "token").read_text().strip()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What the agent has logged so far, over all its starts."""
        return self._log.read_text(errors="replace")

    def start(self, **environment: str) -> None:
        """Start the agent, with `environment` added to this process's own; again on the same port.

        Commands run in login shells: an empty HOME keeps what the developer's profile does out of the tests, and an
        empty INFINI_DEVICE_PATH the developer's accelerators.
        """
        home = self.state_dir / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        command = [PYTHON, str(self.file), "--state-dir", str(self.state_dir), "--port", str(self.port)]
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "HOME": str(home), "INFINI_DEVICE_PATH": "", **self.environment, **environment},
            )
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            line = stdout.readline().decode()
        match = re.fullmatch(r"listening on https?://.*:(\d+)\n", line)
        if not match:
            raise AssertionError(f"the agent did not start: {line!r} {self.stderr[-2000:]}")
        self.port = int(match.group(1))

    def kill9(self) -> None:
        """Kill the agent alone, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """End the agent in order and return its exit status; instances go on."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(timeout=5)
        return status

    def request(
        self, method: str, path: str, body: Any = None, token: str | None = None, timeout: float = 40.0
    ) -> tuple[int, Any]:
        """Send one request with this agent's token (`token=""` sends none); return status and JSON."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body=data, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def deploy(self, key: str, command: str, **fields: Any) -> dict[str, Any]:
        """Deploy and return the instance; fails unless the agent accepts."""
        status, answer = self.request("POST", f"/service/{key}/deploy", {"command": command, **fields})
        assert status in (200, 201), (status, answer)
        return dict(answer)

    def status(self, key: str) -> dict[str, Any]:
        """Return one instance with its last log lines."""
        status, answer = self.request("GET", f"/service/{key}/status")
        assert status == 200, (status, answer)
        return dict(answer)

    def wait_for_phase(self, key: str, *phases: str, seconds: float = 10.0) -> dict[str, Any]:
        """Return the instance as soon as it is in one of `phases`."""

        def found() -> dict[str, Any] | None:
            answer = self.status(key)
            return answer if answer["phase"] in phases else None

        found_one = wait_until(found, seconds, f"{key} in {phases}, was {self.status(key)}")
        assert found_one is not None
        return found_one

    def record(self, key: str, name: str = "process.json") -> dict[str, Any]:
        """Return a state file of an instance."""
        return dict(json.loads((self.state_dir / "instances" / key / name).read_text()))

    def shim_pid(self, key: str) -> int:
        """Return the PID of the shim that has this instance now."""
        return int(self.record(key)["shim"][0])

    def processes(self) -> list[int]:
        """Return every process of this agent: itself, its spawners, shims and what their instances run."""
        mark = str(self.state_dir).encode()
        name = self._tree_mark()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_running(int(entry.name)) and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                    if mark in command or self._owns(entry, name):
                        found.append(int(entry.name))
        return found

    def _tree_mark(self) -> bytes:
        with contextlib.suppress(OSError):
            return b"INFINI_TREE=" + (self.state_dir / "id").read_bytes().strip() + b"/"
        return b""

    def _owns(self, entry: Path, mark: bytes) -> bool:
        """Tell whether a process is marked as an instance's, or is a shim that holds one of our FIFOs."""
        if mark and mark in (entry / "environ").read_bytes():
            return True
        if str(self.file).encode() not in (entry / "cmdline").read_bytes():
            return False
        targets = (os.readlink(fd) for fd in (entry / "fd").iterdir())
        return any(target.startswith(f"{self.state_dir}/instances/") for target in targets)

    def close(self) -> None:
        """Stop every instance, end the agent, and remove whatever is still there, files included."""
        with contextlib.suppress(OSError, ValueError, AssertionError):
            _, answer = self.request("GET", "/services", timeout=5)
            for service in answer["services"]:
                with contextlib.suppress(OSError, ValueError):
                    self.request("POST", f"/service/{service['id']}/stop", {}, timeout=30)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._log.unlink(missing_ok=True)
        if self._own_dir:
            shutil.rmtree(self.state_dir, ignore_errors=True)
