"""The whole site as real processes, for tests that want no mocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import requests
from django.conf import settings

from tests.ports import free_port
from tests.real_agent import wait_until

ROOT = Path(__file__).resolve().parents[2]
# What each program is known by in its command line.
MARKS = {
    "web": "infini.asgi:application",
    "worker": "steps",
    "runs": "runs",
    "monitor": "monitor",
    "agent": "infini_agent.py",
}


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class RealSite:
    """`manage.py up` on free ports over ``data_dir``: a process with its own settings, not this one's.

    ``start`` returns when the site says that it is ready; ``stop`` ends it, stops all instances and fails
    when a process is left. ``env`` adds to the environment, e.g. ``INFINI_MONITOR_INTERVAL_SECONDS``. ``migrated`` is a
    file to begin with as its database, from `migrate_once`: migrations take longer than all else of a first start.
    """

    def __init__(self, data_dir: Path, *, migrated: Path | None = None, **env: str) -> None:
        self.data_dir = data_dir
        self.migrated = migrated
        self.port, self.agent_port = free_port(), free_port()
        ours = ("INFINI_", "PYTEST_", "DATABASE_URL", "REDIS_URL")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env |= {
            "DJANGO_SETTINGS_MODULE": "infini.settings",
            "INFINI_DATA_DIR": str(data_dir),
            "INFINI_PORT": str(self.port),
            "INFINI_AGENT_PORT": str(self.agent_port),
            "INFINI_MONITOR_INTERVAL_SECONDS": "1",
            "INFINI_PORT_RANGE_FIRST": str(settings.PORT_RANGE_FIRST),
            "INFINI_PORT_RANGE_LAST": str(settings.PORT_RANGE_LAST),
            "INFINI_DEVICE_PATH": "",  # the developer's accelerators are not the tests'
            "HOME": str(data_dir) + "-home",  # deploy commands run in login shells: no profile of whoever tests
            **env,
        }
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._keys: dict[str, str] = {}
        self._session = requests.Session()
        self._session.trust_env = False

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """All that `up` printed so far, of every start."""
        return "\n".join(self.lines)

    @property
    def password(self) -> str:
        """Of the user ``admin``."""
        return self.env.get("INFINI_ADMIN_PASSWORD") or (self.data_dir / "admin-password").read_text().strip()

    # Starting and ending

    def start(self, *, seconds: float = 90.0, command: str = "up") -> RealSite:
        begun = len(self.lines)
        Path(self.env["HOME"]).mkdir(parents=True, exist_ok=True)
        if self.migrated and not self.data_dir.exists():
            self.data_dir.mkdir(parents=True)
            shutil.copy(self.migrated, self.data_dir)
        self.process = subprocess.Popen(
            self._argv(command),
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        until = time.monotonic() + seconds
        while not any(line.startswith("ready: ") for line in self.lines[begun:]):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill_everything()
                raise AssertionError(f"the site did not become ready:\n{self.output}")
            time.sleep(0.05)
        return self

    def interrupt(self, number: int = signal.SIGINT, *, seconds: float = 15.0) -> float:
        """Signal the supervisor and wait for its end; returns how many seconds that took. Instances go on."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(seconds)
        took = time.monotonic() - begun
        assert self._reader is not None
        self._reader.join(5)
        return took

    def stop(self) -> None:
        """End the site, stop its instances, and see that no process is left."""
        try:
            self.manage("down", seconds=120)
            if self.process:
                self.process.wait(15)
            left = [" ".join(process.cmdline()) for process in self.processes()]
        finally:
            self.kill_everything()
        assert not left, f"left running: {left}"

    def kill_everything(self) -> None:
        """The last resort: whatever runs over this data directory."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
                process.kill()
        if self.process:
            self.process.wait(10)

    def manage(self, *args: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """One `manage.py` command on this site."""
        return subprocess.run(
            self._argv(*args), cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=seconds
        )

    def run_module(self, module: str, *, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """`python -m` within this site's environment."""
        command = [sys.executable, "-m", module]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=seconds)

    # Asking

    def key(self, user: str = "admin") -> str:
        """A bearer key of ``user``, who must exist; made once."""
        if user not in self._keys:
            done = self.manage("apikey", "create", "--user", user, "--name", "tests")
            assert done.returncode == 0, done.stderr
            self._keys[user] = done.stdout.strip()
        return self._keys[user]

    def request(self, method: str, path: str, *, user: str | None = "admin", **options: Any) -> requests.Response:
        """One request as ``user`` (None is nobody); ``options`` as `requests` takes them."""
        headers = dict(options.pop("headers", {}))
        if user:
            headers.setdefault("Authorization", f"Bearer {self.key(user)}")
        options.setdefault("timeout", 30)
        return self._session.request(method, self.url + path, headers=headers, allow_redirects=False, **options)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer; fails the test on an error status."""
        answer = self.request(method, path, **options)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    # Processes

    def processes(self) -> list[psutil.Process]:
        """Every live process over this data directory: supervisor, programs, instances and their shims."""
        found = []
        for process in psutil.process_iter():
            try:
                about = " ".join([*process.cmdline(), *process.environ().values()])
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if str(self.data_dir) in about and process.pid != os.getpid() and lives(process):
                found.append(process)
        return found

    def process_ids(self, name: str) -> list[int]:
        """The processes of a program in ``MARKS``, its leader first; empty when it is down."""
        leader = self._leader(name)
        if leader is None:
            return []
        try:
            group = [p for p in leader.children(recursive=True) if lives(p) and os.getsid(p.pid) == leader.pid]
        except (psutil.NoSuchProcess, ProcessLookupError):  # it died while it was looked at
            return []
        return [leader.pid, *(process.pid for process in group)]

    def kill9(self, name: str) -> int:
        """SIGKILL to the leader of a program; returns its PID."""
        leader = wait_until(lambda: self._leader(name), 20, what=f"{name} runs")
        leader.kill()
        return int(leader.pid)

    def wait_for_restart(self, name: str, old_pid: int, *, seconds: float = 30.0) -> int:
        """The PID of the leader that follows ``old_pid``."""

        def new_pid() -> int | None:
            ids = self.process_ids(name)
            return ids[0] if ids and ids[0] != old_pid else None

        return int(wait_until(new_pid, seconds, f"{name} runs again"))

    def _leader(self, name: str) -> psutil.Process | None:
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()[1:]
            except psutil.NoSuchProcess:
                continue
            if any(Path(word).name == MARKS[name] for word in words) and lives(child):
                return child
        return None

    def _argv(self, *args: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *args]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.rstrip("\n"))


def migrate_once(folder: Path) -> Path:
    """A database that is migrated and otherwise empty, for `RealSite`."""
    done = RealSite(folder).manage("migrate", "--verbosity", "0")
    assert done.returncode == 0, done.stderr
    [made] = folder.glob("*.sqlite3")
    return made
