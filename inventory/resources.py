"""How busy servers are now, asked of their agents; each figure fails alone and says why."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone

from inventory.agents import AgentAddress, AgentError, Ask, ask_each
from inventory.models import Server

METRICS = ("cpu_percent", "memory_percent", "disk_percent")
ANSWER_WITHIN_SECONDS = 8.0


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
    """Ask all at once and answer within 10 s; what was late stands in the errors. In the order given."""
    rows = list(servers)
    asks = [
        Ask(AgentAddress.of(row), "GET", "/report", about=row.pk, timeout_seconds=ANSWER_WITHIN_SECONDS)
        for row in rows
        if row.agent_token
    ]
    answers = {ask.about: answer for ask, answer in ask_each(asks)}
    return [_resources(row, answers.get(row.pk)) for row in rows]


def _resources(server: Server, answer: dict[str, Any] | AgentError | None) -> Resources:
    if answer is None:
        return _nothing(server, "This server has no agent access; enter its agent's token.")
    if isinstance(answer, AgentError):
        return _nothing(server, answer.message)
    host = _object(answer.get("host"))
    told = _object(host.get("errors"))
    figures: dict[str, Any] = {metric: _percent(host.get(metric)) for metric in METRICS}
    missing = [metric for metric, figure in figures.items() if figure is None]
    errors = {metric: str(told.get(metric) or "The agent gave no figure; ask again in a moment.") for metric in missing}
    devices = answer.get("devices")
    accelerators = devices if isinstance(devices, list) else []
    return Resources(server.pk, **figures, accelerators=accelerators, errors=errors, observed_at=timezone.now())


def _nothing(server: Server, reason: str) -> Resources:
    return Resources(server.pk, errors=dict.fromkeys((*METRICS, "accelerators"), reason))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _percent(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)
