"""What a service's page shows: wanted against actual on each server, the last operation, what it ran before."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q
from django.http import HttpRequest

from deployments.documents import last_seen
from deployments.models import Instance, Operation, OperationResult, Placement, Service
from deployments.phases import Phase, Wanted
from deployments.shown import instance_chip, operation_chip, result_chip, revision_chip, service_chip
from infini.display import BAD, BUSY, GOOD, QUIET, WARN, Chip, url_or_none
from infini.models import Event
from infini.timeline import visible_events
from infini.visibility import visible
from inventory.servers import SECRETS

LIVE_SECONDS, LIVE_SECONDS_WHILE_BUSY = 5, 2
LOG_LINES = 20
REVISIONS, EVENTS = 10, 12
_SECRETS = tuple(f"server__{name}" for name in SECRETS)  # pages read none of them


@dataclass(frozen=True)
class InstanceRow:
    """One instance on one server, or a server that has none yet."""

    placement: Placement
    instance: Instance | None
    chip: Chip | None
    seen_at: datetime | None
    log_lines: str

    @property
    def failed(self) -> bool:
        return self.instance is not None and self.instance.phase in (Phase.FAILED, Phase.LOST)

    @property
    def leaving(self) -> bool:
        wanted = self.instance.wanted if self.instance else None
        return wanted == Wanted.GONE or self.placement.replicas == 0


@dataclass(frozen=True)
class LogChoice:
    """An instance whose log may be read."""

    instance_id: int
    label: str


@dataclass(frozen=True)
class ResultRow:
    result: OperationResult
    chip: Chip
    exit_code: int | str | None
    reason: str


def service_context(request: HttpRequest, service: Any) -> dict[str, Any]:
    operations = visible(service.operations.select_related("by").order_by("-pk"), request.user)
    operation = operations.first()
    results = list(operation.results.select_related("instance")) if operation else []
    rows = instance_rows(service, results)
    return {
        "chip": service_chip(service),
        "instance_rows": rows,
        "log_choices": log_choices(rows),
        "operation": operation,
        "operation_chip": operation_chip(operation) if operation else None,
        "result_rows": [result_row(result) for result in results],
        "revisions": [(r, revision_chip(r, service)) for r in service.revisions.select_related("author")[:REVISIONS]],
        "events": _events(request, service, rows),
        "chat_url": url_or_none("chat_page", service.pk) if request.user.has_perm("chat.use_chat") else None,
        "secret_names_set": bool(service.current_revision and service.current_revision.secret_env),
        "live_seconds": LIVE_SECONDS_WHILE_BUSY if service.open_operation_id else LIVE_SECONDS,
    }


def instance_rows(service: Service, results: list[OperationResult]) -> list[InstanceRow]:
    logs = {result.instance_id: result.log_tail for result in results}
    placements = Placement.objects.filter(service=service).select_related("server").defer("server__figures", *_SECRETS)
    rows: list[InstanceRow] = []
    for placement in placements.prefetch_related("instances__revision"):
        instances = list(placement.instances.all())
        if not instances:
            rows.append(InstanceRow(placement, None, None, None, ""))
        for instance in instances:
            instance.placement = placement
            log = last_lines(logs.get(instance.pk, ""))
            rows.append(InstanceRow(placement, instance, instance_chip(instance), last_seen(instance), log))
    return sorted(rows, key=lambda row: (not row.failed, row.placement.server.name))


def log_choices(rows: list[InstanceRow]) -> list[LogChoice]:
    """The service's instances, those first whose log somebody likely wants to read."""
    worst_first = {BAD: 0, WARN: 1, BUSY: 2, GOOD: 3, QUIET: 4}
    there = [(row, row.instance, row.chip) for row in rows if row.instance and row.chip]
    there.sort(key=lambda line: (worst_first[line[2].role], line[0].placement.server.name, line[1].ordinal))
    return [LogChoice(instance.pk, _log_label(row, instance, chip)) for row, instance, chip in there]


def _log_label(row: InstanceRow, instance: Instance, chip: Chip) -> str:
    number = f" #{instance.ordinal + 1}" if instance.ordinal else ""
    return f"{row.placement.server.name}{number}: {chip.word}"


def result_row(result: OperationResult) -> ResultRow:
    code = "unknown" if result.exit_unseen else result.exit_code
    pending = result.instance.reason if result.instance and result.state == "sent" else ""
    return ResultRow(result, result_chip(result), code, result.reason or pending)


def last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-LOG_LINES:])


def _events(request: HttpRequest, service: Service, rows: list[InstanceRow]) -> list[Event]:
    """Its own events and those of the instances it has now."""
    if not request.user.has_perm("infini.view_event"):
        return []
    instances = [str(row.instance.pk) for row in rows if row.instance]
    own = Q(subject_kind="service", subject_id=str(service.pk))
    theirs = Q(subject_kind="instance", subject_id__in=instances)
    return list(visible_events(request.user).filter(own | theirs)[:EVENTS])


def operation_context(request: HttpRequest, operation: Operation) -> dict[str, Any]:
    results = list(operation.results.select_related("instance", "server"))
    return {
        "chip": operation_chip(operation),
        "result_rows": sorted((result_row(r) for r in results), key=lambda row: row.result.state != "failed"),
        "logs_open": True,
        "live_seconds": LIVE_SECONDS_WHILE_BUSY if operation.is_open else 0,
    }
