"""The services' part of the overview: what is wrong first."""

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Case, Count, Max, Q, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.models import Instance, Operation, Service
from deployments.overview_devices import fleet_devices
from deployments.phases import OPEN_STATES, Phase, Wanted
from deployments.reconcile import braked_since
from deployments.shown import (
    WORST_FIRST,
    WRONG,
    Standing,
    count_standings,
    failing,
    rank_of,
    service_chip,
    standing_chip,
    with_silent_server,
    with_standing,
)
from infini.badges import DANGER, INFO, Badge
from infini.dashboard import Problem, Section, State, States, Step, Tile
from infini.display import BUSY, GOOD, QUIET, WARN, Chip, url_of
from infini.said import said
from infini.visibility import visible

SHOWN = 20


def overview(request: HttpRequest) -> Section:
    if not request.user.has_perm("deployments.view_service"):
        return Section()
    ranked = with_standing(visible(Service.objects.all(), request.user))
    by_standing = count_standings(ranked)
    problems = _problems(ranked) if any(by_standing[standing] for standing in WRONG) else []
    devices = fleet_devices(request.user) if request.user.has_perm("inventory.view_device") else None
    instances = _instances_tile(request.user)
    return Section(
        tiles=[*_tiles(by_standing, instances, request.user), *([devices.tile] if devices else [])],
        states=[_states(by_standing, instances)],
        problems=[*_brake(), *problems],
        steps=_steps(request, by_standing),
        parts=[("partials/fleet_devices.html", {"devices": devices})] if devices else [],
    )


def badges(user: Any) -> dict[str, Badge]:
    """Services with an instance that failed or is not heard from, and work under way."""
    if not user.has_perm("deployments.view_service"):
        return {}
    wrong = failing(visible(Instance.objects.order_by(), user))
    return {
        "deployments.service": Badge(wrong.values("placement__service").distinct().count(), DANGER),
        "deployments.operation": Badge(visible(Operation.objects.filter(state__in=OPEN_STATES), user).count(), INFO),
    }


def _brake() -> list[Problem]:
    """That automatic action pauses stands above all else: what is wrong then may be ours."""
    reason, since = braked_since()
    if not reason:
        return []
    chip = Chip(_("Paused"), WARN, "pause_circle", _("Goes on by itself when the servers answer again"))
    silent = f"{reverse('admin:inventory_server_changelist')}?status=offline"
    return [Problem(_("Automatic action"), chip, reason, silent, severity=9, since=since)]


def _tiles(by_standing: Counter[Standing], instances: Tile, user: Any) -> list[Tile]:
    """What is wrong with services stands in the card of their states, and one by one under what needs somebody."""
    total, running = sum(by_standing.values()), by_standing[Standing.RUNNING]
    open_operations = visible(Operation.objects.filter(state__in=OPEN_STATES), user).count()
    return [
        Tile(
            _("Services running"),
            f"{running}/{total}",
            f"{_services()}?status={Standing.RUNNING}",
            "deployed_code",
            role=GOOD if running else QUIET,
            source=instances.source,
            at=instances.at,
        ),
        instances,
        Tile(
            _("Operations open"),
            str(open_operations),
            f"{reverse('admin:deployments_operation_changelist')}?state=open",
            "published_with_changes",
            role=BUSY if open_operations else QUIET,
            source=_("this site's records"),
            at=timezone.now(),
        ),
    ]


def _states(by_standing: Counter[Standing], instances: Tile) -> States:
    states = [
        State(standing_chip(standing), by_standing[standing], f"{_services()}?status={standing}")
        for standing in WORST_FIRST
        if by_standing[standing]
    ]
    return States(_("Services"), _services(), states, instances.source, instances.at, none=_("No service yet."))


def _services() -> str:
    return reverse("admin:deployments_service_changelist")


def _instances_tile(user: Any) -> Tile:
    """As old as the last report: an agent that goes on reporting confirms what has not changed for hours."""
    wanted = visible(Instance.objects.filter(wanted=Wanted.RUNNING), user)
    ready = Count("pk", filter=Q(phase=Phase.RUNNING, ready=True))
    counts = wanted.aggregate(
        total=Count("pk"), ready=ready, seen=Max("observed_at"), at=Max("placement__server__agent_seen_at")
    )
    source = _("agents") if counts["seen"] else _("no agent has told of one")
    role = GOOD if counts["ready"] else QUIET
    text = f"{counts['ready']}/{counts['total']}"
    return Tile(
        _("Instances ready"), text, _services(), "widgets", role=role, source=source, at=counts["seen"] and counts["at"]
    )


def _problems(ranked: Any) -> list[Problem]:
    wrong = ranked.filter(rank__in=[rank_of(standing) for standing in WRONG]).order_by("rank", "name")
    ids = list(wrong.values_list("pk", flat=True)[:SHOWN])
    described = with_silent_server(with_standing(Service.objects.with_status())).filter(pk__in=ids)
    instances = _amiss(ids)
    return [_problem(service, instances[service.pk]) for service in described]


class _Amiss(NamedTuple):
    """An instance that does not stand as it should."""

    service_id: int
    server: str
    reason: str
    since: datetime | None


def _amiss(service_ids: list[int]) -> dict[int, list[_Amiss]]:
    """By service. One that is not heard from is so since its server last spoke."""
    since = Case(When(phase=Phase.LOST, then="placement__server__agent_seen_at"), default="observed_at")
    rows = Instance.objects.filter(placement__service__in=service_ids).exclude(wanted=Wanted.RUNNING, ready=True)
    found: dict[int, list[_Amiss]] = defaultdict(list)
    for row in rows.values_list("placement__service_id", "placement__server__name", "reason", since):
        found[row[0]].append(_Amiss(*row))
    return found


def _problem(service: Any, instances: list[_Amiss]) -> Problem:
    """With the first reason among them, and since when the first came to stand so."""
    reason = next((f"{one.server}: {said(one.reason)}" for one in instances if one.reason), "")
    since = min((one.since for one in instances if one.since), default=None)
    url = url_of("admin:deployments_service_page", service.pk)
    return Problem(service.name, service_chip(service), reason, url, 4 - service.rank, since=since)


def _steps(request: HttpRequest, by_standing: Counter[Standing]) -> list[Step]:
    may_add = request.user.has_perm("deployments.add_service")
    return [
        Step(
            _("Deploy a service"),
            _("Choose servers and the command that starts the model server there."),
            reverse("admin:deployments_service_add") if may_add else None,
            _("Add service"),
            visible(Service.objects.answering(), request.user).exists(),
        ),
    ]
