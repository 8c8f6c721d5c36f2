"""The fleet's part of the overview."""

from typing import Any

from django.db.models import Count, Max, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from infini.badges import DANGER, Badge
from infini.dashboard import Problem, Section, State, States, Step, Tile
from infini.display import BAD, BUSY, GOOD, QUIET, WARN, Chip, url_of
from infini.visibility import visible
from inventory.models import Server
from inventory.querysets import ServerStatus
from inventory.shown import offline_reason, server_chip, with_unreachable
from inventory.shown_history import fleet_history

SHOWN = 20


def overview(request: HttpRequest) -> Section:
    if not request.user.has_perm("inventory.view_server"):
        return Section()
    servers: Any = visible(Server.objects.with_status(), request.user)
    counts = servers.aggregate(
        total=Count("pk"),
        online=Count("pk", filter=Q(status=ServerStatus.ONLINE)),
        offline=Count("pk", filter=Q(status=ServerStatus.OFFLINE)),
        unknown=Count("pk", filter=Q(status=ServerStatus.UNKNOWN)),
        bare=Count("pk", filter=Q(agent_token="")),
        maintained=Count("pk", filter=Q(maintenance=True)),
        agents=Count("pk", filter=~Q(agent_token="") & Q(agent_seen_at__isnull=False)),
        agent_at=Max("agent_seen_at"),
        check_at=Max("last_check"),
    )
    offline = servers.filter(status=ServerStatus.OFFLINE, maintenance=False).defer("figures").order_by("name")
    return Section(
        tiles=_tiles(counts),
        problems=[_problem(s) for s in with_unreachable(offline)[:SHOWN]],
        steps=_steps(request, counts),
        states=[_states(counts)],
        charts=[fleet_history()] if counts["agents"] else [],
    )


def badges(user: Any) -> dict[str, Badge]:
    """Servers that do not answer and ought to."""
    if not user.has_perm("inventory.view_server"):
        return {}
    servers: Any = visible(Server.objects.with_status(), user)
    silent = servers.filter(status=ServerStatus.OFFLINE, maintenance=False).count()
    return {"inventory.server": Badge(silent, DANGER)}


def _told(counts: dict[str, Any]) -> dict[str, Any]:
    heard = max((at for at in (counts["agent_at"], counts["check_at"]) if at), default=None)
    return {"source": _("agents and checks") if heard else _("nothing has answered yet"), "at": heard}


def _tiles(counts: dict[str, Any]) -> list[Tile]:
    url = reverse("admin:inventory_server_changelist")
    off = counts["offline"]
    online = Tile(
        _("Servers online"),
        f"{counts['online']}/{counts['total']}",
        f"{url}?status={ServerStatus.ONLINE}",
        "dns",
        role=GOOD if counts["online"] else QUIET,
        **_told(counts),
    )
    offline = Tile(
        _("Servers offline"),
        str(off),
        f"{url}?status={ServerStatus.OFFLINE}",
        "cloud_off",
        role=BAD if off else QUIET,
        **_told(counts),
    )
    return [online, offline]


def _states(counts: dict[str, Any]) -> States:
    """Each as its filter of the list counts it: one in maintenance or without agent has a state of the others too."""
    url = reverse("admin:inventory_server_changelist")
    found = [
        (Chip(_("Offline"), BAD, "cloud_off"), "offline", f"status={ServerStatus.OFFLINE}"),
        (Chip(_("Not checked"), QUIET, "help"), "unknown", f"status={ServerStatus.UNKNOWN}"),
        (Chip(_("Online"), GOOD, "check_circle"), "online", f"status={ServerStatus.ONLINE}"),
        (Chip(_("No agent"), WARN, "sensors_off"), "bare", "agent=none"),
        (Chip(_("Maintenance"), BUSY, "construction"), "maintained", "maintenance=yes"),
    ]
    states = [State(chip, counts[name], f"{url}?{query}") for chip, name, query in found if counts[name]]
    return States(_("Servers"), url, states, none=_("No server yet."), **_told(counts))


def _problem(server: Server) -> Problem:
    url = url_of("admin:inventory_server_page", server.pk)
    since = server.agent_seen_at or server.unreachable_at  # type: ignore[attr-defined]
    return Problem(server.name, server_chip(server), offline_reason(server), url, 2, since)


def _steps(request: HttpRequest, counts: dict[str, int]) -> list[Step]:
    may_add = request.user.has_perm("inventory.add_server")
    return [
        Step(
            _("Add a server"),
            _("Name, address and an SSH account."),
            reverse("admin:inventory_server_add") if may_add else None,
            _("Add server"),
            counts["total"] > 0,
        ),
        Step(
            _("Its agent reports"),
            _("It is installed over SSH, once you have confirmed the server's host key; it reports within seconds."),
            _install_url(request) if counts["total"] and not counts["agents"] else None,
            _("Install agent"),
            counts["agents"] > 0,
        ),
    ]


def _install_url(request: HttpRequest) -> str | None:
    """For who may; with the server that was added last."""
    newest = visible(Server.objects.order_by("-pk"), request.user).values_list("pk", flat=True).first()
    if newest is None or not request.user.has_perm("inventory.install_agent"):
        return None
    return f"{reverse('admin:inventory_server_install')}?ids={newest}"
