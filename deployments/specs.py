"""Creating and changing services: what is wanted, without yet doing it. A changed spec is a new revision."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction
from django.db.models import F, Max
from django.utils.translation import gettext as _

from deployments.models import Instance, Placement, Revision, Service, Tombstone
from deployments.phases import ENDED, Phase, Wanted
from deployments.probes import port_problem, probe_problems, sentences
from infini import events, records
from infini.errors import Invalid
from infini.visibility import refuse_out_of_sight
from inventory.models import Server

COMMAND_MAX_CHARS = 64 * 1024
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def create_service(
    service: Service, *, servers: Iterable[Server], spec: Mapping[str, Any], by: events.Actor
) -> Service:
    """Store a new service with its placements and, when there is a command, its first revision."""
    with transaction.atomic():
        records.create(service, by=by, placed_later=True)
        _place(service, list(servers), by=by)
        _revise(service, spec, by=by)
        refuse_out_of_sight(service, by=by)
    return service


def change_service(
    service: Service,
    columns: Iterable[str],
    *,
    servers: Iterable[Server] | None,
    spec: Mapping[str, Any],
    by: events.Actor,
    version: int | None = None,
) -> Service:
    """Change a service's own columns, servers and spec; what runs changes with the next deployment.

    Raises StaleVersion as ``records.change`` does, Invalid for a spec that cannot run.
    """
    with transaction.atomic():
        records.change(service, columns, by=by, version=version, placed_later=True)
        placed = servers is not None and _place(service, list(servers), by=by)
        revised = _revise(service, spec, by=by)
        if placed or revised:  # neither is a column of the service, yet whoever edits it saw them
            Service.objects.filter(pk=service.pk).update(version=F("version") + 1)
        refuse_out_of_sight(service, by=by)
    return service


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises Invalid naming each field of ``spec`` that cannot be."""
    problems: dict[str, list[str]] = {}
    if len(spec.get("command", "")) > COMMAND_MAX_CHARS:
        problems["deploy_command"] = [_("A command may have at most %(n)s characters.") % {"n": COMMAND_MAX_CHARS}]
    if "\0" in spec.get("command", ""):
        problems["deploy_command"] = [_("A command cannot contain a null character.")]
    for name in ("env", "secret_env"):
        if name in spec and (problem := _env_problem(spec[name])):
            problems[name] = [problem]
    port = spec.get("port")
    if port is not None and not 1 <= port <= 65535:
        problems["port"] = [_("A port lies between 1 and 65535.")]
    if wrong := probe_problems(spec.get("probes", {})):
        problems["probes"] = sentences(wrong)
    if problems:
        raise Invalid(next(iter(problems.values()))[0], fields=problems)


def _env_problem(env: Any) -> str | None:
    if not isinstance(env, dict):
        return _("Environment variables are an object of names and texts.")
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            return _("%(name)r is not a name for an environment variable.") % {"name": name}
        if not isinstance(value, str) or "\0" in value:
            return _("The value of %(name)s must be a text.") % {"name": name}
    return None


def _revise(service: Service, spec: Mapping[str, Any], *, by: events.Actor) -> bool:
    """Make a new current revision when ``spec`` differs from the present one; whether it did."""
    check_spec(spec)
    given = dict(spec)
    if "secret_env" in given:
        given["secret_env"] = json.dumps(given["secret_env"], sort_keys=True) if given["secret_env"] else ""
    present = service.current_revision
    before = {name: getattr(present, name) for name in Revision.SPEC} if present else {}
    after = before | {name: value for name, value in given.items() if name in Revision.SPEC}
    if not after.get("command", "").strip():
        if present:
            raise Invalid(_("A command is needed."), fields={"deploy_command": [_("It cannot be emptied again.")]})
        return False
    if after == before:
        return False
    problem = port_problem(after.get("probes", {}), command=after["command"], port=after.get("port"))
    if problem:
        raise Invalid(problem, fields={"probes": [problem]})
    highest = service.revisions.aggregate(n=Max("number"))["n"] or 0
    revision = Revision.objects.create(
        service=service, number=highest + 1, author=by, note=given.get("note", ""), **after
    )
    Service.objects.filter(pk=service.pk).update(current_revision=revision)
    service.current_revision = revision
    events.record("service.revised", service, by=by, data={"revision": revision.number})
    return True


def _place(service: Service, servers: list[Server], *, by: events.Actor) -> bool:
    """Make the placements those on ``servers``; what still runs elsewhere ends with the next deployment.

    Returns whether they are others now.
    """
    wanted = {server.pk for server in servers}
    placements = {p.server_id: p for p in service.placements.all()}
    for server in servers:
        present = placements.get(server.pk)
        if present is None:
            Placement.objects.create(service=service, server=server)
        elif present.replicas == 0:
            Placement.objects.filter(pk=present.pk).update(replicas=1)
    leaving = [p for server_id, p in placements.items() if server_id not in wanted]
    for placement in leaving:
        _leave(placement)
    differs = bool(leaving or wanted - set(placements))
    if differs:
        names = sorted(server.name for server in servers)
        events.record("service.placed", service, by=by, data={"servers": names})
    return differs


def _leave(placement: Placement) -> None:
    instances = Instance.objects.filter(placement=placement)
    over = instances.filter(phase__in=[*ENDED, Phase.PENDING]).exclude(wanted=Wanted.RUNNING)
    if instances.count() > over.count():
        Placement.objects.filter(pk=placement.pk).update(replicas=0)
        return
    bury(over)
    placement.delete()


def bury(instances: Iterable[Instance]) -> None:
    """Forget instances here; their agents are told to when they next speak."""
    for instance in list(instances):
        Tombstone.objects.get_or_create(
            key=instance.key,
            defaults={"server_id": instance.placement.server_id, "generation": instance.generation + 1},
        )
        instance.delete()
