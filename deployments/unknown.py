"""What agents report and nobody here has asked for: noted, shown, and ended by a person alone, or adopted
(deployments/adoption.py).

It comes from another site, from a hand that used the agent directly, or from before a database was restored.
"""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext
from django_q.tasks import async_task

from deployments.models import Instance, Tombstone, UnknownInstance
from deployments.observations import NotAnObservation, Observation
from deployments.phases import RestartPolicy
from deployments.reports import Report
from infini import events
from infini.errors import Conflict, NotFound
from inventory.agents import AgentAddress, AgentError, AgentRejects, Ask, ask_each

OBSERVED = ("generation", "phase", "ready", "pid", "port", "reason", "started_at")
ASK_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 30.0  # the agent answers within 25 s whether it is gone


# Noting them


def note_unknown(reports: list[Report]) -> None:
    """Bring the rows to what these reports list; queue the question for their commands. Three queries, and writes only
    for what changed. May be done twice at once: a row that is there already is left.

    A report may be older than an instance that was forgotten since: what is new counts once its agent has described it.
    """
    listed = {r.server_id: _listed(r.document) for r in reports if r.document is not None}
    listed = {server_id: seen for server_id, seen in listed.items() if seen is not None}
    ours = set(Instance.objects.filter(placement__server__in=listed).values_list("placement__server_id", "key"))
    ours |= set(Tombstone.objects.filter(server__in=listed).values_list("server_id", "key"))
    known = {(row.server_id, row.key): row for row in UnknownInstance.objects.filter(server__in=listed)}
    found = {
        (server_id, key): observation
        for server_id, seen in listed.items()
        for key, observation in (seen or {}).items()
        if (server_id, key) not in ours
    }
    new = [
        UnknownInstance(server_id=at[0], key=at[1], **observed_columns(o)) for at, o in found.items() if at not in known
    ]
    changed = [row for at, row in known.items() if at in found and _take(row, found[at])]
    gone = [row.pk for at, row in known.items() if at not in found]
    if new or changed or gone:
        _write(new, changed, gone)
    for server_id in {
        row.server_id for row in [*new, *known.values()] if row.described_at is None and row.pk not in gone
    }:
        async_task("deployments.tasks.describe_unknown", server_id)


def describe(server_id: int) -> None:
    """Ask the agent what the unknown ones on a server run. May run twice, or never: then the next report asks again."""
    rows = list(UnknownInstance.objects.filter(server=server_id, described_at=None).select_related("server"))
    asks = [Ask(AgentAddress.of(row.server), "GET", f"/service/{row.key}/spec", about=row) for row in rows]
    for ask, answer in ask_each(asks):
        if isinstance(answer, AgentRejects) and answer.code == "unknown_instance":
            UnknownInstance.objects.filter(pk=ask.about.pk).delete()
        elif not isinstance(answer, AgentError):
            _describe(ask.about, spec_of(answer) or {})
        elif isinstance(answer, AgentRejects):
            _describe(ask.about, {})  # an agent that is too old to tell


def _describe(row: UnknownInstance, spec: Mapping[str, Any]) -> None:
    with transaction.atomic():
        described = UnknownInstance.objects.filter(pk=row.pk, generation=row.generation, described_at=None).update(
            command=spec.get("command", ""),
            cwd=spec.get("cwd", "")[:500],
            run_as=spec.get("run_as", "")[:100],
            env_names=sorted(spec.get("env", {})),
            described_at=timezone.now(),
        )
        if described:
            events.record("server.unknown_found", row.server, by=None, data={"key": row.key})


def described() -> QuerySet[UnknownInstance]:
    """Those that are known to be there, to be shown."""
    return UnknownInstance.objects.filter(described_at__isnull=False).select_related("server")


def _listed(document: Mapping[str, Any] | None) -> dict[str, Observation] | None:
    """None when the report does not say what there is."""
    services = (document or {}).get("services")
    if not isinstance(services, list):
        return None
    seen = {}
    for service in services:
        try:
            observation = Observation.parse(service)
        except NotAnObservation:
            continue
        seen[observation.key] = observation
    return seen


def observed_columns(seen: Observation) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in OBSERVED}


