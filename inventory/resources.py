"""How busy servers are now, asked of their agents, or over SSH where there is none; each figure fails alone and
says why. What was measured over SSH is kept in ``Server.figures``, since no report brings it.
"""

import contextlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connections as databases
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from infini.errors import InfiniError
from infini.said import said
from inventory.agents import AgentAddress, AgentError, Ask, ask_each
from inventory.models import Server
from inventory.ssh import figures as ssh_figures
from inventory.ssh.access import SshAccess
from inventory.ssh.figures import SshFigures

METRICS = ("cpu_percent", "memory_percent", "disk_percent")
ANSWER_WITHIN_SECONDS = 8.0
SSH_AT_ONCE = 100

Measured = SshFigures | InfiniError


@dataclass(frozen=True)
class Resources:
    """Percentages of one server at ``observed_at``; None with a sentence in ``errors`` where there is no figure."""

    server_id: int
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    accelerators: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    source: str = "agent"
    observed_at: datetime | None = None


def resources_of(servers: Iterable[Server]) -> list[Resources]:
    """Ask all at once and answer within 10 s; what was late stands in the errors. In the order given.

    Blocks for some seconds, so it must not run inside a transaction.
    """
    rows = list(servers)
    asks = [
        Ask(AgentAddress.of(row), "GET", "/report", about=row.pk, timeout_seconds=ANSWER_WITHIN_SECONDS)
        for row in rows
        if row.agent_token
    ]
    with _measuring([row for row in rows if _is_agentless(row)]) as measured:
        answers = {ask.about: answer for ask, answer in ask_each(asks)}
    at = timezone.now()
    _keep(measured, at)
    return [_from_ssh(row, measured[row.pk], at) if row.pk in measured else _resources(row, answers) for row in rows]


def _is_agentless(server: Server) -> bool:
    return not server.agent_token and bool(server.username)


def _resources(server: Server, answers: dict[Any, dict[str, Any] | AgentError]) -> Resources:
    answer = answers.get(server.pk)
    if answer is None:
        return _nothing(
            server, gettext("This server has no agent access, nor SSH access; enter its agent's token or an account.")
        )
    if isinstance(answer, AgentError):
        return _nothing(server, answer.message)
    host = _object(answer.get("host"))
    told = _object(host.get("errors"))
    figures: dict[str, Any] = {metric: _percent(host.get(metric)) for metric in METRICS}
    missing = [metric for metric, figure in figures.items() if figure is None]
    errors = {
        metric: str(told.get(metric) or gettext("The agent gave no figure; ask again in a moment."))
        for metric in missing
    }
    devices = answer.get("devices")
    accelerators = devices if isinstance(devices, list) else []
    return Resources(server.pk, **figures, accelerators=accelerators, errors=errors, observed_at=timezone.now())


def _nothing(server: Server, reason: str, source: str = "agent") -> Resources:
    return Resources(server.pk, errors=dict.fromkeys((*METRICS, "accelerators"), said(reason)), source=source)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _percent(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)


# Over SSH


class _measuring:
    """Measures ``servers`` in threads of its own while its block runs; after it every one has an answer.

    Who is late is not waited for: its thread ends by its own timeouts.
    """

    def __init__(self, servers: list[Server]) -> None:
        self._began = timezone.now()
        self._pool = ThreadPoolExecutor(SSH_AT_ONCE, thread_name_prefix="resources") if servers else None
        self._measured: dict[int, Measured] = {}
        self._running: dict[Future[Measured], Server] = {}
        for server in servers:
            try:
                access = SshAccess.of(server)
            except InfiniError as error:
                self._measured[server.pk] = error
                continue
            assert self._pool
            self._running[self._pool.submit(_measure, access)] = server

    def __enter__(self) -> dict[int, Measured]:
        return self._measured

    def __exit__(self, *_: object) -> None:
        if not self._pool:
            return
        spent = (timezone.now() - self._began).total_seconds()
        wait(self._running, timeout=max(0.0, ANSWER_WITHIN_SECONDS - spent))
        for future, server in self._running.items():
            late = InfiniError(
                gettext_noop("%(name)s did not answer over SSH within %(n)g s.")
                % {"name": server.name, "n": ANSWER_WITHIN_SECONDS}
            )
            self._measured[server.pk] = future.result() if future.done() else late
        self._pool.shutdown(wait=False, cancel_futures=True)


def _measure(access: SshAccess) -> Measured:
    try:
        return ssh_figures.measure(access, ANSWER_WITHIN_SECONDS)
    except InfiniError as error:
        return error
    finally:
        with contextlib.suppress(Exception):  # a thread's own connection, where a host key was judged
            databases.close_all()


def _from_ssh(server: Server, measured: Measured, at: datetime) -> Resources:
    if isinstance(measured, InfiniError):
        return _nothing(server, measured.message, source="ssh")
    figures = {metric: _percent(measured.values.get(metric)) for metric in METRICS}
    return Resources(
        server.pk,
        **figures,
        accelerators=measured.devices,
        errors={metric: said(error) for metric, error in measured.errors.items()},
        source="ssh",
        observed_at=at,
    )


def _keep(measured: dict[int, Measured], at: datetime) -> None:
    """Store what was measured, or why nothing was, unless an agent's token was entered meanwhile. Twice leaves the
    later."""
    if not measured:
        return
    with transaction.atomic():
        rows = Server.objects.filter(pk__in=measured, agent_token="")
        for pk, before in rows.values_list("pk", "figures"):
            Server.objects.filter(pk=pk, agent_token="").update(figures=_kept(measured[pk], before, at))


def _kept(measured: Measured, before: dict[str, Any], at: datetime) -> dict[str, Any]:
    """What was measured before stays, with its age, where nothing could be measured now."""
    if isinstance(measured, InfiniError):
        return before | {"ssh_error": measured.message, "ssh_error_code": measured.code}
    return measured.values | {
        "errors": measured.errors,
        "devices": measured.devices,
        "device_errors": measured.device_errors,
        "source": "ssh",
        "observed_at": at.isoformat(),
    }
