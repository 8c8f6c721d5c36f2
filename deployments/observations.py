"""What an agent says of one instance, checked and turned into columns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from django.utils.dateparse import parse_datetime

from deployments.phases import Phase

_AGENT_PHASES = {Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.STOPPED, Phase.SUCCEEDED, Phase.FAILED}


class NotAnObservation(ValueError):
    """The document is not what the protocol promises."""


@dataclass(frozen=True)
class Observation:
    """One instance as its agent saw it."""

    key: str
    generation: int
    phase: str
    ready: bool
    pid: int | None
    port: int | None
    restarts: int
    exit_code: int | None
    exit_unseen: bool
    reason: str
    started_at: datetime | None

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Raises NotAnObservation for anything but a service document of docs/agent-protocol.md."""
        if not isinstance(document, dict):
            raise NotAnObservation("not an object")
        phase = document.get("phase")
        if phase not in _AGENT_PHASES:
            raise NotAnObservation(f"phase {phase!r}")
        exit_code = document.get("exit_code")
        started = document.get("started_at")
        return cls(
            key=_text(document.get("id")),
            generation=_number(document.get("generation")) or 0,
            phase=phase,
            ready=document.get("ready") is True and phase == Phase.RUNNING,
            pid=_number(document.get("pid")),
            port=_number(document.get("port")),
            restarts=_number(document.get("restarts")) or 0,
            exit_code=None if exit_code == "unknown" else _number(exit_code, least=-(2**31)),
            exit_unseen=exit_code == "unknown",
            reason=str(document.get("reason") or "")[:500],
            started_at=parse_datetime(started) if isinstance(started, str) else None,
        )

    def columns(self) -> dict[str, Any]:
        """The instance's observed columns; its port stays ours when the agent names none."""
        columns = {
            "phase": self.phase,
            "ready": self.ready,
            "pid": self.pid,
            "restarts": self.restarts,
            "exit_code": self.exit_code,
            "exit_unseen": self.exit_unseen,
            "reason": self.reason,
            "started_at": self.started_at,
        }
        return columns | ({"port": self.port} if self.port else {})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise NotAnObservation(f"id {value!r}")
    return value


def _number(value: Any, least: int = 0) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise NotAnObservation(f"number {value!r}")
    return value
