"""What an agent says of one instance, checked and turned into what changes of its row."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_noop

from deployments.models import Instance
from deployments.phases import ALIVE, ENDED, Phase, Wanted
from infini.bulk import Change

OLDER_RUNS = gettext_noop("What was deployed before still runs; the last deployment did not reach this server.")
UNKNOWN_THERE = gettext_noop("The agent does not know this instance; it is sent again.")

Columns = dict[str, Any]  # new values of an instance's row, by column

# What reports write. A change names all of them, so that those of a round fit into one statement.
_OBSERVED = (
    "phase", "ready", "ready_since", "pid", "port", "restarts", "restart_streak", "exit_code", "exit_unseen", "reason",
    "started_at", "generation", "acked_generation", "seen_generation", "observed_at",
)  # fmt: skip
_KNOWN = ("generation", "acked_generation", "observed_at")

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
    restart_streak: int
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
        exit_code, restarts = document.get("exit_code"), _number(document.get("restarts")) or 0
        started = document.get("started_at")
        return cls(
            key=_text(document.get("id")),
            generation=_number(document.get("generation")) or 0,
            phase=phase,
            ready=document.get("ready") is True and phase == Phase.RUNNING,
            pid=_number(document.get("pid")),
            port=_number(document.get("port")),
            restarts=restarts,
            restart_streak=_number(document.get("restart_streak", restarts)) or 0,  # agents before 0.3 tell none
            exit_code=None if exit_code == "unknown" else _number(exit_code, least=-(2**31)),
            exit_unseen=exit_code == "unknown",
            reason=str(document.get("reason") or "")[:500],
            started_at=parse_datetime(started) if isinstance(started, str) else None,
        )

    def columns(self) -> Columns:
        """The instance's observed columns; its port stays ours when the agent names none."""
        columns = {
            "phase": self.phase,
            "ready": self.ready,
            "pid": self.pid,
            "restarts": self.restarts,
            "restart_streak": self.restart_streak,
            "exit_code": self.exit_code,
            "exit_unseen": self.exit_unseen,
            "reason": self.reason,
            "started_at": self.started_at,
        }
        return columns | ({"port": self.port} if self.port else {})


def after_observation(instance: Instance, seen: Observation, *, asked_at: datetime) -> Columns | None:
    """What ``seen`` changes of ``instance`` as it was read; None when nothing, or when something newer is known."""
    if instance.observed_at is not None and instance.observed_at > asked_at:
        return None
    columns = seen.columns() | {"seen_generation": seen.generation}
    if seen.generation < instance.generation:
        older_runs = seen.phase in ALIVE and instance.wanted == Wanted.RUNNING
        columns |= {"ready": False, "reason": OLDER_RUNS if older_runs else seen.reason}
    elif seen.generation > instance.generation:
        # Only a database older than the agent can be behind it: take the agent's count, so that ours go on from there.
        columns |= {"generation": seen.generation, "acked_generation": seen.generation}
    if all(getattr(instance, name) == value for name, value in columns.items()):
        return None
    since = (instance.ready_since or asked_at) if columns["ready"] else None
    return columns | {"ready_since": since, "observed_at": asked_at}


def after_absence(instance: Instance, *, asked_at: datetime) -> Columns | None:
    """What a fresh report without ``instance`` changes: nothing runs there, and how it ended nobody saw.

    What is wanted becomes pending again, not yet taken by the agent, so that it is sent once more.
    """
    if instance.phase in (Phase.PENDING, *ENDED):
        return None
    if instance.observed_at is not None and instance.observed_at >= asked_at:
        return None
    wanted = instance.wanted == Wanted.RUNNING
    columns = {
        "phase": Phase.PENDING if wanted else Phase.STOPPED,
        "ready": False,
        "ready_since": None,
        "pid": None,
        "exit_unseen": wanted,
        "reason": UNKNOWN_THERE if wanted else "",
        "observed_at": asked_at,
    }
    return columns | ({"acked_generation": 0} if wanted else {})


def after_silence(seen_at: datetime) -> Columns:
    """What it makes of an instance that its server was last heard at ``seen_at``."""
    at = f"{seen_at:%Y-%m-%d %H:%M:%S}"
    reason = gettext_noop("Not heard from since %(at)s UTC; it may still run.") % {"at": at}
    return {"phase": Phase.LOST, "ready": False, "ready_since": None, "reason": reason}


def as_change(instance: Instance, columns: Columns) -> Change:
    """To be written only while nobody else has asked for, or seen, something new of ``instance``."""
    values = {name: columns.get(name, getattr(instance, name)) for name in _OBSERVED}
    return Change(instance.pk, values, {name: getattr(instance, name) for name in _KNOWN})


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
