"""The agent on this machine, as its starter sees it: how it is run, what it runs, how it is stopped.

docs/agent-protocol.md is the contract. Everything goes over loopback with the token of its state directory.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from django.conf import settings

STOP_SECONDS = 90.0  # a stop command may take a minute before the signals go out
_OURS = ("INFINI_", "DJANGO_", "DATABASE_URL", "REDIS_URL", "MAKE", "MFLAGS")


class NoAgent(Exception):
    """What listens there, if anything, is not the agent of this state directory."""


def environment() -> dict[str, str]:
    """What the agent, and every instance after it, inherits: nothing of the site's own settings and secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def command(port: int) -> list[str]:
    script = settings.BASE_DIR / "agent" / "infini_agent.py"
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, str(script), *address, "--state-dir", str(settings.AGENT_STATE_DIR)]


class LocalAgent:
    """Talks to the agent on ``port`` of this machine; every call raises NoAgent when it is not ours."""

    def __init__(self, port: int, state_dir: Path) -> None:
        self._url, self._state_dir = f"http://127.0.0.1:{port}", state_dir
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between us and ourselves

    def answers(self) -> bool:
        """Whether an agent, anybody's, is healthy on this port."""
        with suppress(requests.RequestException):
            return self._session.get(f"{self._url}/health", timeout=2).status_code == 200
        return False

    def pid(self) -> int:
        return int(self._ask("GET", "/report")["agent"]["pid"])

    def running(self, *, timeout: float = 10.0) -> list[dict[str, Any]]:
        """The instances that run now."""
        found = self._ask("GET", "/services", timeout=timeout)["services"]
        return [instance for instance in found if instance["status"] == "running"]

    def stop(self, key: str) -> str:
        """Stop one instance and wait until it is gone; returns its phase then."""
        self._ask("POST", f"/service/{quote(key)}/stop", timeout=STOP_SECONDS)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until:
            answer = self._ask("GET", f"/service/{quote(key)}/status")
            if answer["status"] != "running":
                return str(answer["phase"])
            time.sleep(0.1)
        return "stopping"

    def stop_all(self) -> Iterator[tuple[str, int | None, str]]:
        """Stop every running instance, several at once; yields key, PID and what became of it."""
        instances = self.running()
        with ThreadPoolExecutor(max_workers=16) as pool:
            results = [(i["id"], i["pid"], pool.submit(self.stop, i["id"])) for i in instances]
            for key, pid, result in results:
                try:
                    yield key, pid, result.result()
                except NoAgent as error:
                    yield key, pid, f"not stopped: {error}"

    def _ask(self, method: str, path: str, *, timeout: float = 10.0) -> Any:
        try:
            token = (self._state_dir / "token").read_text().strip()
            answer = self._session.request(
                method, self._url + path, headers={"Authorization": f"Bearer {token}"}, timeout=timeout
            )
            answer.raise_for_status()
            return answer.json()
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            raise NoAgent(str(error)) from error


def end_earlier_agent(agent: LocalAgent) -> int | None:
    """End an agent of ours that an earlier start left; its instances go on. Returns its PID, None without one."""
    try:
        pid = agent.pid()
    except (NoAgent, KeyError, TypeError):
        return None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 5
    while agent.answers() and time.monotonic() < until:
        time.sleep(0.05)
    return pid


@contextmanager
def running_agent() -> Iterator[LocalAgent]:
    """The local agent: the one that runs, else one started for the while. Raises NoAgent when none comes up.

    It has ended afterwards, in both cases.
    """
    usual = LocalAgent(settings.AGENT_PORT, settings.AGENT_STATE_DIR)
    try:
        usual.running()
    except NoAgent:
        with _agent_for_a_while() as started:
            yield started
        return
    try:
        yield usual
    finally:
        end_earlier_agent(usual)


@contextmanager
def _agent_for_a_while() -> Iterator[LocalAgent]:
    argv = command(0)
    with subprocess.Popen(
        argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise NoAgent(process.stderr.read().strip().rpartition("\n")[2] or "the agent did not start")
            yield LocalAgent(int(line.rpartition(":")[2]), settings.AGENT_STATE_DIR)
        finally:
            process.terminate()
