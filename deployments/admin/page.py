"""What a service's page shows: wanted against actual on each server, in tabs; and an operation's."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from deployments.documents import last_seen
from deployments.models import Instance, Operation, OperationResult, Placement, Revision, Service
from deployments.phases import OperationState, Wanted
from deployments.rollout import goes_back
from deployments.shown import (
    failing,
    has_failed,
    instance_chip,
    operation_chip,
    result_chip,
    service_chip,
    with_progress,
)
from deployments.wanting import key_prefix
from infini.display import BAD, BUSY, GOOD, QUIET, WARN, Chip, Source, url_or_none
from infini.models import Event
from infini.tabs import Tab
from infini.timeline import PERMISSION as SEE_EVENTS
from infini.timeline import visible_events
from infini.visibility import visible
from inventory.servers import SECRETS

LIVE_SECONDS, LIVE_SECONDS_WHILE_BUSY = 5, 2
LOG_LINES = 20
OPERATIONS, EVENTS = 15, 50
_SECRETS = tuple(f"server__{name}" for name in SECRETS)  # pages read none of them
_PAST = (OperationState.DONE, OperationState.CANCELLED)  # they say nothing about what is


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
        return self.instance is not None and has_failed(self.instance)

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


def service_tabs() -> list[Tab]:
    return [
        Tab("instances", gettext_lazy("Instances"), "tabs/service_instances.html", make=_instances, urgent=_failing),
        Tab("logs", gettext_lazy("Logs"), "tabs/service_logs.html", "partials/log.html", make=_logs),
        Tab("events", gettext_lazy("Events"), "tabs/service_events.html", make=_events, permission=SEE_EVENTS),
    ]


def service_head(request: HttpRequest, service: Any) -> dict[str, Any]:
    return {
        "chip": service_chip(service),
        "chat_url": url_or_none("chat_page", service.pk) if request.user.has_perm("chat.use_chat") else None,
        "live_seconds": LIVE_SECONDS_WHILE_BUSY if service.open_operation_id else LIVE_SECONDS,
    }


def _failing(service: Service) -> int:
    return failing(Instance.objects.filter(placement__service=service)).count()


def _instances(request: HttpRequest, service: Any) -> dict[str, Any]:
    """What is: each instance, the operation that is open or went wrong, and how it is started."""
    operations = visible(service.operations.select_related("by", "revision", "service"), request.user)
    operation = with_progress(operations).order_by("-pk").first()
    results = list(operation.results.select_related("instance")) if operation else []
    rows = instance_rows(service, results)
    now = operation if operation and operation.state not in _PAST else None
    heard = [row.seen_at for row in rows if row.seen_at]
    return {
        "instance_rows": rows,
        "heard": Source(_("agents"), max(heard, default=None)),
        "operation": now,
        "operation_chip": operation_chip(now) if now else None,
        "rollout": rollout_bars(results) if now and now.is_open else [],
        "previous_revision": _previous(rows, now) if now else None,
        "returns_to": service.good_revision if now and now.is_open and goes_back(now) else None,
        "result_rows": [result_row(result) for result in results] if now else [],
        "secret_names_set": bool(service.current_revision and service.current_revision.secret_env),
    }


def instance_rows(service: Service, results: list[OperationResult]) -> list[InstanceRow]:
    logs = {result.instance_id: result.log_tail for result in results}
    placements = Placement.objects.filter(service=service).select_related("server").defer("server__figures", *_SECRETS)
    rows: list[InstanceRow] = []
    instances = "instances__revision", "instances__device_claims__device"
    for placement in placements.prefetch_related(*instances):
        present = list(placement.instances.all())
        if not present:
            rows.append(InstanceRow(placement, None, None, None, ""))
        for instance in present:
            instance.placement = placement
            log = last_lines(logs.get(instance.pk, ""))
            rows.append(InstanceRow(placement, instance, instance_chip(instance), last_seen(instance), log))
    return sorted(rows, key=lambda row: (not row.failed, row.placement.server.name))


def _previous(rows: list[InstanceRow], operation: Operation) -> Revision | None:
    """What runs beside the revision that the operation brings."""
    present = [row.instance.revision for row in rows if row.instance]
    return next((r for r in present if operation.revision and r != operation.revision), None)


def rollout_bars(results: list[OperationResult]) -> list[tuple[Chip, int]]:
    """How many of an operation's instances are in which state, those that are through first."""
    chips = [result_chip(result) for result in results]
    order = {chip.word: chip for chip in sorted(chips, key=lambda chip: (GOOD, BAD, BUSY, QUIET).index(chip.role))}
    return [(chip, sum(one.word == word for one in chips)) for word, chip in order.items()]


def _logs(request: HttpRequest, service: Any) -> dict[str, Any]:
    rows = instance_rows(service, [])
    return {"log_choices": log_choices(rows)}


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


def _events(request: HttpRequest, service: Service) -> dict[str, Any]:
    """What was: operations, and events of the service and of the instances it has now."""
    operations = with_progress(visible(service.operations.select_related("by"), request.user))[:OPERATIONS]
    instances = Instance.objects.filter(placement__service=service).values_list("pk", flat=True)
    own = Q(subject_kind="service", subject_id=str(service.pk))
    theirs = Q(subject_kind="instance", subject_id__in=[str(pk) for pk in instances])
    events: list[Event] = list(visible_events(request.user).filter(own | theirs)[:EVENTS])
    return {
        "operations": [(operation, operation_chip(operation)) for operation in operations],
        "events": events,
        "instance_events_url": _instance_events_url(service),
    }


def _instance_events_url(service: Service) -> str:
    """The timeline of its instances, of those too that are gone: their keys begin with its name."""
    query = urlencode({"subject_kind__exact": "instance", "q": key_prefix(service.name)})
    return f"{reverse('admin:infini_event_changelist')}?{query}"


def operation_context(request: HttpRequest, operation: Operation) -> dict[str, Any]:
    results = list(operation.results.select_related("instance", "server"))
    return {
        "chip": operation_chip(operation),
        "rollout": rollout_bars(results),
        "result_rows": sorted((result_row(r) for r in results), key=lambda row: row.result.state != "failed"),
        "logs_open": True,
        "live_seconds": LIVE_SECONDS_WHILE_BUSY if operation.is_open else 0,
    }
