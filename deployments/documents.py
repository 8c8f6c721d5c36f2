"""Services as the API shows them, written from plain rows.

A list of a thousand services is some ten thousand rows: as model objects and serializers they took three times as
long as the rest of the request (`make bench`). The number of queries does not depend on that of the services.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Max, Q, QuerySet
from django.utils.translation import gettext

from deployments.models import Instance, Operation, Placement
from deployments.phases import Phase, RestartPolicy, Wanted
from deployments.querysets import ServiceQuerySet
from infini.said import said
from inventory.models import Server

Row = dict[str, Any]
_SPEC = ("command", "stop_command", "env", "run_as", "cwd", "probes", "port", "devices", "restart", "number")
_COLUMNS = (
    *(
        "pk",
        "name",
        "environment__name",
        "model_id",
        "model__name",
        "served_model",
        "path_prefix",
        "max_unavailable",
        "surge",
    ),
    *("wanted", "version", "created_at", "deploy_status", "ready_count", "wanted_count", "current_revision_id"),
    *(f"current_revision__{column}" for column in _SPEC),
)
_INSTANCE_COLUMNS = (
    *("placement__service_id", "placement__server_id", "pk", "key", "revision__number", "wanted", "replaces_id"),
    *("phase", "ready", "pid", "port", "restarts", "exit_code", "exit_unseen", "reason", "started_at", "observed_at"),
)


def service_rows(services: ServiceQuerySet) -> QuerySet[Any, Row]:
    """The rows ``service_documents`` is made of; may be counted and cut before."""
    has_secrets = Q(current_revision__isnull=False) & ~Q(current_revision__secret_env="")
    set_or_not = ExpressionWrapper(has_secrets, output_field=BooleanField())
    return services.with_status().annotate(secret_env_set=set_or_not).values(*_COLUMNS, "secret_env_set")


def service_documents(rows: Iterable[Row]) -> list[Row]:
    """The API's documents of these rows, in their order."""
    listed = list(rows)
    ids = [row["pk"] for row in listed]
    instances = _instances(ids)
    servers = _servers(ids)
    operations = _last_operations(ids)
    return [_document(row, servers[row["pk"]], instances[row["pk"]], operations.get(row["pk"])) for row in listed]


def last_seen(instance: Instance) -> datetime | None:
    """``observed_at`` of an instance whose placement's server is loaded."""
    return observed_at(instance.phase, instance.observed_at, instance.placement.server.agent_seen_at)


def observed_at(phase: str, observed: datetime | None, agent_seen: datetime | None) -> datetime | None:
    """When an instance was last seen as it stands: an unchanged row is not rewritten, so its server's report counts."""
    if phase in (Phase.LOST, Phase.PENDING) or agent_seen is None or observed is None:
        return observed
    return max(agent_seen, observed)


def _document(row: Row, servers: list[Row], instances: list[Row], last: Row | None) -> Row:
    has_revision = row["current_revision_id"] is not None
    return {
        "id": row["pk"],
        "name": row["name"],
        "environment": row["environment__name"],
        "model_id": row["model_id"],
        "model": {"id": row["model_id"], "name": row["model__name"]} if row["model_id"] else None,
        "served_model": row["served_model"],
        "path_prefix": row["path_prefix"],
        "max_unavailable": row["max_unavailable"],
        "surge": row["surge"],
        "server_ids": [server["id"] for server in servers],
        "servers": servers,
        "deploy_command": row["current_revision__command"] or "",
        "stop_command": row["current_revision__stop_command"] or "",
        "env": row["current_revision__env"] if has_revision else {},
        "secret_env_set": bool(row["secret_env_set"]),
        "run_as": row["current_revision__run_as"] or "",
        "cwd": row["current_revision__cwd"] or "",
        "probes": row["current_revision__probes"] if has_revision else {},
        "port": row["current_revision__port"],
        "devices": row["current_revision__devices"] or 0,
        "restart": row["current_revision__restart"] or RestartPolicy.NEVER,
        "revision": row["current_revision__number"],
        "wanted": row["wanted"],
        "deploy_status": row["deploy_status"],
        "ready": f"{row['ready_count']}/{row['wanted_count']}",
        "reason": _reason(row["wanted"], instances),
        "deploy_result": last,
        "instances": instances,
        "version": row["version"],
        "created_at": row["created_at"],
    }


def _reason(wanted: str, instances: list[Row]) -> str:
    """Why a service is not (fully) running: the first reason among its instances; empty when there is none."""
    for instance in instances:
        if instance["reason"] and not (instance["wanted"] == Wanted.RUNNING and instance["ready"]):
            return f"{instance['server']}: {said(instance['reason'])}"
    if wanted == Wanted.STOPPED:
        return gettext("Stopped as wanted.") if instances else gettext("Never deployed.")
    return ""


def _instances(service_ids: list[int]) -> dict[int, list[Row]]:
    """Servers are read by themselves: joined, each row would bring its server's moment along to be converted anew."""
    found: dict[int, list[Row]] = defaultdict(list)
    rows = list(Instance.objects.filter(placement__service__in=service_ids).values_list(*_INSTANCE_COLUMNS))
    here = {server_id for _, server_id, *_ in rows}
    servers = list(Server.objects.order_by().filter(pk__in=here).values_list("pk", "name", "agent_seen_at"))
    names, heard = {pk: name for pk, name, _ in servers}, {pk: seen for pk, _, seen in servers}
    for row in rows:
        service_id, server_id, pk, key, revision, wanted, replaces, *seen = row
        phase, ready, pid, port, restarts, exit_code, exit_unseen, reason, started_at, observed = seen
        found[service_id].append(
            {
                "id": pk,
                "key": key,
                "server_id": server_id,
                "server": names.get(server_id, ""),
                "revision": revision,
                "wanted": wanted,
                "replaces": replaces,
                "phase": phase,
                "ready": ready,
                "pid": pid,
                "port": port,
                "restarts": restarts,
                "exit_code": "unknown" if exit_unseen else exit_code,
                "reason": reason,
                "started_at": started_at,
                "observed_at": observed_at(phase, observed, heard.get(server_id)),
            }
        )
    return found


def _servers(service_ids: list[int]) -> dict[int, list[Row]]:
    """Where each is wanted; a placement on its way out is not."""
    found: dict[int, list[Row]] = defaultdict(list)
    placements = Placement.objects.filter(service__in=service_ids, replicas__gt=0)
    for service_id, server_id, name in placements.values_list("service_id", "server_id", "server__name"):
        found[service_id].append({"id": server_id, "name": name})
    return found


def _last_operations(service_ids: list[int]) -> dict[int, Row]:
    newest = Operation.objects.filter(service__in=service_ids).order_by().values("service").annotate(last=Max("pk"))
    rows = Operation.objects.filter(pk__in=newest.values("last"))
    return {
        service_id: {"operation_id": pk, "kind": kind, "state": state, "reason": reason}
        for service_id, pk, kind, state, reason in rows.values_list("service_id", "pk", "kind", "state", "reason")
    }