def _take(row: UnknownInstance, seen: Observation) -> bool:
    """Set what is reported; True when that is something new. Of another generation the command is asked again."""
    values = observed_columns(seen)
    if all(getattr(row, name) == value for name, value in values.items()):
        return False
    if row.generation != seen.generation:
        row.described_at = None
    for name, value in values.items():
        setattr(row, name, value)
    return True


def _write(new: list[UnknownInstance], changed: list[UnknownInstance], gone: list[int]) -> None:
    with transaction.atomic():
        UnknownInstance.objects.bulk_create(new, ignore_conflicts=True)
        UnknownInstance.objects.bulk_update(changed, [*OBSERVED, "described_at"], batch_size=50)
        UnknownInstance.objects.filter(pk__in=gone).delete()


# What a person does with them


def unknown_instance(server_id: int, key: str) -> UnknownInstance:
    """Raises NotFound, also for one that is ours by now."""
    row = described().filter(server=server_id, key=key).first()
    if row is None:
        raise NotFound(gettext("The agent there reports no unknown instance %(key)s.") % {"key": key})
    return row


def stop_unknown(row: UnknownInstance, *, by: events.Actor) -> UnknownInstance:
    """End its process now; it stays listed, with its log, until it is forgotten. Raises AgentError."""
    refuse_ours(row)
    answer = ask_agent(row, "POST", f"/service/{row.key}/stop", {}, timeout_seconds=STOP_TIMEOUT_SECONDS)
    with transaction.atomic():
        if observation := parsed(answer):
            UnknownInstance.objects.filter(pk=row.pk).update(**observed_columns(observation))
        events.record("server.unknown_stopped", row.server, by=by, data={"key": row.key})
    row.refresh_from_db()
    return row


def forget_unknown(row: UnknownInstance, *, by: events.Actor) -> None:
    """Have the agent forget an ended one, and its log. Raises AgentError, Conflict while it runs."""
    refuse_ours(row)
    ask_agent(row, "DELETE", f"/service/{row.key}")
    with transaction.atomic():
        UnknownInstance.objects.filter(pk=row.pk).delete()
        events.record("server.unknown_forgotten", row.server, by=by, data={"key": row.key})


def spec_of(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an agent was told to run, as a revision's columns; None when it does not know."""
    spec = answer.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("command"), str):
        return None
    restart = spec.get("restart")
    policy = restart.get("policy") if isinstance(restart, dict) else restart
    env, probes, port = spec.get("env"), spec.get("probes"), spec.get("port")
    return {
        "command": spec["command"],
        "stop_command": str(spec.get("stop_command") or ""),
        "cwd": str(spec.get("cwd") or ""),
        "run_as": str(spec.get("user") or ""),
        "env": {str(k): str(v) for k, v in env.items()} if isinstance(env, dict) else {},
        "probes": probes if isinstance(probes, dict) else {},
        "port": port if isinstance(port, int) else None,
        "restart": policy if policy in RestartPolicy.values else RestartPolicy.NEVER,
    }


def refuse_ours(row: UnknownInstance) -> None:
    if Instance.objects.filter(key=row.key, placement__server=row.server).exists():
        raise Conflict(gettext("%(key)s belongs to a service by now; stop it there.") % {"key": row.key})


def parsed(answer: Mapping[str, Any]) -> Observation | None:
    try:
        return Observation.parse(answer)
    except NotAnObservation:
        return None


def ask_agent(
    row: UnknownInstance, method: str, path: str, body: Any = None, *, timeout_seconds: float = ASK_TIMEOUT_SECONDS
) -> dict[str, Any]:
    """One question to its agent; raises AgentError, and Conflict for one of another time."""
    [(_, answer)] = ask_each([Ask(AgentAddress.of(row.server), method, path, body, timeout_seconds=timeout_seconds)])
    if isinstance(answer, AgentRejects) and answer.status == 404 and path.endswith("/spec"):
        raise Conflict(
            gettext("The agent on %(server)s cannot tell what %(key)s runs; upgrade the agent first.")
            % {"server": row.server, "key": row.key}
        )
    if isinstance(answer, AgentRejects) and answer.status == 409:
        raise Conflict(answer.message, code=answer.code)
    if isinstance(answer, AgentError):
        raise answer
    return answer
