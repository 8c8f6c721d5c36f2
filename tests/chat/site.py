"""The real site under daphne, in a process of its own over a database of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMITS = {
    "INFINI_UPSTREAM_CONNECT_TIMEOUT_SECONDS": "1",
    "INFINI_UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS": "1",
    "INFINI_UPSTREAM_IDLE_TIMEOUT_SECONDS": "0.7",
    "INFINI_STREAM_MAX_BYTES": "300000",
    "INFINI_REQUEST_MAX_BYTES": "1000000",
}


@dataclass
class Site:
    """Addresses and people of a running site."""

    url: str
    port: int
    environment: dict[str, str]
    process: subprocess.Popen
    clerk: subprocess.Popen
    people: dict[str, dict[str, str]] = field(default_factory=dict)

    def do(self, verb: str, **given: Any) -> Any:
        """Have a verb of ``rows.py`` done."""
        assert self.clerk.stdin and self.clerk.stdout
        self.clerk.stdin.write(json.dumps({"do": verb, "with": given}) + "\n")
        self.clerk.stdin.flush()
        line = self.clerk.stdout.readline()
        assert line, f"{verb} failed; see the output above"
        return json.loads(line)

    def person(self, role: str) -> dict[str, str]:
        """Somebody with this role, the same one each time; ``nobody`` has none."""
        if role not in self.people:
            self.people[role] = self.do("user", name=role, role=None if role == "nobody" else role)
        return self.people[role]

    def service(self, ports: list[int], prefix: str = "/v1", served_model: str = "tiny", name: str = "") -> int:
        return self.do(
            "service", name=name or f"s-{uuid.uuid4().hex[:8]}", ports=ports, prefix=prefix, served_model=served_model
        )

    def completions(self, service_id: int) -> str:
        return f"{self.url}/api/services/{service_id}/chat/completions"

    def used(self, *, service_id: int = 0, endpoint_id: int = 0, least: int = 1) -> list[dict[str, Any]]:
        """The usage stored of a target, once there are ``least`` rows of it."""
        deadline = time.monotonic() + 10
        while True:
            rows = self.do("used", service_id=service_id, endpoint_id=endpoint_id)
            if len(rows) >= least or time.monotonic() > deadline:
                return rows
            time.sleep(0.1)

    def history(self, service_id: int, role: str = "viewer") -> list[dict[str, Any]]:
        """What the person with ``role`` sees as the history."""
        request = urllib.request.Request(f"{self.url}/api/services/{service_id}/chat", headers=self.bearer(role))
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def bearer(self, role: str = "viewer") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.person(role)['key']}"}

    def session_cookie(self, role: str = "viewer") -> dict[str, str]:
        return {f"infini_session_{self.port}": self.person(role)["session"]}

    def end(self) -> None:
        for process in (self.process, self.clerk):
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
        for pipe in (self.clerk.stdin, self.clerk.stdout):
            if pipe:
                pipe.close()


def start_site(data_dir: Path, *, migrate: bool = True, **settings: str) -> Site:
    """Migrate, unless the database is another site's already, listen on a free port, and wait for the first answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    environment = {
        **os.environ,
        **LIMITS,
        "DJANGO_SETTINGS_MODULE": "infini.settings",
        "INFINI_DATA_DIR": str(data_dir),
        "INFINI_PORT": str(port),
        "INFINI_LOG_LEVEL": "WARNING",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    if migrate:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True, timeout=120
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "infini.web", "--fd", str(listener.fileno()), "-v", "0", "infini.asgi:application"],
        cwd=ROOT,
        env=environment,
        pass_fds=[listener.fileno()],
    )
    clerk = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/chat/rows.py")],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    listener.close()
    site = Site(f"http://127.0.0.1:{port}", port, environment, process, clerk)
    _await_answer(site)
    return site


@dataclass
class Gateway:
    """A gateway process over a site's database."""

    url: str
    process: subprocess.Popen

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=6)
            raise


def start_gateway(site: Site, **environment: str) -> Gateway:
    """`manage.py gateway` on a free port, ready to answer."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.set_inheritable(True)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "manage.py", "gateway", "--fd", str(listener.fileno())],
        cwd=ROOT,
        env={**site.environment, **environment},
        pass_fds=[listener.fileno()],
    )
    listener.close()
    _await(url, process)
    return Gateway(url, process)


def _await_answer(site: Site) -> None:
    _await(site.url, site.process)


def _await(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "it ended at its start"
            time.sleep(0.05)
    raise AssertionError("it did not answer within 30 s")
