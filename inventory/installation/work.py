"""What the steps of one installation share, and how a step tells what came of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini.errors import Unavailable
from inventory.agents import AgentAddress, AgentError, Answer, Ask, ask_each
from inventory.installation.remote import Remote
from inventory.installation.states import StepState
from inventory.models import Installation, Server
from inventory.ssh.access import SshAccess

OUTPUT_MAX_CHARS = 8000


@dataclass(frozen=True)
class Outcome:
    """``text`` says what was done, is right already or would be done; ``output`` what a tool said."""

    state: StepState
    text: str
    output: str = ""


class StepFailed(Unavailable):
    code = "step_failed"

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class LeaseLost(Exception):
    """Somebody else works on this installation by now: leave everything to them."""


@dataclass
class Work:
    """One run of one installation. ``facts`` is what the server was found to be; ``changed`` what was written now."""

    installation: Installation
    server: Server
    cancelled: threading.Event
    is_mine: Callable[[], bool]
    facts: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    before: dict[str, Any] = field(default_factory=dict)  # the agent's report before anything was done
    secrets: list[str] = field(default_factory=list, repr=False)
    _remote: Remote | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        known = (self.server.agent_token, self.server.password, self.server.passphrase)
        self.secrets += [secret for secret in known if secret]

    @property
    def dry_run(self) -> bool:
        return self.installation.dry_run

    @property
    def remote(self) -> Remote:
        """The server over SSH, greeted once per run; raises SshError or RemoteRefusal."""
        if self._remote is None:
            place = {"root": settings.AGENT_ROOT, "host": self.server.host_ip, "port": self.server.agent_port}
            remote = Remote(SshAccess.of(self.server), place, self.cancelled)
            remote.greet()
            self._remote = remote
        return self._remote

    def do(self, verb: str, *, seconds: float = 60.0, **request: Any) -> dict[str, Any]:
        """A verb that changes something on the server: only while the installation is ours, and in no dry run."""
        if not self.is_mine():
            raise LeaseLost
        assert not self.dry_run
        self.changed.add(verb)
        return self.remote.ask(verb, seconds=seconds, **request)

    def agent(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 10.0) -> Answer:
        """What the server's agent answers to us, or the error in its place."""
        address = AgentAddress.of(self.server)
        [(_, answer)] = ask_each([Ask(address, method, path, body, timeout_seconds=seconds)])
        return answer

    def report(self) -> dict[str, Any] | AgentError:
        return self.agent("GET", "/report", seconds=5)

    def without_secrets(self, text: str) -> str:
        """``text`` as it may be stored and shown: its end, and no secret of this server."""
        for secret in self.secrets:
            text = text.replace(secret, "•••")
        return text[-OUTPUT_MAX_CHARS:]

    def outcome(self, needed: bool, *, right: str, would: str, do: Callable[[], tuple[str, str]]) -> Outcome:
        """``unchanged`` when nothing is needed, ``planned`` in a dry run, else ``do`` it: (text, output)."""
        if not needed:
            return Outcome(StepState.UNCHANGED, right)
        if self.dry_run:
            return Outcome(StepState.PLANNED, would)
        return Outcome(StepState.DONE, *do())


def running_instances(report: dict[str, Any] | AgentError) -> dict[str, Any]:
    """``{key: pid}`` of the instances that run according to a report."""
    listed = report.get("services") if isinstance(report, dict) else None
    rows = [row for row in listed or [] if isinstance(row, dict) and row.get("status") == "running"]
    return {str(row.get("id")): row.get("pid") for row in rows}


def agent_part(report: dict[str, Any]) -> dict[str, Any]:
    part = report.get("agent")
    return part if isinstance(part, dict) else {}


def counted(keys: Any) -> str:
    """``2 instances (a, b)``, for sentences."""
    names = sorted(map(str, keys))
    values = {"n": len(names), "names": ", ".join(names[:10]), "more": len(names) - 10}
    if not names:
        return _("no instance")
    if len(names) > 10:
        return _("%(n)d instances (%(names)s and %(more)d more)") % values
    return (_("%(n)d instance (%(names)s)") if len(names) == 1 else _("%(n)d instances (%(names)s)")) % values


def now_text() -> str:
    return timezone.now().isoformat(timespec="milliseconds")
