"""What will happen, told below the form of a service while it is filled in: made here, put there by a script."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from deployments.models import Service
from deployments.plans import Wish, plan
from infini.display import BAD, BUSY, GOOD, WARN, Chip
from infini.visibility import visible
from inventory.models import Server
from inventory.servers import SECRETS

MOST_SHOWN = 50
_ICONS = {"start": "add_circle", "beside": "swap_horiz", "in_place": "restart_alt", "end": "stop_circle"}


def preview_urls(model_admin: Any) -> list[URLPattern]:
    def view(request: HttpRequest) -> HttpResponse:
        return _preview(request)

    return [path("plan/", model_admin.admin_site.admin_view(view), name="deployments_service_plan")]


def _preview(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("deployments.view_service"):
        raise PermissionDenied("deployments.view_service")
    given = request.GET
    service = visible(Service.objects.filter(pk=_number(given.get("service")) or 0), request.user).first()
    wish = Wish(
        devices=min(_number(given.get("devices")) or 0, 64),
        port=_number(given.get("port")),
        rolling=bool(_number(given.get("max_unavailable"))),
        surge=given.get("surge") == "on",
        service=service,
    )
    chosen = [pk for pk in map(_number, given.getlist("placed_on")) if pk is not None]
    servers: Any = Server.objects.with_status().defer(*(name for name in SECRETS if name != "agent_token"), "figures")
    servers = visible(servers, request.user)
    return TemplateResponse(request, "partials/plan.html", preview(servers, wish, chosen))


def preview(servers: Any, wish: Wish, chosen: list[int]) -> dict[str, Any]:
    """Of those chosen; else which there are, those that fit first."""
    plans = plan(servers.filter(pk__in=chosen) if chosen else servers[:MOST_SHOWN], wish)
    plans = sorted(plans, key=lambda p: (p.fits if chosen else not p.fits, p.server.name))
    return {
        "rows": [{"plan": one, "chip": _chip(one)} for one in plans],
        "chosen": bool(chosen),
        "misfits": sum(not one.fits for one in plans) if chosen else 0,
        "devices_asked": wish.devices,
    }


def _chip(one: Any) -> Chip:
    if not one.fits:
        return Chip(one.reason, BAD, "block", str(one.way.label))
    role = WARN if one.note else BUSY if one.way in ("in_place", "end") else GOOD
    return Chip(str(one.way.label), role, _ICONS[one.way], one.note)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
