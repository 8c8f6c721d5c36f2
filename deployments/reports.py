"""Recording what agents report: instances by condition, servers in one statement, lost ones found out."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from deployments.models import Instance, Operation
from deployments.observations import NotAnObservation, Observation
from deployments.phases import ALIVE, ENDED, OPEN_STATES, Phase, Wanted
from infini import events
from infini.models import Event
from inventory.devices import figures_of, record_devices
from inventory.models import Server
from inventory.querysets import agent_silence_limit

OLDER_RUNS = "What was deployed before still runs; the last deployment did not reach this server."
UNKNOWN_THERE = "The agent does not know this instance; it is sent again."


@dataclass(frozen=True)
class Report:
    """One agent's answer to GET /report, or why there is none."""

    server_id: int
    asked_at: datetime
    document: dict[str, Any] | None
    error: str = ""


def record_reports(reports: list[Report]) -> None:
    """Write what one round brought in. Older reports than what is known change nothing."""
    answered = [r for r in reports if r.document is not None]
    known: dict[int, list[Instance]] = defaultdict(list)
    rows = Instance.objects.filter(placement__server__in=[r.server_id for r in answered])
    for instance in rows.select_related("placement__service", "placement__server"):
        known[instance.placement.server_id].append(instance)
    with transaction.atomic():
        _record_servers(reports)
        record_devices({report.server_id: report.document or {} for report in answered})
        changed = [pk for report in answered for pk in _record_instances(report, known[report.server_id])]
        if changed:
            Operation.objects.filter(state__in=OPEN_STATES, results__instance__in=changed).update(
                step_due_at=timezone.now()
            )


def apply_observation(instance: Instance, seen: Observation, *, asked_at: datetime) -> bool:
    """Write ``seen`` unless something newer is known; True when it changed something. ``instance`` is as last read."""
    columns = seen.columns() | {"seen_generation": seen.generation}
    if seen.generation < instance.generation:
        older_runs = seen.phase in ALIVE and instance.wanted == Wanted.RUNNING
        columns |= {"ready": False, "reason": OLDER_RUNS if older_runs else seen.reason}
    elif seen.generation > instance.generation:
        # Only a database older than the agent can be behind it: take the agent's count, so that ours go on from there.
        columns |= {"generation": seen.generation, "acked_generation": seen.generation}
    if all(getattr(instance, name) == value for name, value in columns.items()):
        return False
    fresh = Q(observed_at=None) | Q(observed_at__lte=asked_at)
    written = Instance.objects.filter(fresh, pk=instance.pk, generation=instance.generation).update(
        **columns, observed_at=asked_at
    )
    if written and columns["phase"] != instance.phase:
        _phase_event(instance, columns["phase"], columns["reason"])
    return bool(written)


def mark_lost() -> int:
    """Instances on servers that were silent too long: not heard from, which is not stopped. Returns how many."""
    silent_since = timezone.now() - agent_silence_limit()
    candidates = Instance.objects.filter(
        placement__server__agent_seen_at__lt=silent_since, phase__in=ALIVE
    ).select_related("placement__server")
    lost = 0
    for instance in candidates:
        server = instance.placement.server
        reason = f"Not heard from since {server.agent_seen_at:%Y-%m-%d %H:%M:%S} UTC; it may still run."
        with transaction.atomic():
            moved = Instance.objects.filter(pk=instance.pk, phase__in=ALIVE).update(
                phase=Phase.LOST, ready=False, reason=reason
            )
            if moved:
                _phase_event(instance, Phase.LOST, reason)
                lost += 1
    return lost


def _record_servers(reports: list[Report]) -> None:
    before = Server.objects.in_bulk([r.server_id for r in reports])
    servers = [_server_after(before[r.server_id], r) for r in reports if r.server_id in before]
    columns = ["agent_asked_at", "agent_seen_at", "agent_error", "agent_version", "boot_id", "figures"]
    Server.objects.bulk_update(servers, columns, batch_size=100)


def _server_after(server: Server, report: Report) -> Server:
    server.agent_asked_at = report.asked_at
    server.agent_error = report.error[:300]
    if report.document is not None:
        agent, host = _part(report.document, "agent"), _part(report.document, "host")
        server.agent_seen_at = report.asked_at
        server.agent_version = str(agent.get("version") or "")[:40]
        server.boot_id = str(agent.get("boot_id") or "")[:64]
        server.figures = host | figures_of(report.document)
    return server


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _record_instances(report: Report, known: list[Instance]) -> list[int]:
    """Ids of those that changed."""
    seen: dict[str, Observation] = {}
    listed = (report.document or {}).get("services")
    for document in listed if isinstance(listed, list) else []:
        try:
            observation = Observation.parse(document)
        except NotAnObservation:
            continue  # one bad line says nothing about the others
        seen[observation.key] = observation
    changed = []
    for instance in known:
        if _awaits_step(instance):
            continue
        observed = seen.get(instance.key)
        if observed is not None:
            if apply_observation(instance, observed, asked_at=report.asked_at):
                changed.append(instance.pk)
        elif isinstance(listed, list) and _record_absence(instance, report.asked_at):
            changed.append(instance.pk)
    return changed


def _awaits_step(instance: Instance) -> bool:
    """Just asked for something the agent has not taken yet: what it says now is about what was before."""
    return instance.phase == Phase.PENDING and instance.acked_generation < instance.generation


def _record_absence(instance: Instance, asked_at: datetime) -> bool:
    """A fresh report without an instance: nothing runs there, and how it ended nobody saw.

    What is wanted becomes pending again, not yet taken by the agent, so that it is sent once more.
    """
    if instance.phase in (Phase.PENDING, *ENDED):
        return False
    wanted = instance.wanted == Wanted.RUNNING
    phase = Phase.PENDING if wanted else Phase.STOPPED
    reason = UNKNOWN_THERE if wanted else ""
    fresh = Q(observed_at=None) | Q(observed_at__lt=asked_at)
    written = Instance.objects.filter(fresh, pk=instance.pk, generation=instance.generation).update(
        phase=phase, ready=False, pid=None, exit_unseen=wanted, reason=reason, observed_at=asked_at,
        acked_generation=0 if wanted else instance.acked_generation
    )  # fmt: skip
    if written:
        _phase_event(instance, phase, reason)
    return bool(written)


def _phase_event(instance: Instance, phase: str, reason: str) -> None:
    data = {"from": instance.phase, "to": str(phase), "server": instance.placement.server.name, "reason": reason}
    Event.objects.create(**events.describe("instance.phase", instance, by=None, data=data))
