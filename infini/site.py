"""The whole site as its starter runs it: which programs, when it is ready, what is said on the way."""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import requests
from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from infini import clusters, first_start, local_agent
from infini.console import Console
from infini.errors import InfiniError
from infini.local_agent import LocalAgent, NoAgent
from infini.supervisor import Program, Supervisor

STEADY_SECONDS = 1.5  # a program that ran for so long did not fail at its first import
SLOW_START_SECONDS = 60.0

Ready = Callable[["Site"], None]


def address(port: int | None = None) -> str:
    """Where a browser on this machine finds the site, or what listens on another port of it."""
    host = settings.HOST.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return _url(f"[{host}]" if ":" in host else host, port)


def _url(host: str, port: int | None = None) -> str:
    return f"http://{host}:{port or settings.PORT}/"


def programs() -> list[Program]:
    """The agent, web, the two workers, the monitor and, with a port of its own, the gateway; each is also a command."""
    manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
    web = ["-m", "infini.web", "-v", "0", "-b", settings.HOST.strip("[]"), "-p", str(settings.PORT)]
    web += ["--websocket_timeout", "-1", *(["--proxy-headers"] if settings.TRUST_PROXY else [])]
    own = _environment()
    commands = {
        "web": [sys.executable, *web, "infini.asgi:application"],
        "worker": [*manage, "qcluster", "--skip-checks", "--name", clusters.STEPS],
        "runs": [*manage, "qcluster", "--skip-checks", "--name", clusters.RUNS],
        "monitor": [*manage, "monitor"],
        **({"gateway": [*manage, "gateway"]} if settings.GATEWAY_PORT else {}),
    }
    agent = Program(
        "agent",
        local_agent.command(settings.AGENT_PORT),
        local_agent.environment(),
        settings.BASE_DIR,
        ends_last=True,
    )
    return [agent] + [
        Program(name, argv, own | _cluster(argv), settings.BASE_DIR, stalled=_stall_check(name))
        for name, argv in commands.items()
    ]


def _cluster(argv: list[str]) -> dict[str, str]:
    """django-q2 reads which cluster it is before it reads its command line, which is for people to see."""
    return {"Q_CLUSTER_NAME": argv[-1]} if "qcluster" in argv else {}


def _environment() -> dict[str, str]:
    """What the site's own programs inherit: one data directory whatever their cwd, and no first password."""
    env = {name: value for name, value in os.environ.items() if name != "INFINI_ADMIN_PASSWORD"}
    return env | {"INFINI_DATA_DIR": str(settings.DATA_DIR), "PYTHONUNBUFFERED": "1"}


def _stall_check(name: str) -> Callable[[], bool] | None:
    path = settings.STALL_CHECKS.get(name)
    if path is None:
        return None
    check = import_string(path)

    def ask() -> bool:
        try:
            return bool(check())
        finally:
            connection.close()

    return ask


class Site:
    """One run of everything, from the first line said to the last."""

    def __init__(self, *, password: str | None) -> None:
        everything = programs()
        self.console = Console(settings.LOGS_DIR, [program.name for program in everything])
        self.supervisor = Supervisor(everything, self.console, on_end=self._say_goodbye)
        self.agent = LocalAgent(settings.AGENT_PORT, settings.AGENT_STATE_DIR)
        self._password = password
        self._when_ready: Ready = lambda site: None

    def run(self, when_ready: Ready | None = None) -> int:
        """Run until a signal; ``when_ready`` is called once, before the site says that it is ready. Main thread only.

        Returns the exit code. An exception of ``when_ready`` ends everything.
        """
        self._when_ready = when_ready or self._when_ready
        try:
            return self.supervisor.run(lambda _: self._start_up())
        finally:
            self.console.close()

    def say(self, text: str = "", *, end: str = "\n") -> None:
        self.console.say(text, end=end)

    def _start_up(self) -> None:
        if not self._wait_until_ready():
            return
        self.supervisor.ready = True
        try:
            self._when_ready(self)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is said, and nothing stays running for it)
            if not self.supervisor.ending:
                self.say(error.message if isinstance(error, InfiniError) else f"{type(error).__name__}: {error}")
                self.supervisor.end(1)
        finally:
            connection.close()
        if not self.supervisor.ending:
            self._say_ready()

    def _wait_until_ready(self) -> bool:
        slow_at = time.monotonic() + SLOW_START_SECONDS
        while not self.supervisor.ending:
            if self.supervisor.steady(STEADY_SECONDS) and self._web_answers() and self.agent.answers():
                return True
            if time.monotonic() > slow_at:
                slow_at = float("inf")
                self.say(
                    f"Not ready after {SLOW_START_SECONDS:g} s; still waiting for {address()}readyz and the agent."
                )
            time.sleep(0.05)
        return False

    def _web_answers(self) -> bool:
        with requests.Session() as session, suppress(requests.RequestException):
            session.trust_env = False
            return session.get(address() + "readyz", timeout=2).status_code == 200
        return False

    def _say_ready(self) -> None:
        names = ", ".join(child.program.name for child in self.supervisor.children)
        lines = [
            "",
            f"Infini {settings.VERSION} runs: {names} (agent on 127.0.0.1:{settings.AGENT_PORT}).",
            f"Data and logs: {settings.DATA_DIR}",
            f"Log in as {first_start.ADMIN}, {self._password_in_words()}.",
            "Ctrl-C ends the site. Deployed instances outlive it; `make down` stops them.",
        ]
        if settings.HOST in ("0.0.0.0", "::"):
            lines.append(f"From other machines: {_url(socket.gethostname())} (more names: INFINI_ALLOWED_HOSTS)")
        if settings.GATEWAY_PORT:
            lines.append(f"OpenAI gateway: {address(settings.GATEWAY_PORT)}v1")
        if settings.PUBLIC_URL:
            lines.append(f"Public address: {settings.PUBLIC_URL}")
        self.say("\n".join([*lines, f"ready: {address()}"]))

    def _password_in_words(self) -> str:
        path = first_start.password_path()
        if self._password:
            return f"password {self._password} (kept in {path})"
        if path.exists():
            return f"password as in {path}, unless you changed it"
        return "with the password you gave"

    def _say_goodbye(self) -> None:
        """How many instances go on; asked of the agent, so before it ends."""
        try:
            count = len(self.agent.running(timeout=0.7))
        except NoAgent:
            self.say("Infini ends. Deployed instances go on running; `make down` stops them.")
            return
        what = {0: "No instance was running.", 1: "1 instance goes on running; `make down` stops it."}
        self.say("Infini ends. " + what.get(count, f"{count} instances go on running; `make down` stops them."))
