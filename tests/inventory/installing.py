"""A machine to install agents on: a real sshd on this one, all of the agent below a directory of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infini.models import User
from inventory.agents import AgentAddress, AgentError, Ask, ask_each
from inventory.installation import runner
from inventory.installation.asking import ask_for_one
from inventory.installation.states import Kind
from inventory.models import Installation, Server
from tests.ports import free_port
from tests.real_agent import AGENT_FILE, is_running
from tests.real_sshd import RealSshd

INSTALLER = AGENT_FILE.with_name("install_agent.py")


class Machine:
    """One sshd and the place below which agents are installed by it."""

    def __init__(self, sshd: RealSshd, root: Path) -> None:
        self.sshd, self.root = sshd, root
        (root / "etc/cron.d").mkdir(parents=True)
        root.chmod(0o755)
        self.ports: list[int] = []

    @property
    def folder(self) -> Path:
        return self.root / "opt/infini-agent"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/infini-agent"

    def server(self, name: str = "gpu-1", **columns: Any) -> Server:
        self.ports.append(free_port())
        login = {"username": self.sshd.username, "private_key": self.sshd.private_key, "port": self.sshd.port}
        values = {"host_ip": self.sshd.host, "host_key": self.sshd.host_key, "agent_port": self.ports[-1], **login}
        return Server.objects.create(**{"name": name, **values, **columns})

    def files(self) -> dict[str, tuple[int, int]]:
        """Everything below the root with mode and time of its last change; the agent's own log apart."""
        paths = (path for path in sorted(self.root.rglob("*")) if not path.is_relative_to(self.state))
        return {
            str(path.relative_to(self.root)): (path.lstat().st_mode, path.lstat().st_mtime_ns)
            for path in paths
            if path.name != "agent.log" and path.is_file()
        }

    def agent_pids(self) -> list[int]:
        return [
            pid
            for pid, words in self._ours()
            if any(w.endswith("/infini_agent.py") for w in words) and "--state-dir" in words
        ]

    def _ours(self) -> Iterator[tuple[int, list[str]]]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_running(int(entry.name)):
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if any(str(self.root) in word for word in words):
                        yield int(entry.name), words

    def close(self) -> None:
        """End whatever was started below the root: loops, agents, and the instances by their mark."""
        ids = [path.read_text().strip() for path in self.root.rglob("id") if path.is_file()]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid, words in list(self._ours()):
                if number == signal.SIGKILL or any(word.endswith("supervise.sh") for word in words):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes().decode(errors="replace")
                    if any(f"INFINI_TREE={one}/" in environment for one in ids):
                        os.kill(int(entry.name), signal.SIGKILL)


@contextlib.contextmanager
def machine_at(root: Path, settings: Any, **sshd: Any) -> Iterator[Machine]:
    root.mkdir(mode=0o755, exist_ok=True)
    settings.AGENT_ROOT = str(root)
    with RealSshd(**sshd) as server:
        machine = Machine(server, root)
        try:
            yield machine
        finally:
            machine.close()


@pytest.fixture
def machine(transactional_db: None, tmp_path: Path, settings: Any) -> Iterator[Machine]:
    with machine_at(tmp_path / "root", settings) as machine:
        yield machine


def carry_out(server: Server, kind: Kind, *, by: User | None = None, **options: bool) -> Installation:
    """Ask for it and do it, as a worker of the cluster would."""
    begun = ask_for_one(server, kind, by=by, **options)
    runner.work_off()
    begun.refresh_from_db()
    server.refresh_from_db()
    return begun


def states(installation: Installation) -> dict[str, str]:
    return {step["name"]: step["state"] for step in installation.steps}


def step_of(installation: Installation, name: str) -> dict[str, str]:
    return next(step for step in installation.steps if step["name"] == name)


def asked(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The agent's answer to the site; fails the test on an error."""
    [(_, answer)] = ask_each([Ask(AgentAddress.of(server), method, path, body)])
    assert not isinstance(answer, AgentError), answer.message
    return answer


def run_forever(server: Server, key: str = "one") -> int:
    """Deploy an instance through the agent; returns its PID."""
    return int(asked(server, "POST", f"/service/{key}/deploy", {"command": "exec sleep 600"})["pid"])


def installer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(INSTALLER), *arguments], capture_output=True, text=True, timeout=60)
