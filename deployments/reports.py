"""Recording what agents report: a number of statements that does not grow with servers, instances or devices."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from deployments.models import Instance, Operation
from deployments.observations import (
    Columns,
    NotAnObservation,
    Observation,
    after_absence,
    after_observation,
    after_silence,
    as_change,
)
from deployments.phases import ALIVE, OPEN_STATES, Phase
from infini import bulk, events
from infini.bulk import Change
from infini.models import Event
from inventory.devices import figures_of, record_devices
from inventory.models import Server
from inventory.querysets import agent_silence_limit


@dataclass(frozen=True)
class Report:
    """One agent's answer to GET /report, or why there is none."""

    server_id: int
    asked_at: datetime
    document: dict[str, Any] | None
    error: str = ""


Changed = list[tuple[Any, Columns]]  # instances as `_instances` reads them


def record_reports(reports: list[Report]) -> None:
    """Write what one round brought in. Older reports than what is known change nothing."""
    answered = [r for r in reports if r.document is not None]
    known: dict[int, list[Instance]] = defaultdict(list)
    for instance in _instances().filter(placement__server__in=[r.server_id for r in answered]):
        known[instance.server_id].append(instance)
    changed = [pair for report in answered for pair in _changed(report, known[report.server_id])]
    with transaction.atomic():
        _record_servers(reports)
        record_devices({report.server_id: report.document or {} for report in answered})
        written = _write(changed)
        if written:
            Operation.objects.filter(state__in=OPEN_STATES, results__instance__in=written).update(
                step_due_at=timezone.now()
            )


def apply_observation(instance: Instance, seen: Observation, *, asked_at: datetime) -> bool:
    """Write ``seen`` unless something newer is known; True when it changed something. ``instance`` is as last read."""
    columns = after_observation(instance, seen, asked_at=asked_at)
    if columns is None:
        return False
    fresh = Q(observed_at=None) | Q(observed_at__lte=asked_at)
    written = Instance.objects.filter(fresh, pk=instance.pk, generation=instance.generation).update(**columns)
    if written and columns["phase"] != instance.phase:
        _phase_event(instance, columns, instance.placement.server.name).save()
    return bool(written)


def mark_lost() -> int:
    """Instances on servers that were silent too long: not heard from, which is not stopped. Returns how many."""
    silent_since = timezone.now() - agent_silence_limit()
    candidates = _instances().filter(placement__server__agent_seen_at__lt=silent_since, phase__in=ALIVE)
    lost = [(i, after_silence(i.seen_at)) for i in candidates.annotate(seen_at=F("placement__server__agent_seen_at"))]
    if not lost:
        return 0
    with transaction.atomic():
        return len(_write(lost))


def _instances() -> Any:
    """With ``server_id`` and ``server_name``, which a plain instance has by way of its placement."""
    server = {"server_id": F("placement__server_id"), "server_name": F("placement__server__name")}
    return Instance.objects.annotate(**server)


def _write(changed: Changed) -> set[int]:
    """Write the changes, with an event for each new phase; returns the ids of those that nobody changed meanwhile.

    Call inside a transaction.
    """
    written = bulk.update(Instance, [as_change(instance, columns) for instance, columns in changed])
    bulk.insert(
        [
            _phase_event(instance, columns, instance.server_name)
            for instance, columns in changed
            if instance.pk in written and columns["phase"] != instance.phase
        ]
    )
    return written


def _record_servers(reports: list[Report]) -> None:
    bulk.update(Server, [_heard(r.server_id, r.asked_at, r.document) for r in reports if r.document is not None])
    silent = [r for r in reports if r.document is None]
    bulk.update(
        Server,
        [Change(r.server_id, {"agent_asked_at": r.asked_at, "agent_error": r.error[:300]}) for r in silent],
    )


def _heard(server_id: int, asked_at: datetime, document: dict[str, Any]) -> Change:
    agent, host = _part(document, "agent"), _part(document, "host")
    return Change(
        server_id,
        {
            "agent_asked_at": asked_at,
            "agent_seen_at": asked_at,
            "agent_error": "",
            "agent_version": str(agent.get("version") or "")[:40],
            "boot_id": str(agent.get("boot_id") or "")[:64],
            "figures": host | figures_of(document),
        },
    )


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _changed(report: Report, known: Iterable[Instance]) -> Changed:
    """What the report says that is new."""
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
        columns = None
        if observed is not None:
            columns = after_observation(instance, observed, asked_at=report.asked_at)
        elif isinstance(listed, list):
            columns = after_absence(instance, asked_at=report.asked_at)
        if columns is not None:
            changed.append((instance, columns))
    return changed


def _awaits_step(instance: Instance) -> bool:
    """Just asked for something the agent has not taken yet: what it says now is about what was before."""
    return instance.phase == Phase.PENDING and instance.acked_generation < instance.generation


def _phase_event(instance: Instance, columns: Columns, server: str) -> Event:
    data = {"from": instance.phase, "to": str(columns["phase"]), "server": server, "reason": columns["reason"]}
    return Event(**events.describe("instance.phase", instance, by=None, data=data))
